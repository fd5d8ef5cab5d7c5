"""What samples are worth, in numbers."""

from __future__ import annotations

import numpy as np

from rltool.data.points import MODES

LEAST_SAMPLES = 20  # Good samples from which a mode counts as found: noise hits most modes once.


def measure(data: str, real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Compare samples with the data."""
    figures: dict[str, float] = {"n_real": len(real), "n_fake": len(fake)}
    if data not in MODES:
        return figures | {"score": 0.0}
    modes = MODES[data]
    squared = ((fake[:, None] - modes.centers) ** 2).sum(-1)
    nearest = squared.argmin(1)
    good = squared[np.arange(len(fake)), nearest] < (3 * modes.std) ** 2
    counts = np.bincount(nearest[good], minlength=len(modes.centers))
    shares = np.bincount(nearest, minlength=len(modes.centers)) / len(fake)
    kl = float((shares * np.log(np.maximum(shares, 1e-12) * len(shares))).sum())
    found = int((counts >= LEAST_SAMPLES).sum())
    quality = float(good.mean())
    return figures | {"modes": found, "high_quality": quality, "kl": kl, "score": quality - kl}
