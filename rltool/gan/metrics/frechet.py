"""Fréchet distance between Gaussians that have the moments of two sets of features (FID, Heusel et al., NIPS 2017)."""

from __future__ import annotations

import numpy as np

from rltool.gan.metrics.sums import Sums


def moments(features: np.ndarray) -> Sums:
    """Sums that mean and covariance of features `(n, d)` come from; center them first, for the sake of rounding."""
    return {"n": np.array(len(features)), "sum": features.sum(0), "outer": features.T @ features}


def gaussian(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(d,)` and unbiased covariance `(d, d)` from `moments`."""
    n = max(float(sums["n"]), 1.0)
    mean = sums["sum"] / n
    return mean, (sums["outer"] - n * np.outer(mean, mean)) / max(n - 1, 1.0)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    r"""$\|\mu_1 - \mu_2\|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2})$.

    The root's trace is taken from the eigenvalues of a symmetric matrix, which stays exact where covariances are
    singular, as with fewer examples than features; `scipy.linalg.sqrtm` of the plain product becomes complex there.

    Args:
        mean1: `(d,)`.
        cov1: `(d, d)`.
        mean2: `(d,)`.
        cov2: `(d, d)`.
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ cov2 @ root
    roots = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return max(float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * roots), 0.0)


def fid(real: Sums, fake: Sums) -> float:
    """The distance between two sets, from their `moments`."""
    return frechet_distance(*gaussian(real), *gaussian(fake))
