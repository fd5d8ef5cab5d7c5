"""Labels for samples that were made without any."""

from __future__ import annotations

import numpy as np

from rltool.data.examples import Dataset
from rltool.errors import UserError
from rltool.gan.extractor import find_extractor
from rltool.gan.report import BATCH, SURE, Sample

PATIENCE = 20  # How many times as many samples as are wanted may be drawn.


def label_samples(sample: Sample, data: Dataset, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw samples until a classifier of the data is sure of enough of them.

    Args:
        sample: Draws samples: from how many, and a seed, to `(n, ...)`.
        data: What they are to be like.
        n: How many are wanted.
        seed: Decides which.

    Returns:
        Samples `(n, ...)` and labels `(n,)`.

    Raises:
        UserError: There are no labels, or it is sure of less than one sample in `PATIENCE`.
    """
    see = find_extractor(data)
    kept: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for k in range(-(-PATIENCE * n // BATCH)):
        x = sample(BATCH, (seed << 20) + k)
        probabilities = see(x)[1]
        if probabilities is None:
            raise UserError(
                f"{data.name} has no labels, or holds points; samples are labeled where there is a classifier"
            )
        sure = probabilities.max(1) >= SURE
        kept.append(x[sure])
        labels.append(probabilities[sure].argmax(1))
        if sum(map(len, labels)) >= n:
            return np.concatenate(kept)[:n], np.concatenate(labels)[:n]
    raise UserError(f"a classifier of {data.name} is sure of too few of these samples; train the generator longer")
