"""Exact inverse RL: planning against enumeration, gradients against differences, rewards against the true ones."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest

import rltool
from rltool.agents import MaxEntIRL
from rltool.agents.maxent_irl import MaximumEntropy, Problem, margin_weights
from rltool.agents.planning import occupancy, plan, value
from rltool.agents.recording import record
from rltool.agents.reward_metrics import pearson
from rltool.agents.reward_plot import draw_reward_table, on_grid
from rltool.envs import Demonstrations, make_env, save_demonstrations, tabular_model
from rltool.envs.tabular import Tabular
from rltool.errors import UserError

GAMMA = 0.9
GRID = "rltool/GridWorld-v0"


class Table:
    """Acts by a table of probabilities."""

    def __init__(self, policy):
        self.cumulative = policy.cumsum(-1)[:, :-1]
        self.rng = np.random.default_rng(0)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (self.rng.random(len(observation))[:, None] >= self.cumulative[observation]).sum(-1), state


def demonstrate(env_id, episodes, soft=False, **env_kwargs):
    """Episodes of the policy that is best for the true reward, and its exact return."""
    model = tabular_model(make_env(env_id, **env_kwargs))
    policy = plan(model, model.expected_rewards, 0.99, soft).policy
    demos = record(Table(policy), env_id, episodes, deterministic=False, env_kwargs=env_kwargs)
    return demos, model.expected_return(policy)


@pytest.fixture(scope="module")
def lake():
    return demonstrate("FrozenLake-v1", 60)[0]


@pytest.fixture
def lake_file(lake, tmp_path):
    return str(save_demonstrations(tmp_path / "lake.npz", lake))


def random_model(states=3, actions=2, seed=0, ending=0.1):
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(states), (states, actions))
    rewards = rng.normal(size=(states, actions, states))
    return Tabular(transitions, ending * transitions, rewards, np.full(states, 1 / states))


def rewards_of(agent):
    return agent.problem.rewards(agent.reward.ravel())


# Planning


def test_soft_values_count_all_ways_through():
    """Without discount and chance, exp V is the sum of exp(return) over all ways to the end."""
    move = np.array([[1, 2], [2, 2], [2, 2]])  # from state 0 to 1 or 2, from 1 to 2, where it ends
    transitions = np.eye(3)[move]
    terminations = transitions * np.array([0, 0, 1])
    rewards = np.array([[0.3, -1.0], [2.0, 0.5], [0.0, 0.0]])
    soft = plan(Tabular(transitions, terminations, np.zeros((3, 2, 3)), np.eye(3)[0]), rewards, 1.0, soft=True)
    through_1 = [rewards[0, 0] + rewards[1, action] for action in range(2)]
    ways = np.exp([*through_1, rewards[0, 1]])
    assert soft.values[0] == pytest.approx(np.log(ways.sum()))
    assert soft.policy[0, 0] == pytest.approx(ways[:2].sum() / ways.sum())


def test_an_optimal_policy_is_the_best_of_all():
    model = random_model(states=4, actions=3)
    best = plan(model, model.expected_rewards, GAMMA, soft=False)
    values = []
    for choice in itertools.product(range(3), repeat=4):
        policy = np.eye(3)[list(choice)]
        values.append(value(model, policy, (policy * model.expected_rewards).sum(1), GAMMA))
    np.testing.assert_allclose(best.values, np.max(values, 0))
    np.testing.assert_allclose(best.values, (best.policy * model.expected_rewards).sum(1) + GAMMA * _on(model, best))


def _on(model, best):
    return (best.policy * (model.continuing @ best.values)).sum(1)


def test_soft_values_solve_the_soft_bellman_equation():
    model = random_model(states=6, actions=3, seed=1)
    soft = plan(model, 5 * model.expected_rewards, GAMMA, soft=True)
    values = np.zeros(6)
    for _ in range(400):  # Value iteration, as the book has it.
        q = 5 * model.expected_rewards + GAMMA * model.continuing @ values
        values = np.log(np.exp(q).sum(1))
    np.testing.assert_allclose(soft.values, values)
    np.testing.assert_allclose(soft.policy, np.exp(q - values[:, None]))
    np.testing.assert_allclose(np.exp(soft.log_policy), soft.policy)


def test_large_rewards_overflow_nothing():
    model = random_model()
    soft, hard = (plan(model, 1e5 * model.expected_rewards, 0.99, soft) for soft in (True, False))
    np.testing.assert_allclose(soft.policy, hard.policy, atol=1e-12)


def test_occupancy_is_the_discounted_sum_of_visits():
    model = random_model()
    policy = plan(model, model.expected_rewards, GAMMA, soft=True).policy
    state, visits = model.initial, np.zeros((3, 2))
    for t in range(300):
        visits += GAMMA**t * state[:, None] * policy
        state = np.einsum("s,sa,sat->t", state, policy, model.continuing)
    np.testing.assert_allclose(occupancy(model, policy, model.initial, GAMMA), visits)


# The objectives


def problem_of(demos, by_state=True, gamma=GAMMA, **env_kwargs):
    return Problem(tabular_model(make_env(demos.env_id, **env_kwargs)), demos, by_state, gamma)


@pytest.mark.parametrize("by_state", [True, False])
def test_the_gradient_is_that_of_the_likelihood(lake, by_state):
    problem = problem_of(lake, by_state)
    solver = MaximumEntropy(problem, MaxEntIRL("FrozenLake-v1", demos=lake, l2=2.0).config)
    theta = np.random.default_rng(0).normal(size=len(problem.expectation))
    _, gradient = solver.likelihood(theta)
    h = 1e-5
    for k in range(len(theta)):
        step = h * np.eye(len(theta))[k]
        difference = (solver.likelihood(theta + step)[0] - solver.likelihood(theta - step)[0]) / (2 * h)
        assert gradient[k] == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("by_state", [True, False])
def test_the_teachers_own_policy_falls_short_of_nothing(by_state):
    """With the visits of infinitely many demonstrations, of any policy and cut off anywhere."""
    model = random_model(states=5, seed=3)
    policy = np.random.default_rng(0).dirichlet(np.ones(2), 5)
    demos, _ = demonstrate("FrozenLake-v1", 2)
    problem = Problem(tabular_model(make_env("FrozenLake-v1")), demos, by_state, GAMMA)
    state, visits = model.initial, np.zeros((5, 2))
    for _ in range(7):
        visits += state[:, None] * policy
        state = np.einsum("s,sa,sat->t", state, policy, model.continuing)
    problem.model, problem.visits = model, visits / visits.sum()
    problem.source = problem.visits.sum(1) - GAMMA * np.einsum("sa,sat->t", problem.visits, model.continuing)
    problem.expectation = problem.features(problem.visits)
    np.testing.assert_allclose(problem.shortfall(policy), 0, atol=1e-12)


def test_margin_weights_solve_the_program():
    rng = np.random.default_rng(0)
    shortfalls, losses, slackness = rng.normal(size=(6, 4)), rng.random(6), 0.3
    weights = margin_weights(shortfalls, losses, slackness, np.zeros(6))
    theta, slack = weights @ shortfalls, slackness * weights.sum()
    margins = shortfalls @ theta - losses + slack
    assert (weights >= 0).all()
    assert (margins > -1e-6).all()  # Every actor is beaten,
    np.testing.assert_allclose(weights * margins, 0, atol=1e-6)  # and counts only where narrowly.


# Recovering


def test_features_match_at_the_end():
    demos, _ = demonstrate(GRID, 200, soft=True)
    agent = MaxEntIRL(GRID, demos=demos, l2=1e-3, tolerance=1e-4).learn(1_000)
    assert agent.converged
    assert agent.timesteps < 300
    assert agent.figures["feature_gap"] < 2e-4
    rho = occupancy(agent.model, agent.policy.probabilities.numpy(), agent.problem.source, 0.99)
    np.testing.assert_allclose(agent.problem.features(rho), agent.problem.expectation, atol=1e-4)


def test_the_reward_of_the_grid_is_recovered():
    demos, _ = demonstrate(GRID, 1_000, soft=True)
    agent = MaxEntIRL(GRID, demos=demos).learn(1_000)
    assert agent.converged
    assert pearson(agent.reward, agent.model.arrival_rewards) >= 0.95


@pytest.mark.parametrize("objective", ["maxent", "margin"])
@pytest.mark.parametrize("features", ["state", "state-action"])
@pytest.mark.parametrize(("env_id", "episodes"), [("FrozenLake-v1", 100), ("CliffWalking-v1", 10), (GRID, 100)])
def test_the_policy_of_the_recovered_reward_is_as_good_as_the_demonstrator(env_id, episodes, features, objective):
    demos, best = demonstrate(env_id, episodes)
    agent = MaxEntIRL(env_id, demos=demos, objective=objective, features=features).learn(200)
    assert normalized_return(agent, best) >= 0.95
    assert agent.reward.shape == ((agent.model.num_states,) if features == "state" else agent.problem.visits.shape)
    # Not only of the policy that was found on the way: who maximizes the reward does as well.
    maximizer = plan(agent.model, rewards_of(agent), 0.99, soft=False).policy
    assert normalized_return(agent, best, maximizer) >= 0.95


@pytest.mark.parametrize(("objective", "iterations"), [("maxent", 30), ("margin", 40)])
def test_a_taxi_is_driven_as_the_demonstrator_does(objective, iterations):
    demos, best = demonstrate("Taxi-v4", 200)
    agent = MaxEntIRL("Taxi-v4", demos=demos, objective=objective).learn(iterations)
    assert normalized_return(agent, best) >= 0.95


def normalized_return(agent, best, policy=None):
    """0: random, 1: the demonstrator; exactly."""
    model = agent.model
    random = model.expected_return(np.full((model.num_states, model.num_actions), 1 / model.num_actions))
    policy = agent.policy.probabilities.numpy() if policy is None else policy
    most_probable = np.eye(model.num_actions)[policy.argmax(1)]
    return (model.expected_return(most_probable) - random) / (best - random)


# As a method of the toolkit


@pytest.mark.parametrize("objective", ["maxent", "margin"])
def test_a_run_ends_by_itself_and_its_agent_is_what_was_trained(lake_file, tmp_path, objective):
    run = rltool.train("maxent-irl", "FrozenLake-v1", demos=lake_file, objective=objective, run_dir=str(tmp_path))
    summary = run.summary
    assert summary["finished"]
    assert summary["converged"]
    assert summary["total_timesteps"] < 50
    assert summary["score"] > 0.95
    assert summary["exact_return"] == pytest.approx(0.7402, abs=1e-3)
    assert len(run.metrics) == summary["total_timesteps"]
    assert {"train/feature_gap", "eval/mean_return"} <= set(run.metrics[-1])
    agent = run.agent
    assert agent.reward.shape == (16,)
    assert agent.reward.any()
    assert agent.predict(np.array([0, 14]), deterministic=True)[0].tolist() == [0, 1]
    assert agent.predict(14, deterministic=True)[0] == 1
    again = rltool.resume(run.path)
    assert again.summary == summary


@pytest.mark.parametrize("objective", ["maxent", "margin"])
def test_a_resumed_training_is_the_same_bit_for_bit(objective):
    demos, _ = demonstrate(GRID, 30, soft=True)
    options = {"demos": demos, "objective": objective, "tolerance": 0.0}
    whole, first, second = (MaxEntIRL(GRID, **options) for _ in range(3))
    whole.learn(9)
    second.restore(first.learn(4).checkpoint())
    second.learn(9, resume=True)
    np.testing.assert_array_equal(whole.reward, second.reward)
    np.testing.assert_array_equal(whole.policy.probabilities, second.policy.probabilities)
    assert whole.figures == second.figures


def test_a_callback_ends_it(lake):
    agent = MaxEntIRL("FrozenLake-v1", demos=lake).learn(100, lambda learner, metrics: learner.timesteps < 3)
    assert agent.timesteps == 3
    assert not agent.converged


def test_sampled_actions_have_the_tables_frequencies(lake):
    agent = MaxEntIRL("FrozenLake-v1", demos=lake).learn(2)
    actions, _ = agent.predict(np.full(20_000, 6))
    shares = np.bincount(actions, minlength=4) / 20_000
    np.testing.assert_allclose(shares, agent.policy.probabilities[6], atol=0.015)


def test_saved_and_loaded(lake, tmp_path):
    agent = MaxEntIRL("FrozenLake-v1", demos=lake, features="state-action").learn(5)
    agent.save(tmp_path / "agent.safetensors")
    loaded = MaxEntIRL.load(tmp_path / "agent.safetensors")
    np.testing.assert_array_equal(agent.reward, loaded.reward)
    assert loaded.reward.shape == (16, 4)
    assert rltool.evaluate(loaded, "FrozenLake-v1", episodes=5).mean_length > 1


def test_an_environment_object(lake):
    agent = MaxEntIRL(gym.make("FrozenLake-v1"), demos=lake).learn(20)
    assert agent.predict(14, deterministic=True)[0] == 1


# Mistakes


def changed(demos, **fields):
    return Demonstrations(**{name: getattr(demos, name) for name in demos.__dataclass_fields__} | fields)


def test_mistakes(lake, lake_file):
    with pytest.raises(UserError, match="there are no demonstrations to learn from; add --demos NAME"):
        rltool.train("maxent-irl", "FrozenLake-v1")
    with pytest.raises(UserError, match="CartPole-v1 has no transition table, which maxent-irl computes with"):
        rltool.train("maxent-irl", "CartPole-v1", demos=lake_file)
    with pytest.raises(UserError, match="recorded in FrozenLake-v1, not in Taxi-v4"):
        rltool.train("maxent-irl", "Taxi-v4", demos=lake_file)
    with pytest.raises(UserError, match="observation space"):
        MaxEntIRL("FrozenLake8x8-v1", demos=changed(lake, env_id=None))
    with pytest.raises(UserError, match=r"goes from state 0 by action 0 to state \d+, which .* never does"):
        MaxEntIRL(
            "FrozenLake-v1", demos=changed(lake, observations=9 * (np.arange(len(lake)) % 2), actions=0 * lake.actions)
        )
    with pytest.raises(UserError, match="--env-arg that it was recorded with"):
        rltool.train("maxent-irl", "FrozenLake-v1", demos=lake_file, env_kwargs={"is_slippery": False})
    for name, option in (("init_backbone", "x"), ("freeze_backbone", 3), ("shaping", "a:b"), ("potential", "a:b")):
        with pytest.raises(UserError, match=f"leave {name.replace('_', '-')} out"):
            rltool.train("maxent-irl", "FrozenLake-v1", demos=lake_file, **{name: option})


# Pictures


def test_states_lie_on_the_grid():
    model = tabular_model(make_env("Taxi-v4"))
    reward = np.repeat(np.arange(25.0), 20)
    grid = on_grid(model, reward, model.enterable)
    np.testing.assert_array_equal(grid, np.arange(25).reshape(5, 5))
    cliff = tabular_model(make_env("CliffWalking-v1"))
    assert np.isnan(on_grid(cliff, np.zeros(48), cliff.enterable)[3, 1:-1]).all()


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", GRID])
@pytest.mark.parametrize("by_state", [True, False])
def test_rewards_are_drawn(env_id, by_state, tmp_path):
    model = tabular_model(make_env(env_id))
    shape = (model.num_states,) if by_state else (model.num_states, model.num_actions)
    file = draw_reward_table(model, np.random.default_rng(0).normal(size=shape), tmp_path / "r.png", "a title")
    assert file.stat().st_size > 5_000
