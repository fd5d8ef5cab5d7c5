"""A residual network for images of any size."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn

from rltool.networks.cnn import ImageBackbone
from rltool.networks.config import BackboneConfig


def build_norm(kind: str, channels: int) -> nn.Module:
    """Layer norm over channels and pixels of each image alone, batch norm, or nothing."""
    if kind == "layer":
        return nn.GroupNorm(1, channels)  # One group is layer norm that need not know the size of the image.
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()


def build_pool(kind: str) -> nn.Module:
    """3 x 3 windows with a stride of 2: H x W pixels become ceil(H / 2) x ceil(W / 2), so that any size will do."""
    if kind == "max":
        return nn.MaxPool2d(3, stride=2, padding=1)
    return nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)


class BasicBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))); a 1 x 1 convolution fits x where the channels change."""

    def __init__(self, in_channels: int, channels: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"  # A norm has one.
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias),
            build_norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
            build_norm(norm, channels),
        )
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.layers(x))


class ResNet(ImageBackbone):
    """Residual stages (He et al., "Deep residual learning for image recognition", CVPR 2016), then an average.

    A 3 x 3 convolution, then stages that halve the image and run basic blocks; the features are the averages of the
    last stage's channels over the image, so their number does not depend on its size.
    """

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        super().__init__(config, space, features=None)

    def build_convolutions(self, channels: int) -> nn.Sequential:
        norm, widths = self.config.resnet_norm, self.config.resnet_channels
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=norm == "none"),
            build_norm(norm, widths[0]),
            nn.ReLU(),
        ]
        channels = widths[0]
        for width in widths:
            layers.append(build_pool(self.config.resnet_pool))
            for _ in range(self.config.resnet_blocks):
                layers.append(BasicBlock(channels, width, norm))
                channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
