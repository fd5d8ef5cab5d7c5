"""Labeled data sets: by name, from a file, or from a folder of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rltool.data.examples import Dataset, Part, split, split_dataset
from rltool.data.images import load_images, read_size
from rltool.data.npz import load_npz
from rltool.data.points import POINTS, load_points
from rltool.data.published import PUBLISHED, load_published
from rltool.data.shifts import shift_dataset, split_shifts
from rltool.errors import UserError, unknown
from rltool.registry import Registry

__all__ = ["DATASETS", "SOURCES", "Dataset", "Part", "load_dataset", "split"]

DATASETS = {
    "digits": "1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn",
    **{name: each.summary for name, each in PUBLISHED.items()},
    **{name: each.summary for name, each in POINTS.items()},
    "mnist-m": "mnist, each image blended with a texture in colors",
    "stacked-digits": "24,000 images of three digits each, as their channels: 1,000 modes",
}
# Data sets that are made of something else, `source:of what`; each is a function from what follows the colon.
SOURCES = Registry("kind of data set")
SOURCES.add("frames", "rltool.agents.frames:load_frames", "frames:RUN, pictures of the game that a run's agent plays")
SOURCES.add("stacked", "rltool.data.stacked:load_stacked", "stacked:DATA, three gray images as the channels of one")
LEAST = 10  # Examples of a distribution that is to be learned.


def load_dataset(name: str, labeled: bool = True) -> Dataset:
    """Load a data set.

    Args:
        name: One of `DATASETS`; a file `.npz` with `x_train y_train x_test y_test` or `x y`, whose bytes are divided by
            255; or a folder of images, `FOLDER/CLASS/*.png` or `FOLDER/{train,test}/CLASS/*.png`, of one size or
            resized as `FOLDER@64px` says; or one of `SOURCES` with a colon. Shifts may follow, `digits~inverted` or
            `moons@40deg` (see `rltool.data.shifts`).
        labeled: Whether labels are needed; if not, files and folders without any will do.

    Raises:
        UserError: There is none of that name, it cannot be fetched, or the file or folder will not do.

    Example:
        >>> load_dataset("digits").train.x.shape
        (1438, 1, 8, 8)
    """
    data = _load(name, labeled)
    if labeled and len(data.classes) < 2:
        raise UserError(f"{name} has no labels, which a classifier needs; it is for methods that generate, as wgan-gp")
    count = len(data.train) + len(data.test)
    if not labeled and count < LEAST:
        counted = "a single example" if count == 1 else f"{count} examples"
        raise UserError(f"{name} has {counted}, too few to learn a distribution from; give at least {LEAST}")
    return data


def _load(name: str, labeled: bool) -> Dataset:
    base, shifts = split_shifts(name)
    size = read_size(shifts[0]) if shifts and Path(base).is_dir() else None
    if size:
        read = load_images(Path(base), labeled, size)
        return shift_dataset(replace(read, name=read.name + shifts[0]), shifts[1:])
    if shifts:
        return shift_dataset(_load(base, labeled), shifts)
    source, colon, rest = name.partition(":")
    if colon and source in SOURCES.names():
        data: Dataset = SOURCES[source].load()(rest)
        return data
    if name == "mnist-m":
        return replace(_load("mnist~blended", labeled), name=name)
    if name == "stacked-digits":
        return _load("stacked:digits", labeled)
    if name == "digits":
        return _digits()
    if name in POINTS:
        return load_points(name)
    if name in PUBLISHED:
        return load_published(name)
    if name.endswith(".npz"):
        return load_npz(Path(name), labeled)
    if Path(name).is_dir():
        return load_images(Path(name), labeled)
    raise unknown("data set", name, DATASETS)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    return split_dataset("digits", Part(x, y), tuple("0123456789"))
