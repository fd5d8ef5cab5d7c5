"""Filters that draw anew for each call: noise, and a random size and place."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional as F

from rltool.attacks.defenses.defense import Defense, number, require


class Noise(Defense):
    """Adds Gaussian noise.

    Args:
        sigma: Its standard deviation.

    Raises:
        UserError: It is not above 0.
    """

    random: ClassVar[bool] = True
    images: ClassVar[bool] = False

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        require(number(sigma), "sigma", "a number above 0", sigma)
        self.sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.sigma * torch.randn(x.shape, generator=self.draw).to(x)


class ResizePad(Defense):
    """Makes each image smaller, puts it at a random place, and fills up with zeros (Xie et al., 2018).

    The network keeps its input size: images are made smaller, not larger as in the paper.

    Args:
        smallest: The smallest size, as a part of the image's.

    Raises:
        UserError: It is not between 0 and 1.
    """

    random: ClassVar[bool] = True

    def __init__(self, smallest: float = 0.85) -> None:
        super().__init__()
        require(number(smallest) and smallest < 1, "smallest", "between 0 and 1", smallest)
        self.smallest = smallest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, across, down = torch.rand((3, len(x)), generator=self.draw).to(x)
        # Where each pixel of the result comes from, in coordinates from -1 to 1; beyond, there are zeros.
        factor = 1 / (self.smallest + (1 - self.smallest) * size)
        zero = torch.zeros_like(factor)
        rows = (factor, zero, (2 * across - 1) * (factor - 1), zero, factor, (2 * down - 1) * (factor - 1))
        grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)
