"""Running statistics that live inside a module, so that they are saved and loaded with the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rltool.networks.backbone import NumpyFunction


class RunningNorm(nn.Module):
    """Shifts and scales inputs by a running mean and standard deviation, and clips them.

    Statistics change in `update` alone, never in `forward`: what is trained is what is evaluated.

    Args:
        shape: Shape of one input.
        clip: Normalized inputs stay within [-clip, clip].
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.clip = clip
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, batch: np.ndarray) -> None:
        """Merge the moments of a batch `(B, *shape)` into the running ones (Chan et al., 1979)."""
        n = len(batch)
        if n == 0:
            return
        values = torch.from_numpy(np.ascontiguousarray(batch)).to(self.mean.device, torch.float64)
        mean, var = values.mean(0), values.var(0, correction=0)
        delta, total = mean - self.mean, self.count + n
        weight = n / total
        # The first batch replaces the initial (0, 1): `count` is 0 then, and `weight` 1.
        self.var.mul_(1 - weight).add_(weight * var).add_(delta**2 * weight * (1 - weight))
        self.mean.add_(delta * weight)
        self.count.copy_(total)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = (self.var + self.epsilon).rsqrt()
        return ((x - self.mean.float()) * scale.float()).clamp(-self.clip, self.clip)

    def as_numpy(self) -> NumpyFunction:
        """The same function of NumPy arrays, with the statistics as they are now."""
        mean = self.mean.cpu().numpy().astype(np.float32)
        scale = (self.var + self.epsilon).rsqrt().cpu().numpy().astype(np.float32)

        def infer(x: np.ndarray) -> np.ndarray:
            x = (x - mean) * scale
            return np.clip(x, -self.clip, self.clip, out=x)

        return infer
