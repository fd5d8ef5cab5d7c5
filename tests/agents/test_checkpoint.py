"""A checkpoint is all there is: training goes on from it bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent
from rltool.training.checkpoint import State, load_state, save_state

EVERYTHING = {"normalize_observations": True, "normalize_returns": True, "num_envs": 4}
CASES = [
    pytest.param(REINFORCE, {"credit": "value_baseline", "num_steps": 30}, id="reinforce"),
    pytest.param(A2C, {"num_steps": 5, "dropout": 0.1, "learning_rate_schedule": "linear"}, id="a2c"),
    pytest.param(A2C, {"num_steps": 8, "optimizer": "adam", "shared": True}, id="a2c, adam"),
    pytest.param(
        PPO,
        {
            "num_steps": 32,
            "batch_size": 64,
            "num_epochs": 2,
            "clip_range_schedule": "linear",
            "action_std": "gsde",
            "sde_sample_freq": 3,
        },
        id="ppo",
    ),
]
ENVS = ["CartPole-v1", "Pendulum-v1"]


def through_a_file(state: State, folder: Path) -> State:
    save_state(folder / "state.safetensors", state)
    return load_state(folder / "state.safetensors")


def until(timesteps: int) -> Callable[[OnPolicyAgent, Any], bool]:
    return lambda agent, metrics: agent.timesteps < timesteps


def assert_same_state(one: State, other: State) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        assert torch.equal(one.tensors[name], other.tensors[name]), name
    assert json.loads(json.dumps(one.values)) == json.loads(json.dumps(other.values))


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(("cls", "options"), CASES)
def test_training_goes_on_bit_for_bit(
    cls: type[OnPolicyAgent], options: dict[str, Any], env: str, tmp_path: Path
) -> None:
    options = EVERYTHING | options
    straight = cls(env, seed=7, **options).learn(2_000)

    first = cls(env, seed=7, **options).learn(2_000, until(1_000))
    assert 1_000 <= first.timesteps < 2_000
    second = cls(env, seed=8, **options)  # The seed is not what decides now.
    second.learn(100)  # nor what it did before
    second.restore(through_a_file(first.checkpoint(), tmp_path))
    assert second.timesteps == first.timesteps
    second.learn(2_000, resume=True)

    assert straight.timesteps == second.timesteps == 2_000
    assert_same_state(straight.checkpoint(), second.checkpoint())
    assert straight.metrics() == second.metrics()
    batch = np.random.default_rng(0).normal(size=(20, *straight.observation_space.shape)).astype(np.float32)
    np.testing.assert_array_equal(straight.predict(batch)[0], second.predict(batch)[0])
    straight.save(tmp_path / "straight.safetensors")
    second.save(tmp_path / "second.safetensors")
    assert (tmp_path / "straight.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()


@pytest.mark.parametrize("env", ENVS)
def test_a_finished_training_can_go_on(env: str, tmp_path: Path) -> None:
    """Without schedules it does not matter whether the end was known."""
    straight = A2C(env, num_envs=4).learn(2_000)
    first = A2C(env, num_envs=4).learn(1_000)
    second = A2C(env, num_envs=4)
    second.restore(through_a_file(first.checkpoint(), tmp_path))
    assert torch.equal(second.learn(2_000, resume=True).optimizer.parameters, straight.optimizer.parameters)


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_a_checkpoint_is_a_copy(cls: type[OnPolicyAgent], options: dict[str, Any], tmp_path: Path) -> None:
    """Neither further training, nor restoring from it, changes it."""
    options = EVERYTHING | options
    agent = cls("CartPole-v1", **options).learn(500)
    state = agent.checkpoint()
    kept = through_a_file(state, tmp_path)
    agent.learn(1_000, resume=True)
    assert_same_state(state, kept)
    results = []
    for _ in range(2):
        other = cls("CartPole-v1", **options)
        other.restore(state)
        other.learn(1_000, resume=True)
        assert_same_state(state, kept)
        results.append(other.checkpoint())
    assert_same_state(results[0], results[1])


def test_same_checkpoint_same_bytes(tmp_path: Path) -> None:
    for k in range(2):
        save_state(tmp_path / str(k), A2C("Pendulum-v1", seed=2).learn(300).checkpoint())
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_statistics_are_replaced_not_extended() -> None:
    agent = A2C("CartPole-v1", num_envs=4).learn(1_000)
    state = agent.checkpoint()
    expected = agent.metrics()
    agent.learn(1_200, resume=True)
    agent.restore(state)
    assert agent.metrics() == expected


@pytest.mark.parametrize("cls", [REINFORCE, A2C])
def test_environments_that_cannot_be_kept_begin_new_episodes(
    cls: type[OnPolicyAgent], counting_envs: Callable, tmp_path: Path
) -> None:
    agent = cls(counting_envs(AutoresetMode.NEXT_STEP)).learn(60)
    state = through_a_file(agent.checkpoint(), tmp_path)
    assert state.values["env"] is None
    other = cls(counting_envs(AutoresetMode.NEXT_STEP))
    other.restore(state)
    assert other.collector.observation is not None
    assert not other.collector.observation.any()
    assert torch.equal(other.optimizer.parameters, agent.optimizer.parameters)
    assert other.metrics() == agent.metrics()
    other.learn(120, resume=True)
    assert other.timesteps == 120


def test_an_agent_before_its_first_step(tmp_path: Path) -> None:
    fresh, restored = PPO("CartPole-v1", seed=3, num_steps=64), PPO("CartPole-v1", seed=4, num_steps=64)
    restored.restore(through_a_file(fresh.checkpoint(), tmp_path))
    assert restored.timesteps == 0
    assert torch.equal(restored.optimizer.parameters, fresh.optimizer.parameters)


def test_a_compiled_agents_files_are_those_of_any_other(tmp_path: Path) -> None:
    """Compiling happens at the first update, which this test does without; `pytest -m slow` waits for it."""
    compiled, plain = (PPO("CartPole-v1", num_steps=16, batch_size=8, compile=flag) for flag in (True, False))
    assert_same_state(compiled.checkpoint(), plain.checkpoint())
    compiled.save(tmp_path / "agent.safetensors")
    plain.policy.load_state_dict(load_state(tmp_path / "agent.safetensors").tensors)


@pytest.mark.slow
def test_compiled_training_equals_plain_training() -> None:
    compiled, plain = (
        PPO("CartPole-v1", num_envs=4, num_steps=16, batch_size=64, num_epochs=2, compile=flag).learn(256)
        for flag in (True, False)
    )
    for name, weight in plain.policy.state_dict().items():
        torch.testing.assert_close(compiled.policy.state_dict()[name], weight, atol=1e-4, rtol=1e-3)
