"""The policy: observation statistics, backbone, action head and critic in one module."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.config import PolicyConfig
from rltool.errors import UserError
from rltool.networks import RunningNorm, ValueHead, build_action_head, build_backbone, is_image
from rltool.networks.distributions import Distribution

Actor = Callable[[np.ndarray], np.ndarray]


class Policy(nn.Module):
    """Maps observations to a distribution over actions and to a value.

    Args:
        observation_space: Space of one observation.
        action_space: Space of one action.
        config: Backbone, head and normalization options.

    Raises:
        UserError: The backbone or the head cannot handle these spaces.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, config: PolicyConfig) -> None:
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space
        self.normalizer = None
        if config.normalize_observations:
            if not isinstance(observation_space, gym.spaces.Box) or is_image(observation_space):
                raise UserError(f"observations can be normalized in a Box of numbers only, not in {observation_space}")
            self.normalizer = RunningNorm(observation_space.shape)
        self.backbone = build_backbone(config, observation_space)
        self.value_backbone = None if config.shared else build_backbone(config, observation_space)
        features = self.backbone.out_features
        self.action_head = build_action_head(
            action_space,
            features,
            std=config.action_std,
            log_std_init=config.log_std_init,
            sde_sample_freq=config.sde_sample_freq,
            squash=config.squash,
            init=config.init,
        )
        self.value_head = ValueHead(features, config.init)

    def forward(self, observations: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        """Action distribution and values `(B,)` for observations `(B, ...)`."""
        if self.normalizer is not None:
            observations = self.normalizer(observations)
        features = self.backbone(observations)
        value_features = features if self.value_backbone is None else self.value_backbone(observations)
        return self.action_head(features), self.value_head(value_features)

    def values(self, observations: torch.Tensor) -> torch.Tensor:
        """Values `(B,)` alone."""
        if self.normalizer is not None:
            observations = self.normalizer(observations)
        critic = self.backbone if self.value_backbone is None else self.value_backbone
        return self.value_head(critic(observations))

    def actor(self, rng: np.random.Generator | None) -> Actor:
        """A function from observations to actions `(B, ...)`, NumPy to NumPy, with the weights as they are now.

        Args:
            rng: Source of randomness; None acts deterministically (the distribution's mode).
        """
        features = self.backbone.as_numpy()
        actions = self.action_head.as_numpy() if rng is None else self.action_head.sampler(rng)
        if self.normalizer is None:
            return lambda observations: actions(features(observations))
        normalize = self.normalizer.as_numpy()
        return lambda observations: actions(features(normalize(observations)))

    def critic(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function from observations to values `(B,)`, NumPy to NumPy, with the weights as they are now."""
        features = (self.backbone if self.value_backbone is None else self.value_backbone).as_numpy()
        values = self.value_head.as_numpy()
        if self.normalizer is None:
            return lambda observations: values(features(observations))
        normalize = self.normalizer.as_numpy()
        return lambda observations: values(features(normalize(observations)))


def environment_actions(space: gym.Space) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a policy's actions to what the environment takes.

    They get the space's shape and type, are clipped into a Box, and counted from `start`.
    """
    match space:
        case gym.spaces.Box():
            low, high, shape = copy(space.low), copy(space.high), space.shape
            return lambda actions: np.clip(actions.reshape(-1, *shape), low, high).astype(space.dtype, copy=False)
        case gym.spaces.MultiDiscrete():
            starts = copy(space.start)
            return lambda actions: (actions.reshape(-1, *starts.shape) + starts).astype(starts.dtype, copy=False)
        case gym.spaces.MultiBinary():
            return lambda actions: actions.reshape(-1, *space.shape)
        case gym.spaces.Discrete() if space.start:
            start = int(space.start)
            return lambda actions: actions + start
    return lambda actions: actions
