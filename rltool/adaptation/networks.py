"""The domain classifier: a small head on features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from rltool.networks.layers import GradientReversal


class DomainClassifier(nn.Module):
    """Maps features `(B, in_features)` to logits `(B,)`: large for the source, small for the target.

    Args:
        in_features: Length of a feature vector.
        sizes: Widths of its hidden layers.
    """

    def __init__(self, in_features: int, sizes: Sequence[int]) -> None:
        super().__init__()
        widths = [in_features, *sizes]
        hidden = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        self.reversal = GradientReversal()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features).squeeze(-1)

    def fooled(self, features: torch.Tensor, strength: float) -> torch.Tensor:
        """The same logits; what stands before learns to make them wrong, as strongly as this."""
        self.reversal.strength = strength
        return self(self.reversal(features))
