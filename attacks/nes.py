"""PGD along a gradient that is estimated from outputs alone: NES (Ilyas et al., 2018), SPSA (Uesato et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from rltool.attacks.asking import ask, unbroken
from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.norms import Norm, per_sample
from rltool.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NES(BoundedAttack):
    """Steps along an estimate of the margin's gradient: the mean of u (m(x + sigma u) - m(x - sigma u)) / (2 sigma).

    The same directions u serve all samples, so that a sample's result depends on no other. A sample that is broken is
    left alone; of the others the inputs with the largest margin are returned.

    Attributes:
        estimator: How directions are drawn: nes, from a Gaussian; spsa, every feature +1 or -1.
        queries: Most that are asked for each sample.
        directions: How many an estimate is made of; each costs two queries.
        sigma: How far to either side the victim is asked, as a share of epsilon.
        step_size: Length of a step, as a share of epsilon.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    estimator: Literal["nes", "spsa"] = "nes"
    queries: int = 1_000
    directions: int = 40
    sigma: float = 0.2
    step_size: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(queries=self.queries, directions=self.directions, sigma=self.sigma, step_size=self.step_size)
        if self.estimator not in ("nes", "spsa"):
            raise UserError(f"the estimator is nes or spsa, not {self.estimator!r}")

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        victim, x, ball = problem.victim, problem.x, self.ball(problem)
        draw, rows, left = generator(self.seed, x.device), unbroken(problem), self.queries
        unit = self.sigma * ball.epsilon * (1.0 if ball.scale is None else ball.scale)
        best, best_loss = x.clone(), problem.objective("margin")(problem.outputs)
        now = x.clone()
        if victim.tolerance is not None:  # How far actions have moved is flat where they have not.
            now = victim.clip(x + ball.sample(x, generator(self.seed, x.device, 0)))
        while len(rows) and left >= 3 and ball.epsilon > 0:
            count = min(self.directions, (left - 1) // 2)
            along = self._directions((count, *x.shape[1:]), draw, x)
            here = now[rows, None]
            both = victim.clip(torch.cat((here + unit * along, here - unit * along), 1))
            losses, broken = ask(problem, rows.repeat_interleave(2 * count), both.flatten(0, 1))
            losses = losses.clamp_max(1e6)  # Of continuous actions they are infinite where it has succeeded.
            plus, minus = losses.view(len(rows), 2, count).unbind(1)
            slope = ((plus - minus) @ along.flatten(1)).view_as(now[rows])
            step = self.step_size * ball.epsilon * ball.steepest(slope if ball.scale is None else slope / ball.scale)
            stepped = victim.clip(x[rows] + ball.project(now[rows] + step - x[rows]))
            # A probe within the ball that has succeeded is where it wanted to go.
            inside = ball.distance((both - x[rows, None]).flatten(0, 1)) <= ball.epsilon
            hits = (broken & inside).view(len(rows), 2 * count)
            hit = both[torch.arange(len(rows), device=x.device), hits.byte().argmax(1)]
            now[rows] = torch.where(per_sample(hits.any(1), x), hit, stepped)
            losses, success = ask(problem, rows, now[rows])
            better = success | (losses > best_loss[rows])
            best[rows] = torch.where(per_sample(better, x), now[rows], best[rows])
            best_loss[rows] = torch.where(better, losses, best_loss[rows])
            rows, left = rows[~success], left - 2 * count - 1
        return best

    def _directions(self, shape: tuple[int, ...], draw: torch.Generator, like: torch.Tensor) -> torch.Tensor:
        normal = torch.randn(shape, generator=draw, dtype=like.dtype, device=like.device)
        return normal if self.estimator == "nes" else normal.sign()
