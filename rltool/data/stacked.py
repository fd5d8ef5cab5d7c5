"""Images whose channels are images of their own: as many modes as there are combinations (Metz et al., ICLR 2017)."""

from __future__ import annotations

import itertools

import numpy as np

from rltool.data.datasets import load_dataset
from rltool.data.examples import Dataset, Part
from rltool.errors import UserError

CHANNELS = 3
SIZES = (20_000, 4_000)  # Images of the training and of the test part.
MOST_CLASSES = 20  # Of what is stacked, to the power of three modes.


def load_stacked(name: str) -> Dataset:
    """Stack random images of a data set, its training images for the training part; always the same.

    The label is the number that the channels' labels are the digits of: 0 to 999 for digits.

    Args:
        name: A data set of gray images, as `digits`.

    Raises:
        UserError: There is no such data set, or its images will not do.
    """
    base = load_dataset(name)
    shape, count = base.train.x.shape[1:], len(base.classes)
    if len(shape) != 3 or shape[0] != 1 or count > MOST_CLASSES:
        raise UserError(
            f"{name} has examples {shape} of {count} classes; gray images of at most {MOST_CLASSES} classes are stacked"
        )
    train, test = (
        stack(part, size, count, np.random.default_rng(seed))
        for seed, (part, size) in enumerate(zip((base.train, base.test), SIZES, strict=True))
    )
    classes = tuple(" ".join(each) for each in itertools.product(base.classes, repeat=CHANNELS))
    return Dataset(f"stacked-{base.name}", train, test, classes, channels=base)


def stack(part: Part, n: int, classes: int, rng: np.random.Generator) -> Part:
    """Draw n images, each with random examples of a part as its channels.

    Args:
        part: Gray images `(m, 1, height, width)` and their labels.
        n: How many.
        classes: How many classes the part has.
        rng: Draws them.
    """
    rows = rng.integers(len(part), size=(n, CHANNELS))
    return Part(part.x[rows, 0], part.y[rows] @ classes ** np.arange(CHANNELS)[::-1])
