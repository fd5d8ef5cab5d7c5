"""Environments go on bit for bit from a saved state, whatever vector environment runs them."""

from __future__ import annotations

import functools
import importlib.util
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rltool.envs import ParallelVectorEnv, Replay, get_env_state, make_env, make_vector_env, replay, set_env_state
from rltool.training.checkpoint import State, load_state, save_state

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
IN_TWO_PROCESSES = functools.partial(ParallelVectorEnv, processes=2)

ENVIRONMENTS = {
    "CartPole-v1": None,
    "FrozenLake-v1": None,
    "Taxi-v4": None,
    "LunarLander-v3": "Box2D",
    "BipedalWalker-v3": "Box2D",
    "HalfCheetah-v5": "mujoco",
    "Hopper-v5": "mujoco",
    "ALE/Pong-v5": "ale_py",
}


def step(env: VectorEnv) -> list[Any]:
    """One random step; with autoreset disabled, what has ended is reset."""
    observations, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    done = terminated | truncated
    result = [observations, rewards, terminated, truncated]
    if env.metadata["autoreset_mode"] is DISABLED and done.any():
        result.append(env.reset(options={"reset_mask": done})[0])
    return result


def assert_same_future(one: VectorEnv, other: VectorEnv, steps: int = 40) -> None:
    one.action_space.seed(9)
    other.action_space.seed(9)
    for _ in range(steps):
        assert data_equivalence(step(one), step(other), exact=True)


def through_a_file(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Saved and loaded as a checkpoint is."""
    kept = State(values={name: value for name, value in state.items() if not isinstance(value, np.ndarray)})
    kept.add("env", {name: torch.from_numpy(value) for name, value in state.items() if isinstance(value, np.ndarray)})
    save_state(path, kept)
    loaded = load_state(path)
    return loaded.values | {name: tensor.numpy() for name, tensor in loaded.take("env").items()}


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_future_is_the_same(env_id: str, vectorization: str, mode: AutoresetMode, tmp_path: Path) -> None:
    package = ENVIRONMENTS[env_id]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")

    def make() -> VectorEnv:
        return make_vector_env(env_id, 2, vectorization=vectorization, autoreset_mode=mode, max_episode_steps=25)

    env, fresh = make(), make()
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(60):
        step(env)
    state = get_env_state(env)
    assert state is not None
    assert set_env_state(fresh, through_a_file(state, tmp_path / "state.safetensors"))
    assert data_equivalence(get_env_state(fresh), state, exact=True)
    assert_same_future(env, fresh)
    for each in (env, fresh):
        each.close()


def run_until_an_end(env: VectorEnv) -> np.ndarray:
    env.reset(seed=0)
    env.action_space.seed(0)
    while True:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if (terminated | truncated).any():
            return terminated | truncated


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv, IN_TWO_PROCESSES])
def test_what_had_ended_resets_in_the_next_step(vector: Any) -> None:
    env, fresh = (vector([lambda: Replay(gym.make("CartPole-v1"))] * 3) for _ in range(2))
    done = run_until_an_end(env)
    assert not done.all()
    assert set_env_state(fresh, get_env_state(env))
    observations, rewards, terminated, truncated, _ = fresh.step(np.zeros(3, int))
    expected = env.step(np.zeros(3, int))
    assert data_equivalence((observations, rewards, terminated, truncated), expected[:4], exact=True)
    assert (rewards == ~done).all()
    assert_same_future(env, fresh)
    for each in (env, fresh):
        each.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv, IN_TWO_PROCESSES])
def test_what_had_ended_waits_for_its_reset_where_autoreset_is_disabled(vector: Any) -> None:
    env, fresh = (vector([lambda: Replay(gym.make("CartPole-v1"))] * 3, autoreset_mode=DISABLED) for _ in range(2))
    done = run_until_an_end(env)
    state = get_env_state(env)
    assert set_env_state(fresh, state)
    resets = [each.reset(options={"reset_mask": done.copy()})[0] for each in (env, fresh)]
    np.testing.assert_array_equal(*resets)
    assert_same_future(env, fresh)
    set_env_state(fresh, state)
    with pytest.raises(ResetNeeded, match="the episode has ended"):
        fresh.step(np.zeros(3, int))
    env.close()
    if vector is not AsyncVectorEnv:  # its worker that refused is gone
        fresh.close()


def test_a_reset_with_a_seed_and_options_is_repeated() -> None:
    env, fresh = (make_vector_env("CartPole-v1", 2, vectorization="sync") for _ in range(2))
    env.reset(seed=5, options={"low": -0.01, "high": 0.01})
    step(env)
    assert set_env_state(fresh, get_env_state(env))
    assert_same_future(env, fresh, 100)


def test_actions_are_copied() -> None:
    env, fresh = (make_vector_env("MountainCarContinuous-v0", 2, vectorization="sync") for _ in range(2))
    env.reset(seed=0)
    actions = np.full((2, 1), 0.5, np.float32)
    env.step(actions)
    actions[:] = -1
    assert set_env_state(fresh, get_env_state(env))


class Coin(gym.Env):
    """Random in a way that its generator does not know of."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    flips = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.float32([self.flips.random()]), 0.0, False, False, {}


class Shrinking(Coin):
    """Each instance has shorter episodes than the one before, and refuses to go on after their end."""

    length = 6

    def __init__(self) -> None:
        Shrinking.length -= 2
        self.length = Shrinking.length

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return super().reset(**kwargs)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.t > self.length:
            raise RuntimeError("over")
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("kind", [Coin, Shrinking])
def test_other_randomness_is_found_out(kind: Any) -> None:
    env, fresh = (SyncVectorEnv([lambda: Replay(kind())]) for _ in range(2))
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(1, int))
    assert not set_env_state(fresh, get_env_state(env))
    fresh.reset(seed=0)
    assert set_env_state(fresh, get_env_state(fresh))


def test_states_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_vector_env("FrozenLake-v1", 2)
    assert get_env_state(env) is None  # before the first reset
    env.reset(seed=0, options={"unknown": object()})
    assert get_env_state(env) is None
    env.reset(seed=0)
    assert get_env_state(env) is not None
    monkeypatch.setattr(replay, "MAX_STEPS", 3)
    assert get_env_state(env) is not None
    for _ in range(4):
        env.step(np.zeros(2, int))
    assert get_env_state(env) is None


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv, IN_TWO_PROCESSES])
def test_vector_environments_without_it_are_left_alone(vector: Any) -> None:
    env = vector([lambda: gym.make("FrozenLake-v1")])
    env.reset(seed=0)
    assert get_env_state(env) is None
    env.step(np.zeros(1, int))
    with pytest.raises(ValueError, match="cannot be put into a saved state"):
        set_env_state(env, {})
    env.close()


def test_the_number_of_environments_must_be_the_same() -> None:
    env = make_vector_env("FrozenLake-v1", 2, seed=0)
    state = get_env_state(env)
    assert state is not None
    with pytest.raises(ValueError, match="the state is of 2 environments, but there are 3 here"):
        set_env_state(make_vector_env("FrozenLake-v1", 3), state)


def test_everything_passes_through() -> None:
    plain, wrapped = gym.make("FrozenLake-v1", render_mode="rgb_array"), None
    wrapped = Replay(gym.make("FrozenLake-v1", render_mode="rgb_array"))
    assert data_equivalence(plain.reset(seed=1), wrapped.reset(seed=1), exact=True)
    for _ in range(5):
        assert data_equivalence(plain.step(1), wrapped.step(1), exact=True)
    np.testing.assert_array_equal(plain.render(), wrapped.render())
    assert wrapped.spec is not None
    assert type(gym.make(wrapped.spec)) is Replay  # the specification can be made again


def test_memory_is_bounded_and_a_step_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_STEPS", 100)
    env = Replay(Shrinking())
    monkeypatch.setattr(env.env, "length", 10**9)
    env.reset(seed=0)
    for _ in range(200):
        env.step(0)
    tracemalloc.start()
    start = time.perf_counter()
    for _ in range(5_000):
        env.step(0)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000
    assert seconds / 5_000 < 100e-6


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is None, reason="Box2D is not installed")
def test_an_episode_of_bipedal_walker_does_not_depend_on_those_before() -> None:
    fresh, used = make_env("BipedalWalker-v3"), make_env("BipedalWalker-v3")
    used.action_space.seed(1)
    for seed in range(4):
        used.reset(seed=seed)
        for _ in range(150):
            if used.step(used.action_space.sample())[2]:
                break
    assert data_equivalence(fresh.reset(seed=7), used.reset(seed=7), exact=True)
    for _ in range(300):
        action = used.action_space.sample()
        ours, theirs = used.step(action), fresh.step(action)
        assert data_equivalence(ours, theirs, exact=True)
        if ours[2]:
            break
