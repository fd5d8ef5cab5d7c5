"""Running statistics that live inside a module, so that they are saved and loaded with the weights."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import NumpyFunction
from rltool.networks.observations import at, is_image, space_leaves
from rltool.trees import Tree


class RunningNorm(nn.Module):
    """Shifts and scales inputs by a running mean and standard deviation, and clips them.

    Statistics change in `update` alone, never in `forward`: what is trained is what is evaluated.

    Args:
        shape: Shape of one input.
        clip: Normalized inputs stay within [-clip, clip].
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.clip = clip
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, batch: np.ndarray) -> None:
        """Merge the moments of a batch `(B, *shape)` into the running ones (Chan et al., 1979)."""
        n = len(batch)
        if n == 0:
            return
        values = torch.from_numpy(np.ascontiguousarray(batch)).to(self.mean.device, torch.float64)
        mean, var = values.mean(0), values.var(0, correction=0)
        delta, total = mean - self.mean, self.count + n
        weight = n / total
        # The first batch replaces the initial (0, 1): `count` is 0 then, and `weight` 1.
        self.var.mul_(1 - weight).add_(weight * var).add_(delta**2 * weight * (1 - weight))
        self.mean.add_(delta * weight)
        self.count.copy_(total)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = (self.var + self.epsilon).rsqrt()
        return ((x - self.mean.float()) * scale.float()).clamp(-self.clip, self.clip)

    def as_numpy(self) -> NumpyFunction:
        """The same function of NumPy arrays, with the statistics as they are now."""
        mean, scale = self.shift_and_scale()

        def infer(x: np.ndarray) -> np.ndarray:
            x = (x - mean) * scale
            return np.clip(x, -self.clip, self.clip, out=x)

        return infer

    def shift_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """What is taken from inputs, and what they are then multiplied by, `(*shape,)`, as they are now."""
        scale = (self.var + self.epsilon).rsqrt()
        return self.mean.cpu().numpy().astype(np.float32), scale.cpu().numpy().astype(np.float32)


class ObservationNorm(nn.Module):
    """A `RunningNorm` for each part of a Dict or Tuple observation that is a Box of numbers; the rest stays as it is.

    Args:
        space: The space of one observation.
        clip: As in `RunningNorm`.

    Raises:
        UserError: No part of the space is a Box of numbers.
    """

    def __init__(self, space: gym.Space, clip: float = 10.0) -> None:
        super().__init__()
        self.paths = [path for path, leaf in space_leaves(space) if is_numeric(leaf)]
        if not self.paths:
            raise UserError(f"observations can be normalized in a Box of numbers only, not in {space}")
        self.norms = nn.ModuleList(RunningNorm(at(space, path).shape, clip) for path in self.paths)

    def update(self, batch: Tree) -> None:
        """As `RunningNorm.update`."""
        for path, norm in zip(self.paths, self.norms, strict=True):
            norm.update(at(batch, path))  # type: ignore[operator]

    def forward(self, observations: Tree) -> Tree:
        for path, norm in zip(self.paths, self.norms, strict=True):
            observations = replaced(observations, path, norm(at(observations, path)))
        return observations

    def as_numpy(self) -> NumpyFunction:
        """As `RunningNorm.as_numpy`."""
        functions = [(path, norm.as_numpy()) for path, norm in zip(self.paths, self.norms, strict=True)]  # type: ignore[operator]

        def infer(observations: Tree) -> Tree:
            for path, function in functions:
                observations = replaced(observations, path, function(at(observations, path)))
            return observations

        return infer


def is_numeric(space: gym.Space) -> bool:
    """Whether a space holds numbers that can be shifted and scaled: a Box that is no image."""
    return isinstance(space, gym.spaces.Box) and not is_image(space)


def normalized_space(space: gym.Space) -> gym.Space:
    """What a space becomes by normalization: numbers are floats then, so that none is taken for a byte any more."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, normalized_space(branch)) for key, branch in space.items()])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([normalized_space(branch) for branch in space])
    return gym.spaces.Box(-np.inf, np.inf, space.shape) if is_numeric(space) else space


def replaced(tree: Tree, path: tuple[Any, ...], leaf: Any) -> Tree:
    """A tree with another leaf at a path."""
    if not path:
        return leaf
    key, *rest = path
    if isinstance(tree, dict):
        return {**tree, key: replaced(tree[key], tuple(rest), leaf)}
    return tuple(replaced(branch, tuple(rest), leaf) if k == key else branch for k, branch in enumerate(tree))


def build_normalizer(space: gym.Space, clip: float = 10.0) -> RunningNorm | ObservationNorm:
    """What normalizes observations of a space.

    Raises:
        UserError: No part of the space is a Box of numbers.
    """
    return RunningNorm(space.shape or (), clip) if is_numeric(space) else ObservationNorm(space, clip)
