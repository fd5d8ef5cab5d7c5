"""Labeled data sets: by name, from a file, or from a folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rltool.data.examples import Dataset, Part, split, split_dataset
from rltool.data.images import load_images
from rltool.data.npz import load_npz
from rltool.data.points import POINTS, load_points
from rltool.data.published import PUBLISHED, load_published
from rltool.errors import unknown

__all__ = ["DATASETS", "Dataset", "Part", "load_dataset", "split"]

DATASETS = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn",
    **{name: each.summary for name, each in PUBLISHED.items()},
    **{name: each.summary for name, each in POINTS.items()},
}


def load_dataset(name: str) -> Dataset:
    """Load a data set.

    Args:
        name: One of `DATASETS`; a file `.npz` with `x_train y_train x_test y_test` or `x y`, whose bytes are divided by
            255; or a folder of images, `FOLDER/CLASS/*.png` or `FOLDER/{train,test}/CLASS/*.png`.

    Raises:
        UserError: There is none of that name, it cannot be fetched, or the file or folder will not do.

    Example:
        >>> load_dataset("digits").train.x.shape
        (1438, 1, 8, 8)
    """
    if name == "digits":
        return _digits()
    if name in POINTS:
        return load_points(name)
    if name in PUBLISHED:
        return load_published(name)
    if name.endswith(".npz"):
        return load_npz(Path(name))
    if Path(name).is_dir():
        return load_images(Path(name))
    raise unknown("data set", name, DATASETS)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    return split_dataset("digits", Part(x, y), tuple("0123456789"))
