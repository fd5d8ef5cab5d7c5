"""Summaries over seeds (Agarwal et al., "Deep RL at the edge of the statistical precipice", 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def iqm(values: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half, with fractional weights at its edges.

    Example:
        >>> iqm(np.array([0.0, 1.0, 2.0, 100.0]))
        1.5
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(ordered @ weights / weights.sum())


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] | Callable[..., np.floating] = np.mean,
    level: float = 0.95,
    samples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over seeds."""
    values = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(0, len(values), (samples, len(values)))]
    means = drawn.mean(1) if statistic is np.mean else np.array([statistic(d) for d in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
