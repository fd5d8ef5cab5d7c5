"""Transition tables as arrays."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rltool.envs import make_env, tabular, tabular_model
from rltool.errors import UserError

IDS = ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "rltool/GridWorld-v0"]


def model_of(env_id, **kwargs):
    model = tabular_model(make_env(env_id, **kwargs))
    assert model is not None
    return model


@pytest.mark.parametrize("env_id", IDS)
def test_arrays_say_what_the_table_says(env_id):
    env = make_env(env_id)
    model = tabular_model(env)
    np.testing.assert_allclose(model.transitions.sum(-1), 1)
    assert (model.terminations <= model.transitions).all()
    assert model.initial.sum() == pytest.approx(1)
    for state, choices in env.unwrapped.P.items():
        for action, outcomes in choices.items():
            mean = sum(probability * reward for probability, _, reward, _ in outcomes)
            if model.reachable[state]:
                assert model.expected_rewards[state, action] == pytest.approx(mean)
            ends = sum(probability for probability, _, _, terminated in outcomes if terminated)
            assert model.terminations[state, action].sum() == pytest.approx(ends)


@pytest.mark.parametrize("env_id", IDS)
def test_steps_of_the_environment_are_in_the_model(env_id):
    env, model = make_env(env_id, max_episode_steps=40), model_of(env_id)
    env.action_space.seed(0)
    state, _ = env.reset(seed=0)
    assert model.initial[state] > 0
    for _ in range(200):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        possible = model.terminations if terminated else model.continuing
        assert possible[state, action, following] > 0
        if env_id != "CliffWalkingSlippery-v1":  # There, the way back to the start has two prices.
            assert model.rewards[state, action, following] == pytest.approx(reward)
        assert model.reachable[state]
        assert model.enterable[following]
        state = env.reset()[0] if terminated or truncated else following


def test_shapes_and_horizons():
    shapes = {env_id: model_of(env_id).shape for env_id in (*IDS[:3], "rltool/GridWorld-v0", "Taxi-v4")}
    assert list(shapes.values()) == [(4, 4), (8, 8), (4, 12), (8, 8), (5, 5, 20)]
    assert model_of("FrozenLake-v1").horizon == 100
    assert model_of("FrozenLake-v1", max_episode_steps=7).horizon == 7
    assert model_of("CliffWalking-v1").horizon is None


def test_rewards_of_impossible_transitions_are_those_of_arriving_elsewhere():
    model = model_of("FrozenLake-v1")
    assert (model.rewards[:, :, 15] == 1).all()  # The goal is worth 1, also from where it cannot be reached.
    assert (model.rewards[:, :, :15] == 0).all()
    assert model.arrival_rewards[15] == 1


def test_expected_return_is_exact():
    model = model_of("CliffWalking-v1")
    along_the_edge = np.zeros((48, 4))
    along_the_edge[:, 1] = 1  # right, but up at the start and down at the end
    along_the_edge[[36, 35]] = np.eye(4)[[0, 2]]
    assert model.expected_return(along_the_edge) == -13
    assert model.expected_return(along_the_edge, horizon=5) == -5
    into_the_cliff = np.zeros((48, 4))
    into_the_cliff[:, 1] = 1
    assert model.expected_return(into_the_cliff, horizon=3) == -300


@pytest.mark.parametrize("wrapper", [gym.wrappers.FlattenObservation, gym.wrappers.TimeAwareObservation])
def test_observations_that_are_no_states_have_no_table(wrapper):
    assert tabular_model(wrapper(gym.make("FrozenLake-v1"))) is None


def test_no_table():
    assert tabular_model(make_env("CartPole-v1")) is None
    assert tabular_model(make_env("Blackjack-v1")) is None


def test_too_large(monkeypatch):
    monkeypatch.setattr(tabular, "MAX_ENTRIES", 100)
    with pytest.raises(UserError, match="a table of 16 states is too large"):
        tabular_model(make_env("FrozenLake-v1"))
