"""SimBA: one direction after another, there or back, whichever raises the margin (Guo et al., 2019)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from rltool.attacks.asking import ask, unbroken
from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.norms import Norm, per_sample
from rltool.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SimBA(BoundedAttack):
    """Adds or takes away orthogonal directions in random order, each where that raises the margin.

    The order is the same for all samples, so that a sample's result depends on no other.

    Attributes:
        basis: The directions: pixel, one feature each; dct, the waves of the cosine transform (of rows and columns,
            where there are such).
        frequencies: Of the waves, this share of the slowest along each side.
        queries: Most that are asked for each sample.
        step_size: How far along a direction, as a share of epsilon; by default to the ball's other side in linf, 0.2
            in l2.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    norm: Norm = "l2"
    epsilon: float | tuple[float, ...] | torch.Tensor = 1.0
    basis: Literal["pixel", "dct"] = "pixel"
    frequencies: float = 1.0
    queries: int = 1_000
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(queries=self.queries, step_size=self.step_size, frequencies=self.frequencies)
        if self.frequencies > 1:
            raise UserError(f"frequencies must be at most 1, not {self.frequencies}")
        if self.basis not in ("pixel", "dct"):
            raise UserError(f"the basis is pixel or dct, not {self.basis!r}")

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        victim, x, ball = problem.victim, problem.x, self.ball(problem)
        draw, rows = generator(self.seed, x.device), unbroken(problem)
        limit = problem.queries + self.queries
        share = self.step_size or (2.0 if self.norm == "linf" else 0.2)
        best, best_loss = x.clone(), problem.objective("margin")(problem.outputs)
        waves = self._waves(x)
        counts = [len(wave) for wave in waves]
        order = torch.empty(0, dtype=torch.long)
        while len(rows) and ball.epsilon > 0:
            if not len(order):
                order = torch.randperm(math.prod(counts), generator=draw, device=x.device)
            which, order = np.unravel_index(int(order[0]), counts), order[1:]
            along = self._direction([wave[k] for wave, k in zip(waves, which, strict=True)]).view(x.shape[1:])
            step = share * ball.epsilon * along * (1.0 if ball.scale is None else ball.scale)
            waiting = rows
            for signed in (step, -step):
                tried = victim.clip(x[waiting] + ball.project(best[waiting] + signed - x[waiting]))
                losses, success = ask(problem, waiting, tried)
                better = losses > best_loss[waiting]
                best[waiting] = torch.where(per_sample(better, x), tried, best[waiting])
                best_loss[waiting] = torch.where(better, losses, best_loss[waiting])
                rows = _without(rows, waiting[success])
                waiting = waiting[~better & ~success]
                waiting = waiting[problem.queries[waiting] < limit[waiting]]
            rows = rows[problem.queries[rows] < limit[rows]]
        return best

    def _waves(self, x: torch.Tensor) -> list[torch.Tensor]:
        """For each axis, what directions are products of, as rows `(count, length)`."""
        channels, *sides = x.shape[1:] if x.ndim == 4 else (1, x[0].numel())
        if self.basis == "pixel":
            return [torch.eye(side, dtype=x.dtype, device=x.device) for side in (channels, *sides)]
        slow = (cosines(side)[: math.ceil(self.frequencies * side)].to(x) for side in sides)
        return [torch.eye(channels, dtype=x.dtype, device=x.device), *slow]

    def _direction(self, factors: list[torch.Tensor]) -> torch.Tensor:
        """The product of a row for each axis, as long as 1 in the norm."""
        wave = functools.reduce(torch.kron, factors)
        return wave / wave.abs().max() if self.norm == "linf" else wave


def cosines(side: int) -> torch.Tensor:
    """The orthonormal basis of the discrete cosine transform (DCT-II) as rows, slowest first, `(side, side)`."""
    frequency, place = torch.arange(side)[:, None], torch.arange(side) + 0.5
    waves = torch.cos(math.pi / side * frequency * place)
    return waves / waves.norm(dim=1, keepdim=True)


def _without(rows: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    return rows[~torch.isin(rows, gone)]
