"""Filters that smooth an image, or take grey levels from it: smoothing, median, bit depth."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional as F

from rltool.attacks.defenses.defense import Defense, number, require, whole
from rltool.errors import UserError


class Smoothing(Defense):
    """A Gaussian blur; beyond the border, the image is mirrored.

    Args:
        sigma: Standard deviation of the kernel, in pixels.
        size: Its width, an odd number of pixels.

    Raises:
        UserError: An option is out of range.
    """

    def __init__(self, sigma: float = 0.7, size: int = 3) -> None:
        super().__init__()
        require(number(sigma), "sigma", "a number above 0", sigma)
        require(whole(size, 1) and size % 2 == 1, "size", "an odd number of pixels", size)
        self.size = size
        at = torch.arange(size) - size // 2
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        self.register_buffer("kernel", kernel / kernel.sum())

    kernel: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels, x = x.shape[1], _mirrored(x, self.size)
        x = F.conv2d(x, self.kernel.expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(x, self.kernel[:, None].expand(channels, 1, -1, 1), groups=channels)


class Median(Defense):
    """The median of each pixel's neighbourhood (Xu et al., feature squeezing, 2018).

    Args:
        size: Width of the neighbourhood, an odd number of pixels.

    Raises:
        UserError: The size is none.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        require(whole(size, 1) and size % 2 == 1, "size", "an odd number of pixels", size)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        windows = _mirrored(x, self.size).unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(4).median(-1).values


def _mirrored(x: torch.Tensor, size: int) -> torch.Tensor:
    """Images with as much more around them as a window of that size needs.

    Raises:
        UserError: They are smaller than that.
    """
    if size // 2 >= min(x.shape[2:]):
        raise UserError(f"size {size} is too large for images of {x.shape[2]} x {x.shape[3]} pixels")
    return F.pad(x, (size // 2,) * 4, mode="reflect")


class BitDepth(Defense):
    """Rounds to 2^bits grey levels (Xu et al., feature squeezing, 2018); its gradient is 0 wherever it exists.

    Args:
        bits: How many are kept.

    Raises:
        UserError: There are fewer than one, or more than eight.
    """

    differentiable: ClassVar[bool] = False

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        require(whole(bits, 1) and bits <= 8, "bits", "a whole number from 1 to 8", bits)
        self.levels = 2**bits - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.levels).round() / self.levels
