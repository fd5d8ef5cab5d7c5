"""One update of each algorithm, against the formula written out with plain autograd and `torch.optim`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent
from rltool.agents.ppo import Minibatch, approx_kl, clip_fraction
from rltool.agents.rollout import Rollout
from rltool.envs import make_vector_env

MakeEnvs = Callable[..., SyncVectorEnv]


def begin(agent: OnPolicyAgent, steps: int) -> Rollout:
    """A first rollout, as `learn` collects it."""
    agent.total_timesteps = 10**6
    agent.collector.reset(seed=0)
    return agent.collect(steps)


def successor_values(policy: Any, rollout: Rollout) -> list[list[float]]:
    """V of what followed each step: the next row, or where the episode ended at once, its last observation."""
    with torch.no_grad():
        rows = policy.values(torch.from_numpy(rollout.observations.reshape(-1, *rollout.observations.shape[2:])))
        table = rows.reshape(rollout.observations.shape[:2])[1:].tolist()
        for k, (t, n) in enumerate(zip(*rollout.final_index, strict=True)):
            table[t][n] = policy.values(torch.from_numpy(rollout.final_observations[k : k + 1])).item()
    return table


def slow_advantages(policy: Any, rollout: Rollout, gamma: float, lam: float) -> dict[tuple[int, int], float]:
    steps, envs = rollout.rewards.shape
    after = successor_values(policy, rollout)
    found: dict[tuple[int, int], float] = {}
    for n in range(envs):
        for t in reversed(range(steps)):
            with torch.no_grad():
                value = policy.values(torch.from_numpy(rollout.observations[t, n][None])).item()
            following = 0.0 if rollout.terminated[t, n] else after[t][n]
            found[t, n] = float(rollout.rewards[t, n]) + gamma * following - value
            if not rollout.done[t, n] and t + 1 < steps:
                found[t, n] += gamma * lam * found[t + 1, n]
    return found


def descend(agent: OnPolicyAgent, policy: Any, loss: torch.Tensor) -> None:
    """The step that `torch.optim` would take."""
    config = agent.config
    kinds: dict[str, Any] = {
        "adam": lambda p: torch.optim.Adam(p, lr=config.learning_rate, eps=1e-5),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=config.learning_rate, alpha=0.99, eps=1e-5),
    }
    optimizer = kinds[config.optimizer](policy.parameters())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    optimizer.step()


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=3e-5, msg=lambda text, name=name: f"{name}: {text}")


def environments(counting_envs: MakeEnvs, which: str) -> Any:
    return make_vector_env("Pendulum-v1", 3) if which == "Pendulum-v1" else counting_envs(AutoresetMode(which))


# A2C


@pytest.mark.parametrize("which", ["NextStep", "SameStep", "Disabled", "Pendulum-v1"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"advantage": "td", "optimizer": "adam", "ent_coef": 0.1},
        {"advantage": "gae", "gae_lambda": 0.7, "shared": True, "normalize_advantages": True},
        {"advantage": "mc", "gae_lambda": 0.3, "vf_coef": 0.0, "max_grad_norm": 100.0},
    ],
    ids=str,
)
def test_a2c_update_by_hand(counting_envs: MakeEnvs, which: str, options: dict[str, Any]) -> None:
    agent = A2C(environments(counting_envs, which), num_steps=12, gamma=0.9, learning_rate=0.01, **options)
    config = agent.config
    rollout = begin(agent, 12)
    policy = copy.deepcopy(agent.policy)

    lam = {"td": 0.0, "gae": config.gae_lambda, "mc": 1.0}[config.advantage]
    advantages = slow_advantages(policy, rollout, 0.9, lam)
    chosen = [(t, n) for t in range(12) for n in range(3) if rollout.valid[t, n]]
    assert len(chosen) == 36 or which == "NextStep"
    raw = torch.tensor([advantages[step] for step in chosen])
    weights = (raw - raw.mean()) / (raw.std(correction=0) + 1e-8) if config.normalize_advantages else raw
    distribution, values = policy(torch.from_numpy(np.stack([rollout.observations[step] for step in chosen])))
    log_prob = distribution.log_prob(torch.from_numpy(np.stack([rollout.actions[step] for step in chosen])))
    policy_loss = -(weights * log_prob).mean()
    value_loss = (raw + values.detach() - values).square().mean()
    entropy = distribution.entropy().mean()

    metrics = agent.update(rollout)
    assert float(metrics["policy_loss"]) == pytest.approx(policy_loss.item(), rel=1e-3, abs=1e-5)
    assert float(metrics["value_loss"]) == pytest.approx(value_loss.item(), rel=1e-3)
    assert float(metrics["entropy_loss"]) == pytest.approx(-entropy.item(), rel=1e-4)
    descend(agent, policy, policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy)
    assert_same_weights(agent.policy, policy)


# REINFORCE


@pytest.mark.parametrize("credit", ["immediate", "reward_to_go", "discounted", "baseline", "value_baseline"])
@pytest.mark.parametrize(
    "options", [{}, {"normalize_advantages": True, "ent_coef": 0.1, "optimizer": "rmsprop"}], ids=str
)
def test_reinforce_update_by_hand(
    counting_envs: MakeEnvs, mode: AutoresetMode, credit: str, options: dict[str, Any]
) -> None:
    agent = REINFORCE(counting_envs(mode), credit=credit, gamma=0.5, num_steps=1, learning_rate=0.01, **options)
    rollout = begin(agent, 1000)
    policy = copy.deepcopy(agent.policy)

    # The second episodes of the three environments have 4, 5 and 1 steps; the t-th reward is t, from 1.
    observations, rewards, actions = [], [], []
    for n, length in enumerate((4, 5, 1)):
        observations += [[float(t)] for t in range(length)]
        actions += [rollout.actions[t, n] for t in range(length)]
        gamma = 1.0 if credit == "reward_to_go" else 0.5
        for t in range(length):
            to_go = sum(gamma ** (k - t) * (k + 1) for k in range(t, length))
            rewards.append(t + 1.0 if credit == "immediate" else to_go)
    returns = torch.tensor(rewards)
    distribution, values = policy(torch.tensor(observations))
    weights = returns
    if credit == "baseline":
        weights = returns - returns.mean()
    elif credit == "value_baseline":
        weights = returns - values.detach()
    if agent.config.normalize_advantages:
        weights = weights / (weights.std(correction=0) + 1e-8)
    policy_loss = -(weights * distribution.log_prob(torch.tensor(np.array(actions)))).mean()
    loss = policy_loss - agent.config.ent_coef * distribution.entropy().mean()
    if credit == "value_baseline":
        loss = loss + agent.config.vf_coef * (returns - values).square().mean()

    metrics = agent.update(rollout)
    assert float(metrics["policy_loss"]) == pytest.approx(policy_loss.item(), rel=1e-3, abs=1e-5)
    descend(agent, policy, loss)
    assert_same_weights(agent.policy, policy)


# PPO


def ppo(env: Any = "CartPole-v1", **options: Any) -> PPO:
    return PPO(env, **{"num_envs": 2, "num_steps": 16, "batch_size": 32, "num_epochs": 1, **options})


def spy(agent: PPO) -> list[tuple[Minibatch, torch.Tensor]]:
    """Minibatches and log ratios of every call of the loss."""
    calls, loss = [], agent.loss

    def record(batch: Minibatch, clip_range: float) -> Any:
        result = loss(batch, clip_range)
        calls.append((batch, result[2].clone()))
        return result

    agent.loss = record  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("options", [{}, {"normalize_observations": True}, {"shared": True}], ids=str)
def test_ppo_begins_with_a_ratio_of_1(env: str, options: dict[str, Any]) -> None:
    agent = ppo(env, batch_size=16, num_epochs=2, learning_rate=0.01, **options)
    agent.learn(64)  # statistics and weights have moved
    agent.collect(16)
    calls = spy(agent)
    agent.learn(96, resume=True)
    assert len(calls) == 4
    assert abs(approx_kl(calls[0][1]).item()) < 1e-6
    assert clip_fraction(calls[0][1], 0.2).item() == 0
    assert all(approx_kl(log_ratio) > 1e-6 for _, log_ratio in calls[1:])


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_ppo_gradient_at_ratio_1_is_the_policy_gradient(env: str) -> None:
    agent = ppo(env, vf_coef=0.0, normalize_advantages=False)
    rollout = begin(agent, 16)
    observations, actions = agent.tensor(rollout.observations[:-1]), agent.tensor(rollout.actions)
    advantages = torch.randn(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        distribution, values = agent.policy(observations)
        old_log_prob = distribution.log_prob(actions)
    loss, _, log_ratio = agent.loss(Minibatch(observations, actions, old_log_prob, values, advantages, values), 0.2)
    assert approx_kl(log_ratio) == clip_fraction(log_ratio, 0.2) == 0
    parameters = [p for name, p in agent.policy.named_parameters() if "value" not in name]
    ours = torch.autograd.grad(loss, parameters)
    log_prob = agent.policy(observations)[0].log_prob(actions)
    theirs = torch.autograd.grad(-(advantages * log_prob).mean(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_ppo_clips_by_hand() -> None:
    agent = ppo(vf_coef=0.0, normalize_advantages=False)
    observations, actions = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
    with torch.no_grad():
        log_prob = agent.policy(observations)[0].log_prob(actions)
    ratios = torch.tensor([0.5, 1.1, 1.5, 0.5, 1.1, 1.5])
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    batch = Minibatch(observations, actions, log_prob - ratios.log(), torch.zeros(6), advantages, torch.zeros(6))
    loss, _, log_ratio = agent.loss(batch, 0.2)
    # Clipped to 0.8 .. 1.2, and the worse of the two is taken.
    surrogate = [2 * 0.5, 2 * 1.1, 2 * 1.2, -2 * 0.8, -2 * 1.1, -2 * 1.5]
    assert loss.item() == pytest.approx(-sum(surrogate) / 6, rel=1e-5)
    assert clip_fraction(log_ratio, 0.2).item() == pytest.approx(4 / 6)
    kl = sum(r - 1 - math.log(r) for r in ratios.tolist()) / 6
    assert approx_kl(log_ratio).item() == pytest.approx(kl, rel=1e-4)

    # Where the clipped value is taken, there is nothing to gain, and no gradient.
    for ratio, advantage, moves in [(1.5, 1.0, False), (0.5, -1.0, False), (1.5, -1.0, True), (0.5, 1.0, True)]:
        old_log_prob, zero = log_prob[:1] - math.log(ratio), torch.zeros(1)
        batch = Minibatch(observations[:1], actions[:1], old_log_prob, zero, torch.tensor([advantage]), zero)
        loss, _, _ = agent.loss(batch, 0.2)
        (gradient,) = torch.autograd.grad(loss, [agent.policy.action_head.linear.bias])
        assert bool(gradient.abs().max() > 0) == moves


def test_ppo_value_loss_by_hand() -> None:
    agent = ppo(vf_coef=0.5, normalize_advantages=False)
    observations, actions = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        distribution, values = agent.policy(observations)
        log_prob = distribution.log_prob(actions)
    old_values = values - torch.tensor([0.0, 1.0, -1.0])
    batch = Minibatch(observations, actions, log_prob, old_values, torch.zeros(3), values + 2)
    loss, terms, _ = agent.loss(batch, 0.2)
    assert terms[1].item() == pytest.approx(4.0)
    assert loss.item() == pytest.approx(2.0)
    clipped = ppo(vf_coef=0.5, normalize_advantages=False, clip_range_vf=0.25)
    _, terms, _ = clipped.loss(batch, 0.2)
    # Values moved by 0, 1 and -1 since the rollout; only 1/4 of it counts: errors 2, 2.75 and 1.25.
    assert terms[1].item() == pytest.approx((2**2 + 2.75**2 + 1.25**2) / 3, rel=1e-5)


def test_ppo_entropy_bonus_and_normalized_advantages() -> None:
    observations, actions = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    advantages = torch.linspace(-3, 9, 8)
    agents = {
        "plain": ppo(vf_coef=0.0, normalize_advantages=False),
        "entropy": ppo(vf_coef=0.0, normalize_advantages=False, ent_coef=0.1),
        "normalized": ppo(vf_coef=0.0),
    }
    with torch.no_grad():
        distribution, values = agents["plain"].policy(observations)
    old = distribution.log_prob(actions)
    batch = Minibatch(observations, actions, old, values, advantages, values)
    losses = {name: agent.loss(batch, 0.2)[0].item() for name, agent in agents.items()}
    assert losses["plain"] == pytest.approx(-3.0, rel=1e-5)
    assert losses["entropy"] == pytest.approx(-3.0 - 0.1 * distribution.entropy().mean().item(), rel=1e-5)
    assert losses["normalized"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("which", ["NextStep", "SameStep", "Disabled"])
def test_ppo_minibatches(counting_envs: MakeEnvs, which: str) -> None:
    """Every valid step comes once an epoch, with the advantage and return that it should have."""
    agent = ppo(counting_envs(AutoresetMode(which)), batch_size=10, num_envs=3, num_epochs=3, gamma=0.9, gae_lambda=0.7)
    rollout = begin(agent, 16)
    advantages = slow_advantages(agent.policy, rollout, 0.9, 0.7)
    calls = spy(agent)
    agent.update(rollout)
    chosen = [(t, n) for t in range(16) for n in range(3) if rollout.valid[t, n]]
    per_epoch = math.ceil(len(chosen) / 10)
    assert len(calls) == 3 * per_epoch
    orders = []
    for epoch in range(3):
        minibatches = [call[0] for call in calls[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert [len(each.observations) for each in minibatches[:-1]] == [10] * (per_epoch - 1)
        observations, _, _, values, found, returns = map(
            torch.cat, zip(*(each[:6] for each in minibatches), strict=True)
        )
        expected = sorted((float(rollout.observations[step][0]), advantages[step]) for step in chosen)
        ours = sorted(zip(observations[:, 0].tolist(), found.tolist(), strict=True))
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(returns, found + values)
        orders.append(observations[:, 0].tolist())
    assert orders[0] != orders[1] != orders[2]


def test_ppo_update_by_hand() -> None:
    """One epoch, one minibatch: exactly one gradient step on the whole loss."""
    agent = ppo("Pendulum-v1", ent_coef=0.01, learning_rate=0.01, gamma=0.9)
    rollout = begin(agent, 16)
    policy = copy.deepcopy(agent.policy)
    table = slow_advantages(policy, rollout, 0.9, 0.95)
    raw = torch.tensor([table[t, n] for t in range(16) for n in range(2)])
    distribution, values = policy(agent.tensor(rollout.observations[:-1]))
    log_prob = distribution.log_prob(agent.tensor(rollout.actions))
    ratio = (log_prob - log_prob.detach()).exp()
    weights = (raw - raw.mean()) / (raw.std(correction=0) + 1e-8)
    value_loss = (raw + values.detach() - values).square().mean()
    loss = -(weights * ratio).mean() + 0.5 * value_loss - 0.01 * distribution.entropy().mean()
    metrics = agent.update(rollout)
    descend(agent, policy, loss)
    assert_same_weights(agent.policy, policy)
    assert float(metrics["value_loss"]) == pytest.approx(value_loss.item(), rel=1e-4)


def test_target_kl_ends_an_update_early() -> None:
    counts = {}
    for target_kl in (None, 1e-3, 10.0):
        agent = ppo(batch_size=8, num_epochs=10, learning_rate=0.05, target_kl=target_kl)
        calls = spy(agent)
        agent.update(begin(agent, 16))
        counts[target_kl] = len(calls)
        divergences = [approx_kl(log_ratio).item() for _, log_ratio in calls]
        if target_kl == 1e-3:
            # The minibatch that goes over 1.5 times the target is the last, and is not learned from.
            assert divergences[-1] > 1.5e-3
            assert max(divergences[:-1]) <= 1.5e-3
            assert agent.optimizer.steps == len(calls) - 1
    assert counts[None] == counts[10.0] == 40
    assert counts[1e-3] < 20


def test_target_kl_is_exceeded_by_half() -> None:
    agent = ppo(batch_size=8, target_kl=0.01)
    loss, divergences = agent.loss, iter([0.0, 0.0149, 0.0151, 0.0])

    def scripted(batch: Minibatch, clip_range: float) -> Any:
        value, terms, log_ratio = loss(batch, clip_range)
        # Half of the ratios a little up, half a little down: the divergence of x is about x^2 / 2.
        log_ratio = torch.full_like(log_ratio, math.sqrt(2 * next(divergences)))
        log_ratio[::2] *= -1
        return value, terms, log_ratio

    agent.loss = scripted  # type: ignore[method-assign]
    metrics = agent.update(begin(agent, 16))
    assert agent.optimizer.steps == 2
    assert float(metrics["approx_kl"]) == pytest.approx(0.0149 / 2, rel=1e-2)  # of the steps that were taken


def test_schedules_fall_linearly() -> None:
    seen = []
    agent = ppo(num_envs=3, num_steps=8, batch_size=24, learning_rate_schedule="linear", clip_range_schedule="linear")
    agent.learn(
        100, callback=lambda agent, metrics: seen.append((agent.optimizer.learning_rate, metrics["clip_range"]))
    )
    # Five updates, the last on the rest; 100 is rounded up to 102, and nothing ever falls below zero.
    fractions = [1, 1 - 24 / 100, 1 - 48 / 100, 1 - 72 / 100, 1 - 96 / 100]
    assert [rate for rate, _ in seen] == pytest.approx([3e-4 * f for f in fractions])
    assert [clip for _, clip in seen] == pytest.approx([0.2 * f for f in fractions])
    seen.clear()
    constant = ppo(num_envs=3, num_steps=8, batch_size=24)
    constant.learn(
        48, callback=lambda agent, metrics: seen.append((agent.optimizer.learning_rate, metrics["clip_range"]))
    )
    assert seen == [(3e-4, 0.2)] * 2


# All of them


@pytest.mark.parametrize(
    ("cls", "options", "budget"),
    [
        (PPO, {"num_steps": 4, "batch_size": 4}, 5),
        (PPO, {"num_steps": 1, "batch_size": 1}, 9),
        (A2C, {"num_steps": 4, "normalize_advantages": True}, 5),
        (A2C, {"num_steps": 1}, 9),
        (REINFORCE, {}, 3),
    ],
)
def test_nothing_is_learned_from_a_rollout_without_a_valid_step(
    counting_envs: MakeEnvs, cls: Any, options: dict[str, Any], budget: int
) -> None:
    """The budget's last timestep may be the one that resets the only environment."""
    agent = cls(counting_envs(AutoresetMode.NEXT_STEP, [(4,)]), **options)
    seen = []

    def callback(agent: OnPolicyAgent, metrics: dict[str, Any]) -> None:
        seen.append((metrics, agent.policy.value_head.linear.weight.clone()))

    agent.learn(budget, callback)
    assert agent.timesteps == budget
    assert all(torch.isfinite(p).all() for p in agent.policy.parameters())
    assert all(math.isfinite(float(value)) for metrics, _ in seen for value in metrics.values())
    empty = [k for k, (metrics, _) in enumerate(seen) if not metrics]
    assert len(empty) == 1
    if empty[0] > 0:
        assert torch.equal(seen[empty[0]][1], seen[empty[0] - 1][1])
