"""The Square attack: random search that asks for outputs alone (Andriushchenko et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.norms import Norm, per_sample
from rltool.errors import UserError

# After this many of 10,000 queries, squares have half the area.
HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)


@dataclass(frozen=True, kw_only=True)
class Square(BoundedAttack):
    """Moves a random square of an image to a corner of the ball, and keeps it if the margin grew.

    Of inputs without rows and columns it moves random features instead. Black box: it needs no gradient.

    Attributes:
        queries: Most that are asked for each sample.
        share: Part of the input that the first squares cover.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    queries: int = 1_000
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(queries=self.queries, share=self.share)
        if self.share > 1:
            raise UserError(f"share must be at most 1, not {self.share}")

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        victim, x = problem.victim, problem.x
        ball, objective, draw = self.ball(problem), problem.objective("margin"), generator(self.seed, x.device)
        radius = ball.epsilon * (torch.ones_like(x[:1]) if ball.scale is None else ball.scale.expand_as(x[:1]))
        rows = torch.nonzero(~problem.succeeded(problem.outputs))[:, 0]
        best, best_loss = x.clone(), objective(problem.outputs)
        for query in range(self.queries):
            # Drawn for all, so that what one sample gets does not depend on which others are left.
            if query == 0:
                moved = torch.ones_like(x, dtype=torch.bool)
                signs = _signs((len(x), *x.shape[1:-2], *(1,) * (x.ndim > 2), x.shape[-1]), draw, x)  # Stripes.
            else:
                moved = _squares(x, self.share / 2 ** sum(query * 10_000 > h * self.queries for h in HALVINGS), draw)
                signs = _signs((*x.shape[:2], *(1,) * (x.ndim - 2)) if x.ndim > 2 else x.shape, draw, x)
            if not len(rows):
                break
            corner = x[rows] + radius * signs.expand_as(x)[rows]
            tried = victim.clip(torch.where(moved[rows], corner, best[rows]))
            outputs = victim.logits(tried)
            problem.queries[rows] += 1
            part = problem[rows]
            loss = part.objective("margin")(outputs)
            better = loss > best_loss[rows]
            best[rows] = torch.where(per_sample(better, x), tried, best[rows])
            best_loss[rows] = torch.where(better, loss, best_loss[rows])
            rows = rows[~part.succeeded(outputs)]
        return best


def _signs(shape: tuple[int, ...] | torch.Size, draw: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return (torch.randint(2, shape, generator=draw, device=like.device) * 2 - 1).to(like.dtype)


def _squares(x: torch.Tensor, share: float, draw: torch.Generator) -> torch.Tensor:
    """Which features move, `(B, ...)`: a square in each image, in all channels, or a random part of a vector."""
    if x.ndim != 4:
        features = x[0].numel()
        count = max(1, round(share * features))
        order = torch.rand((len(x), features), generator=draw, device=x.device).argsort(1)
        return (order < count).view_as(x)
    height, width = x.shape[2:]
    side = min(max(1, round((share * height * width) ** 0.5)), height, width)
    top, left = (
        torch.randint(size - side + 1, (len(x), 1), generator=draw, device=x.device) for size in (height, width)
    )
    down, along = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside = ((down >= top) & (down < top + side))[:, :, None] & ((along >= left) & (along < left + side))[:, None, :]
    return inside[:, None].expand_as(x)
