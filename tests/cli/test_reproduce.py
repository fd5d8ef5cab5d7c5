"""The same run twice is the same, bit for bit; and what is not the same is found and named."""

from __future__ import annotations

import csv
import json
import shutil

import gymnasium as gym
import pytest
import torch

import rltool
from rltool.agents import controls
from rltool.agents.recording import RandomAgent, record
from rltool.envs import save_demonstrations
from rltool.training.checkpoint import load_state, save_state

SMALL = {
    "preset": "none",
    "num_envs": 4,
    "log_freq": 200,
    "eval_freq": 400,
    "save_freq": 400,
    "eval_episodes": 2,
    "run_dir": "runs",
}
EVERYTHING = {"normalize_observations": True, "normalize_returns": True, "learning_rate_schedule": "linear"}
METHODS = [
    ("a2c", {"dropout": 0.1}),
    ("ppo", {"num_steps": 50, "batch_size": 40, "num_epochs": 2}),
    ("reinforce", {"credit": "value_baseline"}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_run_is_reproduced_bit_for_bit(method, options):
    run = rltool.train(method, "CartPole-v1", total_timesteps=1_200, seed=3, **SMALL, **EVERYTHING, **options)
    result = rltool.reproduce(run.path)
    assert result.identical, result.verdict
    assert result.verdict == "identical: every row of metrics.csv and every weight"
    assert set(result.differences.values()) == {0.0}
    assert "train/grad_norm" in result.differences
    assert not any(name.startswith("time/") for name in result.differences)
    assert result.repeated.path.name == f"{run.path.name}-again"
    assert result.versions == {}


def test_the_controls_of_imitation_are_not_trained_again(monkeypatch):
    agent = RandomAgent(gym.spaces.Discrete(2))
    save_demonstrations("demos.npz", record(agent, "CartPole-v1", 3))
    small = {"num_steps": 50, "batch_size": 40, "num_epochs": 1, "demos_steps": 2}
    monkeypatch.setattr(controls, "EPISODES", 2)
    run = rltool.train("gail", "CartPole-v1", demos="demos.npz", total_timesteps=400, **SMALL, **small)
    assert (run.path / "controls" / "spoiled" / "summary.json").exists()
    result = rltool.reproduce(run.path)
    assert result.identical, result.verdict
    assert result.repeated.summary["finished"]
    assert "score" in result.repeated.summary
    assert not (result.repeated.path / "controls").exists()


def test_another_seed_is_found():
    run = rltool.train("a2c", "CartPole-v1", total_timesteps=800, name="r", **SMALL)
    config = json.loads((run.path / "config.json").read_text())
    config["run"]["seed"] = 1
    (run.path / "config.json").write_text(json.dumps(config))
    result = rltool.reproduce("r")
    assert not result.identical
    assert result.identical_until is None
    assert "rollout/ep_rew_mean" in result.first_differing
    assert len(result.weights) >= len(load_state(run.path / "model.safetensors").tensors)
    assert all(value > 0 for value in result.weights.values())
    assert result.verdict.startswith("different from the first row on: rollout/ep_rew_mean")


@pytest.mark.parametrize("method", ["a2c", "ppo"])
def test_a_run_that_was_stopped_is_repeated_up_to_there(method):
    options = dict(METHODS)[method]
    run = rltool.train(
        method,
        "CartPole-v1",
        total_timesteps=2_000,
        callback=lambda learner, _: learner.timesteps < 700,
        **SMALL,
        **EVERYTHING,
        **options,
    )
    assert run.summary["total_timesteps"] < 900
    result = rltool.reproduce(run.path)
    assert result.identical, result.verdict
    assert result.repeated.summary["total_timesteps"] == run.summary["total_timesteps"]
    rltool.resume(run.path)
    assert rltool.reproduce(run.path).identical


def test_a_run_that_was_trained_further_is_repeated_so():
    run = rltool.train("a2c", "CartPole-v1", total_timesteps=501, **SMALL, **EVERYTHING)  # Rounded up, both times.
    rltool.resume(run.path, 1_003)
    result = rltool.reproduce(run.path)
    assert result.repeated.summary["total_timesteps"] == 1_004
    assert result.identical, result.verdict


def change_row(run, number, column, value):
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[number][column] = value
    with open(run / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_the_first_difference_is_named(cli, copy_of_trained):
    change_row(copy_of_trained, 1, "train/value_loss", "1e9")
    change_row(copy_of_trained, 2, "train/grad_norm", "")
    done = cli("reproduce", "mine", "--quiet")
    assert done.code == 1
    lines = done.out.splitlines()
    assert "identical until timestep 500, then different: train/value_loss" in lines
    assert [line.split()[1:] for line in lines if line.startswith("train/value_loss ")] == [
        ["differs", "by", "up", "to", "1e+09"]
    ]
    assert [line.split()[1:] for line in lines if line.startswith("train/grad_norm ")] == [["not", "in", "both"]]
    assert lines[-1] == "both curves: runs/mine-again/reproduction.png"
    assert (copy_of_trained.parent / "mine-again" / "reproduction.png").stat().st_size > 1_000


def test_json_and_versions(cli, copy_of_trained):
    file = copy_of_trained / "config.json"
    config = json.loads(file.read_text())
    config["versions"]["torch"] = "1.0"
    config["platform"] = "Amiga"
    file.write_text(json.dumps(config))
    same = cli("reproduce", "mine", "--json")
    assert same.code == 0
    assert same.err == ""
    assert same.json["identical"] is True
    assert same.json["versions"]["torch"] == ["1.0", torch.__version__]
    assert same.json["versions"]["platform"][0] == "Amiga"
    change_row(copy_of_trained, 2, "train/grad_norm", "")
    other = cli("reproduce", "mine", "--json")
    assert other.code == 1
    assert other.json["differences"]["train/grad_norm"] is None
    assert other.json["identical_until"] == 1_000
    assert other.json["repeated"].endswith("mine-again-2")
    text = cli("reproduce", "mine", "--quiet").out
    assert f"may explain it: torch was 1.0, is {torch.__version__}" in text


@pytest.mark.parametrize("where", ["model.safetensors", "checkpoints/step-000000001500.safetensors"])
def test_one_bit_of_one_weight_is_found(cli, copy_of_trained, where):
    state = load_state(copy_of_trained / where)
    name = next(name for name in state.tensors if name.endswith("value_head.linear.bias"))
    state.tensors[name].view(torch.int32)[0] ^= 1
    save_state(copy_of_trained / where, state)
    done = cli("reproduce", "mine", "--quiet")
    assert done.code == 1
    assert f"weights: 1 differ, {name} most, by up to " in done.out
    assert "all rows are identical, but not all weights (1 differ)" in done.out


def test_mistakes(cli, copy_of_trained):
    assert "there is no run nowhere" in cli("reproduce", "nowhere").sentence(2)
    assert "mine exists; choose another --name" in cli("reproduce", "mine", "--name", "mine").sentence(2)
    (copy_of_trained / "summary.json").unlink()
    said = cli("reproduce", "mine").sentence(2)
    assert said == "runs/mine has no summary: it is going on, or was killed; finish it with: rltool resume runs/mine"
    assert [path.name for path in copy_of_trained.parent.iterdir()] == ["mine"]


def test_where_the_repetition_goes(cli, copy_of_trained):
    assert cli("reproduce", "mine", "--quiet", "--run-dir", "elsewhere", "--name", "twin").code == 0
    assert rltool.load("elsewhere/twin").summary["finished"] is True
    assert sorted(path.name for path in copy_of_trained.parent.iterdir()) == ["mine"]
    shutil.rmtree("elsewhere")


def test_functions_that_shaped_the_rewards_are_given_again(cli, workplace):
    (workplace / "twice.py").write_text(
        "def double(obs, action, reward, next_obs, terminated):\n    return 2 * reward\n"
    )
    rltool.train("a2c", "CartPole-v1", total_timesteps=400, name="r", shaping="twice:double", **SMALL)
    said = cli("reproduce", "r").sentence(2)
    assert said == "the rewards of this run were shaped by twice:double; give it again: --shaping twice:double"
    assert cli("reproduce", "r", "--shaping", "twice:double", "--quiet").code == 0


def test_a_run_that_began_with_anothers_backbone():
    rltool.train("a2c", "CartPole-v1", total_timesteps=400, name="first", **SMALL)
    rltool.train("ppo", "CartPole-v1", total_timesteps=400, name="second", num_steps=50, batch_size=40,
                 init_backbone="first", freeze_backbone=200, **SMALL)  # fmt: skip
    assert rltool.reproduce("second").identical
