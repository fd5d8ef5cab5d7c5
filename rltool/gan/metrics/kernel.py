"""Kernel distance between two sets of features (KID, Binkowski et al., ICLR 2018)."""

from __future__ import annotations

import math

import numpy as np

from rltool.gan.metrics.sums import GROUPS, REPLICATES, Estimate, around

CHUNK = 500  # Rows of the kernel's matrix that are there at once.


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x y / d + 1)^3 for all pairs of features `(n, d)` and `(m, d)`."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, groups: int = GROUPS, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Squared maximum mean discrepancy under the kernel: unbiased, so it is 0 on average for equal distributions.

    Args:
        real: Features `(n, d)`; n is at least 2.
        fake: Features `(m, d)`; m is at least 2.
        groups: Of examples, which the bootstrap draws.
        replicates: Draws of the bootstrap; 0 for no interval.
        seed: Of these draws.
    """
    real, fake = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    groups = min(groups, len(real) // 2, len(fake) // 2)
    members = [np.arange(len(x)) % groups for x in (real, fake)]
    one_hot = [np.eye(groups)[each] for each in members]
    sizes = [each.sum(0) for each in one_hot]

    within = [_block_sums(x, x, each, each, same=True) for x, each in zip((real, fake), one_hot, strict=True)]
    across = _block_sums(real, fake, one_hot[0], one_hot[1])

    def distance(drawn: list[np.ndarray]) -> float:
        """Of groups, each as often as drawn; copies of a group are no pairs of each other."""
        value = -2 * drawn[0] @ across @ drawn[1] / ((drawn[0] @ sizes[0]) * (drawn[1] @ sizes[1]))
        for counts, sums, size in zip(drawn, within, sizes, strict=True):
            weights = np.outer(counts, counts)
            np.fill_diagonal(weights, counts)
            value += (weights * sums).sum() / (weights * (np.outer(size, size) - np.diag(size))).sum()
        return float(value)

    value = distance([np.ones(groups), np.ones(groups)])
    if groups < 2 or not replicates:
        return Estimate(value, value, value)
    rng = np.random.default_rng(seed)
    shares = np.full(groups, 1 / groups)
    replicas = [distance([rng.multinomial(groups, shares).astype(float) for _ in range(2)]) for _ in range(replicates)]
    return around(value, float(np.std(replicas)) * math.sqrt(groups / (groups - 1)))


def _block_sums(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, same: bool = False) -> np.ndarray:
    """Sums of the kernel over the pairs of each two groups `(groups, groups)`.

    Args:
        x: Features `(n, d)`.
        y: Features `(m, d)`.
        a: The group of each row of `x`, one-hot `(n, groups)`.
        b: That of each row of `y`.
        same: They are one set, in which no example is a pair with itself.
    """
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, len(x), CHUNK):
        kernel = polynomial_kernel(x[start : start + CHUNK], y)
        if same:
            rows = np.arange(len(kernel))
            kernel[rows, start + rows] = 0
        total += a[start : start + CHUNK].T @ kernel @ b
    return total
