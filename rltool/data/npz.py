"""Labeled examples from a file of arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from rltool.data.examples import Dataset, Part, split_dataset
from rltool.errors import UserError


def load_npz(path: Path, labeled: bool = True) -> Dataset:
    """Read a file `.npz` with `x_train y_train x_test y_test` or `x y`; bytes are divided by 255.

    Args:
        path: The file.
        labeled: Whether labels are needed; if not, `x`, or `x_train` and `x_test`, will do, and what is no label is
            left out.

    Raises:
        UserError: The file is missing, or will not do.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except ValueError:
        raise UserError(f"{path} holds objects, which are never read; save plain arrays of numbers") from None
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz ({error})") from None
    known = [(f"x{part}", f"y{part}") for part in ("_train", "_test", "")]
    pairs = [(x, y) for x, y in known if {x, y} <= arrays.keys()]
    if not labeled and not all(_are_labels(arrays[y], arrays[x]) for x, y in pairs):
        pairs, arrays = [], {name: array for name, array in arrays.items() if name.startswith("x")}
    has_labels = bool(pairs)
    names = [(x, y) for x, y in known if ({x, y} if labeled or has_labels else {x}) <= arrays.keys()]
    if not names or names[0][0] == "x_test":
        wanted = "x_train y_train x_test y_test, or x y" if labeled else "x_train x_test, or x"
        raise UserError(f"{path} has {', '.join(arrays) or 'nothing'}; it needs {wanted}")
    names = [each for each in names if each[0] != "x"] or names
    parts = [_part(path, arrays, x, y) for x, y in names]
    count = int(max(part.y.max() for part in parts)) + 1
    if labeled and len(np.unique(parts[0].y)) < 2:
        raise UserError(f"{path} has a single class; a classifier needs two")
    if labeled and len(np.unique(parts[0].y)) < count:
        raise UserError(f"{path} has labels up to {count - 1}, but not all classes from 0 on are there to learn from")
    classes = tuple(map(str, range(count))) if has_labels else ()
    if len(parts) == 1:
        return split_dataset(path.stem, parts[0], classes)
    if parts[0].x.shape[1:] != parts[1].x.shape[1:]:
        raise UserError(f"{path} has training examples {parts[0].x.shape[1:]}, but test ones {parts[1].x.shape[1:]}")
    return Dataset(path.stem, parts[0], parts[1], classes)


def _are_labels(y: np.ndarray, x: np.ndarray) -> bool:
    """Whether these are labels of examples, and not, as -1 often is, a sign that there are none."""
    return y.dtype.kind in "iu" and y.shape == x.shape[:1] and bool((y >= 0).all())


def _part(path: Path, arrays: dict[str, np.ndarray], x_name: str, y_name: str) -> Part:
    x = arrays[x_name]
    y = arrays[y_name] if y_name in arrays else np.zeros(len(x), dtype=np.int64)
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
