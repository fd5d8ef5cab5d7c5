"""Auto-PGD: gradient ascent that chooses its own step sizes (Croce & Hein, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from rltool.attacks.attack import Problem, check_positive
from rltool.attacks.gradient import Climbed, GradientAttack, best_of_starts
from rltool.attacks.norms import Ball, Norm, per_sample

MOMENTUM = 0.75  # Weight of the new step beside the last one.
INCREASES = 0.75  # Share of the steps since the last checkpoint that have to have increased the loss.


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Gradient ascent with momentum whose steps are halved, sample by sample, where they no longer help.

    Steps begin at 2 * epsilon. At checkpoints, a sample whose loss rose in too few steps, or not at all since its last
    halving, goes on from its best input with half the step.

    Attributes:
        steps: How many from each start.
        restarts: How many random starts; later ones are for the samples that the earlier ones have not broken.
        loss: `margin` by default; `dlr` and `ce` as in the paper.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    loss: str = "margin"
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, restarts=self.restarts)

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)
        return best_of_starts(
            problem,
            ball,
            lambda part, start: self._ascend(part, ball, start),
            self.seed,
            self.restarts,
            skip_broken=True,
        )

    def _ascend(self, problem: Problem, ball: Ball, start: torch.Tensor) -> Climbed:
        """The best inputs from a start on; once a sample is broken, it is left alone."""
        victim, x, objective = problem.victim, problem.x, problem.objective(self.loss)
        step = x.new_full((len(x),), 2 * ball.epsilon)
        outputs, losses, gradient = victim.gradient(start, objective)
        problem.queries += 1
        broken = problem.succeeded(outputs)
        x_adv, best, best_loss, best_gradient = start.clone(), start.clone(), losses, gradient
        now, before = start, start
        increases = torch.zeros_like(step)
        halved, at_checkpoint = torch.zeros_like(broken), best_loss.clone()
        checkpoints = checkpoints_of(self.steps)
        for k in range(1, self.steps + 1):
            ahead = self._within(problem, ball, now + per_sample(step, x) * ball.steepest(gradient))
            if k > 1:
                ahead = self._within(problem, ball, now + MOMENTUM * (ahead - now) + (1 - MOMENTUM) * (now - before))
            before, now, last = now, ahead, losses
            outputs, losses, gradient = victim.gradient(now, objective)
            problem.queries += ~broken
            success = problem.succeeded(outputs)
            x_adv = torch.where(per_sample(success & ~broken, x), now, x_adv)
            broken = broken | success
            if bool(broken.all()):
                break
            increases += losses > last
            higher = losses > best_loss
            best = torch.where(per_sample(higher, x), now, best)
            best_gradient = torch.where(per_sample(higher, x), gradient, best_gradient)
            best_loss = torch.where(higher, losses, best_loss)
            if k in checkpoints:
                stuck = ~halved & (best_loss <= at_checkpoint)
                halve = stuck | (increases < INCREASES * checkpoints[k])
                step = torch.where(halve, step / 2, step)
                now = torch.where(per_sample(halve, x), best, now)
                gradient = torch.where(per_sample(halve, x), best_gradient, gradient)
                losses = torch.where(halve, best_loss, losses)
                halved, at_checkpoint, increases = halve, best_loss.clone(), torch.zeros_like(step)
        return torch.where(per_sample(broken, x), x_adv, best), broken, best_loss

    @staticmethod
    def _within(problem: Problem, ball: Ball, x: torch.Tensor) -> torch.Tensor:
        return problem.victim.clip(problem.x + ball.project(x - problem.x))


def checkpoints_of(steps: int) -> dict[int, int]:
    """The steps after which step sizes are looked at, and how many steps each closes.

    Example:
        >>> checkpoints_of(100)
        {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    ends = [-int(-round(share * steps, 6) // 1) for share in shares if share <= 1]
    return {end: end - begin for begin, end in pairwise(ends) if end > begin}
