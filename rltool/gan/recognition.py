"""Whether images show what they should, asked of a classifier."""

from __future__ import annotations

import numpy as np

from rltool.data.examples import Dataset
from rltool.gan.metrics.sums import Estimate, mean_estimate


def recognized(data: Dataset, x: np.ndarray, y: np.ndarray, extractor: str = "auto") -> Estimate | None:
    """The share of images that a classifier takes for what they should be.

    Args:
        data: What the classifier has learned from: its training part, no generated images.
        x: Images `(n, channels, height, width)`.
        y: Labels `(n,)`.
        extractor: Where the classifier comes from, as `find_extractor` takes it.

    Returns:
        None where there is no classifier, as of points.
    """
    from rltool.gan.extractor import find_extractor

    probabilities = find_extractor(data, extractor)(x)[1]
    if probabilities is None:
        return None
    return mean_estimate((probabilities.argmax(1) == y).astype(np.float64), (0, 1))
