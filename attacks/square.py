"""The Square attack: random search that asks for outputs alone (Andriushchenko et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from rltool.attacks.asking import ask, unbroken
from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.norms import Ball, Norm, per_sample
from rltool.errors import UserError

Streams = Callable[..., torch.Generator]  # The random numbers of one query: several streams, by their number.
# After this many of 10,000 queries, squares have half the area.
HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)


@dataclass(frozen=True, kw_only=True)
class Square(BoundedAttack):
    """Changes a random square of an image, and keeps that if the margin grew. Black box: it needs no gradient.

    In linf the square goes to a corner of the ball. In l2 it gets two bumps of opposite sign, and what another square
    spends of epsilon: so all of it is spent, always. Of inputs without rows and columns random features are moved in
    linf, neighboring ones in l2.

    Attributes:
        queries: Most that are asked for each sample.
        share: Part of the input that the first squares cover.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    queries: int = 1_000
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(queries=self.queries, share=self.share)
        if self.share > 1:
            raise UserError(f"share must be at most 1, not {self.share}")

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        victim, x = problem.victim, problem.victim.to_channels_first(problem.x)
        ball = self.ball(problem)
        if ball.scale is not None:
            ball = replace(ball, scale=victim.to_channels_first(ball.scale[None])[0])
        propose = _corners if self.norm == "linf" else _bumps
        rows = unbroken(problem)
        best, best_loss = x.clone(), problem.objective("margin")(problem.outputs)
        for query in range(self.queries):
            if not len(rows):
                break
            # 0 stands for the first perturbation, which covers everything.
            share = self.share / 2 ** sum(query * 10_000 > h * self.queries for h in HALVINGS) if query else 0.0
            draw = partial(generator, self.seed, x.device, query)
            tried = victim.clip(victim.from_channels_first(propose(x, best, rows, ball, share, draw)))
            losses, success = ask(problem, rows, tried)
            better = losses > best_loss[rows]
            best[rows] = torch.where(per_sample(better, x), victim.to_channels_first(tried), best[rows])
            best_loss[rows] = torch.where(better, losses, best_loss[rows])
            rows = rows[~success]
        return victim.from_channels_first(best)


def _corners(
    x: torch.Tensor, best: torch.Tensor, rows: torch.Tensor, ball: Ball, share: float, draw: Streams
) -> torch.Tensor:
    """What is tried next for some rows, in linf."""
    # Drawn for all, so that what one sample gets does not depend on which others are left.
    if not share:
        moved = torch.ones_like(x, dtype=torch.bool)
        signs = _signs((len(x), *x.shape[1:-2], *(1,) * (x.ndim > 2), x.shape[-1]), draw(0), x)  # Stripes.
    else:
        moved = _squares(x, share, draw(1))
        signs = _signs((*x.shape[:2], *(1,) * (x.ndim - 2)) if x.ndim > 2 else x.shape, draw(0), x)
    radius = ball.epsilon * (1.0 if ball.scale is None else ball.scale)
    corner = x[rows] + (radius * signs.expand_as(x))[rows]
    return torch.where(moved[rows], corner, best[rows])


def _bumps(
    x: torch.Tensor, best: torch.Tensor, rows: torch.Tensor, ball: Ball, share: float, draw: Streams
) -> torch.Tensor:
    """The same in l2. All samples share the places of the squares, but not the signs of the bumps."""
    scale = torch.ones_like(x[0]) if ball.scale is None else ball.scale.expand_as(x[0])
    images = x if x.ndim == 4 else x.flatten(1)[:, None, None]
    channels, height, width = images.shape[1:]
    shared = draw(1)
    if not share:
        down, along = max(1, height // 5), max(1, width // 5)
        tiles = (-(-height // down), -(-width // along))
        signs = _signs((len(x), channels, *tiles), draw(0), x)[rows]
        bump = _pattern(down, along, shared).to(x)
        delta = (bump.repeat(tiles) * signs.repeat_interleave(down, 2).repeat_interleave(along, 3))[
            ..., :height, :width
        ]
    else:
        delta = ((best - x)[rows] / scale).view(-1, channels, height, width)
        signs = _signs((len(x), channels, 1, 1), draw(0), x)[rows]
        sides = _sides(height, width, share)
        first, second = (_window((height, width), sides, shared) for _ in range(2))
        either = torch.zeros((height, width), dtype=torch.bool, device=x.device)
        either[first] = either[second] = True
        spent = delta.square().sum((1, 2, 3), keepdim=True)
        free = (ball.epsilon**2 - spent).clamp_min(0) / channels + (delta * either).square().sum((2, 3), keepdim=True)
        here = (..., *first)
        added = _pattern(*sides, shared).to(x) * signs + _unit(delta[here], (2, 3))
        added = _unit(added, (2, 3)) * free.sqrt()
        delta[(..., *second)] = 0.0
        delta[here] = added
    return x[rows] + (ball.epsilon * _unit(delta, (1, 2, 3))).view(-1, *x.shape[1:]) * scale


def _sides(height: int, width: int, share: float) -> tuple[int, int]:
    """Height and width of a window of that share: an odd square of 3 or more, or a part of a single row."""
    if height == 1:
        return 1, min(max(round(share * width), 2), width)
    side = max(round((share * height * width) ** 0.5), 3)
    side = min(side + (side % 2 == 0), height, width)
    return side, side


def _window(whole: tuple[int, int], sides: tuple[int, int], draw: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a window somewhere in the image."""
    starts = [
        int(torch.randint(total - side + 1, (), generator=draw, device=draw.device))
        for total, side in zip(whole, sides, strict=True)
    ]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def _pattern(height: int, width: int, draw: torch.Generator) -> torch.Tensor:
    """Two bumps of opposite sign, one above or beside the other, `(height, width)` of norm 1."""
    beside = height == 1 or (width > 1 and bool(torch.randint(2, (), generator=draw, device=draw.device)))
    long, across = (width, height) if beside else (height, width)
    half = long // 2
    both = torch.cat((_bump(half, across), -_bump(long - half, across)))
    return _unit(both.T if beside else both, (0, 1))


def _bump(height: int, width: int) -> torch.Tensor:
    """A hill: sum of 1 / (k + 1)^2 over the rings k that lie around a pixel, itself included."""
    down, along = ((torch.arange(side) - (side - 1) / 2).abs().floor() for side in (height, width))
    ring = torch.maximum(down[:, None], along).long()
    count = max(height, width, 1) // 2 + 1
    hill = (1 / torch.arange(1.0, count + 1).square()).flip(0).cumsum(0).flip(0)
    return hill[ring]


def _unit(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return x / (x.square().sum(axes, keepdim=True).sqrt() + 1e-12)


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
    room = torch.tensor([height - side + 1, width - side + 1], device=x.device)
    top, left = (torch.rand((len(x), 2), generator=draw, device=x.device) * room).long().T[..., None]
    down, along = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside = ((down >= top) & (down < top + side))[:, :, None] & ((along >= left) & (along < left + side))[:, None, :]
    return inside[:, None].expand_as(x)
