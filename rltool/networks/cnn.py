"""Convolutional backbones for images: Nature-DQN's and IMPALA's."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import SMALLEST_CNN_IMAGE, Backbone, automatic_backbone, evaluating
from rltool.networks.config import BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.observations import channels_last, image_size


class ImageBackbone(Backbone):
    """Scales images to [0, 1], puts channels first, runs `convolutions`, flattens, and ends in `linear`.

    Bytes are divided by 255; a floating Box is taken as it is. The smaller of the outer axes is the channels.

    Args:
        config: Options.
        space: The space of one image.
        features: Width of `linear`; None leaves it out, and features are what the convolutions put out.
    """

    convolutions: nn.Sequential
    linear: nn.Sequential

    def __init__(self, config: BackboneConfig, space: gym.Space, features: int | None) -> None:
        name = type(self).__name__.lower()
        if not self.reads(space):
            raise UserError(
                f"the {name} backbone reads images, a Box of shape (height, width, channels) or (channels, height, "
                f"width), not {space}; take --backbone {automatic_backbone(space)}"
            )
        super().__init__(space, features or 0)
        self.config = config
        self.channels_last = channels_last(space)
        self.scale = 1 / 255 if space.dtype == "uint8" else 1.0
        channels, height, width = image_size(space)
        self.convolutions = self.build_convolutions(channels)
        try:
            with torch.no_grad(), evaluating(self.convolutions):  # Running statistics stay as they begin.
                flat = self.convolutions(torch.zeros(1, channels, height, width)).numel()
        except RuntimeError:
            flat = 0
        if not flat:
            raise UserError(
                f"images of {height} x {width} pixels are too small for the {name} backbone; take --backbone impala"
            )
        self.out_features = features or flat
        self.linear = nn.Sequential(nn.Linear(flat, features), nn.ReLU()) if features else nn.Sequential()
        initialize(self, config.init)

    @classmethod
    def reads(cls, space: gym.Space) -> bool:
        return isinstance(space, gym.spaces.Box) and len(space.shape) == 3

    def build_convolutions(self, channels: int) -> nn.Sequential:
        """The part that maps `(B, channels, H, W)` to `(B, channels', H', W')`."""
        raise TypeError(f"{type(self).__name__} lacks its convolutions")

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        x = observations.float() * self.scale
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        return self.linear(self.convolutions(x).flatten(1))


class CNN(ImageBackbone):
    """The network of Mnih et al., "Human-level control through deep reinforcement learning", Nature, 2015.

    Its kernels and strides need 36 pixels; smaller images get as many layers of 3 x 3 kernels, two of which halve them.
    """

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        super().__init__(config, space, features=512)

    def build_convolutions(self, channels: int) -> nn.Sequential:
        if min(image_size(self.input_space)[1:]) < SMALLEST_CNN_IMAGE:
            return nn.Sequential(
                nn.Conv2d(channels, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, stride=2, padding=1),
                nn.ReLU(),
            )
        return nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), the shape unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class IMPALA(ImageBackbone):
    """The large residual network of Espeholt et al., "IMPALA", ICML 2018: three stages of 16, 32 and 32 channels."""

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        super().__init__(config, space, features=256)

    def build_convolutions(self, channels: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in (16, 32, 32):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(width),
                ResidualBlock(width),
            ]
            channels = width
        return nn.Sequential(*layers, nn.ReLU())
