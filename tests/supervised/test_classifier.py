import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import PPO
from rltool.errors import UserError
from rltool.networks.backbone import build_backbone
from rltool.networks.config import BackboneConfig
from rltool.supervised import Classifier, ClassifierConfig, ClassifierLearner


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rltool.train(
        "classifier",
        "digits",
        preset="none",
        backbone="cnn",
        total_timesteps=6_000,
        run_dir=str(tmp_path_factory.mktemp("runs")),
    )


def test_digits_are_learned_and_the_run_says_so(run):
    assert run.summary["test_accuracy"] > 0.9
    assert run.agent.test()["accuracy"] == run.summary["test_accuracy"]
    assert isinstance(run.model, Classifier)
    assert (run.path / "learning_curve.png").exists()


@pytest.mark.slow
def test_the_preset_reads_almost_all_digits(tmp_path):
    accuracies = [
        rltool.train("classifier", "digits", seed=seed, run_dir=str(tmp_path)).summary["test_accuracy"]
        for seed in range(3)
    ]
    assert sorted(accuracies)[1] >= 0.98
    assert min(accuracies) >= 0.975


def test_inputs_are_normalized_inside(run):
    x = run.agent.examples[0][0]
    seen = []
    handle = run.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run.model(x)
    handle.remove()
    assert abs(float(seen[0].mean())) < 1e-4
    assert float(seen[0].std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("backbone", ["rnn", "gru", "transformer", "gnn"])
def test_backbones_that_do_not_read_images(backbone):
    with pytest.raises(UserError, match="take --backbone"):
        ClassifierLearner("digits", ClassifierConfig(backbone=backbone))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_going_on_is_exact(tmp_path, optimizer):
    config = ClassifierConfig(
        hidden_sizes=(16,), dropout=0.2, optimizer=optimizer, warmup=0.1, augment=("shift", "cutout"), mixup=0.2
    )
    whole = ClassifierLearner("digits", config)
    kept = []

    def keep(learner, _):
        if learner.updates == 25:
            kept.append(learner.checkpoint())

    whole.learn(3_000, keep)
    again = ClassifierLearner("digits", config, seed=0)
    again.restore(kept[0])
    again.learn(3_000, resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_backbone_starts_another_classifier(run, tmp_path):
    learner = ClassifierLearner("digits", ClassifierConfig(backbone="cnn"), seed=5)
    learner.init_backbone(run.model)
    theirs = run.model.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in learner.model.backbone.state_dict().items())
    with pytest.raises(UserError, match="does not fit"):
        ClassifierLearner("digits", ClassifierConfig(backbone="impala")).init_backbone(run.model)
    with pytest.raises(UserError, match="no backbone"):
        learner.init_backbone(object())


class Pictures(gym.Env):
    """Shows random pictures of digits' size, or of another."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, channels=1):
        self.observation_space = gym.spaces.Box(0, 255, (channels, 8, 8), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_a_backbone_starts_an_agent_and_the_other_way_round(run):
    agent = PPO(Pictures(), backbone="cnn", num_steps=16, batch_size=16)
    agent.init_backbone(run.model)
    theirs = run.model.backbone.state_dict()
    for backbone in (agent.policy.backbone, agent.policy.value_backbone):
        assert all(torch.equal(t, theirs[n]) for n, t in backbone.state_dict().items())
    learner = ClassifierLearner("digits", ClassifierConfig(backbone="cnn"), seed=5)
    statistics = learner.model.mean.clone()
    agent.learn(16)
    learner.init_backbone(agent)
    mine = agent.policy.backbone.state_dict()
    assert all(torch.equal(t, mine[n]) for n, t in learner.model.backbone.state_dict().items())
    assert torch.equal(learner.model.mean, statistics)


def test_backbones_of_other_inputs_do_not_fit(run):
    agent = PPO(Pictures(channels=3), backbone="cnn", num_steps=16, batch_size=16)
    weights = agent.policy.backbone.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    with pytest.raises(UserError, match=r"\(32, 3, 3, 3\) here and \(32, 1, 3, 3\) there"):
        agent.init_backbone(run.model)
    with pytest.raises(UserError, match=r"\(32, 1, 3, 3\) here and \(32, 3, 3, 3\) there"):
        ClassifierLearner("digits", ClassifierConfig(backbone="cnn")).init_backbone(agent)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in before.items())


def test_the_confusion_matrix_counts_every_example_once(run):
    result = run.agent.test()
    confusion = np.array(result["confusion"])
    assert confusion.sum(1).tolist() == np.bincount(run.agent.dataset.test.y).tolist()
    assert np.trace(confusion) / confusion.sum() == pytest.approx(result["accuracy"])
    image, label = run.agent.dataset.test.x, run.agent.dataset.test.y
    read = run.agent.logits(torch.from_numpy(image)).argmax(1).numpy()
    assert confusion[3, 8] == ((label == 3) & (read == 8)).sum()
    assert (run.path / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_every_example_is_held_out_in_one_fold():
    def held_out(fold, seed=0):
        learner = ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,), folds=4, fold=fold), seed=seed)
        (learned, _), (validated, _) = learner.examples
        assert len(learned) + len(validated) == len(learner.dataset.train)
        return validated.flatten(1)

    parts = [held_out(k) for k in range(4)]
    whole = ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,))).dataset.train.x.reshape(-1, 64)
    assert np.array_equal(np.unique(torch.cat(parts), axis=0), np.unique(whole, axis=0))
    assert not torch.equal(parts[0], held_out(0, seed=1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"folds": 1}, "folds must be 2 or more"),
        ({"folds": 3, "fold": 3}, "fold must be less than folds"),
        ({"fold": 0}, "fold must be less than folds"),
        ({"folds": 3}, "needs the part to hold out, fold=0 to 2"),
        ({"folds": 2_000, "fold": 1_999}, "too small to hold out --folds"),
        ({"epochs": 2, "total_timesteps": 10}, "budget is given twice"),
        ({"mixup": -1}, "mixup"),
    ],
)
def test_options_that_will_not_do(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        rltool.train("classifier", "digits", run_dir=str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def test_epochs_are_passes_through_what_is_learned_from(tmp_path):
    run = rltool.train(
        "classifier", "digits", hidden_sizes=(8,), epochs=2, validation_fraction=0.5, run_dir=str(tmp_path)
    )
    assert run.summary["total_timesteps"] == 2 * len(run.agent.examples[0][1]) == 2 * 719
    assert run.options.total_timesteps == 2 * 719


def test_cnn_of_large_images_is_unchanged():
    import gymnasium as gym

    cnn = build_backbone(BackboneConfig(backbone="cnn"), gym.spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert [tuple(c.kernel_size) for c in cnn.convolutions if hasattr(c, "kernel_size")] == [(8, 8), (4, 4), (3, 3)]


def test_schedule_rises_then_falls():
    learner = ClassifierLearner("digits", ClassifierConfig(hidden_sizes=(8,), schedule="linear", warmup=0.5))
    learner.total_timesteps, rates = 1_000, []
    for learner.timesteps in (0, 499, 500, 750, 1_000):
        rates.append(learner.scheduled())
    assert rates[0] < rates[1]
    assert rates[2:] == [1.0, 0.5, 0.0]


def test_summary_is_json(run):
    assert json.loads((run.path / "summary.json").read_text())["finished"]
