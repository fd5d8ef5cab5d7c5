"""Tiny environments whose every number is known in advance, and the vector forms of them that the tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space


class CountingEnv(gym.Env):
    """Observes how many steps its episode has had; the t-th step is rewarded by t.

    The k-th episode has `lengths[k]` steps (the list is repeated for ever); it is truncated where the length is
    negative, and terminates otherwise. A reset with a seed begins with the first episode again.
    """

    observation_space = gym.spaces.Box(0, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.episode = -1
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.count = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        length = self.lengths[self.episode % len(self.lengths)]
        end = self.count == abs(length)
        return self._observe(), float(self.count), end and length > 0, end and length < 0, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.count], np.float32)


COUNTING_LENGTHS = [(3, -4, 2), (-5,), (1, -1, 6, 3)]


class IdentityVectorEnv(VectorEnv):
    """Ten-step episodes; the right action is a function of the observation, which changes at random every step.

    Discrete: the observation is a one-hot vector of 3, and naming its index is worth 1, anything else 0.
    Box: the observation is a number in [-1, 1], and an action a is worth 1 - (a - observation)^2.
    """

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, kind: str, num_envs: int = 8, start: int = 0) -> None:
        self.kind = kind
        self.num_envs = num_envs
        if kind == "discrete":
            self.single_observation_space = gym.spaces.Box(0, 1, (3,), np.float32)
            self.single_action_space = gym.spaces.Discrete(3, start=start)
        else:
            self.single_observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
            self.single_action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.start = start

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        assert self.action_space.contains(actions), actions
        false = np.zeros(self.num_envs, bool)
        if self.steps == 10:
            self.steps = 0
            return self._draw(), np.zeros(self.num_envs), false, false, {}
        if self.kind == "discrete":
            rewards = (actions - self.start == self.target).astype(float)
        else:
            rewards = 1 - (actions[:, 0].astype(float) - self.target) ** 2
        self.steps += 1
        return self._draw(), rewards, false | (self.steps == 10), false, {}

    def _draw(self) -> np.ndarray:
        if self.kind == "discrete":
            self.target = self.np_random.integers(3, size=self.num_envs)
            return np.eye(3, dtype=np.float32)[self.target]
        self.target = self.np_random.uniform(-1, 1, self.num_envs).astype(np.float32)
        return self.target[:, None]


class FaultyEnv(gym.Env):
    """Goes wrong at its seventh step, in the way it is told to; episodes have five steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.total = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.total += 1
        self.count += 1
        observation, reward = np.zeros(2, np.float32), 1.0
        if self.total == 7:
            if self.fault == "raise":
                raise RuntimeError("the simulator has crashed")
            if self.fault == "observation":
                observation[1] = np.nan
            elif self.fault == "reward":
                reward = float("inf")
        return observation, reward, self.count == 5, False, {}


@pytest.fixture
def counting_env() -> Callable[..., CountingEnv]:
    """Makes one `CountingEnv`."""
    return CountingEnv


@pytest.fixture
def counting_envs() -> Callable[..., SyncVectorEnv]:
    """Makes `CountingEnv`s stepped together, in an autoreset mode."""

    def make(mode: AutoresetMode, lengths: Sequence[Sequence[int]] = COUNTING_LENGTHS) -> SyncVectorEnv:
        return SyncVectorEnv([lambda each=each: CountingEnv(each) for each in lengths], autoreset_mode=mode)

    return make


@pytest.fixture
def identity_envs() -> Callable[..., IdentityVectorEnv]:
    """Makes `IdentityVectorEnv`s."""
    return IdentityVectorEnv


@pytest.fixture
def faulty_env() -> Callable[[str], FaultyEnv]:
    """Makes a `FaultyEnv`."""
    return FaultyEnv


@pytest.fixture(params=list(AutoresetMode), ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> AutoresetMode:
    """Each autoreset mode in turn."""
    return request.param
