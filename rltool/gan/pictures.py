"""Pictures of what a generator makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from rltool.errors import UserError
from rltool.training.checkpoint import disk_error


def tile(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images side by side.

    Args:
        images: `(n, channels, height, width)` in [0, 1], one or three channels.
        columns: How many in a row; by default as many as rows.
        gap: White pixels between them.

    Returns:
        Bytes `(height, width, 3)`.
    """
    n, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    for k, image in enumerate(pixels):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_samples(learner: Any, samples: np.ndarray, out: Path) -> None:
    """Write samples as a picture, or as arrays.

    Raises:
        UserError: The file's name ends in neither `.png` nor `.npz`, or it cannot be written.
    """
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"{out} is to be a picture, .png, or arrays, .npz")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npz":
            np.savez_compressed(out, x=samples)
        elif samples.ndim == 4:
            save_image(tile(samples), out)
        else:
            draw_points(samples, learner.dataset.train.x, out)
    except OSError as error:
        raise UserError(str(disk_error(out, error))) from None


def save_image(pixels: np.ndarray, out: Path, shorter_side: int = 480) -> None:
    """Write bytes `(height, width, 3)`, small ones enlarged by whole factors."""
    from PIL import Image

    factor = max(1, shorter_side // min(pixels.shape[:2]))
    Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)).save(out)


def draw_points(fake: np.ndarray, real: np.ndarray, out: Path) -> None:
    """Scatter samples over the data, both `(n, 2)`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.scatter(real[: len(fake), 0], real[: len(fake), 1], s=6, color="tab:gray", alpha=0.5, label="data")
    axes.scatter(fake[:, 0], fake[:, 1], s=6, color="tab:red", alpha=0.5, label="samples")
    axes.set_aspect("equal")
    axes.legend(frameon=False)
    figure.savefig(out)
