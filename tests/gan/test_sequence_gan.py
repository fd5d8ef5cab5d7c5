"""Training the sequence GAN: its gradient, what it learns, and that it goes on exactly."""

import json

import numpy as np
import pytest
import torch

import rltool
from rltool.cli.main import main
from rltool.errors import UserError
from rltool.gan.sequence import SeqGAN, SeqGANConfig
from rltool.gan.sequence.controls import equally_unlikely, verdict
from rltool.networks.backbone import evaluating


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli("sample", ...)` runs the command line in this process and returns what it prints."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["rltool", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    return call


TINY = {"model_size": 8, "embedding_size": 4, "discriminator_size": 8, "batch_size": 16, "discriminator_pretraining": 2}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Lines in which the last letter is the first one: what lies in between has to be remembered."""
    path = tmp_path_factory.mktemp("data") / "pairs.txt"
    rng = np.random.default_rng(0)
    lines = [f"{a}{b}{a}" for a, b in zip(rng.choice(list("xyz"), 400), rng.choice(list("pq"), 400), strict=True)]
    path.write_text("\n".join(lines))
    return str(path)


def right(texts):
    """Share of such lines."""
    return np.mean([len(t) == 3 and t[0] in "xyz" and t[1] in "pq" and t[0] == t[2] for t in texts])


def test_likelihood_learns_a_tiny_language(file):
    learner = SeqGAN(file, SeqGANConfig(control="mle", **TINY | {"model_size": 16}))
    assert right(learner.sample_text(200)) < 0.2
    learner.learn(12_000)
    assert right(learner.sample_text(200)) > 0.9
    assert {text for text, _ in learner.beam(6)} == {f"{a}{b}{a}" for a in "xyz" for b in "pq"}
    # Six lines that come about as often as each other: log 6 over four tokens, with the end.
    assert learner.nll(learner.dataset.test) == pytest.approx(np.log(6) / 4, abs=0.05)


def learn_from_verdicts(file, all_tokens, total, learning_rate):
    """Share of right lines of a generator that has never seen a likelihood."""
    config = SeqGANConfig(
        objective="ppo", num_epochs=2, all_tokens=all_tokens, pretraining=0, batch_size=64, model_size=16,
        embedding_size=8, discriminator_size=16, discriminator_learning_rate=5e-3, discriminator_pretraining=50,
        discriminator_steps=2, learning_rate=learning_rate, ent_coef=0.02,
    )  # fmt: skip
    learner = SeqGAN(file, config)
    assert right(learner.sample_text(300)) < 0.1
    return right(learner.learn(total).sample_text(300))


def test_a_discriminator_alone_teaches_a_tiny_language(file):
    assert learn_from_verdicts(file, True, 12_000, 1e-2) > 0.25


@pytest.mark.slow
def test_a_discriminator_alone_teaches_a_tiny_language_by_drawn_tokens(file):
    assert learn_from_verdicts(file, False, 40_000, 5e-3) > 0.5


@pytest.mark.parametrize("credit", ["rollouts", "sequence"])
def test_verdicts_on_whole_sequences_correct_what_likelihood_has_not_learned(file, credit):
    config = SeqGANConfig(
        credit=credit, pretraining=4_000, batch_size=64, model_size=16, embedding_size=8, discriminator_size=16,
        discriminator_learning_rate=5e-3, discriminator_pretraining=50, discriminator_steps=2, learning_rate=1e-2,
        num_epochs=2, rollouts=2, baseline="batch",
    )  # fmt: skip
    learner = SeqGAN(file, config)
    learner.learn(4_000)
    before = right(learner.sample_text(500))
    learner.learn(8_000, resume=True)
    assert right(learner.sample_text(500)) > before + 0.1


@pytest.mark.parametrize("objective", ["reinforce", "ppo"])
@pytest.mark.parametrize("baseline", ["none", "batch", "value"])
def test_the_mean_policy_gradient_is_the_exact_gradient(tmp_path, objective, baseline):
    """Two tokens, two places: the gradient of the expected reward is a sum over four sequences."""
    path = tmp_path / "two.txt"
    path.write_text("\n".join(["ab", "ba"] * 20))
    config = SeqGANConfig(
        objective=objective, baseline=baseline, credit="sequence", num_epochs=1, gae_lambda=1.0, vf_coef=0.0, **TINY
    )
    learner = SeqGAN(str(path), config)
    learner.end, learner.length = None, 2
    torch.nn.init.normal_(learner.generator.action_head.linear.weight)
    linear = learner.generator.action_head.linear
    words, n = len(learner.vocabulary), 60_000
    worth = np.random.default_rng(0).normal(size=(words, words)).astype(np.float32)

    every = torch.cartesian_prod(torch.arange(words), torch.arange(words))
    probabilities = learner.generator(every)[0].log_prob(every.flatten()).view(-1, 2).sum(1).exp()
    loss = -(probabilities * torch.from_numpy(worth.ravel())).sum() / 2  # The mean over two tokens.
    (exact,) = torch.autograd.grad(loss, linear.weight)

    found = []
    learner._step = lambda loss: found.append(torch.autograd.grad(loss, linear.weight)[0]) or 0.0
    tokens = learner.sample(n)
    rewards = np.zeros((2, n), np.float32)
    rewards[1] = worth[tokens[:, 0], tokens[:, 1]]
    learner.improve(tokens, rewards)
    assert (found[0] - exact).norm() < 0.1 * exact.norm()
    assert learner.timesteps == n


@pytest.mark.parametrize("options", [{}, {"credit": "rollouts"}, {"discriminator_dropout": 0.3, "dropout": 0.2}])
def test_going_on_is_exact(file, options):
    config = SeqGANConfig(pretraining=320, scheduled_sampling=0.5, teacher_forcing=0.1, **TINY, **options)
    for stop in (160, 480):
        whole, kept = SeqGAN(file, config), []

        def keep(learner, _, stop=stop, kept=kept):
            if learner.timesteps >= stop and not kept:
                kept.append(learner.checkpoint())

        whole.learn(800, keep)
        again = SeqGAN(file, config, seed=9)
        again.restore(kept[0])
        again.learn(800, resume=True)
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name]), (stop, name)


def test_what_the_generator_reads_of_its_own(file):
    learner = SeqGAN(file, SeqGANConfig(**TINY))
    tokens = learner.dataset.train[:200]
    assert np.array_equal(learner.mixed(tokens, 0.0), tokens)
    half = (learner.mixed(tokens, 0.5) != tokens).mean()
    assert 0.2 < half < 0.5  # What is drawn may be the right one.
    with torch.no_grad(), evaluating(learner.generator):
        assert learner.likelihood_loss(tokens, 1.0) != learner.likelihood_loss(tokens)


def test_a_control_learns_nothing_from_the_discriminator(file):
    config = SeqGANConfig(pretraining=160, control="constant", baseline="batch", **TINY)
    learner = SeqGAN(file, config)
    learner.learn(160)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    learner.learn(480, resume=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    assert learner.timesteps == 480


def test_the_temperature_that_costs_as_much_likelihood(file):
    learner = SeqGAN(file, SeqGANConfig(**TINY))
    sure_of_what_is_wrong = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(learner.generator.action_head.linear.weight, generator=sure_of_what_is_wrong)
    test = learner.dataset.test
    assert equally_unlikely(learner, learner.nll(test) - 0.1) == 1
    assert learner.nll(test, 0.4) > learner.nll(test) + 0.1
    assert equally_unlikely(learner, learner.nll(test, 0.4)) == pytest.approx(0.4, abs=0.01)


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    return rltool.train(
        "seqgan", file, total_timesteps=2_400, pretraining=1_600, run_dir=str(tmp_path_factory.mktemp("runs")), **TINY
    )


def test_a_run_is_compared_with_both_controls(run):
    summary = run.summary
    assert summary["finished"]
    for name in ("mle", "constant"):
        control = rltool.load(run.path / "controls" / name)
        assert control.summary["total_timesteps"] == summary["total_timesteps"]
        assert control.config["config"]["control"] == name
        assert summary[f"{name}_nll_test"] == pytest.approx(control.agent.nll(run.agent.dataset.test))
    sentences = verdict(summary)
    assert any("maximum likelihood alone" in line for line in sentences)
    assert any("temperature" in line for line in sentences)
    assert len((run.path / "samples.txt").read_text().splitlines()) == 100
    assert (run.path / "learning_curve.png").exists()


def test_a_verdict_says_when_the_controls_do_as_well():
    summary = {"self_bleu": 0.5, "nll_test": 3.0, "nll_oracle": 4.0, "cold_temperature": 0.9, "mle_nll_oracle": 4.2}
    summary |= {"constant_nll_oracle": 4.1, "cold_nll_oracle": 3.9}
    assert "no better in nll_oracle than maximum likelihood at temperature 0.90" in verdict(summary)[-1]
    assert not any("no evidence" in line for line in verdict(summary | {"cold_nll_oracle": 4.3}))
    assert verdict({"score": 1.0}) == []


def test_a_loaded_generator_is_the_one_that_was_saved_and_needs_no_data(run, file):
    agent = SeqGAN.load(run.path / "model.safetensors")
    assert "dataset" not in vars(agent)
    assert agent.sample_text(20, seed=3) == run.agent.sample_text(20, seed=3)
    assert agent.config == run.agent.config


def test_sequences_on_the_command_line(run, cli, tmp_path):
    first = cli("sample", str(run.path), "-n", "5", "--seed", "1").splitlines()
    assert first == run.agent.sample_text(5, seed=1)
    beam = json.loads(cli("sample", str(run.path), "-n", "3", "--beam", "8", "--json"))
    assert len(beam["samples"]) == 3
    assert beam["log_probs"] == sorted(beam["log_probs"], reverse=True)
    out = tmp_path / "lines.txt"
    cli("sample", str(run.path), "-n", "4", "--temperature", "0", "--out", str(out))
    assert len(set(out.read_text().splitlines())) == 1
    result = json.loads(cli("eval", str(run.path), "--samples", "300", "--json"))
    assert result["n_fake"] == 300
    assert 0 <= result["self_bleu"] <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "mlp"}, "has no memory; take --backbone"),
        ({"discriminator_backbone": "mlp"}, "which --credit prefixes needs"),
        ({"batch_size": 1_000}, "fewer than a minibatch"),
        ({"env_kwargs": {"g": 1}}, "no environment"),
        ({"init_policy": "somewhere"}, "no run"),
        ({"scheduled_sampling": 2.0}, "scheduled-sampling"),
    ],
)
def test_options_that_will_not_do(file, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        rltool.train("seqgan", file, run_dir=str(tmp_path), **options)
    assert not list(tmp_path.iterdir())
