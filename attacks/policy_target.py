"""Luring a policy into an action of the attacker's choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from rltool.attacks.attack import Problem
from rltool.attacks.gradient import PGD
from rltool.attacks.losses import Objective
from rltool.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Targeted(PGD):
    """PGD that lures the policy into one action at every timestep.

    Of choices it maximizes the margin by which the target is above all others, and stops where it is chosen. Of
    continuous actions it minimizes the distance to the target.

    Attributes:
        target_action: The action: the number of a choice, counted from 0; or continuous ones, a number for each
            component, or for all of them, in the environment's units.
        loss: What is maximized, of choices: `margin`, `ce`, `away-towards`.
    """

    target_action: float | tuple[float, ...] = 0
    loss: str = "margin"

    targets: ClassVar[bool] = False

    def run(self, problem: Problem) -> torch.Tensor:
        if problem.victim.tolerance is not None:
            count = problem.outputs.shape[1]
            values = torch.as_tensor(self.target_action, dtype=problem.x.dtype).reshape(-1)
            if len(values) not in (1, count):
                raise UserError(f"target-action has {len(values)} numbers, an action {count}")
            aimed = replace(problem, target=values.expand(count).repeat(len(problem.x), 1))
            return replace(self, skip_broken=False)._climb_from_starts(aimed)
        classes = problem.outputs.shape[1]
        if not isinstance(self.target_action, int | float) or self.target_action not in range(classes):
            given = f"{self.target_action:g}" if isinstance(self.target_action, int | float) else "several numbers"
            raise UserError(f"target-action is {given}; choose one of the actions 0 to {classes - 1}")
        return self._climb_from_starts(replace(problem, target=torch.full_like(problem.y, int(self.target_action))))

    def flat(self, problem: Problem) -> bool:
        return False

    def objective(self, problem: Problem) -> Objective:
        if problem.victim.tolerance is None:
            return super().objective(problem)
        target, unit = problem.y if problem.target is None else problem.target, problem.victim.tolerance.to(problem.y)
        return lambda means: -((means - target) / unit).square().sum(1)

    def succeeded(self, problem: Problem, outputs: torch.Tensor) -> torch.Tensor:
        if problem.victim.tolerance is None:
            return super().succeeded(problem, outputs)
        return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)

    def _climb_from_starts(self, problem: Problem) -> torch.Tensor:
        return PGD.run(self, problem)
