"""Returns and advantages: worked by hand, against a slow recursion, and against Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent
from rltool.agents.advantages import discounted_returns, explained_variance, gae
from rltool.agents.rollout import Rollout


def column(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None]


def flags(*indices: int, length: int) -> np.ndarray:
    array = np.zeros((length, 1), bool)
    array[list(indices)] = True
    return array


def test_discounted_returns_by_hand() -> None:
    rewards, done = column(1, 2, 4, 8, 16), flags(2, length=5)
    # The first episode has rewards 1 2 4, the second 8 16 and is cut there.
    assert discounted_returns(rewards, done, 0.5)[:, 0].tolist() == [1 + 1 + 1, 2 + 2, 4, 8 + 8, 16]
    assert discounted_returns(rewards, done, 1.0)[:, 0].tolist() == [7, 6, 4, 24, 16]
    assert discounted_returns(rewards, done, 0.0)[:, 0].tolist() == rewards[:, 0].tolist()


def test_gae_by_hand() -> None:
    rewards, values = column(1, 2, 3), column(10, 20, 30)
    next_values = column(20, 30, 40)
    none = flags(length=3)
    # gamma 1/2, lambda 1/2: deltas are 1+10-10=1, 2+15-20=-3, 3+20-30=-7, each weighed by 1/4 of the next.
    result = gae(rewards, values, next_values, none, none, 0.5, 0.5)
    assert result[:, 0].tolist() == [1 - 4.75 / 4, -3 - 7 / 4, -7]

    # Terminated at the second step: 2-20=-18, and nothing flows over the end.
    end = flags(1, length=3)
    assert gae(rewards, values, next_values, end, end, 0.5, 0.5)[:, 0].tolist() == [1 - 18 / 4, -18, -7]

    # Truncated there: it still bootstraps, from the value of the observation that was cut off (30).
    assert gae(rewards, values, next_values, none, end, 0.5, 0.5)[:, 0].tolist() == [1 - 3 / 4, -3, -7]


def test_environments_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 12, 4)).astype(np.float32)
    terminated, truncated = rng.random((2, 12, 4)) < 0.2
    done = terminated | truncated
    together = gae(rewards, values, next_values, terminated, done, 0.9, 0.8)
    for n in range(4):
        one = slice(n, n + 1)
        alone = gae(rewards[:, one], values[:, one], next_values[:, one], terminated[:, one], done[:, one], 0.9, 0.8)
        np.testing.assert_array_equal(together[:, one], alone)


def test_arguments_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 6, 2)).astype(np.float32)
    done = rng.random((6, 2)) < 0.3
    kept = [array.copy() for array in (rewards, values, next_values, done)]
    advantages = gae(rewards, values, next_values, done, done, 0.9, 0.8)
    returns = discounted_returns(rewards, done, 0.9)
    for array, copy in zip((rewards, values, next_values, done), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert advantages.dtype == returns.dtype == np.float32


@st.composite
def experiences(draw: st.DrawFn) -> dict[str, np.ndarray]:
    steps, envs = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    ends = draw(st.lists(st.sampled_from("--tc"), min_size=steps * envs, max_size=steps * envs))
    kinds = np.array(ends).reshape(steps, envs)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    rewards, values, finals = rng.normal(size=(3, steps, envs)).astype(np.float32)
    last = rng.normal(size=(1, envs)).astype(np.float32)
    terminated, truncated = kinds == "t", kinds == "c"
    return {
        "rewards": rewards,
        "values": values,
        "next_values": np.where(terminated | truncated, finals, np.concatenate((values[1:], last))),
        "terminated": terminated,
        "done": terminated | truncated,
        "last": last,
    }


PROBABILITIES = st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0])


def slow_advantage(e: dict[str, np.ndarray], t: int, n: int, gamma: float, lam: float) -> float:
    """A_t by its recursive definition, in double precision."""
    following = 0.0 if e["terminated"][t, n] else float(e["next_values"][t, n])
    delta = float(e["rewards"][t, n]) + gamma * following - float(e["values"][t, n])
    if e["done"][t, n] or t + 1 == len(e["rewards"]):
        return delta
    return delta + gamma * lam * slow_advantage(e, t + 1, n, gamma, lam)


def slow_return(e: dict[str, np.ndarray], t: int, n: int, gamma: float, bootstrap: bool) -> float:
    """Discounted rewards up to the end of the episode, or of the rollout; the rest from the value, if wanted."""
    if e["done"][t, n] or t + 1 == len(e["rewards"]):
        rest = float(e["next_values"][t, n]) if bootstrap and not e["terminated"][t, n] else 0.0
    else:
        rest = slow_return(e, t + 1, n, gamma, bootstrap)
    return float(e["rewards"][t, n]) + gamma * rest


def every_step(e: dict[str, np.ndarray], function, *args: float | bool) -> np.ndarray:
    steps, envs = e["rewards"].shape
    return np.array([[function(e, t, n, *args) for n in range(envs)] for t in range(steps)])


def fast_gae(e: dict[str, np.ndarray], gamma: float, lam: float) -> np.ndarray:
    return gae(e["rewards"], e["values"], e["next_values"], e["terminated"], e["done"], gamma, lam)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(experiences(), PROBABILITIES, PROBABILITIES)
def test_gae_is_its_definition(e: dict[str, np.ndarray], gamma: float, lam: float) -> None:
    np.testing.assert_allclose(fast_gae(e, gamma, lam), every_step(e, slow_advantage, gamma, lam), atol=2e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(experiences(), PROBABILITIES)
def test_lambda_0_is_td_and_lambda_1_is_return_minus_value(e: dict[str, np.ndarray], gamma: float) -> None:
    td = e["rewards"] + gamma * np.where(e["terminated"], 0, e["next_values"]) - e["values"]
    np.testing.assert_allclose(fast_gae(e, gamma, 0.0), td, atol=1e-6)
    # The return over as many steps as the rollout has, bootstrapped after the last: the n-step return.
    n_step = every_step(e, slow_return, gamma, True)
    np.testing.assert_allclose(fast_gae(e, gamma, 1.0), n_step - e["values"], atol=2e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(experiences(), PROBABILITIES)
def test_monte_carlo_returns_are_their_definition(e: dict[str, np.ndarray], gamma: float) -> None:
    expected = every_step(e, slow_return, gamma, False)
    np.testing.assert_allclose(discounted_returns(e["rewards"], e["done"], gamma), expected, atol=2e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(experiences(), PROBABILITIES, PROBABILITIES)
def test_parity_with_stable_baselines3(e: dict[str, np.ndarray], gamma: float, lam: float) -> None:
    steps, envs = e["rewards"].shape
    box = gym.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, box, box, gamma=gamma, gae_lambda=lam, n_envs=envs)
    truncated = e["done"] & ~e["terminated"]
    starts = np.ones(envs, bool)
    for t in range(steps):
        # It takes the value of a truncated episode's last observation into the reward.
        rewards = e["rewards"][t] + gamma * e["next_values"][t] * truncated[t]
        nothing = np.zeros((envs, 1), np.float32)
        buffer.add(nothing, nothing, rewards, starts, torch.from_numpy(e["values"][t].copy()), torch.zeros(envs))
        starts = e["done"][t]
    buffer.compute_returns_and_advantage(torch.from_numpy(e["last"][0].copy()), e["done"][-1])
    np.testing.assert_allclose(fast_gae(e, gamma, lam), buffer.advantages, atol=2e-5)
    np.testing.assert_allclose(fast_gae(e, gamma, lam) + e["values"], buffer.returns, atol=2e-5)


@pytest.mark.parametrize("finals", [[], [(0, 1, 100.0), (2, 0, 200.0)]])
def test_next_values(finals: list[tuple[int, int, float]]) -> None:
    values = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    where = np.array([f[:2] for f in finals], int).reshape(-1, 2)
    false = np.zeros((3, 2), bool)
    observations = np.arange(8, dtype=np.float32).reshape(4, 2, 1)
    rollout = Rollout(
        observations=observations,
        actions=np.zeros((3, 2), int),
        rewards=np.zeros((3, 2), np.float32),
        terminated=false,
        truncated=false,
        valid=~false,
        final_observations=np.array([[f[2]] for f in finals], np.float32).reshape(-1, 1),
        final_index=(where[:, 0], where[:, 1]),
    )
    bootstrap = rollout.bootstrap_observations
    assert bootstrap[:, 0].tolist() == [6, 7, *(f[2] for f in finals)]
    expected = np.array([[3, 4], [5, 6], [60, 70]], np.float32)
    for t, n, value in finals:
        expected[t, n] = 10 * value
    np.testing.assert_array_equal(rollout.next_values(values, 10 * bootstrap[:, 0]), expected)
    assert values.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_explained_variance_by_hand() -> None:
    returns = np.array([1, 2, 3, 4], np.float32)
    assert explained_variance(returns, returns + 7) == {"explained_variance": 1.0}  # Only the spread counts.
    assert explained_variance(returns, np.zeros(4, np.float32)) == {"explained_variance": 0.0}
    # Errors 0 0 0 4 have variance 3, the returns 5/4.
    worse = explained_variance(returns, np.array([1, 2, 3, 0], np.float32))
    assert worse == {"explained_variance": pytest.approx(1 - 3 / 1.25)}


@pytest.mark.parametrize("constant", [0.0, 499.99998, -1e-3])
def test_explained_variance_is_left_out_where_nothing_varies(constant: float) -> None:
    returns = np.full(50, constant, np.float32)
    assert explained_variance(returns, np.arange(50, dtype=np.float32)) == {}
    assert explained_variance(returns[:1], np.ones(1, np.float32)) == {}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", [1e30, np.inf, np.nan])
def test_explained_variance_is_left_out_where_numbers_overflow(huge: float) -> None:
    returns, values = np.array([1, 2, huge], np.float32), np.array([1, 2, 3], np.float32)
    assert explained_variance(returns, values) == {}
    assert explained_variance(values, returns) == {}


def test_explained_variance_leaves_its_arguments_alone() -> None:
    returns, values = np.array([1, 2, 4], np.float32), np.array([1, 1, 2], np.float32)
    explained_variance(returns, values)
    assert returns.tolist() == [1, 2, 4]
    assert values.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (REINFORCE, {"credit": "value_baseline"}),
        (A2C, {"num_envs": 4, "num_steps": 16}),
        (PPO, {"num_envs": 4, "num_steps": 32, "batch_size": 64, "num_epochs": 1}),
    ],
)
def test_agents_with_a_critic_report_it(cls: type[OnPolicyAgent], options: dict[str, Any]) -> None:
    seen: list[float] = []
    cls("CartPole-v1", **options).learn(1_000, lambda _, metrics: seen.append(metrics.get("explained_variance")))
    assert seen
    assert all(value is not None and value <= 1 for value in seen)


def test_reinforce_without_a_critic_does_not() -> None:
    seen: list[set[str]] = []
    REINFORCE("CartPole-v1").learn(300, lambda _, metrics: seen.append(set(metrics)))
    assert not any("explained_variance" in names for names in seen)
