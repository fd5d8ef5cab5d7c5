"""A fixed cascade of attacks without a parameter to choose: what is left of it is an honest measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from rltool.attacks.apgd import APGD
from rltool.attacks.attack import Attack, BoundedAttack, Problem
from rltool.attacks.config import ATTACKS
from rltool.attacks.making import make_policy_attack
from rltool.attacks.norms import Norm, per_sample
from rltool.attacks.square import Square

MOST_TARGETS = 9  # Classes that the targeted attack tries, the likeliest first.
STEPS, QUERIES = 100, 5_000  # As in the paper.
POLICY_SUITE = ("random", "pgd", "mad", "sarsa", "learned")


@dataclass(frozen=True, kw_only=True)
class Strongest(BoundedAttack):
    """APGD on the margin, APGD towards each likely class, and Square, each on what the ones before have not broken.

    As AutoAttack (Croce & Hein, 2020) is for images of ten classes, this is for any number of them, and for continuous
    actions, which know no targets. It is never weaker than any of its parts of the same seed.

    What changes most actions need not lower the return most. On an agent that plays, the lowest mean return counts
    that is left by one of these: noise, PGD on the margin, MAD, Robust-Sarsa, and an adversary that learns.
    """

    norms: ClassVar[tuple[Norm, ...]] = APGD.norms

    def run(self, problem: Problem) -> torch.Tensor:
        victim, objective = problem.victim, problem.objective("margin")
        best, outputs, best_loss = problem.x.clone(), problem.outputs.clone(), objective(problem.outputs)
        for part, targets in self._cascade(problem):
            broken = problem.succeeded(outputs)
            if bool(broken.all()):
                break
            # To the part, a broken sample is one that needs no attack; draws stay those of all samples.
            if targets is not None:
                targets = torch.where(broken, outputs.argmax(1), targets)
            x_adv = victim.admissible(problem.x, part.run(replace(problem, outputs=outputs, target=targets)))
            with torch.no_grad():
                tried = victim.logits(x_adv)
            problem.queries[~broken] += 1
            loss = objective(tried)
            better = ~broken & (problem.succeeded(tried) | (loss > best_loss))
            best = torch.where(per_sample(better, best), x_adv, best)
            outputs = torch.where(better[:, None] & problem.succeeded(tried)[:, None], tried, outputs)
            best_loss = torch.where(better, loss, best_loss)
        return best

    def suite(self, agent: Any) -> Mapping[str, Attack]:
        options = {"norm": self.norm, "epsilon": self.epsilon, "unit": self.unit, "seed": self.seed}
        names = [name for name in POLICY_SUITE if self.norm in ATTACKS[name].load().norms]
        return {name: make_policy_attack(name, **options) for name in names}

    def _cascade(self, problem: Problem) -> Iterator[tuple[BoundedAttack, torch.Tensor | None]]:
        """The attacks, and the class that each is to lead every sample to."""
        options = {"norm": self.norm, "epsilon": self.epsilon, "unit": self.unit, "seed": self.seed}
        yield APGD(steps=STEPS, **options), problem.target  # type: ignore[arg-type]
        if problem.victim.tolerance is None and problem.target is None and problem.outputs.shape[1] > 2:
            ranked = problem.outputs.scatter(1, problem.y[:, None], -torch.inf).argsort(1, descending=True)
            for targets in ranked[:, : min(MOST_TARGETS, ranked.shape[1] - 1)].T:
                yield APGD(steps=STEPS, **options), targets  # type: ignore[arg-type]
        if self.norm in Square.norms:
            yield Square(queries=QUERIES, **options), problem.target  # type: ignore[arg-type]
