"""Heads: what stands on a backbone's features. Action heads put out a distribution, the value head a number.

Every action head is a function of features in two forms: `forward`, differentiable, for updates, and `sampler` /
`as_numpy`, plain NumPy, for acting. Random numbers come from a NumPy generator that the caller owns.
"""

from __future__ import annotations

import math
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import NumpyFunction
from rltool.networks.distributions import Categorical, DiagonalGaussian, Distribution
from rltool.networks.initialization import initialize
from rltool.networks.mlp import linear_as_numpy

StdKind = Literal["independent", "dependent", "gsde"]
TINY = np.float32(1e-30)


def numpy_linear(layer: nn.Linear) -> NumpyFunction:
    """A linear layer as a function of NumPy arrays."""
    if layer.weight.device.type != "cpu":
        device = layer.weight.device

        def infer(features: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return layer(torch.from_numpy(features).to(device)).cpu().numpy()

        return infer
    weight, bias = linear_as_numpy(layer)
    return lambda features: features @ weight + bias


class ActionHead(nn.Module):
    """Features `(B, in_features)` to a distribution over actions."""

    linear: nn.Linear

    def forward(self, features: torch.Tensor) -> Distribution:
        raise TypeError(f"{type(self).__name__} lacks a forward method")

    def as_numpy(self) -> NumpyFunction:
        """Features to the most probable actions (the mode), in NumPy."""
        raise TypeError(f"{type(self).__name__} lacks as_numpy")

    def sampler(self, rng: np.random.Generator) -> NumpyFunction:
        """Features to random actions, in NumPy; take a new sampler for each rollout."""
        raise TypeError(f"{type(self).__name__} lacks a sampler")


class CategoricalHead(ActionHead):
    """A softmax over n actions (Lecture 12: each action is a neuron of the output layer)."""

    def __init__(self, in_features: int, n: int, init: str = "orthogonal") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n)
        initialize(self.linear, init, gain=0.01)

    def forward(self, features: torch.Tensor) -> Categorical:
        return Categorical(self.linear(features))

    def as_numpy(self) -> NumpyFunction:
        logits = numpy_linear(self.linear)
        return lambda features: logits(features).argmax(1)

    def sampler(self, rng: np.random.Generator) -> NumpyFunction:
        logits = numpy_linear(self.linear)

        def sample(features: np.ndarray) -> np.ndarray:
            # Gumbel-max: the argmax of logits minus log-exponential noise is distributed as the softmax.
            x = logits(features)
            noise = rng.standard_exponential(x.shape, np.float32)
            noise += TINY  # One draw in ten million is 0.
            return (x - np.log(noise)).argmax(1)

        return sample


class GaussianHead(ActionHead):
    """A diagonal Gaussian whose standard deviation is a parameter (`independent`) or a function (`dependent`).

    Args:
        in_features: Length of the feature vector.
        n: Number of action dimensions.
        log_std_init: Initial logarithm of the standard deviation.
        dependent: Whether the standard deviation depends on the observation.
    """

    def __init__(
        self, in_features: int, n: int, log_std_init: float = 0.0, dependent: bool = False, init: str = "orthogonal"
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n)
        initialize(self.linear, init, gain=0.01)
        self.log_std = nn.Parameter(torch.full((n,), float(log_std_init)))
        self.log_std_linear = nn.Linear(in_features, n) if dependent else None
        if self.log_std_linear is not None:
            initialize(self.log_std_linear, init, gain=0.01)

    def forward(self, features: torch.Tensor) -> DiagonalGaussian:
        log_std = self.log_std
        if self.log_std_linear is not None:
            # Kept in (-20, 2) around its initial value: exp() of an unbounded output overflows.
            log_std = (log_std + self.log_std_linear(features)).clamp(-20, 2)
        return DiagonalGaussian(self.linear(features), log_std)

    def as_numpy(self) -> NumpyFunction:
        return numpy_linear(self.linear)

    def sampler(self, rng: np.random.Generator) -> NumpyFunction:
        mean, log_std = numpy_linear(self.linear), self.log_std.detach().cpu().numpy()
        spread = numpy_linear(self.log_std_linear) if self.log_std_linear is not None else None

        def sample(features: np.ndarray) -> np.ndarray:
            mu = mean(features)
            std = np.exp(log_std if spread is None else np.clip(log_std + spread(features), -20, 2))
            return mu + std * rng.standard_normal(mu.shape, np.float32)

        return sample


class GSDEHead(ActionHead):
    """Generalized state-dependent exploration: noise that is a function of the features, held for several steps.

    action = mean(features) + features @ E, with E ~ N(0, std) redrawn every `sample_freq` steps, so exploration is
    smooth in time. Its density is Gaussian with variance features^2 @ std^2 (Raffin et al., CoRL 2021).

    Args:
        in_features: Length of the feature vector.
        n: Number of action dimensions.
        log_std_init: Initial logarithm of every entry of std, `(in_features, n)`.
        sample_freq: Steps between two draws of E; 0 draws once a rollout.
    """

    def __init__(
        self, in_features: int, n: int, log_std_init: float = 0.0, sample_freq: int = 0, init: str = "orthogonal"
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n)
        initialize(self.linear, init, gain=0.01)
        self.log_std = nn.Parameter(torch.full((in_features, n), float(log_std_init)))
        self.sample_freq = sample_freq

    def forward(self, features: torch.Tensor) -> DiagonalGaussian:
        # The noise is no path to the backbone: features are detached there, as in the paper's default.
        variance = features.detach().square() @ torch.exp(2 * self.log_std)
        return DiagonalGaussian(self.linear(features), 0.5 * torch.log(variance + 1e-6))

    def as_numpy(self) -> NumpyFunction:
        return numpy_linear(self.linear)

    def sampler(self, rng: np.random.Generator) -> NumpyFunction:
        mean, std = numpy_linear(self.linear), np.exp(self.log_std.detach().cpu().numpy())
        noise, age = np.empty(0, np.float32), 0

        def sample(features: np.ndarray) -> np.ndarray:
            nonlocal noise, age
            if age == 0 or (self.sample_freq and age % self.sample_freq == 0):
                noise = std * rng.standard_normal((len(features), *std.shape), np.float32)
            age += 1
            return mean(features) + np.matmul(features[:, None], noise)[:, 0]

        return sample


class ValueHead(nn.Module):
    """Features `(B, in_features)` to one value each, `(B,)`."""

    def __init__(self, in_features: int, init: str = "orthogonal") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)
        initialize(self.linear, init, gain=1.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features).squeeze(-1)

    def as_numpy(self) -> NumpyFunction:
        """Features to values, in NumPy."""
        linear = numpy_linear(self.linear)
        return lambda features: linear(features)[:, 0]


def build_action_head(
    space: gym.Space,
    in_features: int,
    *,
    std: StdKind = "independent",
    log_std_init: float = 0.0,
    sde_sample_freq: int = 0,
    init: str = "orthogonal",
) -> ActionHead:
    """The head for an action space: categorical for Discrete, Gaussian for a one-dimensional Box.

    Raises:
        UserError: No head for this action space.
    """
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalHead(in_features, int(space.n), init)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        n = math.prod(space.shape)
        if std == "gsde":
            return GSDEHead(in_features, n, log_std_init, sde_sample_freq, init)
        return GaussianHead(in_features, n, log_std_init, std == "dependent", init)
    raise UserError(f"policies act in Discrete and Box spaces; this environment's action space is {space}")
