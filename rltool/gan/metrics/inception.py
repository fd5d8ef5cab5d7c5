"""Inception Score: are predictions sure, and do they differ (Salimans et al., NIPS 2016)?"""

from __future__ import annotations

import numpy as np

from rltool.gan.metrics.sums import Sums


def prediction_sums(probabilities: np.ndarray) -> Sums:
    """Sums that the score comes from, of a classifier's probabilities `(n, classes)`."""
    p = probabilities.astype(np.float64)
    return {"n": np.array(len(p)), "probabilities": p.sum(0), "plogp": (p * np.log(p.clip(1e-300))).sum()}


def inception_score(sums: Sums) -> float:
    r"""$\exp E_x\, \mathrm{KL}(p(y \mid x) \,\|\, p(y))$, from 1 to the number of classes."""
    n = max(float(sums["n"]), 1.0)
    mean = sums["probabilities"] / n
    return float(np.exp(sums["plogp"] / n - (mean * np.log(mean.clip(1e-300))).sum()))
