"""Domain shifts: a data set as another camera, printer or hand would have made it; labels stay.

A shift follows the id of a data set, `digits~inverted` or `moons@40deg`, and several may stand in a row,
`digits~coloured~noisy`. Each is a pure function of arrays, so that observations can be shifted by the same ones.
Shifts of labels (`rltool.data.label_shifts`) are written alike, and are for whole data sets.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rltool.data.examples import Dataset, Part
from rltool.data.label_shifts import LABEL_SHIFTS, find_label_shift, shift_labels
from rltool.errors import UserError, unknown

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
ROTATION = 30.0  # Degrees of `~rotated`.
BLENDED = 5_000  # Images that are blended at once, for the memory's sake.


@dataclass(frozen=True)
class Shift:
    """One way in which a domain may look different.

    Attributes:
        summary: What it does.
        change: From images `(n, channels, height, width)` in [0, 1], or points `(n, d)`, to shifted ones.
        points: Whether it knows what to do with points.
    """

    summary: str
    change: Change
    points: bool = False


def rotate(x: np.ndarray, degrees: float) -> np.ndarray:
    """Turn images about their centers, or points `(n, 2)` about their mean, counterclockwise.

    What comes into an image from outside is the pixel at its border.

    Raises:
        UserError: Points have not two coordinates.
    """
    if x.ndim == 4:
        from scipy.ndimage import rotate as turn

        turned = turn(x, degrees, axes=(3, 2), reshape=False, order=1, mode="nearest")
        return np.clip(turned, 0, 1).astype(np.float32)
    if x.shape[1] != 2:
        raise UserError(f"points of {x.shape[1]} numbers cannot be turned by an angle; that takes two")
    angle, mean = np.deg2rad(degrees), x.mean(0, dtype=np.float64)
    turn_left = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((x - mean) @ turn_left.T + mean).astype(np.float32)


def invert(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White to black and black to white."""
    return 1 - x


def color(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image in two colors of its own: a bright one for what is white, a dark one for what is black.

    Returns:
        Images with three channels; those that had some already are made gray first.
    """
    gray = x.mean(1, keepdims=True)
    bright, dark = (_hues(rng.random(len(x)))[:, :, None, None] for _ in range(2))
    return (gray * bright + (1 - gray) * 0.4 * dark).astype(np.float32)


def _hues(hue: np.ndarray) -> np.ndarray:
    """Saturated colors `(n, 3)` of hues in [0, 1)."""
    return np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)


def recolor(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All images in the same other colors: channels trade places, and white on black becomes orange on blue.

    Returns:
        Images with three channels.
    """
    channels = np.broadcast_to(x, (len(x), 3, *x.shape[2:])) if x.shape[1] == 1 else x
    dark, bright = (np.array(each, np.float32)[:, None, None] for each in ((0.1, 0.1, 0.5), (1.0, 0.7, 0.1)))
    return dark + (bright - dark) * channels[:, [2, 0, 1]]


def add_noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with a deviation of .2 on every pixel; for points, of a fifth of each coordinate's own."""
    if x.ndim == 2:
        return (x + 0.2 * x.std(0) * rng.standard_normal(x.shape)).astype(np.float32)
    return np.clip(x + 0.2 * rng.standard_normal(x.shape, np.float32), 0, 1)


def move(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All images down and to the right by an eighth of their size, at least a pixel; borders are repeated."""
    down, right = (max(1, size // 8) for size in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (down, 0), (right, 0)), mode="edge")
    return np.ascontiguousarray(padded[:, :, :-down, :-right])


def add_texture(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The absolute difference to a smooth random pattern, another one for each image."""
    pattern = np.clip(0.2 + 0.15 * _smooth_noise(x.shape, rng, 1.5), 0, 0.5)
    return np.abs(x - pattern).astype(np.float32)


def blend(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The absolute difference to a texture in colors, another one for each image.

    MNIST-M is made so of MNIST and pieces of photographs (Ganin et al., JMLR 2016). Here textures are drawn: a random
    color, and smooth noise of three scales around it, of which the channels have a part in common.

    Returns:
        Images with three channels.
    """
    return np.concatenate([_blended(part, rng) for part in np.split(x, range(BLENDED, len(x), BLENDED))])


def _blended(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n, _, height, width = x.shape
    shape, coarsest = (n, 3, height, width), min(height, width) / 5
    noise = sum(_smooth_noise(shape, rng, coarsest / 2**k) / 2**k for k in range(3))
    shade = _smooth_noise((n, 1, height, width), rng, coarsest)
    contrast = rng.uniform(0.02, 0.12, (n, 1, 1, 1)).astype(np.float32)
    texture = rng.random((n, 3, 1, 1), np.float32) + contrast * (noise + shade)
    return np.abs(x - np.clip(texture, 0, 1)).astype(np.float32)


def _smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Gaussian noise, blurred over so many pixels; mean 0 and deviation 1 in each channel of each image."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.standard_normal(shape, np.float32), (0, 0, scale, scale), mode="wrap")
    mean, deviation = (statistic((2, 3), keepdims=True) for statistic in (smooth.mean, smooth.std))
    return np.asarray((smooth - mean) / (deviation + 1e-6))


def dim(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other lighting: less of it, .8 of the light at the left border and .3 at the right."""
    return (x * np.linspace(0.8, 0.3, x.shape[3], dtype=np.float32)).astype(np.float32)


def blur(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus: a Gaussian filter as wide as a twentieth of the image, at least .6 pixels."""
    from scipy.ndimage import gaussian_filter

    width = max(0.6, min(x.shape[2:]) / 20)
    return gaussian_filter(x, (0, 0, width, width), mode="nearest").astype(np.float32)


def filter_randomly(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image through a random filter of its own: other colors, contrasts, edges (Lee et al., ICLR 2020).

    Of a pixel and its 8 neighbors in all channels, the pixel counts most; values are brought back into [0, 1].
    """
    count, channels = x.shape[:2]
    weights = rng.standard_normal((count, channels, channels, 3, 3)) / (9 * channels) ** 0.5
    weights[:, :, :, 1, 1] += rng.standard_normal((count, channels, channels))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    y = np.einsum("ncijhw,ndchw->ndij", windows, weights, optimize=True)
    low, high = y.min((1, 2, 3), keepdims=True), y.max((1, 2, 3), keepdims=True)
    return ((y - low) / (high - low + 1e-6)).astype(np.float32)


SHIFTS = {
    "inverted": Shift("white to black and black to white", invert),
    "rotated": Shift(
        f"turned by {ROTATION:g} degrees; @40deg turns by 40", lambda x, _: rotate(x, ROTATION), points=True
    ),
    "coloured": Shift("every image in two colors of its own", color),
    "recoloured": Shift("all images in the same other colors", recolor),
    "noisy": Shift("with Gaussian noise", add_noise, points=True),
    "shifted": Shift("moved down and to the right by an eighth", move),
    "textured": Shift("seen through a smooth random pattern", add_texture),
    "blended": Shift("every image blended with a texture in colors of its own, as MNIST-M", blend),
    "dimmed": Shift("with less light, least of it at the right", dim),
    "blurred": Shift("out of focus", blur),
    "random-conv": Shift("every image through a random filter of its own", filter_randomly),
}
SPELLINGS = {"colored": "coloured", "recolored": "recoloured", "relabeled": "relabelled"}
ANGLE = re.compile(r"(-?\d+(?:\.\d+)?)deg")


def split_shifts(name: str) -> tuple[str, tuple[str, ...]]:
    """The id of a data set, and the shifts behind it: `~inverted`, `@40deg`, ...

    What lies on the disk under the whole name is that file or folder, whatever it is called.

    Example:
        >>> split_shifts("digits~inverted@40deg")
        ('digits', ('~inverted', '@40deg'))
    """
    if Path(name).exists():
        return name, ()
    folder, slash, last = name.rpartition("/")
    base, *shifts = re.split(r"(?=[~@])", last)
    return folder + slash + base, tuple(shifts)


def find_shift(shift: str) -> Shift:
    """What `~inverted` or `@40deg` stands for.

    Raises:
        UserError: There is no such shift.
    """
    sign, name = shift[:1], shift[1:]
    if sign == "~":
        known = SPELLINGS.get(name, name)
        if find_label_shift(known):
            raise UserError(f"{shift} is about labels; it stands behind a data set, not behind examples without them")
        if known not in SHIFTS:
            raise unknown("shift", name, [*SHIFTS, *LABEL_SHIFTS])
        return SHIFTS[known]
    angle = ANGLE.fullmatch(name)
    if angle is None:
        raise UserError(f"'{shift}' is no angle; turn a data set by 40 degrees with @40deg")
    degrees = float(angle[1])
    return Shift(f"turned by {degrees:g} degrees", lambda x, _: rotate(x, degrees), points=True)


def shift_examples(x: np.ndarray, shift: str, seed: int = 0) -> np.ndarray:
    """Shift images `(n, channels, height, width)` in [0, 1], or points `(n, d)`.

    Args:
        x: The examples; the same ones come out the same for a shift and a seed.
        shift: `~inverted`, `@40deg`, ...
        seed: Decides about noise, colors and textures.

    Raises:
        UserError: There is no such shift, or it is for images and these are points.
    """
    found = find_shift(shift)
    if x.ndim == 2 and not found.points:
        able = ", ".join(f"~{name}" for name, each in SHIFTS.items() if each.points)
        raise UserError(f"{shift} is for images, and these are points; points take {able} and @40deg")
    return found.change(x, np.random.default_rng((seed, zlib.crc32(shift.encode()))))


def shift_dataset(data: Dataset, shifts: tuple[str, ...], seed: int = 0) -> Dataset:
    """A data set as it is after shifts, one after the other; those of looks leave rows and labels as they are.

    Raises:
        UserError: There is no such shift, or it does not fit the data.
    """
    for shift in shifts:
        of_labels = find_label_shift(SPELLINGS.get(shift[1:], shift[1:])) if shift[0] == "~" else None
        if of_labels:
            shifted = shift_labels(data, of_labels, np.random.default_rng((seed, zlib.crc32(shift.encode()))))
            data = replace(shifted, name=data.name + shift)
            continue
        whole = shift_examples(np.concatenate([data.train.x, data.test.x]), shift, seed)
        train, test = np.split(whole, [len(data.train)])
        data = Dataset(data.name + shift, Part(train, data.train.y), Part(test, data.test.y), data.classes)
        seed += 1  # The same shift twice adds other noise.
    return data
