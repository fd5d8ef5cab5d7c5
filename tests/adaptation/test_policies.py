"""Policies in another look of their environment."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rltool
from rltool.adaptation import transfer as transferring
from rltool.adaptation.policies import DomainGame, OpinionGame, centered_coral
from rltool.adaptation.policy_norms import ROUNDS, Act, adapt_norms
from rltool.adaptation.transfer import ColorMap, Palette, Search, Transfer, look, narrow_down
from rltool.agents import A2C, PPO
from rltool.agents.evaluation import Evaluation
from rltool.agents.policy import Policy
from rltool.cli.main import main
from rltool.errors import UserError
from rltool.networks.backbone import evaluating
from rltool.training.checkpoint import load_state, save_state

CATCH, INVERTED = "rltool/Catch-v0", "rltool/Catch-v0~inverted"
SMALL = {"num_envs": 2, "num_steps": 8, "batch_size": 16, "num_epochs": 1, "backbone": "mlp", "hidden_sizes": (16,)}


def adapting(method: str = "dann", **options: Any) -> PPO:
    return PPO(CATCH, adapt=method, **{"target": f"{CATCH}~noisy", "adapt_batch": 8, **SMALL, **options})


@pytest.mark.parametrize("method", ["dann", "mcd", "coral", "mmd"])
def test_training_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    whole = adapting(method, seed=3).learn(320)
    first = adapting(method, seed=3).learn(320, lambda agent, _: agent.timesteps < 160)
    assert first.timesteps == 160
    save_state(tmp_path / "state.safetensors", first.checkpoint())
    second = adapting(method, seed=4)
    second.learn(32)
    assert second.restore(load_state(tmp_path / "state.safetensors"))
    second.learn(320, resume=True)
    one, other = whole.checkpoint(), second.checkpoint()
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    assert json.loads(json.dumps(one.values)) == json.loads(json.dumps(other.values))


def test_features_become_alike_while_it_learns() -> None:
    def distance(weight: float) -> float:
        options = {"learning_rate": 1e-3, "num_epochs": 4, "shared": True}
        agent = adapting("coral", target=INVERTED, adapt_weight=weight, **options).learn(1_600)
        with torch.no_grad():
            seen = (agent.policy.features(look(env, 256, 0, {})) for env in (CATCH, INVERTED))
            return float(centered_coral(*seen))

    assert distance(10.0) < 0.5 * distance(0.0)


def test_weight_zero_leaves_the_gradient_as_it_is() -> None:
    agent = adapting("mmd", adapt_weight=0.0).learn(32)
    extension = agent.extensions["adapt"]
    observations = look(CATCH, 16, 0, {})
    assert extension.loss_term(observations, agent.policy.distribution(observations)) == 0


def test_the_reversed_gradient_goes_against_the_classifier() -> None:
    torch.manual_seed(0)
    game = DomainGame(4)
    source, target = torch.randn(64, 4) + 1, (torch.randn(64, 4) - 1).requires_grad_()
    for _ in range(200):
        loss = game(source, target)
    assert game.figures["domain_accuracy"] > 0.9
    (step,) = torch.autograd.grad(loss, target)
    with torch.no_grad():  # Down that gradient the target looks more like the source.
        moved = game.classifier(target - 100 * step) - game.classifier(target)
    assert moved.mean() > 0
    assert moved.min() > -1e-4


def test_opinions_differ_where_features_are_unlike_those_of_the_source() -> None:
    torch.manual_seed(0)
    game = OpinionGame(torch.nn.Linear(4, 3))
    source = torch.randn(256, 4)
    for _ in range(500):
        far = game(source, torch.randn(256, 4) + 6)
    near = game.disagreement(source)
    assert near < 0.3 * far
    target = (torch.randn(256, 4) + 6).requires_grad_()
    (step,) = torch.autograd.grad(game.disagreement(target), target)
    assert game.disagreement(target - 100 * step) < game.disagreement(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "dann"}, "add --target"),
        ({"target": INVERTED}, "target does nothing without --adapt"),
        ({"adapt_weight": 0.5}, "adapt-weight does nothing without --adapt"),
        ({"adapt": "dann", "target": INVERTED, "backbone": "lstm"}, "lstm|memory"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        A2C(CATCH, **options)


def test_a_target_that_does_not_fit() -> None:
    agent = PPO(CATCH, adapt="coral", target="CartPole-v1", **SMALL)
    with pytest.raises(UserError, match="CartPole-v1 does not fit: it has observations"):
        agent.prepare()


@pytest.mark.parametrize("shape", [(4, 4, 3), (3, 4, 4)])
def test_the_map_of_colors_is_affine_in_each_pixel(shape: tuple[int, ...]) -> None:
    import gymnasium as gym

    space = gym.spaces.Box(0, 255, shape, np.uint8)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8))
    torch.testing.assert_close(ColorMap(space)(images), images.float())
    turned = ColorMap(space)
    torch.nn.init.normal_(turned.matrix)
    torch.nn.init.normal_(turned.offset)
    flat = images.float() if shape[2] == 3 else images.float().movedim(1, -1)
    expected = (flat / 255) @ turned.matrix.T * 255 + turned.offset * 255
    found = turned(images) if shape[2] == 3 else turned(images).movedim(1, -1)
    torch.testing.assert_close(found, expected)


def test_matched_colors_have_mean_and_covariance_of_the_source_s() -> None:
    import gymnasium as gym

    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    space = gym.spaces.Box(0, 1, (4, 4, 3), np.float32)
    flat = rng.random((500, 3)) * [1, 0.2, 0]  # A palette in a plane,
    source = torch.from_numpy(flat[:, [2, 0, 1]] + 0.1).float()
    target = torch.from_numpy(rng.random((500, 3)) @ rng.random((3, 3))).float()  # and one that is not.
    wanted, had = Palette.of(source), Palette.of(target)
    assert [int(palette.deviations.count_nonzero()) for palette in (wanted, had)] == [2, 3]
    reflections = 0
    for _ in range(20):
        colors = ColorMap(space)
        colors.match(wanted, had, generator)
        mapped = (target @ colors.matrix.T + colors.offset).detach()
        torch.testing.assert_close(mapped.mean(0), source.mean(0))
        torch.testing.assert_close(torch.cov(mapped.T), torch.cov(source.T), atol=1e-5, rtol=1e-4)
        varied = wanted.axes.T[-2:].float() @ colors.matrix.detach() @ had.axes[:, -2:].float()
        reflections += bool(torch.linalg.det(varied) < 0)
    assert 4 <= reflections <= 16


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLORINGS": 3, "STARTS": 2, "TRIAL": 2, "SETTLING": 2, "SEARCHES": 2, "LESSONS": 3}.items():
        monkeypatch.setattr(transferring, name, value)


def test_a_search_brings_features_together() -> None:
    agent = PPO(CATCH, **{**SMALL, "backbone": "cnn"})
    seen = [look(env, 512, k, {}) for k, env in enumerate((CATCH, INVERTED))]
    colors = ColorMap(agent.observation_space)
    with torch.no_grad():
        colors.matrix.mul_(-0.7)
        colors.offset.fill_(0.8)
    search = Search(agent.policy.features, colors, "mmd", seen)
    before = search.apart
    search.go_on(60, np.random.default_rng(0))
    assert search.apart < 0.5 * before
    best, weights = search.apart, colors.matrix.detach().clone()
    search.loss = lambda source, target: -target.square().mean()  # Now it is led astray,
    search.go_on(20, np.random.default_rng(0))
    assert search.apart == best
    assert not torch.equal(colors.matrix, weights)
    search.go_back()  # and knows the way back.
    torch.testing.assert_close(colors.matrix.detach(), weights)


def test_the_searches_that_go_on_are_the_nearest(quick: None) -> None:
    agent = PPO(CATCH, **{**SMALL, "backbone": "cnn"})
    seen = [look(env, 512, k, {}) for k, env in enumerate((CATCH, CATCH))]
    generator = torch.Generator().manual_seed(0)
    maps = [ColorMap(agent.observation_space) for _ in range(4)]
    palette = Palette.of(maps[0].colors(seen[0]))
    for each in maps[1:]:
        each.match(palette, palette, generator)
    searches = [Search(agent.policy.features, colors, "mmd", seen) for colors in maps]
    assert narrow_down(searches[::-1], np.random.default_rng(0)) is searches[0]  # Nothing was shifted.


def transfer(source: float, zero_shot: float, adapted: float) -> Transfer:
    noise = np.random.default_rng(0).normal(0, 0.1, 50)
    rows = (Evaluation(list(mean + noise), [1] * 50) for mean in (source, zero_shot, adapted))
    return Transfer("dann", "a", "b", *rows)


def test_the_verdict_is_in_words() -> None:
    assert "negative transfer" in transfer(10, 5, 2).verdict()
    assert "changed nothing" in transfer(10, 5, 5.01).verdict()
    assert transfer(10, 2, 8).verdict() == "adapting won back 75% of what was lost"
    assert "nothing was lost" in transfer(1, 2, 3).verdict()


def test_adapt_makes_a_run(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"eval_freq": 0, "preset": "none", "run_dir": "runs", **SMALL}
    rltool.train("ppo", CATCH, total_timesteps=64, name="mine", **options)
    kept = (tmp_path / "runs/mine/model.safetensors").read_bytes()
    rltool.train("ppo", "CartPole-v1", total_timesteps=64, name="pole", **options)
    arguments = ["-n", "64", "--episodes", "3", "--json"]

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rltool", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    code, out, _ = run("adapt", "mine", "--to", INVERTED, *arguments, "--oracle", "mine", "--name", "other")
    assert code == 0
    report = json.loads(out)
    assert report["zero_shot_return"] == report["oracle_return"]  # They are the same run.
    assert report["episodes"] == 3
    assert (tmp_path / "runs/mine/model.safetensors").read_bytes() == kept
    code, out, _ = run("eval", "other", "--episodes", "3", "--seed", "1000", "--json")
    assert (code, json.loads(out)["env"]) == (0, INVERTED)
    assert json.loads(out)["mean_return"] == report["adapted_return"]
    again = json.loads(run("adapt", "mine", "--to", INVERTED, *arguments, "--name", "again")[1])
    assert again["alignment_losses"] == report["alignment_losses"]
    weights = [(tmp_path / f"runs/{name}/model.safetensors").read_bytes() for name in ("other", "again")]
    assert weights[0] == weights[1]
    assert "made by rltool adapt" in run("reproduce", "other")[2]
    assert (tmp_path / "runs/other/looks.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run("resume", "other", "-n", "128")
    assert (code, "--init-policy" in err) == (2, True)
    assert (tmp_path / "runs/other/model.safetensors").read_bytes() == weights[0]
    for words, message in (
        (("mine", "--to", f"{CATCH}~inverse"), "no shift 'inverse'; did you mean 'inverted'?"),
        (("mine", "--to", "CartPole-v1"), "CartPole-v1 does not fit this agent"),
        (("pole", "--to", "CartPole-v1~gravityx1.5"), "is adapted afterwards where it reads images"),
        (("mine", "--to", INVERTED, "--method", "adabn"), "this policy has none; train one with --batch-norm"),
    ):
        code, out, err = run("adapt", *words, *arguments)
        assert (code, out) == (2, "")
        assert message in err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["again", "latest", "mine", "other", "pole"]


@pytest.mark.parametrize(
    ("normalizes", "units"), [("normalize_observations", [3, 0.5, 2, 10]), ("batch_norm", [3, 3, 3, 3])]
)
def test_adabn_undoes_other_units(normalizes: str, units: list[float]) -> None:
    agent = PPO("CartPole-v1", num_envs=4, num_steps=32, hidden_sizes=(16,), **{normalizes: True}).learn(512)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(256, 4)).astype(np.float32)
    moved = np.float32(units) * seen + np.float32([1, -1, 0.2, 4])
    source = copy.deepcopy(agent)
    for player, observations in ((source, seen), (agent, moved)):
        rounds: list[int] = []

        def look(act: Act, k: int, observations: np.ndarray = observations, done: list[int] = rounds) -> torch.Tensor:
            done.append(k)
            assert set(act(observations)) <= {0, 1}
            return torch.from_numpy(observations)

        before = logits(player.policy, observations)
        adapt_norms(player, look, rng)
        assert rounds == list(range(ROUNDS))
    assert (logits(agent.policy, moved) - before).abs().max() > 1e-2
    torch.testing.assert_close(logits(agent.policy, moved), logits(source.policy, seen), rtol=1e-3, atol=1e-4)


def logits(policy: Policy, observations: np.ndarray) -> torch.Tensor:
    with torch.no_grad(), evaluating(policy):
        return policy.distribution(torch.from_numpy(observations)).log_probs


@pytest.mark.slow
def test_a_game_in_other_colors_is_played_as_well(tmp_path: Path) -> None:
    run = rltool.train("ppo", CATCH, run_dir=str(tmp_path))
    report = transferring.adapt_run(run, f"{CATCH}~recoloured", run_dir=str(tmp_path))[1]
    assert report.source.mean_return > 9
    assert report.zero_shot.mean_return < 4
    assert report.adapted.mean_return > 8.5
