"""The one-pixel attack: differential evolution over where to change an image, and to what (Su et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rltool.attacks.asking import ask, unbroken
from rltool.attacks.attack import Attack, Problem, check_positive, generator
from rltool.attacks.norms import Norm, per_sample
from rltool.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OnePixel(Attack):
    """Changes a few pixels (all channels of each), or a few features of a vector; no gradient is needed.

    A candidate is the place and the new values of each pixel. A child is a + weight (b - c) of three candidates drawn
    at random, and takes its parent's place if its margin is larger. The same draws serve all samples, so that a
    sample's result depends on no other.

    Attributes:
        pixels: How many may change.
        queries: Most that are asked for each sample.
        population: How many candidates there are.
        weight: How far a child is moved by the difference of two candidates.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    norm: Norm = "l0"
    pixels: int = 1
    queries: int = 2_000
    population: int = 100
    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(pixels=self.pixels, queries=self.queries, population=self.population, weight=self.weight)
        if self.population < 4:
            raise UserError(f"population must be at least 4, since a child has three others, not {self.population}")

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        x, victim = problem.x, problem.victim
        if not bool(victim.low.isfinite().all() and victim.high.isfinite().all()):
            raise UserError("onepixel draws new values between the bounds; give the victim finite ones")
        draw, rows, left = generator(self.seed, x.device), unbroken(problem), self.queries
        best, best_loss = x.clone(), problem.objective("margin")(problem.outputs)
        images = victim.to_channels_first(x) if x.ndim == 4 else x.flatten(1)[:, None, None]
        count, channels, places = min(self.population, self.queries), images.shape[1], 1 + (x.ndim == 4)
        # (candidates, pixels, place and values), all within [0, 1]: the first values as the paper draws them.
        first = torch.rand((count, self.pixels, places + channels), generator=draw, dtype=x.dtype, device=x.device)
        first[..., places:] = (
            0.5 + torch.randn(first[..., places:].shape, generator=draw, dtype=x.dtype, device=x.device) / 2
        ).clamp(0, 1)
        genes = first.expand(len(rows), *first.shape).clone()
        fitness = torch.full(genes.shape[:2], -torch.inf, dtype=x.dtype, device=x.device)
        children = genes
        while len(rows) and left >= count:
            tried = victim.from_channels_first(self._changed(problem, images[rows], children)).reshape(-1, *x.shape[1:])
            losses, success = (each.view(-1, count) for each in ask(problem, rows.repeat_interleave(count), tried))
            better = losses > fitness
            genes = torch.where(better[..., None, None], children, genes)
            fitness = torch.where(better, losses, fitness)
            top = losses.max(1)
            improved = top.values > best_loss[rows]
            chosen = tried.view(len(rows), count, *x.shape[1:])[torch.arange(len(rows)), top.indices]
            best[rows] = torch.where(per_sample(improved, x), chosen, best[rows])
            best_loss[rows] = torch.where(improved, top.values, best_loss[rows])
            alive = ~success.any(1)
            rows, genes, fitness, left = rows[alive], genes[alive], fitness[alive], left - count
            if count >= 4:
                # Three others for each: none is the parent, none comes twice.
                ranks = torch.rand((count, count), generator=draw, device=x.device).fill_diagonal_(2.0)
                a, b, c = ranks.argsort(1)[:, :3].T
                children = (genes[:, a] + self.weight * (genes[:, b] - genes[:, c])).clamp(0, 1)
        return best

    def _changed(self, problem: Problem, images: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        """The images `(R, channels, height, width)` as candidates `(R, P, pixels, ...)` change them, `(R * P, ...)`."""
        channels, height, width = images.shape[1:]
        places = genes.shape[-1] - channels
        along = [(genes[..., k] * side).long().clamp_max(side - 1) for k, side in enumerate((height, width)[-places:])]
        place = along[-1] + (along[0] * width if places == 2 else 0)  # (R, P, pixels)
        low, high = (
            problem.victim.to_channels_first(bound.to(images).expand(problem.x.shape[1:])[None]).reshape(channels, -1)
            for bound in (problem.victim.low, problem.victim.high)
        )
        share = genes[..., places:].movedim(-1, 2)  # (R, P, channels, pixels)
        low, high = low[:, place].movedim(0, 2), high[:, place].movedim(0, 2)
        flat = images.flatten(2)[:, None].repeat(1, genes.shape[1], 1, 1)
        return flat.scatter(3, place[:, :, None].expand_as(share), low + (high - low) * share).view(
            -1, channels, height, width
        )
