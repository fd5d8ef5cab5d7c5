"""Proximal policy optimization with the clipped objective (Lecture 12; Schulman et al., 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rltool.agents.advantages import gae
from rltool.agents.config import PPOConfig
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout

TERMS = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "grad_norm")
APPROX_KL = TERMS.index("approx_kl")


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
            bootstrap = self.policy.values(torch.from_numpy(rollout.bootstrap_observations).to(self.device))

        old_values = values.cpu().numpy().reshape(rollout.rewards.shape)
        next_values = rollout.next_values(old_values, bootstrap.cpu().numpy())
        advantages = gae(
            rollout.rewards, old_values, next_values, rollout.terminated, rollout.done, config.gamma, config.gae_lambda
        )
        returns = self.tensor(advantages + old_values)
        data = Minibatch(observations, actions, old_log_prob, values, self.tensor(advantages), returns)
        clip_range = self.schedule(config.clip_range, config.clip_range_schedule)

        metrics: list[torch.Tensor] = []
        for batch in self.minibatches(data, np.flatnonzero(rollout.valid)):
            loss, terms = self.loss(batch, clip_range)
            if config.target_kl is not None and terms[APPROX_KL] > 1.5 * config.target_kl:
                break
            metrics.append(torch.cat((terms, self.optimizer.step(loss)[None])))
        means = torch.stack(metrics).mean(0) if metrics else torch.zeros(0)
        return {**dict(zip(TERMS, means, strict=False)), "clip_range": clip_range}

    def minibatches(self, data: Minibatch, rows: np.ndarray) -> Iterator[Minibatch]:
        """Pass over the given rows `num_epochs` times, in random order; the last minibatch of a pass may be smaller."""
        for _ in range(self.config.num_epochs):
            order = torch.from_numpy(self.rng.permutation(rows)).to(self.device)
            # One gather an epoch, then views.
            yield from map(Minibatch, *(tensor[order].split(self.config.batch_size) for tensor in data))

    def loss(self, batch: Minibatch, clip_range: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The clipped objective of one minibatch, and its terms for the log."""
        config, advantages = self.config, batch.advantages
        if config.normalize_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        distribution, values = self.policy(batch.observations)
        log_ratio = distribution.log_prob(batch.actions) - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        if config.clip_range_vf is not None:
            values = batch.old_values + (values - batch.old_values).clamp(-config.clip_range_vf, config.clip_range_vf)
        value_loss = (batch.returns - values).square().mean()
        loss = policy_loss + config.vf_coef * value_loss
        with torch.set_grad_enabled(config.ent_coef > 0):
            entropy = distribution.entropy().mean()
        if config.ent_coef > 0:
            loss = loss - config.ent_coef * entropy
        with torch.no_grad():
            approx_kl = (ratio - 1 - log_ratio).mean()  # Schulman's estimator: unbiased, never negative.
            clip_fraction = (ratio != clipped).float().mean()
            terms = torch.stack((policy_loss, value_loss, -entropy, approx_kl, clip_fraction))
        return loss, terms
