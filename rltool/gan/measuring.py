"""What samples are worth, in numbers."""

from __future__ import annotations

import numpy as np

from rltool.data.examples import Dataset
from rltool.gan.metrics.modes import high_quality, kl_divergence, mode_shares, mode_sums, modes_found, nearest_mode


def measure(data: Dataset, fake: np.ndarray) -> dict[str, float]:
    """Compare samples with the data."""
    figures: dict[str, float] = {"n_real": len(data.train), "n_fake": len(fake)}
    if data.modes is None:
        return figures | {"score": 0.0}
    count = len(data.modes.centers)
    index, distance = nearest_mode(fake, data.modes.centers)
    sums = mode_sums(index, distance < 3 * data.modes.std, count)
    kl, quality = kl_divergence(mode_shares(sums), np.full(count, 1 / count)), high_quality(sums)
    return figures | {"modes": modes_found(sums), "high_quality": quality, "kl": kl, "score": quality - kl}
