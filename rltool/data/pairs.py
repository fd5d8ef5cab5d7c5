"""Pairs of domains: what is learned from, and what is translated or adapted to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rltool.data.datasets import SOURCES, load_dataset
from rltool.data.examples import Dataset, Part, split
from rltool.errors import UserError


@dataclass(frozen=True)
class DomainPair:
    """Two data sets whose examples have one shape.

    Attributes:
        source: The domain that one comes from.
        target: The domain that one goes to.
    """

    source: Dataset
    target: Dataset

    @property
    def name(self) -> str:
        """`source:target`."""
        return f"{self.source.name}:{self.target.name}"

    @cached_property
    def paired(self) -> bool:
        """Whether the same row of both shows the same thing: as many rows, whose labels agree one by one."""
        return all(
            np.array_equal(one.y, two.y)
            for one, two in ((self.source.train, self.target.train), (self.source.test, self.target.test))
        )

    def unpaired(self, seed: int = 0) -> DomainPair:
        """The same domains without anything in both training parts.

        Each keeps the half of the training rows that the other leaves. Test parts stay as they are, so that what
        becomes of a test example can be compared with what it ought to be. Domains that are not paired are returned
        as they are.
        """
        if not self.paired:
            return self
        mine, theirs = split(self.source.train.y, 0.5, seed)
        return DomainPair(_of(self.source, mine), _of(self.target, theirs))


def _of(data: Dataset, rows: np.ndarray) -> Dataset:
    return Dataset(data.name, data.train.select(rows), data.test, data.classes)


def load_pair(name: str, labeled: bool = True) -> DomainPair:
    """Load two data sets, `source:target`, the target's images resized to the source's size.

    Where only one of them has colors, the other gets three equal channels.

    Args:
        name: Two ids, files or folders as `load_dataset` takes them, with a colon between.
        labeled: Whether labels are needed; if not, files and folders without any will do.

    Raises:
        UserError: It is no pair, a data set does not load, or one has points and the other images.

    Example:
        >>> pair = load_pair("digits:digits~inverted")
        >>> pair.paired, float(pair.source.test.x[0, 0, 0, 0] + pair.target.test.x[0, 0, 0, 0])
        (True, 1.0)
    """
    ids = re.findall(rf"((?:(?:{'|'.join(SOURCES.names())}):)*[^:]+)(?::|$)", name)
    if len(ids) != 2 or ":".join(ids) != name:
        raise UserError(f"'{name}' is no pair of domains; give two data sets with a colon, as digits:digits~inverted")
    source, target = (load_dataset(each, labeled) for each in ids)
    return make_pair(source, target)


def make_pair(source: Dataset, target: Dataset) -> DomainPair:
    """Give the examples of two data sets one shape: images the source's size, and colors where either has some.

    Raises:
        UserError: One has points and the other images, or points of another length, or channels do not fit.
    """
    mine, theirs = source.train.x.shape[1:], target.train.x.shape[1:]
    if len(mine) == 1 or len(theirs) == 1:
        if mine != theirs:
            raise UserError(
                f"{source.name} holds {_kind(mine)} and {target.name} {_kind(theirs)}; a pair needs two of one kind"
            )
        return DomainPair(source, target)
    if mine[0] != theirs[0] and {mine[0], theirs[0]} != {1, 3}:
        raise UserError(
            f"{source.name} holds images of {mine[0]} channels and {target.name} of {theirs[0]}; a pair needs "
            "the same, or gray ones (1) and colors (3)"
        )
    shape = (max(mine[0], theirs[0]), *mine[1:])
    return DomainPair(_fitted(source, shape), _fitted(target, shape))


def _kind(shape: tuple[int, ...]) -> str:
    return f"points of {shape[0]} numbers" if len(shape) == 1 else "images"


def _fitted(data: Dataset, shape: tuple[int, ...]) -> Dataset:
    train, test = (Part(fit_images(part.x, shape), part.y) for part in (data.train, data.test))
    return Dataset(data.name, train, test, data.classes)


def fit_images(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize images `(n, channels, height, width)`; gray ones get equal channels where `shape` has more.

    Args:
        x: Images in [0, 1].
        shape: `(channels, height, width)`.

    Raises:
        UserError: Channels cannot be made these.
    """
    if x.shape[2:] != shape[1:]:
        import torch

        resized = torch.nn.functional.interpolate(
            torch.from_numpy(x), shape[1:], mode="bilinear", antialias=True, align_corners=False
        )
        x = resized.clamp(0, 1).numpy()  # Rounding may leave [0, 1] by a bit.
    if x.shape[1] == shape[0]:
        return x
    if x.shape[1] != 1:
        raise UserError(f"images of {x.shape[1]} channels cannot be given {shape[0]}; give both domains the same")
    return np.repeat(x, shape[0], axis=1)
