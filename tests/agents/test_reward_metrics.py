"""Comparing rewards: what must make no difference makes none."""

from __future__ import annotations

import numpy as np
import pytest

from rltool.agents.reward_metrics import (
    by_transition,
    epic_distance,
    pearson,
    pearson_distance,
    tabular_epic_distance,
)
from rltool.envs import make_env, tabular_model

GAMMA = 0.9
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    return tabular_model(make_env("FrozenLake-v1"))


def shaped(reward, model, potential):
    return 3 * by_transition(reward, model) + 2 + GAMMA * potential - potential[:, None, None]


def test_pearson_is_numpys():
    a, b = RNG.normal(size=(2, 5, 3))
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert pearson_distance(a, 2 * a + 1) == pytest.approx(0, abs=1e-7)
    assert pearson_distance(a, -a) == pytest.approx(1)
    assert np.isnan(pearson(a, np.ones_like(a)))


def test_weights_count_as_repetitions():
    a, b = RNG.normal(size=(2, 4))
    repeated = [0, 1, 1, 3, 3, 3]
    assert pearson(a, b, np.array([1, 2, 0, 3])) == pytest.approx(pearson(a[repeated], b[repeated]))


@pytest.mark.parametrize("shape", [(16,), (16, 4), (16, 4, 16)])
def test_shaping_and_scale_change_no_tabular_distance(model, shape):
    reward, other, potential = RNG.normal(size=shape), RNG.normal(size=shape), RNG.normal(size=16)
    same = shaped(reward, model, potential)
    assert tabular_epic_distance(reward, same, model, GAMMA) == pytest.approx(0, abs=1e-6)
    assert tabular_epic_distance(-reward, same, model, GAMMA) == pytest.approx(1)
    apart = tabular_epic_distance(reward, other, model, GAMMA)
    assert 0.3 < apart < 1
    assert tabular_epic_distance(same, other, model, GAMMA) == pytest.approx(apart)
    assert pearson(by_transition(reward, model), same) < 0.99  # Plain correlation is fooled.


def test_shaping_and_scale_change_no_sampled_distance(model):
    reward, potential = RNG.normal(size=(16, 4, 16)), RNG.normal(size=16)
    same = shaped(reward, model, potential)
    states, actions, after = RNG.integers(16, size=40), RNG.integers(4, size=40), RNG.integers(16, size=40)
    batch = states, actions, after, GAMMA, 8

    def function(table):
        return lambda s, a, s2: table[s, a, s2]

    assert epic_distance(function(reward), function(same), *batch) == pytest.approx(0, abs=1e-6)
    assert epic_distance(function(-reward), function(same), *batch) == pytest.approx(1)


def test_the_sampled_distance_comes_near_the_exact_one(model):
    first, second = RNG.normal(size=(2, 16, 4))
    # Transitions as the exact distance weighs them: of all actions in all states that can be reached.
    count = 1_500
    states = RNG.choice(np.flatnonzero(model.reachable), count)
    actions = RNG.integers(4, size=count)
    after = np.array([RNG.choice(16, p=model.transitions[s, a]) for s, a in zip(states, actions, strict=True)])
    exact = tabular_epic_distance(first, second, model, GAMMA)
    sampled = epic_distance(
        lambda s, a, _: first[s, a], lambda s, a, _: second[s, a], states, actions, after, GAMMA, samples=400
    )
    assert sampled == pytest.approx(exact, abs=0.03)
