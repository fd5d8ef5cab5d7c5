"""HopSkipJump: the smallest perturbation, from nothing but what the victim chooses (Chen et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from rltool.attacks.asking import decisions, unbroken
from rltool.attacks.attack import Attack, Problem, check_inputs, check_positive, generator
from rltool.attacks.norms import Norm, distance, per_sample
from rltool.attacks.victim import TOGETHER, Victim
from rltool.errors import UserError

STARTS = 100  # Most images of noise that are tried for a start.
EXAMPLES = 20  # Of a target, that it starts from.
HALVINGS = 20  # Most times that a jump is shortened.


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """Goes along the boundary towards the sample: bisects to it, estimates its normal there, and jumps off along that.

    The normal is the mean of random directions, those into the wrong class against those back; a jump has the length
    distance / sqrt(t), halved until it ends in the wrong class. The same directions serve all samples, so that a
    sample's result depends on no other. A sample for which no start is found keeps its clean input.

    Attributes:
        queries: Most that are asked for each sample.
        directions: How many the first estimate of a normal is made of; estimate t takes sqrt(t) times as many.
        starts: Inputs `(N, ...)` to start from, the first that succeeds; noise where there are none. A target needs
            them: inputs that the victim gives this class.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    learns_of_target: ClassVar[bool] = True
    norm: Norm = "l2"
    queries: int = 1_000
    directions: int = 50
    starts: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(queries=self.queries, directions=self.directions)

    def fit(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Self:
        """Where there are targets, take inputs that the victim gives these classes for starts.

        Raises:
            UserError: There is none.
        """
        if self.starts is not None or target is None:
            return self
        with victim.undisturbed():
            chosen = victim.check(x).argmax(1)
        rows = [torch.nonzero(chosen == each)[:EXAMPLES, 0] for each in target.unique()]
        if not all(map(len, rows)):
            raise UserError("the victim gives no input the target's class: hopskipjump has nothing to start from")
        return replace(self, starts=x[torch.cat(rows)])

    @torch.no_grad()
    def run(self, problem: Problem) -> torch.Tensor:
        x = problem.x
        # Two sources: how many starts are drawn depends on all samples, directions must not.
        starts, draw = (generator(self.seed + k, x.device) for k in range(2))
        limit = problem.queries + self.queries
        features = x[0].numel()
        # As close to the boundary as the paper goes: a share theta of the way from the sample.
        bisections = math.ceil(math.log2(features ** (1.5 if self.norm == "l2" else 2))) + 1
        rows, start = self._start(problem, limit - bisections, starts)
        nearest = x.clone()
        nearest[rows] = now = self._to_boundary(problem, rows, start, bisections)
        reach = distance(now - x[rows], self.norm)
        for round_ in range(1, self.queries + 1):
            left = limit[rows] - problem.queries[rows]
            kept = torch.nonzero((left >= bisections + 3) & (reach > 0))[:, 0]
            rows, now, reach, left = rows[kept], now[kept], reach[kept], left[kept]
            if not len(rows):
                break
            most = int(self.directions * math.sqrt(round_))
            # So many for whoever is left: what is drawn does not depend on who that is.
            along = torch.randn((most, *x.shape[1:]), generator=draw, dtype=x.dtype, device=x.device)
            count = (left - bisections - 2).clamp_max(most)
            normal = self._normal(problem, rows, now, reach / features, count, along)
            jumped, success = self._jump(problem, rows, now, normal, reach / math.sqrt(round_), limit - bisections)
            now = now.clone()
            now[success] = self._to_boundary(problem, rows[success], jumped[success], bisections)
            reach = distance(now - x[rows], self.norm)
            closer = reach < distance(nearest[rows] - x[rows], self.norm)
            nearest[rows] = torch.where(per_sample(closer, x), now, nearest[rows])
        return nearest

    def _start(self, problem: Problem, limit: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows for which there is a start within the limit of queries, and their starts.

        Raises:
            UserError: The starts that were given are no inputs of the victim, or a target has none.
        """
        x, rows, found = problem.x, unbroken(problem), problem.x.clone()
        if self.starts is None and problem.target is not None:
            raise UserError("towards a target, hopskipjump starts from inputs of that class: give it some (starts=x)")
        if self.starts is not None:
            check_inputs("starts", self.starts, problem.victim, x)
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for number in range(STARTS if self.starts is None else len(self.starts)):
            tried = _noise(problem, draw, number) if self.starts is None else self.starts[number].to(x).expand_as(x)
            rows = rows[~done[rows] & (problem.queries[rows] < limit[rows])]
            if not len(rows):
                break
            success = decisions(problem, rows, tried[rows])
            done[rows] = success
            found[rows] = torch.where(per_sample(success, x), tried[rows], found[rows])
        rows = torch.nonzero(done)[:, 0]
        return rows, found[rows]

    def _to_boundary(self, problem: Problem, rows: torch.Tensor, far: torch.Tensor, bisections: int) -> torch.Tensor:
        """Where the way from the samples to successful inputs crosses the boundary, on its successful side."""
        if not len(rows):
            return far
        x, reach = problem.x[rows], distance(far - problem.x[rows], "linf")
        low, high, best = torch.zeros_like(reach), torch.ones_like(reach), far
        for _ in range(bisections):
            middle = (low + high) / 2
            if self.norm == "l2":
                between = x + per_sample(middle, x) * (far - x)
            else:
                radius = per_sample(middle * reach, x)
                between = torch.minimum(torch.maximum(far, x - radius), x + radius)
            success = decisions(problem, rows, between)
            low, high = torch.where(success, low, middle), torch.where(success, middle, high)
            best = torch.where(per_sample(success, x), between, best)
        return best

    def _normal(
        self,
        problem: Problem,
        rows: torch.Tensor,
        now: torch.Tensor,
        radius: torch.Tensor,
        count: torch.Tensor,
        directions: torch.Tensor,
    ) -> torch.Tensor:
        """The steepest direction into the wrong class, of length 1, by `count` `(R,)` queries at `radius` `(R,)`."""
        size, most = max(1, TOGETHER // len(rows)), int(count.max())
        votes = torch.zeros_like(radius)
        plain, signed = torch.zeros_like(now), torch.zeros_like(now)
        for first in range(0, most, size):
            along = directions[first : min(first + size, most)]
            along = along / per_sample(along.flatten(1).norm(dim=1), along)
            here, reach = now[:, None], radius.reshape(-1, *(1,) * now.ndim)
            tried = problem.victim.clip(here + reach * along)
            number = torch.arange(first, first + len(along), device=now.device)
            asked = number < count[:, None]
            vote = torch.zeros_like(asked, dtype=now.dtype)
            vote[asked] = decisions(problem, rows[:, None].expand_as(asked)[asked], tried[asked]).to(now) * 2 - 1
            moved = (tried - here) / reach * asked.reshape(*asked.shape, *(1,) * (now.ndim - 1))
            votes += vote.sum(1)
            plain += moved.sum(1)
            signed += torch.einsum("rn,rn...->r...", vote, moved)
        mean = votes / count
        # Against the mean vote, for a smaller variance; where all agree, there is nothing else to go by.
        baseline = torch.where(mean.abs() == 1, 0.0, mean)
        way = signed - per_sample(baseline, now) * plain
        return way.sign() if self.norm == "linf" else way / per_sample(way.flatten(1).norm(dim=1) + 1e-12, way)

    def _jump(
        self,
        problem: Problem,
        rows: torch.Tensor,
        now: torch.Tensor,
        normal: torch.Tensor,
        length: torch.Tensor,
        limit: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where jumps end, and which of them, `(R,)`, end in the wrong class within the limit of queries."""
        jumped, success = now.clone(), torch.zeros(len(rows), dtype=torch.bool, device=now.device)
        for halving in range(HALVINGS):
            short = torch.nonzero(~success & (problem.queries[rows] < limit[rows]))[:, 0]
            if not len(short):
                break
            step = per_sample(length[short] / 2**halving, now) * normal[short]
            jumped[short] = problem.victim.clip(now[short] + step)
            success[short] = decisions(problem, rows[short], jumped[short])
        return jumped, success


def _noise(problem: Problem, draw: torch.Generator, number: int) -> torch.Tensor:
    """Noise of a random brightness and contrast for all samples `(B, ...)`; further and further where no bounds are."""
    x, victim = problem.x, problem.victim
    low, high = victim.low.to(x), victim.high.to(x)
    ends = torch.rand(2, generator=draw, dtype=x.dtype, device=x.device)
    uniform = torch.rand(x.shape[1:], generator=draw, dtype=x.dtype, device=x.device)
    normal = torch.randn(x.shape[1:], generator=draw, dtype=x.dtype, device=x.device)
    inside = torch.where(low.isfinite(), low, 0.0) + (ends.min() + (ends.max() - ends.min()) * uniform) * (
        torch.where(high.isfinite(), high, 0.0) - torch.where(low.isfinite(), low, 0.0)
    )
    bounded = low.isfinite() & high.isfinite()
    return victim.clip(torch.where(bounded, inside, x + 1.2**number * normal))
