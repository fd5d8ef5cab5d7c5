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

WORTHWHILE = 256  # Numbers in broken samples: to part with fewer takes longer than to go on with them.
Climbed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # Inputs (B, ...), whether they succeed, and their losses.

Found = tuple[torch.Tensor, ...]  # The same, and how often the victim was shown each.


@dataclass(frozen=True, kw_only=True)
class GradientAttack(BoundedAttack):
    """Steps along the gradient of a loss, each projected on the ball and clipped to the bounds.

    Attributes:
        loss: What is maximized: `ce`, `margin`, `dlr`, `away-towards`, the targeted loss of the notes, or `kl`, the
            divergence from the clean outputs. Continuous actions have one loss alone: how far their means move. These
            two are flat at the clean input, where no attack can start: all do at random then.
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

    def flat(self, problem: Problem) -> bool:
        """Whether the loss is least at the clean inputs, and has no slope there: such a climb starts at random."""
        return problem.victim.tolerance is not None or self.loss == "kl"

    def start(self, problem: Problem, ball: Ball) -> torch.Tensor:
        """The clean inputs; where the loss is flat there, others, anywhere in the ball."""
        if not self.flat(problem):
            return problem.x
        draw = generator(self.seed, problem.x.device)
        return problem.victim.clip(problem.x + ball.sample(problem.x, draw))

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
            skip_broken: Return a sample as it was when the attack on it succeeded, and leave it alone from there on,
                where that saves time.

        Returns:
            Inputs `(B, ...)`, whether each is known to succeed, and its loss, both `(B,)`.
        """
        now, part, objective = start, problem, self.objective(problem)
        track = keep == "best" or skip_broken
        velocity = torch.zeros_like(start) if decay else None
        # Of what is still attacked: the best inputs so far, whether they succeed, their losses, and how often the
        # victim was shown each until then.
        best, best_loss = start, start.new_full((len(start),), -torch.inf)
        broken = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        asked = torch.zeros_like(problem.queries)
        found: Found | None = None  # The same of all samples, once some are left alone,
        rows: torch.Tensor | None = None  # and those that are not.
        for number in range(steps + track):
            if number < steps:
                outputs, losses, gradient = part.victim.gradient(now, objective)
            else:  # Only to look at what the last step has come to.
                with torch.no_grad():
                    outputs = part.victim.logits(now)
                    losses = objective(outputs)
            asked = asked + (~broken if skip_broken else 1)
            if track:
                success = self.succeeded(part, outputs)
                if skip_broken:
                    better = ~broken & (success | (losses > best_loss))
                else:
                    better = (success & ~broken) | ((success == broken) & (losses > best_loss))
                best = torch.where(per_sample(better, best), now, best)
                best_loss = torch.where(better, losses, best_loss)
                broken = broken | success
                done = int(broken.sum()) if skip_broken else 0
                if number == steps or done == len(broken):
                    break
                if done * now[0].numel() >= WORTHWHILE:
                    found = _merged(found, rows, (best, broken, best_loss, asked))
                    left = torch.nonzero(~broken)[:, 0]
                    rows = left if rows is None else rows[left]
                    best, broken, best_loss, asked = best[left], broken[left], best_loss[left], asked[left]
                    part, now, gradient = problem[rows], now[left], gradient[left]
                    objective = self.objective(part)
            if velocity is not None:
                # Dong et al., 2018: each sample's gradient counts by its direction.
                size = gradient.abs().mean(tuple(range(1, gradient.ndim)), keepdim=True)
                gradient = velocity = decay * velocity + gradient / size.clamp_min(1e-30)
            now = now.add(ball.steepest(gradient), alpha=step_size)
            now = part.victim.clip(part.x + ball.project(now - part.x))
        if keep == "last":
            best = torch.where(per_sample(broken, now), best, now)
        found = _merged(found, rows, (best, broken, best_loss, asked))
        problem.queries += found[3]
        return found[0], found[1], found[2]


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """The fast gradient sign method (Goodfellow et al., 2015): one step of length epsilon.

    x* = clip(x + epsilon * sign(grad L(x))); in l2 and l1 along the steepest direction of those norms.

    Example:
        >>> accuracy = 1 - FGSM(epsilon=0.1)(victim, x, y).success.float().mean()  # doctest: +SKIP
    """

    def run(self, problem: Problem) -> torch.Tensor:
        ball = self.ball(problem)
        return self.climb(problem, ball, self.start(problem, ball), 1, ball.epsilon)[0]


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
        return self.climb(problem, ball, self.start(problem, ball), self.steps, _length(self, ball))[0]


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
        start = self.start(problem, ball)
        return self.climb(problem, ball, start, self.steps, _length(self, ball), decay=self.decay)[0]


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al., 2018), from random starts.

    With `keep="last", skip_broken=False, restarts=1` it is the textbook's loop.

    Attributes:
        steps: How many from each start.
        step_size: Length of each, in the unit of epsilon; by default 2.5 * epsilon / steps.
        random_start: Start anywhere in the ball, not from the clean input; always so, where the loss is flat there.
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

        anywhere = self.random_start or self.flat(problem)
        return best_of_starts(problem, ball, climb, self.seed, self.restarts, anywhere, skip_broken=self.skip_broken)


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
    x = problem.x
    found, loss = x.clone(), x.new_full((len(x),), -torch.inf)
    success = problem.succeeded(problem.outputs) & skip_broken
    rows: Any = slice(None)
    for number in range(restarts):
        # Drawn for all, so that what one sample gets does not depend on which others are left.
        draw = generator(seed, x.device, number) if number else generator(seed, x.device)
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


def _merged(found: Found | None, rows: torch.Tensor | None, some: Found) -> Found:
    """What was found of all samples, with that of some rows in its place; without rows, that of some is of all."""
    if found is None or rows is None:
        return some
    for of_all, of_some in zip(found, some, strict=True):
        of_all[rows] = of_some
    return found


def _length(attack: IFGSM | PGD, ball: Ball) -> float:
    """Length of a step: long enough to cross the ball from any start, with something to spare."""
    if attack.step_size is None:
        return 2.5 * ball.epsilon / attack.steps
    # With an epsilon for each feature, the ball's radius is 1, and a step's length a part of it.
    return attack.step_size
