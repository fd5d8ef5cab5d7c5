"""Random changes of images that stand for domains nobody has seen."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from rltool.supervised.augmentation import AUGMENTATIONS as PLAIN


def affine(x: torch.Tensor) -> torch.Tensor:
    """Turn each image by up to 15 degrees, make it up to 1.4 times larger or smaller, and slant it by up to .2.

    Its width and height change alike but for a tenth.

    Args:
        x: Images `(B, channels, height, width)`; what comes in from outside is the pixel at the border.
    """

    def uniform(reach: float) -> torch.Tensor:
        return (torch.rand(len(x), device=x.device) * 2 - 1) * reach

    angle, slant = uniform(math.pi / 12), uniform(0.2)
    size = uniform(math.log(1.4))
    wide, high = (size + uniform(0.1)).exp(), (size + uniform(0.1)).exp()
    rows = torch.stack(
        [
            torch.stack([wide * angle.cos(), slant - angle.sin(), torch.zeros_like(angle)], 1),
            torch.stack([angle.sin(), high * angle.cos(), torch.zeros_like(angle)], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def random_conv(x: torch.Tensor) -> torch.Tensor:
    """Filter each image by a random 3 x 3 kernel of its own, back into [0, 1]; a quarter stay as they are.

    Shapes stay, textures, colors and contrasts do not; half of the images are inverted by it (Lee et al., "Network
    randomization", ICLR 2020; Xu et al., "RandConv", ICLR 2021).

    Args:
        x: Images `(B, channels, height, width)` in [0, 1].
    """
    batch, channels = x.shape[:2]
    weight = torch.randn(batch * channels, channels, 3, 3, device=x.device) / (9 * channels) ** 0.5
    weight[:, :, 1, 1] += torch.randn(batch * channels, channels, device=x.device)
    padded = F.pad(x, (1,) * 4, mode="replicate").reshape(1, batch * channels, x.shape[2] + 2, x.shape[3] + 2)
    y = F.conv2d(padded, weight, groups=batch).reshape(x.shape)
    low, high = y.amin((1, 2, 3), keepdim=True), y.amax((1, 2, 3), keepdim=True)
    kept = torch.rand(batch, 1, 1, 1, device=x.device) < 0.25
    return torch.where(kept, x, (y - low) / (high - low + 1e-6))


AUGMENTATIONS = {**PLAIN, "affine": affine, "random-conv": random_conv}
