"""What nearest neighbors say: precision and recall, copies of training examples, and how many samples differ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rltool.gan.metrics.sums import Estimate, around, mean_estimate

NEIGHBORS = 5
CHUNK = 2_000_000  # Distances that are there at once.
CLOSEST = 10  # Pairs of real examples that are called the same, for counting how many samples differ.


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Squared distances from some of the rows of `(n, d)` to all of `(m, d)`, with the first of these rows."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    center = y.mean(0)
    x, y = x - center, y - center
    squares = (y**2).sum(1)
    step = max(CHUNK // len(y), 1)
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        yield start, ((rows**2).sum(1)[:, None] + squares - 2 * rows @ y.T).clip(0)


def _nearest(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances to, and rows of, the k nearest examples `(m, d)` to each of `(n, d)`; by a tree, where d is small."""
    from sklearn.neighbors import NearestNeighbors

    distances, rows = NearestNeighbors(n_neighbors=k).fit(y).kneighbors(x)
    return distances, rows


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other one `(n,)`."""
    return _nearest(x, x, k + 1)[0][:, k] ** 2


def compare_manifolds(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBORS) -> dict[str, Estimate]:
    """Precision and recall (Kynkäänniemi et al., NeurIPS 2019), density and coverage (Naeem et al., ICML 2020).

    Balls around the examples of a set, each just reaching its k-th neighbor, stand for where its distribution lies.
    Precision is the share of samples in some ball of the real examples, recall that of real examples in some ball of
    the samples; density counts all the balls of real examples that a sample is in, divided by k, and coverage is the
    share of real examples whose own ball has a sample in it.

    Args:
        real: Features `(n, d)`.
        fake: Features `(m, d)`.
        k: Which neighbor; the last one, where there are fewer.
    """
    k = min(k, len(real) - 1, len(fake) - 1)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside = np.zeros(len(fake))  # Balls of real examples that each sample is in.
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for start, block in _distances(fake, real):
        within = block < real_radii
        rows = slice(start, start + len(block))
        inside[rows] = within.sum(1)
        covered |= within.any(0)
        recalled |= (block < fake_radii[rows, None]).any(0)
    return {
        "precision": mean_estimate(inside > 0, (0.0, 1.0)),
        "recall": mean_estimate(recalled, (0.0, 1.0)),
        "density": mean_estimate(inside / k, (0.0, math.inf)),
        "coverage": mean_estimate(covered, (0.0, 1.0)),
    }


def memorization(train: np.ndarray, held_out: np.ndarray, fake: np.ndarray) -> Estimate:
    """Share of samples that are copies of training examples, as far as their nearest real neighbors tell.

    To a generator that has learned the distribution, training and held-out examples are alike: a sample's nearest real
    example is a training one as often as real examples are. Whatever is above that is copied. Under that hypothesis,
    which examples are held out is a random draw, and so the deviation is that of a draw without replacement: a few
    examples that all samples lie next to, as of a collapsed generator, do not look like copying.

    Args:
        train: Examples the generator has learned from, `(n, d)`.
        held_out: Examples of the same distribution that it has not, `(m, d)`.
        fake: Samples `(s, d)`.

    Returns:
        The share; its interval contains 0 where nothing speaks for copying.
    """
    real = np.concatenate([train, held_out])
    rows = _nearest(fake, real, 1)[1][:, 0]
    hits = np.bincount(rows, minlength=len(real)) / len(fake)  # Share of samples next to each real example.
    total, kept = len(real), len(train) / len(real)
    copied = (hits[: len(train)].sum() - kept) / (1 - kept)
    variance = len(train) * len(held_out) / (total * (total - 1)) * float(((hits - 1 / total) ** 2).sum())
    return around(float(copied), math.sqrt(variance) / (1 - kept))


def support_size(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """How many different samples there seem to be, by how often two are the same (Arora & Zhang, ICLR 2018).

    Two are the same if they are nearer to each other than all but the 10 closest pairs of real examples. Of N equally
    probable samples, one pair in N is the same: the birthday paradox. Where no pair is, the number of pairs is all that
    can be said: at least so many.

    Args:
        real: Real examples `(n, d)`.
        fake: As many samples `(n, d)`.

    Returns:
        The number for samples and, measured alike, for real examples.
    """
    closest = np.sort(np.concatenate([np.sort(pairs)[:CLOSEST] for pairs in _pairs(real)]))
    same = closest[min(CLOSEST, len(closest)) - 1]

    def size(x: np.ndarray) -> float:
        count = sum(int((pairs <= same).sum()) for pairs in _pairs(x))
        return len(x) * (len(x) - 1) / 2 / max(count, 1)

    return size(fake), size(real)


def _pairs(x: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances of all pairs of rows, some at a time."""
    for start, block in _distances(x, x):
        yield block[np.arange(len(x)) > start + np.arange(len(block))[:, None]]
