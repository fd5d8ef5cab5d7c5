"""Sums over examples, from which metrics come without keeping the examples; groups of them give intervals.

A metric of this kind is two functions: one from a batch to sums, one from sums to a number. Sums are kept in groups
that the examples are dealt out to. Drawing groups anew, with replacement, is a bootstrap whose memory does not grow
with the number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Sums = dict[str, np.ndarray]
GROUPS = 20
LEAST_GROUPS = 5  # From which there is an interval.
REPLICATES = 100
LEVEL = 1.96  # Standard deviations that 95% of a normal distribution lie within.


@dataclass(frozen=True)
class Estimate:
    """A number, and the 95% interval that drawing the examples anew would mostly leave it in; or the number alone.

    It is the value and 1.96 bootstrap standard deviations on each side, since percentiles would be shifted by the
    bias that distances and divergences have in small samples; that bias, which is in the value too, is not in it.
    """

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.high - self.low) and self.high > self.low

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def around(value: float, deviation: float, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The estimate of a value with a standard deviation, cut off at what the metric can be."""
    half = LEVEL * deviation
    return Estimate(value, max(value - half, min(bounds[0], value)), min(value + half, max(bounds[1], value)))


def mean_estimate(values: np.ndarray, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Mean of numbers `(n,)`; the standard deviation that its bootstrap tends to has a closed form."""
    return around(float(values.mean()), float(values.std()) / math.sqrt(len(values)), bounds)


class GroupedSums:
    """Adds up what a metric is made of, in groups.

    Args:
        ingredients: From arrays with a common first axis, some examples, to sums over it; one of them is `n`, how many
            there were.
        groups: How many groups; fewer than `LEAST_GROUPS` for no interval.

    Attributes:
        sums: By name, the sums `(groups, ...)`.
    """

    def __init__(self, ingredients: Callable[..., Sums], groups: int = GROUPS) -> None:
        self.ingredients, self.groups = ingredients, groups
        self.count = 0
        self.sums: Sums = {}

    def update(self, *arrays: np.ndarray) -> None:
        """Take in arrays `(n, ...)`; examples are dealt out to the groups like cards.

        They are shuffled before, always alike: samples may come in an order, as one of each class in turn.
        """
        shuffled = np.random.default_rng(self.count).permutation(len(arrays[0]))
        for group in range(self.groups):
            rows = shuffled[(group - self.count) % self.groups :: self.groups]
            part = [array[rows] for array in arrays]
            if not len(part[0]):
                continue
            for name, value in self.ingredients(*part).items():
                value = np.asarray(value, dtype=np.float64)
                self.sums.setdefault(name, np.zeros((self.groups, *value.shape)))[group] += value
        self.count += len(arrays[0])

    @property
    def totals(self) -> Sums:
        """Sums over all groups."""
        return {name: value.sum(0) for name, value in self.sums.items()}

    def draw(self, rng: np.random.Generator) -> Sums:
        """Sums over as many groups as there are, drawn with replacement."""
        filled = np.flatnonzero(self.sums["n"])
        counts = rng.multinomial(len(filled), np.full(len(filled), 1 / len(filled)))
        return {name: np.tensordot(counts, value[filled], 1) for name, value in self.sums.items()}


def estimate(
    statistic: Callable[..., float],
    *parts: GroupedSums,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """A statistic of the sums over one or several independent sets of examples, with its interval.

    Args:
        statistic: From the sums of each set to a number.
        *parts: The sets.
        bounds: Least and largest possible value.
        replicates: Draws of the bootstrap; 0 for no interval; few groups have none either.
        seed: Of these draws.
    """
    value = statistic(*(part.totals for part in parts))
    groups = min(int(np.count_nonzero(part.sums["n"])) for part in parts)
    if groups < LEAST_GROUPS or not replicates:
        return Estimate(value, value, value)
    rng = np.random.default_rng(seed)
    drawn = [statistic(*(part.draw(rng) for part in parts)) for _ in range(replicates)]
    return around(value, float(np.std(drawn)) * math.sqrt(groups / (groups - 1)), bounds)
