"""Random changes of a minibatch: those that leave its labels right, and mixup, which mixes them, too."""

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


def cutout(x: torch.Tensor) -> torch.Tensor:
    """Cover a square of half the shorter side, at a random place of each image, with the minibatch's mean color.

    Its center may lie anywhere in the image, so that a part of the square often lies outside (DeVries & Taylor, 2017).

    Args:
        x: Images `(B, channels, height, width)`.
    """
    batch, _, height, width = x.shape
    side = max(1, min(height, width) // 2)

    def covered(length: int) -> torch.Tensor:
        first = torch.randint(length, (batch, 1), device=x.device) - side // 2
        place = torch.arange(length, device=x.device)
        return (place >= first) & (place < first + side)

    square = covered(height)[:, None, :, None] & covered(width)[:, None, None, :]
    return torch.where(square, x.mean((0, 2, 3), keepdim=True), x)


def mixup(x: torch.Tensor, targets: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each example and its target with those of another one of the minibatch (Zhang et al., 2018).

    Args:
        x: Inputs `(B, ...)`.
        targets: Probabilities of the classes `(B, classes)`.
        share: What stays of each, in [0, 1].
    """
    others = torch.randperm(len(x), device=x.device)
    return share * x + (1 - share) * x[others], share * targets + (1 - share) * targets[others]


AUGMENTATIONS = {"shift": shift, "flip": flip, "cutout": cutout}
