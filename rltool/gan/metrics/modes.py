"""Modes: which were found, how good samples are, and how evenly they are spread."""

from __future__ import annotations

import numpy as np

from rltool.gan.metrics.sums import Sums

LEAST = 20  # Good samples from which a mode counts as found: noise hits most modes once, and none so often.


def nearest_mode(x: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which center is nearest to each point, and how far it is.

    Args:
        x: Points `(n, d)`.
        centers: `(k, d)`.

    Returns:
        Indices `(n,)` and distances `(n,)`.
    """
    squared = ((x[:, None, :].astype(np.float64) - centers) ** 2).sum(-1)
    index = squared.argmin(1)
    return index, np.sqrt(squared[np.arange(len(x)), index])


def mode_sums(index: np.ndarray, good: np.ndarray, count: int) -> Sums:
    """How many samples there are, and how many good ones of each mode.

    Args:
        index: Each sample's mode `(n,)`.
        good: Which samples count as good `(n,)`.
        count: How many modes there are.
    """
    return {"n": np.array(len(index)), "good": np.bincount(index[good], minlength=count).astype(np.float64)}


def modes_found(sums: Sums, least: int = LEAST) -> float:
    """How many modes have at least so many good samples."""
    return float((sums["good"] >= least).sum())


def high_quality(sums: Sums) -> float:
    """Share of good samples."""
    return float(sums["good"].sum() / max(float(sums["n"]), 1.0))


def mode_shares(sums: Sums) -> np.ndarray:
    """Share of each mode among good samples `(k,)`; all in the first one if there are none."""
    good = sums["good"]
    return good / good.sum() if good.sum() else np.eye(len(good))[0]


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Sum of p log(p / q), in nats; q must be positive where p is."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence, from 0 to log 2, in nats."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2
