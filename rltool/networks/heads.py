"""Heads: what stands on a backbone's features. Action heads put out a distribution, the value head a number.

Every action head is a function of features in two forms: `forward`, differentiable, for updates, and `sampler` /
`as_numpy`, plain NumPy, for acting. Random numbers come from a NumPy generator that the caller owns. Both forms take a
mask of the allowed choices, too; heads of continuous actions have no choices and leave it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import NumpyFunction
from rltool.networks.distributions import (
    FORBIDDEN,
    SQUASH_LIMIT,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
)
from rltool.networks.initialization import initialize
from rltool.networks.mlp import linear_as_numpy

StdKind = Literal["independent", "dependent", "gsde"]
TINY = np.float32(1e-30)


class ActionFunction(Protocol):
    """Features `(B, in_features)`, and perhaps a mask of the allowed choices, to actions `(B, ...)`; all NumPy."""

    def __call__(self, features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray: ...


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


def gumbel(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logits plus Gumbel noise: their argmax is distributed as the softmax."""
    noise = rng.standard_exponential(logits.shape, np.float32)
    noise += TINY  # One draw in ten million is 0.
    return logits - np.log(noise)


def forbid(logits: np.ndarray, mask: np.ndarray, starts: Sequence[int] = (0,)) -> np.ndarray:
    """Logits `(B, n)` as low as can be where the mask `(B, n)` is 0.

    Args:
        logits: Of one choice, or of several side by side.
        mask: Which are allowed.
        starts: Where each choice begins.

    Raises:
        TrainingError: Nothing is allowed for a choice.
    """
    if not np.logical_or.reduceat(mask, starts, axis=1).all():
        raise TrainingError("the action mask forbids every action; the environment must always allow one")
    return np.where(mask, logits, np.float32(FORBIDDEN))


class ActionHead(nn.Module):
    """Features `(B, in_features)` to a distribution over actions."""

    masks = False

    linear: nn.Linear

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> Distribution:
        raise TypeError(f"{type(self).__name__} lacks a forward method")

    def as_numpy(self) -> ActionFunction:
        """Features to the most probable actions (the mode), in NumPy."""
        raise TypeError(f"{type(self).__name__} lacks as_numpy")

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        """Features to random actions, in NumPy; take a new sampler for each rollout."""
        raise TypeError(f"{type(self).__name__} lacks a sampler")


class CategoricalHead(ActionHead):
    """A softmax over n actions (Lecture 12: each action is a neuron of the output layer)."""

    masks = True

    def __init__(self, in_features: int, n: int, init: str = "orthogonal") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n)
        initialize(self.linear, init, gain=0.01)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> Categorical:
        return Categorical(self.linear(features), mask)

    def as_numpy(self) -> ActionFunction:
        logits = numpy_linear(self.linear)

        def best(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            x = logits(features)
            return (x if mask is None else forbid(x, mask)).argmax(1)

        return best

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        logits = numpy_linear(self.linear)

        def sample(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            x = gumbel(logits(features), rng)
            return (x if mask is None else forbid(x, mask)).argmax(1)

        return sample


class MultiCategoricalHead(ActionHead):
    """Several independent softmaxes, over nvec[0], nvec[1], ... actions; logits and masks stand side by side.

    Args:
        in_features: Length of the feature vector.
        nvec: Number of actions of each choice.
    """

    masks = True

    slots: torch.Tensor
    padding: torch.Tensor | None

    def __init__(self, in_features: int, nvec: Sequence[int], init: str = "orthogonal") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, sum(nvec))
        initialize(self.linear, init, gain=0.01)
        sizes = np.asarray(nvec)
        self.starts = np.cumsum(sizes) - sizes
        # Choices of different sizes become rows of one rectangle, padded with slots that are never taken.
        column = np.arange(sizes.max())
        real = column < sizes[:, None]
        self.register_buffer("slots", torch.from_numpy(np.where(real, self.starts[:, None] + column, 0)), False)
        self.register_buffer("padding", None if real.all() else torch.from_numpy(real), False)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> MultiCategorical:
        logits = self._rows(self.linear(features))
        if mask is None:
            return MultiCategorical(logits, self.padding)
        mask = self._rows(mask.bool())
        return MultiCategorical(logits, mask if self.padding is None else mask & self.padding)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_select(1, self.slots.flatten()).view(len(x), *self.slots.shape)

    def as_numpy(self) -> ActionFunction:
        return self._best(numpy_linear(self.linear))

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        logits = numpy_linear(self.linear)
        return self._best(lambda features: gumbel(logits(features), rng))

    def _best(self, logits: NumpyFunction) -> ActionFunction:
        slots, starts = self.slots.cpu().numpy(), self.starts
        real = None if self.padding is None else self.padding.cpu().numpy()

        def best(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            x = logits(features)
            rows = (x if mask is None else forbid(x, mask, starts))[:, slots]
            return (rows if real is None else np.where(real, rows, np.float32(-np.inf))).argmax(2)

        return best


class BernoulliHead(ActionHead):
    """n independent bits; a mask says which may be 1."""

    masks = True

    def __init__(self, in_features: int, n: int, init: str = "orthogonal") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n)
        initialize(self.linear, init, gain=0.01)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> Bernoulli:
        return Bernoulli(self.linear(features), mask)

    def as_numpy(self) -> ActionFunction:
        logits = numpy_linear(self.linear)

        def best(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            bits = logits(features) > 0
            return (bits if mask is None else bits & (mask != 0)).astype(np.int8)

        return best

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        logits = numpy_linear(self.linear)

        def sample(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            x = logits(features)
            bits = rng.random(x.shape, np.float32) < 0.5 * np.tanh(0.5 * x) + 0.5  # The sigmoid; exp(-x) may overflow.
            return (bits if mask is None else bits & (mask != 0)).astype(np.int8)

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

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> DiagonalGaussian:
        log_std = self.log_std
        if self.log_std_linear is not None:
            # Kept in (-20, 2) around its initial value: exp() of an unbounded output overflows.
            log_std = (log_std + self.log_std_linear(features)).clamp(-20, 2)
        return DiagonalGaussian(self.linear(features), log_std)

    def as_numpy(self) -> ActionFunction:
        mean = numpy_linear(self.linear)
        return lambda features, mask=None: mean(features)

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        mean, log_std = numpy_linear(self.linear), self.log_std.detach().cpu().numpy()
        spread = numpy_linear(self.log_std_linear) if self.log_std_linear is not None else None

        def sample(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
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

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> DiagonalGaussian:
        # The noise is no path to the backbone: features are detached there, as in the paper's default.
        variance = features.detach().square() @ torch.exp(2 * self.log_std)
        return DiagonalGaussian(self.linear(features), 0.5 * torch.log(variance + 1e-6))

    def as_numpy(self) -> ActionFunction:
        mean = numpy_linear(self.linear)
        return lambda features, mask=None: mean(features)

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        mean, std = numpy_linear(self.linear), np.exp(self.log_std.detach().cpu().numpy())
        noise, age = np.empty(0, np.float32), 0

        def sample(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            nonlocal noise, age
            if age == 0 or (self.sample_freq and age % self.sample_freq == 0):
                noise = std * rng.standard_normal((len(features), *std.shape), np.float32)
            age += 1
            return mean(features) + np.matmul(features[:, None], noise)[:, 0]

        return sample


class SquashedHead(ActionHead):
    """Another Gaussian head's actions, sent through tanh and stretched over a Box; float64 (see `SquashedGaussian`).

    Args:
        inner: The head before tanh.
        space: Where the actions lie.
        clip_mean: The mean before tanh stays within [-clip_mean, clip_mean].

    Raises:
        UserError: The Box lacks a bound.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, inner: GaussianHead | GSDEHead, space: spaces.Box, clip_mean: float = math.inf) -> None:
        super().__init__()
        if not (space.is_bounded() and (space.low < space.high).all()):
            raise UserError(f"actions cannot be squashed onto the bounds of {space}: it lacks some; leave squash off")
        self.inner = inner
        self.clip_mean = clip_mean
        self.register_buffer("low", torch.from_numpy(space.low).double().flatten(), persistent=False)
        self.register_buffer("high", torch.from_numpy(space.high).double().flatten(), persistent=False)

    @property
    def log_std(self) -> torch.Tensor:
        """Logarithm of the standard deviation before tanh, as the inner head has it."""
        return self.inner.log_std

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> SquashedGaussian:
        gaussian = self.inner(features)
        mean = gaussian.mean.clamp(-self.clip_mean, self.clip_mean)
        return SquashedGaussian(mean, gaussian.log_std, self.low, self.high)

    def as_numpy(self) -> ActionFunction:
        mean, squash, limit = self.inner.as_numpy(), self._squash(), self.clip_mean
        return lambda features, mask=None: squash(np.clip(mean(features), -limit, limit))

    def sampler(self, rng: np.random.Generator) -> ActionFunction:
        mean, draw, squash, limit = self.inner.as_numpy(), self.inner.sampler(rng), self._squash(), self.clip_mean

        def sample(features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            raw = draw(features)
            if limit < math.inf:
                mu = mean(features)
                raw += np.clip(mu, -limit, limit) - mu
            return squash(raw)

        return sample

    def _squash(self) -> NumpyFunction:
        low, half = self.low.cpu().numpy(), (self.high - self.low).cpu().numpy() / 2

        def squash(raw: np.ndarray) -> np.ndarray:
            return low + (np.tanh(np.clip(raw, -SQUASH_LIMIT, SQUASH_LIMIT).astype(np.float64)) + 1) * half

        return squash


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
    squash: bool = False,
    init: str = "orthogonal",
) -> ActionHead:
    """The head for an action space: categorical for Discrete and MultiDiscrete, bits for MultiBinary, else Gaussian.

    Raises:
        UserError: No head for this action space, or no bounds to squash its actions onto.
    """
    match space:
        case spaces.Discrete():
            return CategoricalHead(in_features, int(space.n), init)
        case spaces.MultiDiscrete():
            return MultiCategoricalHead(in_features, space.nvec.ravel().tolist(), init)
        case spaces.MultiBinary():
            return BernoulliHead(in_features, math.prod(space.shape), init)
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            n = math.prod(space.shape)
            gaussian: GaussianHead | GSDEHead
            if std == "gsde":
                gaussian = GSDEHead(in_features, n, log_std_init, sde_sample_freq, init)
            else:
                gaussian = GaussianHead(in_features, n, log_std_init, std == "dependent", init)
            return SquashedHead(gaussian, space) if squash else gaussian
    raise UserError(
        "policies act in Discrete, MultiDiscrete and MultiBinary spaces and in Boxes of floats; "
        f"this environment's action space is {space}"
    )
