"""Points in the plane whose distribution is known: what generators and adaptation are tried on first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rltool.data.examples import Dataset, Modes, Part

NUM_MIXTURE = 100_000  # Points of a mixture, as in Lin et al., "PacGAN", NeurIPS 2018.


_angles = 2 * np.pi * np.arange(8) / 8
_steps = np.arange(-4.0, 5.0, 2.0)
MODES: dict[str, Modes] = {
    "ring8": Modes(np.stack([np.cos(_angles), np.sin(_angles)], 1), 0.01),
    "grid25": Modes(np.stack(np.meshgrid(_steps, _steps), -1).reshape(-1, 2), 0.05),
}


def draw_mixture(modes: Modes, n: int, rng: np.random.Generator) -> Part:
    """Points of a mixture; the label is the Gaussian that a point comes from."""
    y = rng.integers(len(modes.centers), size=n)
    x = modes.centers[y] + modes.std * rng.standard_normal((n, modes.centers.shape[1]))
    return Part(x.astype(np.float32), y)


def draw_moons(n: int, rng: np.random.Generator, noise: float = 0.1) -> Part:
    """Two interleaved half circles; the label is which one."""
    y = np.arange(n) % 2
    angle = np.pi * rng.random(n)
    x = np.where(y == 0, np.cos(angle), 1 - np.cos(angle)), np.where(y == 0, np.sin(angle), 0.5 - np.sin(angle))
    return Part((np.stack(x, 1) + noise * rng.standard_normal((n, 2))).astype(np.float32), y)


def draw_swiss_roll(n: int, rng: np.random.Generator, noise: float = 0.02) -> Part:
    """A spiral of one and a half turns, within about 1 of the origin; the label is the quarter of its length."""
    share = rng.random(n)
    turn = 1.5 * np.pi * (1 + 2 * share)
    x = turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1) / (4.5 * np.pi)
    return Part((x + noise * rng.standard_normal((n, 2))).astype(np.float32), (4 * share).astype(np.int64))


@dataclass(frozen=True)
class Points:
    """A data set of points.

    Attributes:
        summary: What it is.
        draw: Draws n points.
        sizes: Points of the training and of the test part.
        classes: What the labels mean.
    """

    summary: str
    draw: Callable[[int, np.random.Generator], Part]
    sizes: tuple[int, int]
    classes: tuple[str, ...]


def _mixture(name: str, summary: str) -> Points:
    modes = MODES[name]
    count = len(modes.centers)
    sizes = (NUM_MIXTURE, NUM_MIXTURE // 10)
    return Points(summary, lambda n, rng: draw_mixture(modes, n, rng), sizes, tuple(map(str, range(count))))


POINTS = {
    "ring8": _mixture("ring8", "points of 8 Gaussians on a circle of radius 1, standard deviation .01"),
    "grid25": _mixture("grid25", "points of 25 Gaussians on a grid from -4 to 4, standard deviation .05"),
    "moons": Points("1,000 points on two interleaved half circles, noise .1", draw_moons, (1_000, 1_000), ("0", "1")),
    "swiss-roll": Points("10,000 points on a spiral, noise .02", draw_swiss_roll, (10_000, 10_000), tuple("0123")),
}


def load_points(name: str) -> Dataset:
    """A data set of `POINTS`, always the same."""
    known = POINTS[name]
    train, test = (known.draw(size, np.random.default_rng([seed, len(name)])) for seed, size in enumerate(known.sizes))
    return Dataset(name, train, test, known.classes, MODES.get(name))
