"""Labeled examples from a folder of images."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rltool.data.examples import Dataset, Part, split_dataset
from rltool.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
GRAY = {"1", "L", "LA"}  # Pillow's modes.
COLOR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
MOST_BYTES = 4 * 2**30
SIZE = re.compile(r"@([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?px")


def load_images(folder: Path, labeled: bool = True, size: tuple[int, int] | None = None) -> Dataset:
    """Read images, each in the folder of its class: `CLASS/*.png`, or `train/CLASS/*.png` and `test/CLASS/*.png`.

    Labels are the folders' names in alphabetical order. Images are gray where all of them are; transparency is left
    out. Folders that begin with a dot, and other files, are passed over.

    Args:
        folder: Where they are.
        labeled: Whether classes are needed; if not, images may lie in the folder itself, or in its `train` and `test`.
        size: Width and height that all are resized to; without, all have to have one size.

    Raises:
        UserError: There are no two classes, one has no images, an image cannot be read, their sizes differ, or they are
            too many.
    """
    parts = [folder / name for name in ("train", "test") if (folder / name).is_dir()]
    if folder / "train" not in parts:
        parts = [folder]
    flat = not labeled and all(_list_images(part) for part in parts)
    listed = [{"": _list_images(part)} if flat else _list_classes(part) for part in parts]
    classes = tuple(listed[0])
    if not labeled and not classes:
        raise UserError(f"{parts[0]} has no images ({', '.join(SUFFIXES)}); add some, or name another folder")
    if labeled and len(classes) < 2:
        raise UserError(f"{parts[0]} has {len(classes)} folders of images; a classifier needs two, one for each class")
    for name in listed[-1]:
        if name not in classes:
            raise UserError(f"{parts[-1]} has the class {name}, but {parts[0]} has none of it to learn from")
    files = [[file for name in each for file in each[name]] for each in listed]
    first = _read(files[0][0], size)
    count, (width, height) = sum(map(len, files)), first.size
    if count * len(first.getbands()) * width * height * 4 > MOST_BYTES:
        raise UserError(
            f"{count:,} images of {width} x {height} pixels do not fit into memory; read them smaller, as {folder}@64px"
        )
    images = [[_read(file, size) for file in each] for each in files]
    for each, image in zip(chain(*files), chain(*images), strict=True):
        if image.size != first.size:
            raise UserError(
                f"{files[0][0]} has {width} x {height} pixels and {each} {image.size[0]} x {image.size[1]}; give all "
                f"images one size, or have them resized while they are read, as {folder}@{min(width, 64)}px"
            )
    mode = "L" if all(image.mode == "L" for each in images for image in each) else "RGB"
    labels = [
        np.repeat(np.array([classes.index(name) for name in each]), list(map(len, each.values()))) for each in listed
    ]
    read = [Part(_pixels(each, mode), y.astype(np.int64)) for each, y in zip(images, labels, strict=True)]
    name, classes = folder.resolve().name, tuple(filter(None, classes))
    return Dataset(name, read[0], read[1], classes) if len(read) == 2 else split_dataset(name, read[0], classes)


def read_size(text: str) -> tuple[int, int] | None:
    """The width and height that `@64px` or `@64x48px` stands for; None where it is something else.

    Example:
        >>> read_size("@64px"), read_size("@64x48px"), read_size("@40deg")
        ((64, 64), (64, 48), None)
    """
    found = SIZE.fullmatch(text)
    return (int(found[1]), int(found[2] or found[1])) if found else None


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Images by class.

    Raises:
        UserError: A class has none.
    """
    found = {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            found[each.name] = _list_images(each)
            if not found[each.name]:
                raise UserError(f"{each} has no images ({', '.join(SUFFIXES)}); add some, or remove the folder")
    return found


def _list_images(folder: Path) -> list[Path]:
    """Images that lie in a folder itself."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _read(file: Path, size: tuple[int, int] | None = None) -> Image:
    """One image, gray (`L`) or in color (`RGB`), as a camera was held, resized to `(width, height)` where given.

    Raises:
        UserError: It is none, damaged, or of a kind that will not do.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            if opened.mode not in GRAY | COLOR:
                raise UserError(f"{file} has pixels of the kind {opened.mode}; save it with 8 bits for each channel")
            image = ImageOps.exif_transpose(opened).convert("L" if opened.mode in GRAY else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}); replace or remove it") from None
    return image if size in (None, image.size) else image.resize(size, Image.Resampling.BILINEAR)


def _pixels(images: list[Image], mode: str) -> np.ndarray:
    """Images of one size as an array `(n, channels, height, width)` in [0, 1]."""
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
    pixels = pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(np.divide(pixels, 255, dtype=np.float32))
