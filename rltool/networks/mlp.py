"""The multi-layer perceptron: the backbone for vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.networks.backbone import Backbone, NumpyFunction, device_of
from rltool.networks.config import BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.layers import BatchNorm, NoisyLinear
from rltool.networks.observations import Flatten
from rltool.trees import Tree

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
NUMPY_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0, out=x),
    "leaky_relu": lambda x: np.maximum(x, np.float32(0.01) * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * (0.5 * np.tanh(0.5 * x) + 0.5),  # x * sigmoid(x); exp(-x) would overflow.
}


def linear_as_numpy(layer: nn.Linear | NoisyLinear) -> tuple[np.ndarray, np.ndarray]:
    """Views `(in, out)` and `(out,)` of a linear layer's weight and bias: `x @ weight + bias` is the layer.

    Of a noisy layer that explores, copies with its noise.
    """
    if isinstance(layer, NoisyLinear) and layer.exploring:
        weight, bias = layer.noisy_weights()
        return weight.detach().numpy().T, bias.detach().numpy()
    return layer.weight.detach().numpy().T, layer.bias.detach().numpy()


def build_hidden_layers(config: BackboneConfig, in_features: int, sizes: Sequence[int]) -> tuple[nn.Sequential, int]:
    """Linear, (norm,) activation(, dropout) for each size; also returns the last width."""
    layers: list[nn.Module] = []
    for size in sizes:
        layers.append(NoisyLinear(in_features, size) if config.noisy else nn.Linear(in_features, size))
        if config.layer_norm:
            layers.append(nn.LayerNorm(size))
        if config.batch_norm:
            layers.append(BatchNorm(size))
        layers.append(ACTIVATIONS[config.activation]())
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        in_features = size
    return nn.Sequential(*layers), in_features


class MLP(Backbone):
    """Fully connected layers over the observation as a vector (see `Flatten`), whatever its space."""

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        flatten = Flatten(space)
        layers, out_features = build_hidden_layers(config, flatten.out_features, config.hidden_sizes)
        super().__init__(space, out_features)
        self.config = config
        self.flatten = flatten
        self.layers = layers
        self.linears = [layer for layer in layers if isinstance(layer, nn.Linear | NoisyLinear)]
        self._numpy: tuple[list[int], NumpyFunction] | None = None
        initialize(self, config.init)

    def forward(self, observations: Tree) -> torch.Tensor:
        return self.layers(self.flatten(observations))

    def as_numpy(self) -> NumpyFunction:
        if not self.linears or device_of(self).type != "cpu":
            return super().as_numpy()
        activation = NUMPY_ACTIVATIONS.get(self.config.activation)
        # A parametrized layer (spectral norm) is of a class of its own: its weight is computed anew at each call.
        known = {nn.Linear, NoisyLinear, nn.Dropout, ACTIVATIONS[self.config.activation]}
        if activation is None or any(type(layer) not in known for layer in self.layers):
            return super().as_numpy()
        # Every rollout asks for this function: it is kept until the weights have moved to other memory.
        pointers = [layer.weight.data_ptr() for layer in self.linears]
        exploring = any(isinstance(layer, NoisyLinear) and layer.exploring for layer in self.linears)
        if exploring or self._numpy is None or self._numpy[0] != pointers:
            weights = [linear_as_numpy(layer) for layer in self.linears]
            flatten = self.flatten.as_numpy()

            def infer(observations: Tree) -> np.ndarray:
                x = flatten(observations)
                for weight, bias in weights:
                    x = x @ weight
                    x += bias
                    x = activation(x)
                return x

            if exploring:  # Its weights are copies, of this moment.
                return infer
            self._numpy = pointers, infer
        return self._numpy[1]
