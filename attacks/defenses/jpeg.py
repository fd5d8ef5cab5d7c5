"""JPEG compression as a filter: only its loss matters here, so coefficients are quantized and never written out."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch.nn import functional as F

from rltool.attacks.defenses.defense import Defense, require, whole

BLOCK = 8
# Tables K.1 and K.2 of the standard (ITU-T T.81): steps of the coefficients of brightness and of colour.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class JPEG(Defense):
    """What is left of an image after JPEG, colours at full resolution (4:4:4); any size, any number of channels.

    Rounding has no gradient; BPDA goes through round(x) + (x - round(x))^3 instead (Shin & Song, 2017).

    Args:
        quality: From 1 to 100, as libjpeg counts it.

    Raises:
        UserError: The quality is none.
    """

    differentiable: ClassVar[bool] = False

    def __init__(self, quality: int = 50) -> None:
        super().__init__()
        require(whole(quality, 1) and quality <= 100, "quality", "a whole number from 1 to 100", quality)
        percent = 5_000 // quality if quality < 50 else 200 - 2 * quality
        tables = torch.tensor([LUMINANCE, CHROMINANCE, CHROMINANCE])
        self.register_buffer("steps", ((tables * percent + 50) // 100).clamp(1, 255).float())
        k = torch.arange(BLOCK)
        waves = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
        waves[0] /= math.sqrt(2)
        self.register_buffer("waves", waves)  # Row u is the cosine of frequency u: an orthogonal matrix.
        self.register_buffer("to_ycbcr", torch.tensor(TO_YCBCR))

    steps: torch.Tensor
    waves: torch.Tensor
    to_ycbcr: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._compress(x, differentiable=False)

    def approximation(self, x: torch.Tensor) -> torch.Tensor:
        return self._compress(x, differentiable=True)

    def _compress(self, x: torch.Tensor, *, differentiable: bool) -> torch.Tensor:
        channels, height, width = x.shape[1:]
        pixels = x * 255
        if channels == 3:
            pixels = torch.einsum("kc,bchw->bkhw", self.to_ycbcr, pixels)
        level = torch.full((channels, 1, 1), 128.0, device=x.device)
        if channels == 3:
            level[1:] = 0  # Colours are centred already.
        padded = F.pad(pixels - level, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
        blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (B, channels, rows, columns, 8, 8)
        steps = (self.steps if channels == 3 else self.steps[:1])[:, None, None]
        coefficients = self.waves @ blocks @ self.waves.T / steps
        rounded = coefficients.round()
        if differentiable:
            rounded = rounded.detach() + (coefficients - rounded.detach()) ** 3
        blocks = self.waves.T @ (rounded * steps) @ self.waves
        pixels = blocks.transpose(3, 4).reshape(padded.shape)[..., :height, :width] + level
        if channels == 3:
            pixels = torch.einsum("kc,bchw->bkhw", torch.linalg.inv(self.to_ycbcr), pixels)
        return (pixels / 255).clamp(0, 1)
