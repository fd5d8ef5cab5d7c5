"""Policy gradient, REINFORCE (Lecture 12, versions 0 to 3.5; Williams, 1992)."""

from __future__ import annotations

import torch

from rltool.agents.advantages import discounted_returns, explained_variance
from rltool.agents.config import REINFORCEConfig
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout


class REINFORCE(OnPolicyAgent):
    """One gradient step per batch of whole episodes along A_t grad log pi(a_t | s_t).

    What the weight A_t is, the option `credit` says: `immediate` r_t (version 0), `reward_to_go` G_t (1),
    `discounted` G'_t (2), `baseline` G'_t - b with b the batch's mean (3), `value_baseline` G'_t - V(s_t) (3.5).
    """

    method = "reinforce"
    config_class = REINFORCEConfig
    config: REINFORCEConfig

    @property
    def has_critic(self) -> bool:
        return self.config.credit == "value_baseline"

    def collect(self, max_steps: int) -> Rollout:
        if self.return_scaler is not None:
            self.return_scaler.running.zero_()  # Every episode begins anew.
        return self.collector.collect_episodes(self.policy.actor(self.rng), self.config.num_steps, max_steps)

    def update(self, rollout: Rollout) -> UpdateMetrics:
        config, valid = self.config, rollout.valid
        observations, sequences = self.inputs(rollout, valid)
        distribution, values = self.policy(observations, sequences)
        actions = torch.from_numpy(rollout.actions[valid]).to(self.device)

        if config.credit == "immediate":
            credit = rollout.rewards
        else:
            gamma = 1.0 if config.credit == "reward_to_go" else config.gamma
            credit = discounted_returns(rollout.rewards, rollout.done, gamma)
        returns = torch.from_numpy(credit[valid]).to(self.device)
        weights = returns
        if config.credit == "baseline":
            weights = returns - returns.mean()
        elif config.credit == "value_baseline":
            weights = returns - values.detach()
        if config.normalize_advantages:
            weights = weights / (weights.std(correction=0) + 1e-8)

        policy_loss = -(weights * distribution.log_prob(actions)).mean()
        entropy = distribution.entropy().mean()
        loss = policy_loss - config.ent_coef * entropy
        metrics: UpdateMetrics = {"policy_loss": policy_loss.detach(), "entropy_loss": -entropy.detach()}
        if config.credit == "value_baseline":
            value_loss = (returns - values).square().mean()
            loss = loss + config.vf_coef * value_loss
            metrics["value_loss"] = value_loss.detach()
            metrics |= explained_variance(credit[valid], values.detach().cpu().numpy())
        metrics["grad_norm"] = self.optimizer.step(loss + self.extra_loss(observations, distribution))
        return metrics
