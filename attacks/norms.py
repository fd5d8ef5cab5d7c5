"""Balls that a perturbation has to stay in: how they are measured, stepped in, projected on, and drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from rltool.errors import UserError

Norm = Literal["linf", "l2", "l1", "l0"]
SPARSE_STEP = 0.01  # Share of the coordinates that a step in l1 moves, at least one (Tramer & Boneh, 2019).


@dataclass(frozen=True)
class Ball:
    """All perturbations of at most `epsilon`, measured by `norm` after division by `scale`.

    Attributes:
        norm: `linf`, `l2` or `l1`.
        epsilon: Radius.
        scale: What a perturbation of 1 is in each feature; broadcasts to the shape of a sample.
    """

    norm: Norm
    epsilon: float
    scale: torch.Tensor | None = None

    def distance(self, delta: torch.Tensor) -> torch.Tensor:
        """How large perturbations `(B, ...)` are, `(B,)`."""
        return distance(delta if self.scale is None else delta / self.scale, self.norm)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The perturbation of size 1 that goes furthest along a gradient `(B, ...)`."""
        if self.scale is None:
            return _steepest(gradient, self.norm)
        return _steepest(gradient * self.scale, self.norm) * self.scale

    def project(self, delta: torch.Tensor) -> torch.Tensor:
        """The nearest perturbation within the ball; `(B, ...)`."""
        if self.scale is None:
            return _project(delta, self.norm, self.epsilon)
        return _project(delta / self.scale, self.norm, self.epsilon) * self.scale

    def radii(self, like: torch.Tensor) -> torch.Tensor:
        """How far each feature alone may move, broadcast to the shape of `like` `(B, ...)`."""
        return (
            torch.full_like(like, self.epsilon) if self.scale is None else (self.epsilon * self.scale).expand_as(like)
        )

    def sample(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Perturbations drawn uniformly from the ball, of the shape of `like` `(B, ...)`."""
        delta = _sample(like, self.norm, self.epsilon, generator)
        return delta if self.scale is None else delta * self.scale


def distance(delta: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Norms `(B,)` of perturbations `(B, ...)`; `l0` counts the coordinates that moved."""
    flat = delta.flatten(1)
    match norm:
        case "linf":
            return flat.abs().amax(1)
        case "l2":
            return flat.norm(dim=1)
        case "l1":
            return flat.abs().sum(1)
    return (flat != 0).sum(1).to(delta.dtype)


def per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values `(B,)` that broadcast along samples `(B, ...)`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _steepest(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    match norm:
        case "linf":
            return gradient.sign()
        case "l2":
            return gradient / per_sample(gradient.flatten(1).norm(dim=1) + 1e-10, gradient)
    # One coordinate alone would be steepest; a few go further in as many steps.
    flat = gradient.flatten(1)
    count = max(1, round(SPARSE_STEP * flat.shape[1]))
    largest = flat.abs().topk(count, dim=1).indices
    step = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign() / count)
    return step.view_as(gradient)


def _project(delta: torch.Tensor, norm: Norm, epsilon: float) -> torch.Tensor:
    match norm:
        case "linf":
            return delta.clamp(-epsilon, epsilon)
        case "l2":
            factor = epsilon / delta.flatten(1).norm(dim=1).clamp_min(torch.finfo(delta.dtype).tiny)
            return delta * per_sample(factor.clamp_max(1.0), delta)
    # Duchi et al., 2008: soft thresholding by what makes the sum of the remainders epsilon.
    flat = delta.flatten(1)
    size = flat.abs()
    ordered = size.sort(dim=1, descending=True).values
    rank = torch.arange(1, flat.shape[1] + 1, device=delta.device)
    excess = (ordered.cumsum(1) - epsilon) / rank
    last = (ordered > excess).sum(1, keepdim=True).clamp_min(1) - 1
    threshold = excess.gather(1, last).clamp_min(0.0)
    return (flat.sign() * (size - threshold).clamp_min(0.0)).view_as(delta)


def _sample(like: torch.Tensor, norm: Norm, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    noise = torch.empty_like(like, memory_format=torch.contiguous_format)
    if norm == "linf":
        return noise.uniform_(-epsilon, epsilon, generator=generator)
    # One draw, row by row: what a sample gets does not depend on how many others there are.
    rows, features = noise.flatten(1).shape
    drawn = noise.new_empty((rows, features + 1)).uniform_(generator=generator)
    radius, uniform = drawn[:, :1] ** (1 / features), 2 * drawn[:, 1:] - 1
    if norm == "l2":
        flat = torch.erfinv(uniform.clamp(-1 + 1e-6, 1 - 1e-6))  # Normal, but for its length.
        flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    else:
        size = -uniform.abs().clamp_min(1e-12).log()  # Exponential.
        flat = uniform.sign() * size / size.sum(1, keepdim=True).clamp_min(1e-12)
    return (epsilon * radius * flat).view_as(like)


def make_ball(norm: Norm, epsilon: Any, unit: torch.Tensor | None, x: torch.Tensor) -> Ball:
    """The ball of an attack.

    Args:
        norm: Its norm.
        epsilon: Radius, or one for each feature: a tensor that broadcasts to a sample.
        unit: Standard deviation of each feature, if epsilon is in units of it.
        x: What is attacked, `(B, ...)`.

    Raises:
        UserError: Epsilon, or the unit, has a shape that fits no sample.
    """
    scale = None if unit is None else _for_each_feature("the standard deviation", unit, x)
    radius = 1.0
    if isinstance(epsilon, torch.Tensor) and epsilon.ndim:
        radii = _for_each_feature("epsilon", epsilon, x)
        scale = radii if scale is None else radii * scale
    else:
        radius = float(epsilon)
    # A feature that must not move: so little that a division by it stays a number.
    return Ball(norm, radius, None if scale is None else scale.clamp_min(torch.finfo(x.dtype).tiny ** 0.5))


def _for_each_feature(name: str, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    try:
        return values.to(x).expand(x.shape[1:])
    except RuntimeError:
        raise UserError(
            f"{name} has the shape {tuple(values.shape)}, a sample {tuple(x.shape[1:])}; "
            "give one number, or one for each feature"
        ) from None
