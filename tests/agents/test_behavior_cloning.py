"""Behavior cloning: what its loss is made of, what is held out, and that every policy learns what it was shown."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import BehaviorCloning
from rltool.agents.examples import Examples, balancing_weights, held_out
from rltool.agents.policy import environment_actions, policy_actions
from rltool.agents.recording import RandomAgent, record
from rltool.envs import Demonstrations
from rltool.errors import UserError
from rltool.networks.observations import stack_observations
from rltool.training.checkpoint import load_state, save_state

from .test_memory_policies import RecallEnv, recall_envs

BOX = gym.spaces.Box(-1, 1, (3,), np.float32)
THREE = gym.spaces.Discrete(3)
SMALL = {"hidden_sizes": (16,), "batch_size": 32, "learning_rate": 1e-2, "weight_decay": 0.0}


def shown(actions, lengths, observations=None, action_space=THREE, observation_space=BOX):
    """Demonstrations of some lengths; by default, what was seen says what was done."""
    if observations is None:
        observations = np.eye(3, dtype=np.float32)[actions]
    ends = np.cumsum(lengths) - 1
    return Demonstrations(observation_space, action_space, observations, actions, np.ones(len(actions)), ends)


@pytest.fixture
def demos():
    """Ten episodes of ten steps; the place of the 1 is what to do."""
    return shown(np.random.default_rng(0).integers(3, size=100), [10] * 10)


def make(demos, **options):
    return BehaviorCloning(None, demos=demos, **SMALL | options)


# The loss


def batch_of(agent, demos):
    to_policy = policy_actions(demos.action_space, agent.config.squash)
    weights = balancing_weights(demos.actions) if agent.config.class_balance else None
    return next(Examples(agent.policy, demos, to_policy(demos.actions), weights).batches(1_000))


def log_probs(agent, batch):
    with torch.no_grad():
        return agent.student.distribution(batch.observations).log_probs


def test_the_loss_is_minus_the_mean_log_probability(demos):
    agent = make(demos)
    batch = batch_of(agent, demos)
    expected = -log_probs(agent, batch)[torch.arange(100), batch.targets].mean()
    assert float(agent.update(batch)["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_smoothed_labels_are_a_mixture_with_all_actions(demos):
    agent = make(demos, label_smoothing=0.3)
    batch = batch_of(agent, demos)
    target = 0.7 * torch.eye(3)[batch.targets] + 0.1
    expected = -(target * log_probs(agent, batch)).sum(-1).mean()
    assert float(agent.update(batch)["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_balanced_actions_count_the_same():
    actions = np.array([0, 0, 0, 1, 1, 2])
    weights = balancing_weights(actions)
    assert weights.tolist() == pytest.approx([2 / 3] * 3 + [1, 1] + [2])
    assert weights.mean() == pytest.approx(1)
    pairs = np.array([[0, 1], [0, 1], [0, 1], [1, 1]])
    assert balancing_weights(pairs).tolist() == pytest.approx([2 / 3] * 3 + [2])
    agent = make(shown(actions, [6]), class_balance=True)
    batch = batch_of(agent, shown(actions, [6]))
    by_action = -log_probs(agent, batch)[torch.arange(6), batch.targets]
    expected = sum(by_action[actions == action].mean() for action in range(3)) / 3
    assert float(agent.update(batch)["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_entropy_is_rewarded_and_weights_cost(demos):
    plain, free, decayed = make(demos), make(demos, ent_coef=0.5), make(demos, weight_decay=10.0)
    batch = batch_of(plain, demos)
    log_p = log_probs(plain, batch)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    backbone, head = decayed.student.backbone, decayed.student.action_head
    squares = sum(p.square().sum() for p in [*backbone.parameters(), *head.parameters()] if p.ndim > 1).detach()
    loss, rewarded, costs = (float(agent.update(batch)["loss"]) for agent in (plain, free, decayed))
    assert rewarded == pytest.approx(loss - 0.5 * float(entropy), rel=1e-5)
    assert costs == pytest.approx(loss + 5.0 * float(squares) / len(demos), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"action_std": "dependent"}, {"action_std": "gsde"}, {"squash": True}], ids=str
)
def test_a_gaussian_does_not_collapse_on_a_teacher_who_never_varies(options):
    space = gym.spaces.Box(-2, 2, (1,), np.float32)
    seen = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    demos = shown(seen[:, :1], [20] * 10, seen, space)
    agent = make(demos, min_std=0.1, patience=0, **options).learn(30_000)
    assert agent.validation["validation/mse"] < 0.02
    with torch.no_grad():
        deviations = agent.policy.distribution(torch.from_numpy(seen)).log_std.exp()
    least = 0.1 if options.get("squash") else 0.2  # Before tanh, or as a part of half the Box's width.
    assert 0.8 * least < float(deviations.mean()) < 1.5 * least
    assert float(deviations.min()) > 0.2 * least  # gSDE has none where features vanish.


# What is held out


@pytest.mark.parametrize(("episodes", "fraction", "count"), [(1, 0.1, 0), (2, 0.1, 1), (10, 0.1, 1), (10, 0.35, 4),
                                                             (2, 0.9, 1), (10, 0.0, 0)])  # fmt: skip
def test_how_many_episodes_are_held_out(episodes, fraction, count):
    chosen = held_out(episodes, fraction, np.zeros(0, bool), np.random.default_rng(0))
    assert chosen.sum() == count
    assert len(chosen) == episodes


def test_what_was_learned_from_is_never_held_out_later():
    rng, chosen = np.random.default_rng(0), np.zeros(0, bool)
    for episodes in (1, 4, 5, 30, 31, 60):
        before, chosen = chosen, held_out(episodes, 0.2, chosen, rng)
        assert (chosen[: len(before)] == before).all()
        assert chosen.sum() == min(max(1, round(0.2 * episodes)), episodes - 1)


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_no_timestep_of_a_held_out_episode_is_learned_from(backbone):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, size=12)
    episode = np.repeat(np.arange(12), lengths)
    seen = np.concatenate((episode[:, None] * np.ones(1), rng.normal(size=(len(episode), 2))), 1).astype(np.float32)
    demos = shown(rng.integers(3, size=len(episode)), lengths, seen)
    agent = make(demos, backbone=backbone, model_size=8, validation_fraction=0.3).learn(100)
    assert agent.held_out.sum() == 4
    learned, rest = (set(examples.observations[:, 0].int().tolist()) for examples in agent.examples)
    assert rest == set(np.flatnonzero(agent.held_out).tolist())
    assert learned == set(np.flatnonzero(~agent.held_out).tolist())
    mean = seen[~agent.held_out[episode]].mean(0)
    np.testing.assert_allclose(agent.policy.normalizer.mean.numpy(), mean, rtol=1e-5, atol=1e-6)


def test_the_best_weights_on_what_is_held_out_are_kept():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 3)).astype(np.float32)  # There is nothing to learn: it can only get worse.
    agent = make(shown(rng.integers(3, size=60), [6] * 10, noise), patience=5, learning_rate=0.05).learn(100_000)
    assert agent.converged
    assert agent.timesteps < 10_000
    _, rest = agent.examples
    batch = next(rest.batches(1_000))
    with torch.no_grad():
        loss = -agent.policy.distribution(batch.observations).log_prob(batch.targets).mean()
        late = -agent.student.distribution(batch.observations).log_prob(batch.targets).mean()
    assert float(loss) == pytest.approx(agent.best_loss, rel=1e-5)
    assert float(late) > agent.best_loss


# Learning


def test_a_handful_of_demonstrations_is_learned(demos, identity_envs):
    agent = BehaviorCloning(identity_envs("discrete", start=2), demos=shown_from(2, demos), **SMALL).learn(5_000)
    assert agent.predict(np.eye(3, dtype=np.float32), deterministic=True)[0].tolist() == [2, 3, 4]
    assert agent.validation["validation/accuracy"] == 1.0
    assert rltool.evaluate(agent, identity_envs("discrete", start=2), episodes=20).mean_return == 10


def shown_from(start, demos):
    return shown(demos.actions + start, demos.lengths, demos.observations, gym.spaces.Discrete(3, start=start))


def test_continuous_actions_are_learned(identity_envs):
    seen = np.random.default_rng(0).uniform(-1, 1, (200, 1)).astype(np.float32)
    env = identity_envs("box")
    space = env.single_action_space
    demos = shown(seen, [10] * 20, seen, space, env.single_observation_space)
    agent = BehaviorCloning(env, demos=demos, **SMALL).learn(20_000)
    assert rltool.evaluate(agent, env, episodes=20).mean_return > 9.9


@pytest.mark.parametrize("backbone", ["lstm", "gru", "transformer", "mlp"])
def test_what_needs_a_memory_is_cloned_with_one_alone(backbone):
    signs = np.random.default_rng(0).integers(2, size=40)
    seen = np.zeros((160, 1), np.float32)
    seen[::4, 0] = 2 * signs - 1
    demos = shown(np.repeat(signs, 4), [4] * 40, seen, RecallEnv.action_space, RecallEnv.observation_space)
    options = {"backbone": backbone, "model_size": 16, "window": 5, "normalize_observations": False}
    agent = BehaviorCloning(recall_envs(), demos=demos, **SMALL | options).learn(10_000)
    score = rltool.evaluate(agent, recall_envs(), episodes=100).mean_return
    assert score < 2.2 if backbone == "mlp" else score > 2.9


SPACES = [
    gym.spaces.Discrete(4),
    gym.spaces.Discrete(4, start=-3),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[0, 1], [5, 0]])),
    gym.spaces.MultiBinary(3),
    gym.spaces.MultiBinary((2, 2)),
    gym.spaces.Box(-1, 3, (2,), np.float32),
    gym.spaces.Box(np.array([[-1, 0]], np.float32), np.array([[0, 5]], np.float32)),
    gym.spaces.Box(-np.inf, np.inf, (1,), np.float64),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_action_space_is_learned(space):
    space.seed(0)
    kinds = np.stack([space.sample() for _ in range(3)])
    which = np.random.default_rng(0).integers(3, size=120)
    agent = make(shown(kinds[which], [12] * 10, np.eye(3, dtype=np.float32)[which], space)).learn(20_000)
    done, _ = agent.predict(np.eye(3, dtype=np.float32), deterministic=True)
    assert done.shape == kinds.shape
    assert all(action in space for action in done)
    np.testing.assert_allclose(done, kinds, atol=0.1 if isinstance(space, gym.spaces.Box) else 0)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_what_a_policy_is_taught_is_what_it_says(space):
    space.seed(0)
    actions = np.stack([space.sample() for _ in range(5)])
    again = environment_actions(space)(policy_actions(space)(actions))
    assert again.dtype == actions.dtype
    np.testing.assert_allclose(again, actions, rtol=1e-6)


def test_actions_on_the_bounds_can_be_squashed():
    space = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([3, 1], np.float32))
    actions = np.array([[-1, 1], [3, 0], [1, 0.5]], np.float32)
    taught = policy_actions(space, squash=True)(actions)
    np.testing.assert_allclose(taught, actions, atol=0.011)
    which = np.tile(np.arange(3), 40)
    demos = shown(actions[which], [12] * 10, np.eye(3, dtype=np.float32)[which], space)
    agent = make(demos, squash=True).learn(20_000)
    np.testing.assert_allclose(agent.predict(np.eye(3, dtype=np.float32), deterministic=True)[0], actions, atol=0.1)


TREES = [
    gym.spaces.Dict(a=BOX, b=gym.spaces.Discrete(3)),
    gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.MultiBinary(2)]),
    gym.spaces.Discrete(3),
    gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
]


@pytest.mark.parametrize("space", TREES, ids=str)
def test_every_observation_space_is_read(space):
    space.seed(0)
    seen = stack_observations(space, [space.sample() for _ in range(40)])
    demos = shown(np.arange(40) % 3, [10] * 4, seen, THREE, space)
    agent = make(demos).learn(200)
    assert np.isfinite(agent.validation["validation/loss"])
    assert agent.config.normalize_observations == isinstance(space, gym.spaces.Dict)


# Going on


@pytest.mark.parametrize(
    "options", [{"dropout": 0.2}, {"backbone": "gru", "model_size": 8}, {"patience": 2, "batch_size": 7}], ids=str
)
def test_training_goes_on_bit_for_bit(demos, tmp_path, options):
    straight = make(demos, seed=3, **options).learn(1_000)
    first = make(demos, seed=3, **options).learn(1_000, lambda agent, _: agent.timesteps < 333)
    assert first.timesteps < straight.timesteps
    save_state(tmp_path / "state.safetensors", first.checkpoint())
    second = make(demos, seed=4, **options).learn(50)  # Neither its seed nor its past matters.
    second.restore(load_state(tmp_path / "state.safetensors"))
    second.learn(1_000, resume=True)
    one, two = straight.checkpoint(), second.checkpoint()
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    assert json.dumps(one.values) == json.dumps(two.values)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Three random episodes of CartPole."""
    from rltool.envs import save_demonstrations

    path = tmp_path_factory.mktemp("demos") / "demos.npz"
    save_demonstrations(path, record(RandomAgent(gym.spaces.Discrete(2)), "CartPole-v1", 3))
    return str(path)


RUN = {"eval_freq": 200, "log_freq": 100, "save_freq": 0, "eval_episodes": 2, "total_timesteps": 600, "batch_size": 16}


def test_a_run_goes_on_bit_for_bit(file, tmp_path):
    options = {"demos": file, "run_dir": str(tmp_path), **RUN}
    straight = rltool.train("bc", "CartPole-v1", name="straight", **options)
    stopped = rltool.train(
        "bc", "CartPole-v1", name="stopped", callback=lambda agent, _: agent.timesteps < 250, **options
    )
    assert not stopped.summary["finished"]
    resumed = rltool.resume(stopped.path)
    assert (straight.path / "model.safetensors").read_bytes() == (resumed.path / "model.safetensors").read_bytes()
    for one, two in zip(straight.metrics, resumed.metrics, strict=True):
        assert {k: v for k, v in one.items() if k[:4] != "time"} == {k: v for k, v in two.items() if k[:4] != "time"}
    names = {"train/loss", "train/accuracy", "validation/loss", "validation/accuracy"}
    assert names <= straight.metrics[-1].keys()
    assert any("eval/mean_return" in row for row in straight.metrics)
    assert straight.summary["total_timesteps"] == 600
    assert isinstance(rltool.load(straight.path).agent, BehaviorCloning)


def test_a_run_that_has_converged_is_finished(file, tmp_path):
    options = {"demos": file, "run_dir": str(tmp_path), **RUN, "total_timesteps": 100_000, "patience": 1}
    run = rltool.train("bc", "CartPole-v1", learning_rate=0.1, **options)
    assert run.summary["finished"]
    assert run.summary["converged"]
    assert run.summary["total_timesteps"] < 100_000
    again = rltool.resume(run.path)
    assert again.summary == run.summary


# Mistakes


def test_mistakes(demos, file, tmp_path):
    where = {"run_dir": str(tmp_path / "runs")}
    with pytest.raises(UserError, match="name a file or a Minari dataset"):
        rltool.train("bc", "CartPole-v1", **where)
    with pytest.raises(UserError, match="nowhere"):
        rltool.train("bc", "CartPole-v1", demos=str(tmp_path / "nowhere.npz"), **where)
    with pytest.raises(UserError, match="recorded in CartPole-v1"):
        rltool.train("bc", "Acrobot-v1", demos=file, **where)
    with pytest.raises(UserError, match="does nothing without --then"):
        rltool.train("bc", "CartPole-v1", demos=file, then_timesteps=100, **where)
    with pytest.raises(UserError, match="then-learning-rate does nothing without --then"):
        rltool.train("bc", "CartPole-v1", demos=file, then_learning_rate=0.1, **where)
    with pytest.raises(UserError, match="label-smoothing is for choices"):
        rltool.train("bc", "Pendulum-v1", demos=file, label_smoothing=0.1, **where)
    with pytest.raises(UserError, match="class-balance is for choices"):
        rltool.train("bc", "Pendulum-v1", demos=file, class_balance=True, **where)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="observation space"):
        BehaviorCloning("CartPole-v1", demos=demos).learn(100)
    with pytest.raises(UserError, match="at least 1"):
        make(demos).learn(0)
