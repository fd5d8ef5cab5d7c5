"""Attacks that climb the gradient of a loss within a ball, in one loop: FGSM, its iterated form, MI-FGSM, PGD, MAD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from rltool.attacks.attack import BoundedAttack, Problem, check_finite, check_positive, generator
from rltool.attacks.losses import LOSSES, Objective
from rltool.attacks.norms import Ball, Norm, per_sample
from rltool.errors import UserError, unknown

Climbed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # Inputs (B, ...), whether they succeed, and their losses.


@dataclass(frozen=True, kw_only=True)
class GradientAttack(BoundedAttack):
    """Steps along the gradient of a loss, each projected on the ball and clipped to the bounds.

    Attributes:
        loss: What is maximized: `ce`, `margin`, `dlr`, `away-towards`, the targeted loss of the notes, or `kl`, the
            divergence from the clean outputs. Continuous actions have one loss alone: how far their means move.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    loss: str = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in (*LOSSES, "kl"):
            raise unknown("loss", self.loss, (*LOSSES, "kl"))

    def objective(self, problem: Problem) -> Objective:
        """What is maximized."""
        return problem.objective(self.loss)

    def succeeded(self, problem: Problem, outputs: torch.Tensor) -> torch.Tensor:
        """Whether outputs `(B, K)` are what is wanted, `(B,)`: such inputs are kept before all others."""
        return problem.succeeded(outputs)

    def climb(
        self,
        problem: Problem,
        ball: Ball,
        start: torch.Tensor,
        steps: int,
        step_size: float,
        *,
        decay: float = 0.0,
        keep: Literal["last", "best"] = "last",
        skip_broken: bool = False,
    ) -> Climbed:
        """The loop of all gradient attacks.

        Args:
            problem: What is attacked.
            ball: Where perturbations stay.
            start: First inputs `(B, ...)`.
            steps: How many.
            step_size: Length of a step in the ball's norm.
            decay: How much of the earlier gradients each step remembers (momentum).
            keep: Return the last inputs, or those with the largest loss, successful ones before all others.
            skip_broken: Leave a sample alone from where the attack on it has succeeded.

        Returns:
            Inputs `(B, ...)`, whether each is known to succeed, and its loss, both `(B,)`.
        """
        victim, x, now = problem.victim, problem.x, start
        best = start.clone()
        best_loss = x.new_full((len(x),), -torch.inf)
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        rows: Any = slice(None)  # Those that are still attacked.
        part, objective = problem, self.objective(problem)
        velocity = torch.zeros_like(x) if decay else None
        track = keep == "best" or skip_broken
        asked = 0  # How often the victim was shown what is still attacked, since these were fewer.

        def look(outputs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
            success = self.succeeded(part, outputs)
            better = losses > best_loss[rows]
            if skip_broken:  # Whatever is still attacked has not been broken before.
                better |= success
            else:
                better = (success & ~broken[rows]) | ((success == broken[rows]) & better)
            best[rows] = torch.where(per_sample(better, x), now, best[rows])
            best_loss[rows] = torch.where(better, losses, best_loss[rows])
            broken[rows] |= success
            return success

        for _ in range(steps):
            outputs, losses, gradient = part.victim.gradient(now, objective)
            asked += 1
            if track:
                success = look(outputs, losses)
                if skip_broken and bool(success.any()):
                    problem.queries[rows] += asked
                    asked = 0
                    left = torch.nonzero(~success)[:, 0]
                    rows = left if isinstance(rows, slice) else rows[left]
                    if not len(rows):
                        return best, broken, best_loss
                    part, now, gradient = problem[rows], now[left], gradient[left]
                    objective = self.objective(part)
                    velocity = None if velocity is None else velocity[left]
            if velocity is not None:
                # Dong et al., 2018: each sample's gradient counts by its direction.
                size = gradient.abs().mean(tuple(range(1, gradient.ndim)), keepdim=True)
                gradient = velocity = decay * velocity + gradient / size.clamp_min(1e-30)
            now = now.add(ball.steepest(gradient), alpha=step_size)
            now = victim.clip(part.x + ball.project(now - part.x))
        problem.queries[rows] += asked + track
        if not track:
            return now, broken, best_loss
        with torch.no_grad():
            outputs = part.victim.logits(now)
            look(outputs, objective(outputs))
        if keep == "last":
            best[rows] = now
        return best, broken, best_loss


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """The fast gradient sign method (Goodfellow et al., 2015): one step of length epsilon.

    x* = clip(x + epsilon * sign(grad L(x))); in l2 and l1 along the steepest direction of those norms.

    Example:
        >>> accuracy = 1 - FGSM(epsilon=0.1)(victim, x, y).success.float().mean()  # doctest: +SKIP
    """

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)
        return self.climb(problem, ball, problem.x, 1, ball.epsilon)[0]


@dataclass(frozen=True, kw_only=True)
class IFGSM(GradientAttack):
    """Iterated FGSM, the basic iterative method (Kurakin et al., 2017): many small steps from the clean input.

    Attributes:
        steps: How many.
        step_size: Length of each, in the unit of epsilon; by default 2.5 * epsilon / steps.
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, step_size=self.step_size)

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)
        return self.climb(problem, ball, problem.x, self.steps, _length(self, ball))[0]


@dataclass(frozen=True, kw_only=True)
class MIFGSM(IFGSM):
    """The momentum iterative method (Dong et al., 2018), whose perturbations carry over to other networks.

    Attributes:
        decay: How much of the earlier gradients each step remembers.
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(decay=self.decay)

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)
        return self.climb(problem, ball, problem.x, self.steps, _length(self, ball), decay=self.decay)[0]


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al., 2018), from random starts.

    With `keep="last", skip_broken=False, restarts=1` it is the textbook's loop.

    Attributes:
        steps: How many from each start.
        step_size: Length of each, in the unit of epsilon; by default 2.5 * epsilon / steps.
        random_start: Start anywhere in the ball, not from the clean input.
        restarts: How many starts; later ones are for the samples that the earlier ones have not broken.
        keep: Return the best inputs, or the last.
        skip_broken: Leave a sample alone from where the attack on it has succeeded.
    """

    steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    keep: Literal["last", "best"] = "best"
    skip_broken: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, step_size=self.step_size)
        check_positive(restarts=self.restarts)
        if self.restarts > 1 and self.keep == "last" and not self.skip_broken:
            raise UserError("several restarts of which the last is returned, whatever came of it: take keep='best'")
        if self.keep not in ("last", "best"):
            raise UserError(f"keep is last or best, not {self.keep!r}")

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)

        def climb(part: Problem, start: torch.Tensor) -> Climbed:
            length = _length(self, ball)
            return self.climb(part, ball, start, self.steps, length, keep=self.keep, skip_broken=self.skip_broken)

        return best_of_starts(
            problem, ball, climb, self.seed, self.restarts, self.random_start, skip_broken=self.skip_broken
        )


@dataclass(frozen=True, kw_only=True)
class MAD(PGD):
    """The maximal action difference (Zhang et al., 2020): as far as can be from what the policy does without it.

    max KL(pi(. | x) || pi(. | x')): at x itself its gradient is zero, and so it starts at random.
    """

    loss: str = "kl"
    steps: int = 10
    skip_broken: bool = False


def best_of_starts(
    problem: Problem,
    ball: Ball,
    climb: Callable[[Problem, torch.Tensor], Climbed],
    seed: int,
    restarts: int,
    random_start: bool = True,
    *,
    skip_broken: bool,
) -> torch.Tensor:
    """The best inputs `(B, ...)` that a climb comes to from several starts: successful ones before all others.

    Args:
        problem: What is attacked.
        ball: Where random starts are drawn.
        climb: Goes up from given starts.
        seed: Of the starts.
        restarts: How many.
        random_start: Whether to start anywhere in the ball, or at the clean inputs.
        skip_broken: Leave alone what is wrong without an attack, or has been broken from an earlier start.
    """
    x, draw = problem.x, generator(seed, problem.x.device)
    found, loss = x.clone(), x.new_full((len(x),), -torch.inf)
    success = problem.succeeded(problem.outputs) & skip_broken
    rows: Any = slice(None)
    for number in range(restarts):
        # Drawn for all, so that what one sample gets does not depend on which others are left.
        start = problem.victim.clip(x + ball.sample(x, draw)) if random_start else x
        if skip_broken and bool(success.any()):
            rows = torch.nonzero(~success)[:, 0]
            if not len(rows):
                break
        part = replace(problem[rows], queries=torch.zeros_like(problem.queries[rows]))
        x_adv, broken, losses = climb(part, start[rows])
        problem.queries[rows] += part.queries
        if restarts == 1:
            found[rows] = x_adv
            break
        better = (broken & ~success[rows]) | ((broken == success[rows]) & (losses > loss[rows])) | (number == 0)
        found[rows] = torch.where(per_sample(better, x), x_adv, found[rows])
        loss[rows] = torch.where(better, losses, loss[rows])
        success[rows] |= broken
    return found


def _length(attack: IFGSM | PGD, ball: Ball) -> float:
    """Length of a step: long enough to cross the ball from any start, with something to spare."""
    if attack.step_size is None:
        return 2.5 * ball.epsilon / attack.steps
    # With an epsilon for each feature, the ball's radius is 1, and a step's length a part of it.
    return attack.step_size
