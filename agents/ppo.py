"""Proximal policy optimization with the clipped objective (Lecture 12; Schulman et al., 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rltool.agents.advantages import explained_variance, gae
from rltool.agents.config import PPOConfig
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout
from rltool.agents.sequences import Sequences, SequenceTable
from rltool.errors import UserError
from rltool.trees import Tree, map_tree


class Minibatch(NamedTuple):
    """Some timesteps of a rollout, in any order; every tensor has B rows. With memory: how they follow each other."""

    observations: Tree
    actions: torch.Tensor
    old_log_prob: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    sequences: Sequences | None = None

    def select(self, rows: np.ndarray) -> Minibatch:
        """The given rows."""
        index = torch.from_numpy(rows).to(self.actions.device)
        return Minibatch(*(map_tree(lambda leaf: leaf.index_select(0, index), tree) for tree in self[:-1]))

    def part(self, start: int, end: int) -> Minibatch:
        """Rows from `start` up to `end`, as views."""
        return Minibatch(*(map_tree(lambda leaf: leaf[start:end], tree) for tree in self[:-1]))


class PPO(OnPolicyAgent):
    """Several epochs of minibatch steps per rollout; the ratio of new to old probabilities is kept near 1."""

    method = "ppo"
    config_class = PPOConfig
    config: PPOConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        length, size = min(self.config.sequence_length, self.config.num_steps), self.config.batch_size
        if self.policy.has_memory and size < length:
            raise UserError(
                f"a minibatch of {size} timesteps is smaller than one sequence of {length}; raise batch-size or lower "
                "sequence-length"
            )

    def update(self, rollout: Rollout) -> UpdateMetrics:
        config = self.config
        observations, sequences = self.inputs(rollout)
        actions = self.tensor(rollout.actions)
        with torch.no_grad():
            distribution, values = self.policy(observations, sequences)
            old_log_prob = distribution.log_prob(actions)
            entropy = distribution.entropy().mean()
        bootstrap = self.policy.critic()(rollout.bootstrap_observations, rollout.bootstrap_state)
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
        batches = (
            self.minibatches(data, np.flatnonzero(rollout.valid))
            if rollout.sequence_table is None
            else self.sequence_minibatches(data, rollout.sequence_table, rollout.valid.ravel())
        )
        for batch in batches:
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
            yield from repeat(data.select(rows), epochs)
            return
        for _ in range(epochs):
            shuffled = data.select(self.rng.permutation(rows))  # One gather an epoch, then views.
            for start in range(0, len(rows), size):
                yield shuffled.part(start, start + size)

    def sequence_minibatches(self, data: Minibatch, table: SequenceTable, valid: np.ndarray) -> Iterator[Minibatch]:
        """The same in whole sequences, for a policy with memory: minibatches of about `batch_size` timesteps."""
        for _ in range(self.config.num_epochs):
            for which in table.batches(self.config.batch_size, valid, self.rng):
                rows, sequences = table.take(which, valid, self.device)
                yield data.select(rows)._replace(sequences=sequences)

    def loss(self, batch: Minibatch, clip_range: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The clipped objective of one minibatch; for the log, its policy and value loss, and log ratios `(B,)`."""
        config, advantages = self.config, batch.advantages
        if config.normalize_advantages:
            std, mean = torch.std_mean(advantages, correction=0)
            advantages = (advantages - mean) / (std + 1e-8)
        distribution, values = self.policy(batch.observations, batch.sequences)
        log_ratio = distribution.log_prob(batch.actions) - batch.old_log_prob
        policy_loss = clipped_objective(log_ratio, advantages, clip_range)
        if config.clip_range_vf is not None:
            values = batch.old_values + (values - batch.old_values).clamp(-config.clip_range_vf, config.clip_range_vf)
        value_loss = F.mse_loss(values, batch.returns)
        loss = policy_loss + config.vf_coef * value_loss
        if config.ent_coef > 0:
            loss = loss - config.ent_coef * distribution.entropy().mean()
        loss = loss + self.extra_loss(batch.observations, distribution)
        return loss, torch.stack((policy_loss, value_loss)).detach(), log_ratio.detach()


def clipped_objective(log_ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float) -> torch.Tensor:
    """Minus the mean of min(r A, clip(r) A), where clip keeps the ratio r within 1 - clip_range .. 1 + clip_range.

    Args:
        log_ratio: Logarithms of new to old probabilities of actions, `(B,)`.
        advantages: Their advantages, `(B,)`.
        clip_range: How far ratios count.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(advantages * ratio, advantages * clipped).mean()


def approx_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """Schulman's estimator of the KL divergence from the old policy: unbiased, never negative."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(log_ratio: torch.Tensor, clip_range: float) -> torch.Tensor:
    """Share of probability ratios outside 1 - clip_range .. 1 + clip_range."""
    return ((log_ratio.exp() - 1).abs() > clip_range).float().mean()
