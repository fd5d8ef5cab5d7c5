"""The classifier: a backbone and a linear head."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks import build_backbone
from rltool.networks.backbone import automatic_backbone
from rltool.networks.config import BackboneConfig


class Classifier(nn.Module):
    """Maps images in [0, 1], or points, to logits `(B, num_classes)`.

    The mean and deviation that inputs are normalized by are its own buffers: whoever attacks it works in [0, 1].

    Args:
        config: Options of the backbone.
        shape: Shape of one input: `(channels, height, width)` or `(d,)`.
        num_classes: How many classes.

    Raises:
        UserError: The backbone does not read such inputs.

    Attributes:
        input_space: Space of one input.
        num_classes: How many classes.
        backbone: What turns an input into features.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: BackboneConfig, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        images = len(shape) == 3
        low, high = (0.0, 1.0) if images else (-np.inf, np.inf)
        self.input_space = gym.spaces.Box(low, high, shape, np.float32)
        self.num_classes = num_classes
        if config.backbone == "auto" and images:
            as_bytes = gym.spaces.Box(0, 255, shape, np.uint8)
            config = config.model_copy(update={"backbone": automatic_backbone(as_bytes)})
        self.backbone = build_backbone(config, self.input_space)
        if self.backbone.has_memory:
            raise UserError(
                f"the {config.backbone} backbone reads sequences, and a classifier is shown one input at a time; take "
                "--backbone cnn, impala, resnet or mlp"
            )
        self.head = nn.Linear(self.backbone.out_features, num_classes)
        statistics = (shape[0], *(1 for _ in shape[1:]))
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("std", torch.ones(statistics))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone((x - self.mean) / self.std))

    def normalize_by(self, x: torch.Tensor) -> None:
        """Normalize by the mean and deviation of each channel (or coordinate) of examples `(n, ...)`."""
        axes = (0, *range(2, x.ndim))
        self.mean.copy_(x.mean(axes).reshape(self.mean.shape))
        self.std.copy_(x.std(axes, correction=0).clamp_min(1e-6).reshape(self.std.shape))
