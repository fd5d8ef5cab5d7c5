"""Attacks that look for the smallest perturbation that succeeds: DeepFool, Carlini & Wagner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rltool.attacks.attack import Attack, Problem, check_finite, check_positive
from rltool.attacks.losses import margin
from rltool.attacks.norms import Norm, per_sample
from rltool.attacks.victim import NoGradient

BEYOND = 1e-4  # How far beyond the boundary DeepFool aims, in logits: on it, rounding decides.
INSIDE = 0.999999  # tanh never reaches the bounds: of what lies on them, this part does.


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Goes to the nearest class boundary of the linearized victim, again and again (Moosavi-Dezfooli et al., 2016).

    With w_k the gradient of z_k - z_y, the boundary to class k is |z_k - z_y| / ||w_k||_* away; the nearest is taken.

    Attributes:
        steps: Most linearizations.
        candidates: How many of the likeliest other classes are looked at.
        overshoot: How much further than the boundary.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    continuous: ClassVar[bool] = False
    norm: Norm = "l2"
    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, candidates=self.candidates)
        check_finite(overshoot=self.overshoot)

    def run(self, problem: Problem) -> torch.Tensor:
        victim = problem.victim
        x_adv, total = problem.x.clone(), torch.zeros_like(problem.x)
        rows = torch.nonzero(~problem.succeeded(problem.outputs))[:, 0]
        for _ in range(self.steps):
            if not len(rows):
                break
            part = problem[rows]
            classes = torch.cat((part.y[:, None], self._others(part)), 1)
            logits, gradients = part.victim.jacobian(x_adv[rows], classes)
            problem.queries[rows] += 1
            left = torch.nonzero(~part.succeeded(logits))[:, 0]
            rows, gradients, classes = rows[left], gradients[left], classes[left]
            if not len(rows):
                break
            values = logits[left].gather(1, classes)
            gaps = (values[:, 1:] - values[:, :1]).abs() + BEYOND
            slopes = gradients[:, 1:] - gradients[:, :1]
            flat = slopes.flatten(2)
            sizes = (flat.norm(dim=2) if self.norm == "l2" else flat.abs().sum(2)).clamp_min(1e-12)
            nearest = (gaps / sizes).argmin(1)
            here = torch.arange(len(rows), device=rows.device)
            way, size, gap = slopes[here, nearest], sizes[here, nearest], gaps[here, nearest]
            if self.norm == "l2":
                total[rows] += per_sample(gap / size.square(), way) * way
            else:
                total[rows] += per_sample(gap / size, way) * way.sign()
            x_adv[rows] = victim.clip(problem.x[rows] + (1 + self.overshoot) * total[rows])
        return x_adv

    def _others(self, problem: Problem) -> torch.Tensor:
        """The classes to go to, `(B, C)`: the target, or the likeliest ones but the label."""
        if problem.target is not None:
            return problem.target[:, None]
        others = problem.outputs.scatter(1, problem.y[:, None], -torch.inf)
        return others.topk(min(self.candidates, others.shape[1] - 1), dim=1).indices


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Minimizes ||x' - x||^2 + c * max(-margin(x') + confidence, 0), and looks for the c that is just large enough.

    Carlini & Wagner, 2017. Where there are two finite bounds, x' = middle + half width * tanh(w); Adam moves w.

    Attributes:
        steps: Steps of Adam for each c.
        searches: How many values of c are tried for each sample (binary search).
        initial_c: The first.
        learning_rate: Step size of Adam.
        confidence: By how much the logit of a wrong class has to be above all others.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    continuous: ClassVar[bool] = False
    norm: Norm = "l2"
    steps: int = 200
    searches: int = 9
    initial_c: float = 0.01
    learning_rate: float = 0.05
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            steps=self.steps, searches=self.searches, initial_c=self.initial_c, learning_rate=self.learning_rate
        )
        check_finite(confidence=self.confidence)

    def run(self, problem: Problem) -> torch.Tensor:
        rows = torch.nonzero(margin(problem.outputs, problem.y, problem.target) <= self.confidence)[:, 0]
        found = problem.x.clone()
        if len(rows):
            part = problem[rows]
            part.queries.zero_()
            found[rows] = self._search(part)
            problem.queries[rows] += part.queries
        return found

    def _search(self, problem: Problem) -> torch.Tensor:
        x = problem.x
        best, nearest = x.clone(), x.new_full((len(x),), torch.inf)
        c = torch.full_like(nearest, self.initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.searches):
            x_adv, distance = self._minimize(problem, c)
            better = distance < nearest
            best = torch.where(per_sample(better, x), x_adv, best)
            nearest = torch.minimum(nearest, distance)
            success = distance.isfinite()
            high = torch.where(success, torch.minimum(high, c), high)
            low = torch.where(success, low, torch.maximum(low, c))
            c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
        return best

    def _minimize(self, problem: Problem, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest inputs found that succeed, and their squared distances (infinite where there are none)."""
        victim, x = problem.victim, problem.x
        low, high = victim.low.to(x), victim.high.to(x)
        bounded = (low.isfinite() & high.isfinite()).expand(x.shape[1:])
        middle, half = torch.where(bounded, (low + high) / 2, 0.0), torch.where(bounded, (high - low) / 2, 1.0)
        w = torch.where(bounded, torch.atanh((x - middle) / half * INSIDE), x)
        mean, var = torch.zeros_like(w), torch.zeros_like(w)
        best, nearest = x.clone(), torch.full_like(c, torch.inf)
        for step in range(1, self.steps + 1):
            w = w.detach().requires_grad_()
            with torch.enable_grad():
                x_adv = torch.where(bounded, middle + half * torch.tanh(w), w)
                distance = (x_adv - x).flatten(1).square().sum(1)
                logits = victim.logits(x_adv)
                lead = margin(logits, problem.y, problem.target)
                if not lead.requires_grad:
                    raise NoGradient
                loss = distance + c * (self.confidence - lead).clamp_min(0.0)
                victim.n_backward += 1
                (gradient,) = torch.autograd.grad(loss.sum(), w)
            problem.queries += 1
            better = (lead.detach() > self.confidence) & (distance.detach() < nearest)
            best = torch.where(per_sample(better, x), x_adv.detach(), best)
            nearest = torch.where(better, distance.detach(), nearest)
            mean = 0.9 * mean + 0.1 * gradient
            var = 0.999 * var + 0.001 * gradient.square()
            scale = (var / (1 - 0.999**step)).sqrt() + 1e-8
            w = w.detach() - self.learning_rate * mean / (1 - 0.9**step) / scale
        return best, nearest
