"""Proximal policy optimization with the clipped objective (Lecture 12; Schulman et al., 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rltool.agents.advantages import explained_variance, gae
from rltool.agents.config import PPOConfig
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout


class Minibatch(NamedTuple):
    """Some timesteps of a rollout, in any order; every tensor has B rows."""

    observations: torch.Tensor
    actions: torch.Tensor
    old_log_prob: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class PPO(OnPolicyAgent):
    """Several epochs of minibatch steps per rollout; the ratio of new to old probabilities is kept near 1."""

    method = "ppo"
    config_class = PPOConfig
    config: PPOConfig

    def update(self, rollout: Rollout) -> UpdateMetrics:
        config = self.config
        observations = self.tensor(rollout.observations[:-1])
        actions = self.tensor(rollout.actions)
        with torch.no_grad():
            distribution, values = self.policy(observations)
            old_log_prob = distribution.log_prob(actions)
            entropy = distribution.entropy().mean()
        bootstrap = self.policy.critic()(rollout.bootstrap_observations)
        old_values = values.cpu().numpy().reshape(rollout.rewards.shape)
        next_values = rollout.next_values(old_values, bootstrap)
        advantages = gae(
            rollout.rewards, old_values, next_values, rollout.terminated, rollout.done, config.gamma, config.gae_lambda
        )
        returns = self.tensor(advantages + old_values)
        data = Minibatch(observations, actions, old_log_prob, values, self.tensor(advantages), returns)
        clip_range = self.schedule(config.clip_range, config.clip_range_schedule)

        losses: list[torch.Tensor] = []
        log_ratios: list[torch.Tensor] = []
        grad_norms: list[float] = []
        for batch in self.minibatches(data, np.flatnonzero(rollout.valid)):
            loss, terms, log_ratio = self.loss(batch, clip_range)
            if config.target_kl is not None and approx_kl(log_ratio) > 1.5 * config.target_kl:
                break
            losses.append(terms)
            log_ratios.append(log_ratio)
            grad_norms.append(self.optimizer.step(loss))
        metrics: UpdateMetrics = {"entropy_loss": -entropy, "clip_range": clip_range}
        metrics |= explained_variance((advantages + old_values)[rollout.valid], old_values[rollout.valid])
        if losses:
            log_ratio = torch.cat(log_ratios)
            metrics["policy_gradient_loss"], metrics["value_loss"] = torch.stack(losses).mean(0)
            metrics["approx_kl"] = approx_kl(log_ratio)
            metrics["clip_fraction"] = clip_fraction(log_ratio, clip_range)
            metrics["grad_norm"] = sum(grad_norms) / len(grad_norms)
        return metrics

    def minibatches(self, data: Minibatch, rows: np.ndarray) -> Iterator[Minibatch]:
        """Pass over the given rows `num_epochs` times, in random order; the last minibatch of a pass may be smaller."""
        size, epochs = self.config.batch_size, self.config.num_epochs
        if size >= len(rows):  # One minibatch of everything: its order changes nothing.
            index = torch.from_numpy(rows).to(self.device)
            yield from repeat(Minibatch(*(tensor.index_select(0, index) for tensor in data)), epochs)
            return
        for _ in range(epochs):
            order = torch.from_numpy(self.rng.permutation(rows)).to(self.device)
            # One gather an epoch, then views.
            yield from map(Minibatch, *(tensor.index_select(0, order).split(size) for tensor in data))

    def loss(self, batch: Minibatch, clip_range: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The clipped objective of one minibatch; for the log, its policy and value loss, and log ratios `(B,)`."""
        config, advantages = self.config, batch.advantages
        if config.normalize_advantages:
            std, mean = torch.std_mean(advantages, correction=0)
            advantages = (advantages - mean) / (std + 1e-8)
        distribution, values = self.policy(batch.observations)
        log_ratio = distribution.log_prob(batch.actions) - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        if config.clip_range_vf is not None:
            values = batch.old_values + (values - batch.old_values).clamp(-config.clip_range_vf, config.clip_range_vf)
        value_loss = F.mse_loss(values, batch.returns)
        loss = policy_loss + config.vf_coef * value_loss
        if config.ent_coef > 0:
            loss = loss - config.ent_coef * distribution.entropy().mean()
        return loss, torch.stack((policy_loss, value_loss)).detach(), log_ratio.detach()


def approx_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """Schulman's estimator of the KL divergence from the old policy: unbiased, never negative."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_ratio: torch.Tensor, clip_range: float) -> torch.Tensor:
    """Share of probability ratios outside 1 - clip_range .. 1 + clip_range."""
    return ((log_ratio.exp() - 1).abs() > clip_range).float().mean()
