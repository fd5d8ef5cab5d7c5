"""Reinforcement learning from a policy that was taken over: its critic first, if there is one."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import A2C, GAIL, PPO, REINFORCE, BehaviorCloning
from rltool.agents import warm_start as module
from rltool.agents.on_policy import OnPolicyAgent
from rltool.agents.presets import PRESETS
from rltool.agents.warm_start import CRITIC_FIRST, accumulated, fit_critic, returns_to_go
from rltool.envs import Demonstrations, save_demonstrations
from rltool.errors import UserError

SPACE = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)


def demonstrations(lengths, terminated=None, rewards=None, seed=0):
    n = sum(lengths)
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n, 4)).astype(np.float32)
    actions = (seen[:, 2] > 0).astype(np.int64)
    rewards = np.ones(n) if rewards is None else np.asarray(rewards, np.float64)
    terminated = None if terminated is None else np.array(terminated)
    ends = np.cumsum(lengths) - 1
    return Demonstrations(SPACE, gym.spaces.Discrete(2), seen, actions, rewards, ends, terminated)


SHOWN = demonstrations([32, 32], [True, True], np.arange(64.0))


# What the critic is fitted to


def test_returns_to_go():
    demos = demonstrations([3, 2], [True, False], [1, 2, 4, 1, 3])
    cut = 2 / (1 - 0.5)  # An episode that was cut off goes on at its mean reward.
    expected = [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4, 1 + 0.5 * (3 + 0.5 * cut), 3 + 0.5 * cut]
    assert returns_to_go(demos, 0.5).tolist() == pytest.approx(expected)
    unknown = demonstrations([3, 2], None, [1, 2, 4, 1, 3])
    assert returns_to_go(unknown, 0.5).tolist() == pytest.approx([3, 4, 4, 2.5, 3])


def test_accumulated_rewards_begin_anew_with_each_episode():
    demos = demonstrations([3, 2], None, [1, 2, 4, 1, 3])
    assert accumulated(demos, 0.5).tolist() == pytest.approx([1, 2.5, 5.25, 1, 3.5])


@pytest.mark.parametrize(
    "options",
    [{}, {"shared": True}, {"backbone": "gru", "model_size": 8}, {"normalize_returns": True}, {"optimizer": "rmsprop"}],
    ids=str,
)
def test_the_critic_is_fitted_and_the_policy_stays_what_it_is(options):
    rewards = np.tile(np.r_[np.ones(10), np.zeros(10)], 10)
    demos = demonstrations([20] * 10, [True] * 10, rewards)
    demos.observations[:, 0] = np.tile(np.arange(20), 10) / 10  # The time, which tells the return.
    agent = PPO("CartPole-v1", seed=0, num_envs=2, num_steps=32, gamma=0.9, **options)
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    explained = fit_critic(agent, demos)
    assert explained > (0.5 if "shared" in options else 0.95)
    for name, tensor in agent.policy.state_dict().items():
        if not name.startswith("value"):
            assert torch.equal(tensor, before[name]), name
    assert agent.optimizer.steps == 0
    if agent.return_scaler is not None:
        assert float(agent.return_scaler.norm.var) == pytest.approx(accumulated(demos, 0.9).var())


def test_the_seed_alone_decides_how_a_critic_with_dropout_is_fitted():
    fitted = []
    for callers_seed in (1, 2):
        agent = PPO("CartPole-v1", seed=0, dropout=0.2)
        torch.manual_seed(callers_seed)
        fit_critic(agent, SHOWN, updates=5)
        fitted.append(agent.optimizer.parameters.clone())
    assert torch.equal(*fitted)


def test_a_policy_waits_only_for_a_critic_that_there_is():
    for credit, waits in (("baseline", False), ("value_baseline", True)):
        agent = REINFORCE("CartPole-v1", credit=credit)
        agent.critic_first_until = CRITIC_FIRST
        before = agent.policy.action_head.linear.weight.clone()
        agent.learn(500)
        assert torch.equal(agent.policy.action_head.linear.weight, before) is waits


# Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Demonstrations that lean with the pole, which lasts; and `clone`, the run that cloned them."""
    path = tmp_path_factory.mktemp("clones")
    env = gym.make("CartPole-v1")
    seen, actions, ends, final = [], [], [], []
    for episode in range(4):
        observation, _ = env.reset(seed=episode)
        for _ in range(200):
            seen.append(observation)
            actions.append(int(observation[2] + 0.5 * observation[3] > 0))
            observation, *_ = env.step(actions[-1])
        ends.append(len(seen) - 1)
        final.append(observation)
    demos = Demonstrations(
        env.observation_space,
        env.action_space,
        np.stack(seen),
        np.array(actions),
        np.ones(len(seen)),
        np.array(ends),
        np.zeros(4, bool),
        np.stack(final),
        "CartPole-v1",
    )
    save_demonstrations(path / "demos.npz", demos)
    rltool.train("bc", "CartPole-v1", demos=str(path / "demos.npz"), run_dir=str(path), name="clone", **CLONE)
    return path


NETWORK = {"hidden_sizes": (32,), "activation": "relu", "normalize_observations": True}
CLONE = {"total_timesteps": 20_000, "eval_freq": 0, "save_freq": 0, "learning_rate": 5e-3, "hidden_sizes": (32,)}
SHORT = {"eval_freq": 0, "save_freq": 0, "num_envs": 4}


@pytest.mark.parametrize(("method", "options"), [("ppo", {"num_steps": 64}), ("a2c", {}), ("reinforce", {}),
                                                 ("gail", {"num_steps": 64, "controls": False}),
                                                 ("airl", {"num_steps": 64, "controls": False})])  # fmt: skip
def test_every_method_starts_from_a_clone(folder, method, options, tmp_path):
    source = rltool.load(folder / "clone").agent
    if method in ("gail", "airl"):
        options = options | {"demos": str(folder / "demos.npz")}
    began = []
    rltool.train(
        method,
        "CartPole-v1",
        init_policy=str(folder / "clone"),
        run_dir=str(tmp_path),
        total_timesteps=256,
        preset="none",
        callback=lambda agent, _: began.append(agent) or False,
        **NETWORK | SHORT | options,
    )
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    mine = began[0].predict(seen, deterministic=True)[0]
    if method == "reinforce":  # Its critic is the mean: nothing to wait for.
        assert (mine == source.predict(seen, deterministic=True)[0]).mean() > 0.8
    else:
        np.testing.assert_array_equal(mine, source.predict(seen, deterministic=True)[0])


def test_learned_rewards_have_no_returns_to_fit_a_critic_to(folder):
    agent = GAIL("CartPole-v1", demos=str(folder / "demos.npz"), **NETWORK, num_envs=4, num_steps=64)
    agent.init_policy(rltool.load(folder / "clone").agent)
    agent.warm_start(rltool.load(folder / "clone"))
    assert agent.return_scaler.norm.count == 0
    assert agent.critic_first_until == CRITIC_FIRST


@pytest.mark.parametrize(("cls", "options"), [(PPO, {"num_steps": 128, "learning_rate": 1e-3}), (A2C, {})])
def test_a_clone_survives_the_switch_better_than_without_a_critic(folder, cls, options):
    clone = rltool.load(folder / "clone").agent
    cloned = rltool.evaluate(clone, "CartPole-v1", episodes=10).mean_return
    assert cloned > 450

    def worst(prepared):
        agent = cls("CartPole-v1", seed=0, num_envs=8, gamma=0.98, **NETWORK | options)
        agent.init_policy(clone)
        if prepared:
            agent.warm_start(rltool.load(folder / "clone"))
        returns = []
        for until in range(4_096, 16_385, 4_096):
            agent.learn(until, resume=True)
            returns.append(rltool.evaluate(agent, "CartPole-v1", episodes=10).mean_return)
        return min(returns)

    kept, lost = worst(prepared=True), worst(prepared=False)
    assert kept >= 0.9 * cloned
    assert lost <= kept


def test_a_stopped_warm_start_goes_on_bit_for_bit(folder, tmp_path):
    options = {"init_policy": str(folder / "clone"), "run_dir": str(tmp_path), "preset": "none", "num_steps": 64}
    options |= {**NETWORK, **SHORT, "total_timesteps": 10_240}
    straight = rltool.train("ppo", "CartPole-v1", name="straight", **options)
    stopped = rltool.train(
        "ppo", "CartPole-v1", name="stopped", callback=lambda agent, _: agent.timesteps < 5_000, **options
    )
    resumed = rltool.resume(stopped.path)
    assert (straight.path / "model.safetensors").read_bytes() == (resumed.path / "model.safetensors").read_bytes()


def test_then(folder, tmp_path):
    options = {"demos": str(folder / "demos.npz"), "run_dir": str(tmp_path), **CLONE, "total_timesteps": 2_000}
    run = rltool.train("bc", "CartPole-v1", name="first", then="ppo", then_timesteps=4_096, **options)
    assert run.summary["finished"]
    assert run.summary["then"] == "first-ppo"
    after = rltool.load(tmp_path / "first-ppo")
    assert after.options.init_policy == str(run.path)
    assert after.options.total_timesteps == after.summary["total_timesteps"] == 4_096
    config = after.config["config"]
    assert config["hidden_sizes"] == [32]  # The clone's network,
    assert config["normalize_observations"]
    assert config["num_envs"] == 32  # and the options tuned for the environment,
    assert config["learning_rate"] == pytest.approx(0.1 * PRESETS["ppo"]["CartPole-v1"]["learning_rate"])  # but gently.
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    one, two = (each.agent.predict(seen, deterministic=True)[0] for each in (run, after))
    np.testing.assert_array_equal(one, two)  # The critic is still learning.


def test_then_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    options = {"demos": str(folder / "demos.npz"), "run_dir": str(tmp_path), **CLONE, "total_timesteps": 2_000}
    train, stop = module.train, {"callback": lambda agent, _: agent.timesteps < 3_000}
    monkeypatch.setattr(module, "train", lambda *args, **kwargs: train(*args, **kwargs, **stop))
    run = rltool.train("bc", "CartPole-v1", name="first", then="ppo", then_timesteps=6_144, **options)
    assert not run.summary["finished"]
    assert not rltool.load(tmp_path / "first-ppo").summary["finished"]
    again = rltool.resume(run.path)
    assert again.summary["finished"]
    assert rltool.load(tmp_path / "first-ppo").summary["total_timesteps"] == 6_144
    assert json.loads((run.path / "summary.json").read_text())["then_return"] > 0


def test_mistakes(folder, tmp_path):
    start = {"init_policy": str(folder / "clone"), "run_dir": str(tmp_path / "runs"), "preset": "none"}
    with pytest.raises(UserError, match="reads normalized observations"):
        rltool.train("a2c", "CartPole-v1", hidden_sizes=(32,), activation="relu", **start)
    with pytest.raises(UserError, match="the policy does not fit"):
        rltool.train("a2c", "CartPole-v1", **NETWORK | {"hidden_sizes": (8,)}, **start)
    with pytest.raises(UserError, match=r"it acts in Discrete\(2\)"):
        rltool.train("a2c", "Pendulum-v1", **NETWORK, **start)
    with pytest.raises(UserError, match="there is no run"):
        rltool.train("a2c", "CartPole-v1", **start | {"init_policy": "nowhere"})
    assert not (tmp_path / "runs").exists()
    assert issubclass(PPO, OnPolicyAgent)
    assert not issubclass(BehaviorCloning, OnPolicyAgent)
