"""Exploration by noise in the policy's weights: the same for a whole rollout, so that actions belong together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from rltool.agents.extensions import Extension
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.ppo import approx_kl
from rltool.agents.rollout import Rollout
from rltool.networks.backbone import evaluating
from rltool.networks.layers import NoisyLinear, resample_noise

LARGEST_LOG_RATIO = 10.0  # Beyond it, policies are far apart in any case, and exp() may overflow.
GROWTH = 1.01  # What the deviation is multiplied or divided by after each update, as in the paper.


class ParameterNoise(Extension):
    """Gaussian noise on the actor's weights during a rollout and its update (Plappert et al., ICLR 2018).

    The policy that is updated is the one that acted, so that probability ratios are exact, and what the update changed
    is kept when the noise is taken away. The deviation of the noise is adapted so that the policy with noise stays at a
    chosen distance from the one without. The deviation of continuous actions gets no noise.
    """

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        self.sigma: float = self.config.parameter_noise
        self.distance = 0.0
        policy, optimizer = agent.policy, agent.optimizer
        self.noise = torch.zeros_like(optimizer.parameters)
        self.places = [
            optimizer.places[p]
            for module in (policy.backbone, policy.action_head)
            for name, p in module.named_parameters()
            if p in optimizer.places and not name.endswith("log_std")
        ]

    @contextmanager
    def around(self) -> Iterator[None]:
        parameters = self.agent.optimizer.parameters
        clean = parameters.clone()
        for place in self.places:
            self.noise[place] = torch.randn(place.stop - place.start).to(parameters.device) * self.sigma
        parameters += self.noise
        noisy = parameters.clone()
        try:
            yield
        finally:
            # Not minus the noise, which would leave rounding errors where nothing was learned.
            parameters.copy_(clean + (parameters - noisy))

    def reward(self, rollout: Rollout) -> float:
        """Nothing; but here a rollout is known while its weights still are what they were."""
        self.distance = self._distance(rollout)
        return 0.0

    def _distance(self, rollout: Rollout) -> float:
        """KL divergence of the policy without noise from the one with it, estimated by the actions of the latter."""
        agent, valid = self.agent, rollout.valid
        observations, sequences = agent.inputs(rollout, valid)
        actions = torch.from_numpy(rollout.actions[valid]).to(agent.device)
        parameters = agent.optimizer.parameters
        noisy = parameters.clone()
        with torch.no_grad(), evaluating(agent.policy):
            acted = agent.policy(observations, sequences)[0].log_prob(actions)
            parameters -= self.noise
            log_ratio = agent.policy(observations, sequences)[0].log_prob(actions) - acted
            parameters.copy_(noisy)
        return float(approx_kl(log_ratio.clamp(max=LARGEST_LOG_RATIO)))

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        metrics: UpdateMetrics = {"parameter_noise": self.sigma, "parameter_noise_distance": self.distance}
        if self.config.parameter_noise_target > 0:
            self.sigma *= GROWTH if self.distance < self.config.parameter_noise_target else 1 / GROWTH
        return metrics

    def state(self) -> dict[str, torch.Tensor]:
        return {"sigma": torch.tensor(self.sigma, dtype=torch.float64)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.sigma = state["sigma"].item()


class NoisyLayers(Extension):
    """New noise in every `NoisyLinear` for each rollout, and acting with it; evaluations go by the mean weights."""

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        self.layers = [layer for layer in agent.policy.modules() if isinstance(layer, NoisyLinear)]

    @contextmanager
    def around(self) -> Iterator[None]:
        resample_noise(self.agent.policy)
        self._explore(True)
        try:
            yield
        finally:
            self._explore(False)

    def _explore(self, exploring: bool) -> None:
        for layer in self.layers:
            layer.exploring = exploring

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        sigmas = [float(layer.weight_sigma.detach().abs().mean()) for layer in self.layers]
        return {"noisy_sigma": float(np.mean(sigmas))} if sigmas else {}
