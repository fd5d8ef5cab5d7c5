"""Random changes of a minibatch that leave its labels right."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def shift(x: torch.Tensor) -> torch.Tensor:
    """Move each image by up to an eighth of its size (at least a pixel) along both axes, zeros coming in.

    Args:
        x: Images `(B, channels, height, width)`.
    """
    batch, _, height, width = x.shape
    reach = max(1, min(height, width) // 8)
    padded = F.pad(x, (reach,) * 4)
    top, left = torch.randint(2 * reach + 1, (2, batch, 1), device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image = torch.arange(batch, device=x.device)[:, None, None]
    return padded.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def flip(x: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images `(B, channels, height, width)` left to right."""
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


AUGMENTATIONS = {"shift": shift, "flip": flip}
