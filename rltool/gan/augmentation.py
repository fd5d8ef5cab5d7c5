"""Random changes of all that a discriminator sees, which gradients pass through.

The generator is not asked to make changed images, since real and fake ones are changed alike (Zhao et al.,
"Differentiable augmentation for data-efficient GAN training", NeurIPS 2020).
"""

from __future__ import annotations

import torch

from rltool.supervised.augmentation import AUGMENTATIONS as LABEL_PRESERVING


def color(x: torch.Tensor) -> torch.Tensor:
    """Change brightness by up to .5, then saturation and contrast by a factor from the paper's ranges.

    Args:
        x: Images `(n, channels, height, width)`; what comes out may leave [0, 1].
    """
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + (brightness - 0.5)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


AUGMENTATIONS = {**LABEL_PRESERVING, "color": color}
