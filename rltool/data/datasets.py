"""Labeled data sets, by name or from a file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rltool.errors import UserError, unknown

DATASETS = {"digits": "1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn"}
TEST_SHARE = 0.2  # Of a data set that has no test part of its own.


@dataclass(frozen=True)
class Part:
    """Labeled examples.

    Attributes:
        x: Images `(n, channels, height, width)` in [0, 1], or points `(n, d)`; float32.
        y: Labels `(n,)`; int64.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: np.ndarray) -> Part:
        """Some of the examples."""
        return Part(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Dataset:
    """What is learned from, what is measured on, and what the labels mean."""

    name: str
    train: Part
    test: Part
    classes: tuple[str, ...]


def load_dataset(name: str) -> Dataset:
    """Load a data set.

    Args:
        name: `digits`, or a file `.npz` with `x_train y_train x_test y_test` or `x y`; bytes are divided by 255.

    Raises:
        UserError: There is none of that name, or the file will not do.

    Example:
        >>> load_dataset("digits").train.x.shape
        (1438, 1, 8, 8)
    """
    if name == "digits":
        return _digits()
    if name.endswith(".npz"):
        return _from_npz(Path(name))
    raise unknown("data set", name, DATASETS)


def split(y: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and rows to hold out, the same share of every class.

    Args:
        y: Labels `(n,)`.
        share: Share of the rows that is held out.
        seed: Decides which.
    """
    rng, held_out = np.random.default_rng(seed), np.zeros(len(y), dtype=bool)
    carried = 0.0  # Fractions of rows, carried from class to class, so that the whole share is right.
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        carried += share * len(rows)
        count = int(carried + 1e-9)
        carried -= count
        held_out[rows[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    return _split_dataset("digits", Part(x, y), tuple("0123456789"))


def _split_dataset(name: str, whole: Part, classes: tuple[str, ...]) -> Dataset:
    kept, held_out = split(whole.y, TEST_SHARE)
    return Dataset(name, whole.select(kept), whole.select(held_out), classes)


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except ValueError:
        raise UserError(f"{path} holds objects, which are never read; save plain arrays of numbers") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz ({error})") from None
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        parts = [_part(path, arrays, f"x_{part}", f"y_{part}") for part in ("train", "test")]
    elif {"x_train", "y_train"} <= arrays.keys():
        parts = [_part(path, arrays, "x_train", "y_train")]
    elif {"x", "y"} <= arrays.keys():
        parts = [_part(path, arrays, "x", "y")]
    else:
        raise UserError(f"{path} has {', '.join(arrays) or 'nothing'}; it needs x_train y_train x_test y_test, or x y")
    count = int(max(part.y.max() for part in parts)) + 1
    if len(np.unique(parts[0].y)) < 2:
        raise UserError(f"{path} has a single class; a classifier needs two")
    if len(np.unique(parts[0].y)) < count:
        raise UserError(f"{path} has labels up to {count - 1}, but not all classes from 0 on are there to learn from")
    classes = tuple(map(str, range(count)))
    if len(parts) == 1:
        return _split_dataset(path.stem, parts[0], classes)
    if parts[0].x.shape[1:] != parts[1].x.shape[1:]:
        raise UserError(f"{path} has training examples {parts[0].x.shape[1:]}, but test ones {parts[1].x.shape[1:]}")
    return Dataset(path.stem, parts[0], parts[1], classes)


def _part(path: Path, arrays: dict[str, np.ndarray], x_name: str, y_name: str) -> Part:
    x, y = arrays[x_name], arrays[y_name]
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise UserError(f"{path}: {y_name} holds no whole numbers, one for each example")
    if len(x) != len(y) or not len(y):
        raise UserError(
            f"{path}: {x_name} has {len(x)} examples and {y_name} has {len(y)}; both need the same, above 0"
        )
    if y.min() < 0:
        raise UserError(f"{path}: {y_name} has the label {y.min()}; labels count from 0")
    if x.dtype.kind not in "fiu" or x.ndim not in (2, 3, 4):
        raise UserError(
            f"{path}: {x_name} is {x.dtype} {x.shape}; it needs images (n, height, width[, channels]) or points (n, d)"
        )
    points = x.ndim == 2
    x = x.astype(np.float32) / (255 if x.dtype == np.uint8 and not points else 1)
    if not np.isfinite(x).all():
        raise UserError(f"{path}: {x_name} has values that are not finite numbers")
    if not points and (x.min() < 0 or x.max() > 1):
        raise UserError(
            f"{path}: {x_name} has pixels from {x.min():g} to {x.max():g}; give bytes, or numbers in [0, 1]"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] <= x.shape[1]:  # Channels last.
        x = x.transpose(0, 3, 1, 2)
    return Part(np.ascontiguousarray(x), y.astype(np.int64))
