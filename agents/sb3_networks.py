"""Networks that Stable-Baselines3 has and the toolkit has not."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.config import PolicyConfig
from rltool.networks import CNN, ActionFunction, CategoricalHead, ValueHead
from rltool.networks.cnn import ImageBackbone
from rltool.networks.mlp import build_hidden_layers


class NatureCNN(ImageBackbone):
    """SB3's `NatureCNN` with any number of features, and the hidden layers that `net_arch` puts behind it."""

    build_convolutions = CNN.build_convolutions

    def __init__(self, config: PolicyConfig, space: gym.Space, features: int, scaled: bool) -> None:
        super().__init__(config, space, features)
        self.layers, self.out_features = build_hidden_layers(config, features, config.hidden_sizes)
        if not scaled:
            self.scale = 1.0

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(super().forward(observations))


class GreedyHead(CategoricalHead):
    """Takes the action of the highest value, always; the logits are the action values Q."""

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        return self.as_numpy()


class GreedyValue(ValueHead):
    """The value of acting greedily: the highest of n action values."""

    def __init__(self, in_features: int, n: int) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(in_features, n)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features).amax(-1)


class NoValue(ValueHead):
    """NaN: critics of SAC, TD3 and DDPG rate an observation and an action together, and are not read."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.new_full((len(features),), torch.nan)
