"""Episodes as flat arrays: what is selected, what follows what, and the returns."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltool.envs import Demonstrations


def make(lengths, final=True, rewards=None):
    """Episodes whose observations are 100 * episode + timestep, in a Dict and a Tuple."""
    rows = np.concatenate([100 * e + np.arange(length) for e, length in enumerate(lengths)]).astype(np.float32)
    last = np.array([100 * e + length for e, length in enumerate(lengths)], np.float32)
    space = gym.spaces.Box(-np.inf, np.inf, (1,))
    return Demonstrations(
        gym.spaces.Dict(a=space, b=gym.spaces.Tuple([space])),
        gym.spaces.Discrete(100),
        {"a": rows[:, None], "b": (-rows[:, None],)},
        rows.astype(np.int64) % 100,
        np.asarray(rows if rewards is None else rewards, np.float64),
        np.cumsum(lengths) - 1,
        np.arange(len(lengths)) % 2 == 0,
        {"a": last[:, None], "b": (-last[:, None],)} if final else None,
    )


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(lengths, st.booleans())
@settings(max_examples=50, deadline=None)
def test_what_follows_is_the_next_row_or_the_final_observation(lengths, final):
    demos = make(lengths, final)
    now, after = demos.observations["a"][:, 0], demos.successors()["a"][:, 0]
    np.testing.assert_array_equal(after[demos.has_successor], now[demos.has_successor] + 1)
    np.testing.assert_array_equal(after[~demos.has_successor], now[~demos.has_successor])
    np.testing.assert_array_equal(demos.successors()["b"][0][:, 0], -after)
    assert demos.has_successor.sum() == len(demos) - (0 if final else len(lengths))


@given(lengths, st.data())
@settings(max_examples=50, deadline=None)
def test_selected_episodes_are_those_episodes_in_that_order(lengths, data):
    demos = make(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    some = demos.select(chosen)
    assert list(some.lengths) == [lengths[e] for e in chosen]
    np.testing.assert_array_equal(some.returns, demos.returns[chosen])
    np.testing.assert_array_equal(some.terminated, demos.terminated[chosen])
    for rows, e in zip(some.episodes(), chosen, strict=True):
        np.testing.assert_array_equal(some.observations["a"][rows, 0] // 100, e)
        np.testing.assert_array_equal(some.actions[rows], np.arange(lengths[e]))
    np.testing.assert_array_equal(some.final_observations["a"][:, 0], [100 * e + lengths[e] for e in chosen])


@given(lengths, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_discounted_returns_are_their_definition(lengths, gamma, random):
    rewards = np.array([random.uniform(-1, 1) for _ in range(sum(lengths))])
    demos = make(lengths, rewards=rewards)
    discounted = demos.discounted_returns(gamma)
    for rows in demos.episodes():
        episode = rewards[rows]
        for t in range(len(episode)):
            expected = sum(gamma**k * r for k, r in enumerate(episode[t:]))
            assert discounted[rows][t] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(demos.discounted_returns(1.0)[demos.starts], demos.returns, atol=1e-9)
    np.testing.assert_array_equal(demos.rewards, rewards)  # untouched
