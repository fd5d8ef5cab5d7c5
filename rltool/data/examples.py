"""Labeled examples, and how they are divided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TEST_SHARE = 0.2  # Of a data set that has no test part of its own.


@dataclass(frozen=True)
class Part:
    """Labeled examples.

    Attributes:
        x: Images `(n, channels, height, width)` in [0, 1], or points `(n, d)`; float32.
        y: Labels `(n,)`; int64.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: np.ndarray) -> Part:
        """Some of the examples."""
        return Part(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Modes:
    """A mixture of equal round Gaussians.

    Attributes:
        centers: Their means `(k, d)`.
        std: Their standard deviation, the same along each axis.
    """

    centers: np.ndarray
    std: float


@dataclass(frozen=True)
class Dataset:
    """What is learned from, what is measured on, and what the labels mean.

    Attributes:
        name: What it is called.
        train: Examples to learn from.
        test: Examples to measure on.
        classes: What the labels mean; empty where there are none, and every `y` is 0.
        modes: The mixture that points were drawn from, where that is known.
        channels: The data set that every channel of these images was drawn from, where they are stacked.
    """

    name: str
    train: Part
    test: Part
    classes: tuple[str, ...]
    modes: Modes | None = None
    channels: Dataset | None = None


def split(y: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and rows to hold out, the same share of every class.

    Args:
        y: Labels `(n,)`.
        share: Share of the rows that is held out.
        seed: Decides which.
    """
    rng, held_out = np.random.default_rng(seed), np.zeros(len(y), dtype=bool)
    carried = 0.0  # Fractions of rows, carried from class to class, so that the whole share is right.
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        carried += share * len(rows)
        count = int(carried + 1e-9)
        carried -= count
        held_out[rows[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def folds(y: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Divide rows into parts for cross-validation, every class evenly.

    Args:
        y: Labels `(n,)`.
        count: How many parts.
        seed: Decides which row comes into which.

    Returns:
        The part `(n,)` of each row, from 0; their sizes differ by at most one.
    """
    rng, part = np.random.default_rng(seed), np.empty(len(y), dtype=np.int64)
    by_class = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    part[np.concatenate(by_class)] = np.arange(len(y)) % count  # Dealt out like cards, class after class.
    return part


def split_dataset(name: str, whole: Part, classes: tuple[str, ...]) -> Dataset:
    """A data set whose test part is held out of the examples that there are, always the same."""
    kept, held_out = split(whole.y, TEST_SHARE)
    return Dataset(name, whole.select(kept), whole.select(held_out), classes)
