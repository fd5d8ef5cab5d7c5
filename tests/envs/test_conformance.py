"""The conformance check passes what is right and names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from rltool.envs import ConformanceError, check_vector_env

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


class CountingEnv(gym.Env):
    """Counts its steps: at step t the observation is [t] and the reward t; it ends at a known step."""

    observation_space = gym.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, terminates_at: int = 1000, truncates_at: int = 1000) -> None:
        self.terminates_at, self.truncates_at = terminates_at, truncates_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.array([0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        observation = np.array([self.t], np.float32)
        return observation, float(self.t), self.t == self.terminates_at, self.t == self.truncates_at, {}


def counting(mode: AutoresetMode, vector: Any = SyncVectorEnv, **kwargs: Any) -> VectorEnv:
    """Three of them: one terminates at 3, one is truncated at 4, one does both at 5."""
    ends = [{"terminates_at": 3}, {"truncates_at": 4}, {"terminates_at": 5, "truncates_at": 5}]
    return vector([lambda end=end: CountingEnv(**end) for end in ends], autoreset_mode=mode, **kwargs)


def test_counting_env_has_the_analytic_values_in_each_mode() -> None:
    """Columns: observations, rewards, terminated, truncated of the first environment, which terminates at 3."""
    expected = {
        NEXT_STEP: [(1, 1, 0, 0), (2, 2, 0, 0), (3, 3, 1, 0), (0, 0, 0, 0), (1, 1, 0, 0)],
        SAME_STEP: [(1, 1, 0, 0), (2, 2, 0, 0), (0, 3, 1, 0), (1, 1, 0, 0), (2, 2, 0, 0)],
    }
    for mode, rows in expected.items():
        env = counting(mode)
        env.reset(seed=0)
        for row in rows:
            observations, rewards, terminated, truncated, infos = env.step(np.zeros(3, int))
            assert (observations[0, 0], rewards[0], terminated[0], truncated[0]) == row
            if mode is SAME_STEP and terminated[0]:
                assert infos["final_obs"][0] == 3


@pytest.mark.parametrize("copy", [True, False], ids=["copies", "aliases"])
def test_sync(copy: bool) -> None:
    if copy:
        check_vector_env(counting)
    else:
        with pytest.raises(ConformanceError, match="changes observations that were returned before"):
            check_vector_env(lambda mode: counting(mode, copy=False))


def test_async() -> None:
    check_vector_env(lambda mode: counting(mode, AsyncVectorEnv), max_steps=20, refuses_ended=False)


def test_gymnasiums_vector_cartpole() -> None:
    check_vector_env(lambda mode: CartPoleVectorEnv(4, max_episode_steps=15), modes=[NEXT_STEP])


class Broken(VectorWrapper):
    """A correct environment with one method replaced."""

    def __init__(self, env: VectorEnv, step: Callable[..., Any] | None = None) -> None:
        super().__init__(env)
        self.damage = step

    def step(self, actions: Any) -> Any:
        results = self.env.step(actions)
        return self.damage(self, actions, *results) if self.damage else results


DAMAGES: dict[str, tuple[AutoresetMode, Callable[..., Any], str]] = {
    "rewards are integers": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew.astype(int), term, trunc, infos),
        "rewards must be a floating array",
    ),
    "terminated has a wrong shape": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew, term[:, None], trunc[:, None], infos),
        "terminated must be a bool",
    ),
    "observations leave the space": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs - 100, rew, term, trunc, infos),
        "not in the observation space",
    ),
    "observations have another dtype": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs.astype(float), rew, term, trunc, infos),
        "not in the observation space",
    ),
    "randomness outside the seed": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew + id(env) % 997, term, trunc, infos),
        "two environments with the same seed and actions differ",
    ),
    "the reset step is rewarded": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew + 1, term, trunc, infos),
        "must give reward 0",
    ),
    "the reset step looks at the action": (
        NEXT_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (
            obs + np.float32(a * (rew == 0))[:, None],
            rew,
            term,
            trunc,
            infos,
        ),
        "must ignore the action",
    ),
    "no final observation": (
        SAME_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew, term, trunc, {}),
        "infos lack 'final_obs'",
    ),
    "a mask of the final observations is wrong": (
        SAME_STEP,
        lambda env, a, obs, rew, term, trunc, infos: (
            obs,
            rew,
            term,
            trunc,
            {name: ~value if name == "_final_obs" else value for name, value in infos.items()},
        ),
        "infos\\['_final_obs'\\] must be",
    ),
    "ended environments can be stepped": (
        DISABLED,
        lambda env, a, obs, rew, term, trunc, infos: (obs, rew, term, trunc, infos),
        "must be refused",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_named(name: str) -> None:
    mode, damage, sentence = DAMAGES[name]
    vector = AsyncVectorEnv if mode is DISABLED else SyncVectorEnv  # AsyncVectorEnv does not refuse
    with pytest.raises(ConformanceError, match=sentence):
        check_vector_env(lambda mode: Broken(counting(mode, vector), damage), modes=[mode], max_steps=20)


def limited(mode: AutoresetMode) -> VectorEnv:
    return SyncVectorEnv([lambda: gym.wrappers.TimeLimit(CountingEnv(), 6)] * 2, autoreset_mode=mode)


def declare_limit(env: VectorEnv, limit: int) -> VectorEnv:
    env.max_episode_steps = limit  # type: ignore[attr-defined]
    return env


def test_time_limits() -> None:
    check_vector_env(lambda mode: declare_limit(limited(mode), 6))
    for limit in (5, 4):
        with pytest.raises(ConformanceError, match=f"truncated at its time limit of {limit} steps"):
            check_vector_env(lambda mode, limit=limit: declare_limit(limited(mode), limit))
    with pytest.raises(ConformanceError, match="shorten the time limit"):
        check_vector_env(limited, max_steps=5)


def test_truncation_reported_as_termination_differs_from_the_other_modes() -> None:
    def swap(env: Broken, a: Any, obs: Any, rew: Any, term: Any, trunc: Any, infos: Any) -> Any:
        return obs, rew, term | trunc, np.zeros_like(trunc), infos

    with pytest.raises(ConformanceError, match="truncated at its time limit"):
        check_vector_env(lambda mode: Broken(declare_limit(limited(mode), 6), swap))
    with pytest.raises(ConformanceError, match="SameStep and NextStep differ"):
        check_vector_env(lambda mode: Broken(limited(mode), swap if mode is SAME_STEP else None))


def test_metadata_and_spaces() -> None:
    with pytest.raises(ConformanceError, match="metadata\\['autoreset_mode'\\]"):
        check_vector_env(lambda mode: counting(NEXT_STEP))
    env = Broken(counting(NEXT_STEP))
    env.observation_space = gym.spaces.Box(0, 1000, (4, 1), np.float32)
    with pytest.raises(ConformanceError, match=r"the observation space .* is not 3 times"):
        check_vector_env(lambda mode: env, modes=[NEXT_STEP])
