"""Weight initialization."""

from __future__ import annotations

import math

from torch import nn

ORTHOGONAL_GAIN = math.sqrt(2)


def initialize(module: nn.Module, init: str, gain: float = ORTHOGONAL_GAIN) -> nn.Module:
    """Initialize every linear and convolutional layer of a module in place, and return the module.

    Args:
        module: Any module.
        init: `orthogonal` (weights orthogonal times `gain`, biases zero; Saxe et al., 2014) or `default` (left as
            PyTorch made them).
        gain: Scale of orthogonal weights: sqrt(2) in hidden layers, 0.01 for a policy's last layer, 1 for a value.
    """
    if init == "orthogonal":
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return module
