"""Reinforcement learning from a policy that was taken over: its critic first, if there is one."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from rltool.agents import PPO, REINFORCE
from rltool.agents.warm_start import CRITIC_FIRST, fit_critic
from rltool.envs import Demonstrations

SHOWN = Demonstrations(
    gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
    gym.spaces.Discrete(2),
    np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32),
    np.zeros(64, np.int64),
    np.arange(64.0),
    np.array([31, 63]),
    np.array([True, True]),
)


def test_the_seed_alone_decides_how_a_critic_with_dropout_is_fitted() -> None:
    fitted = []
    for callers_seed in (1, 2):
        agent = PPO("CartPole-v1", seed=0, dropout=0.2)
        torch.manual_seed(callers_seed)
        fit_critic(agent, SHOWN, updates=5)
        fitted.append(agent.optimizer.parameters.clone())
    assert torch.equal(*fitted)


def test_a_policy_waits_only_for_a_critic_that_there_is() -> None:
    for credit, waits in (("baseline", False), ("value_baseline", True)):
        agent = REINFORCE("CartPole-v1", credit=credit)
        agent.critic_first_until = CRITIC_FIRST
        before = agent.policy.action_head.linear.weight.clone()
        agent.learn(500)
        assert torch.equal(agent.policy.action_head.linear.weight, before) is waits
