"""Advantage actor-critic (Lecture 12, version 4; Mnih et al., 2016)."""

from __future__ import annotations

import torch

from rltool.agents.advantages import explained_variance, gae
from rltool.agents.config import A2CConfig
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout


class A2C(OnPolicyAgent):
    """One gradient step per rollout along A_t grad log pi(a_t | s_t), with the advantage A_t from a learned critic."""

    method = "a2c"
    config_class = A2CConfig
    config: A2CConfig

    def update(self, rollout: Rollout) -> UpdateMetrics:
        config = self.config
        observations, sequences = self.inputs(rollout)
        distribution, values = self.policy(observations, sequences)
        bootstrap = self.policy.critic()(rollout.bootstrap_observations, rollout.bootstrap_state)
        old_values = values.detach().cpu().numpy().reshape(rollout.rewards.shape)
        gae_lambda = {"td": 0.0, "gae": config.gae_lambda, "mc": 1.0}[config.advantage]
        next_values = rollout.next_values(old_values, bootstrap)
        advantages = gae(
            rollout.rewards, old_values, next_values, rollout.terminated, rollout.done, config.gamma, gae_lambda
        )
        explained = explained_variance((advantages + old_values)[rollout.valid], old_values[rollout.valid])
        returns = self.tensor(advantages + old_values)
        if config.normalize_advantages:
            chosen = advantages[rollout.valid]
            advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-8)

        # Means over the valid steps: a step that only reset its environment weighs nothing.
        weight = self.tensor(rollout.valid.astype("float32") / float(max(1, rollout.valid.sum())))
        log_prob = distribution.log_prob(self.tensor(rollout.actions))
        policy_loss = -(weight * self.tensor(advantages) * log_prob).sum()
        value_loss = (weight * (returns - values).square()).sum()
        with torch.set_grad_enabled(config.ent_coef > 0):
            entropy = (weight * distribution.entropy()).sum()
        loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy
        loss = loss + self.extra_loss(observations, distribution)
        grad_norm = self.optimizer.step(loss)
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy_loss": -entropy.detach(),
            "grad_norm": grad_norm,
            **explained,
        }
