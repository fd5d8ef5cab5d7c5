"""Random noise: what any attack has to be better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rltool.attacks.attack import BoundedAttack, Problem, generator
from rltool.attacks.norms import Norm


@dataclass(frozen=True, kw_only=True)
class RandomNoise(BoundedAttack):
    """Noise drawn uniformly from the ball; it asks the victim nothing."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def run(self, problem: Problem) -> torch.Tensor:
        return problem.x + self.ball(problem).sample(problem.x, generator(self.seed, problem.x.device))
