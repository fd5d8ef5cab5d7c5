"""Decoders: mirrors of backbones, from features back to vectors and images.

A backbone and a decoder are an autoencoder; a decoder of noise is the generator of a GAN.
"""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import SMALLEST_CNN_IMAGE
from rltool.networks.config import BACKBONES, BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.layers import BatchNorm, add_spectral_norm
from rltool.networks.mlp import build_hidden_layers
from rltool.networks.observations import channels_last, image_size, is_image


class Decoder(nn.Module):
    """Maps features `(B, in_features)` to `(B, *space.shape)`.

    Bytes come out divided by 255, in [0, 1], as backbones read them; all other numbers are unbounded.

    Attributes:
        in_features: Length of the feature vector.
        output_space: The space of what comes out.
    """

    def __init__(self, in_features: int, space: gym.spaces.Box) -> None:
        super().__init__()
        self.in_features = in_features
        self.output_space = space
        self.squash = nn.Sigmoid() if space.dtype == "uint8" else nn.Identity()


class VectorDecoder(Decoder):
    """The mirror of `mlp`: its hidden layers in reverse order, then a linear layer, for a Box of any shape."""

    def __init__(self, config: BackboneConfig, in_features: int, space: gym.spaces.Box) -> None:
        super().__init__(in_features, space)
        self.layers, width = build_hidden_layers(config, in_features, config.hidden_sizes[::-1])
        self.linear = nn.Linear(width, int(torch.Size(space.shape).numel()))
        initialize(self.layers, config.init)
        initialize(self.linear, config.init, gain=1.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.squash(self.linear(self.layers(features))).reshape(-1, *self.output_space.shape)


class ImageDecoder(Decoder):
    """The mirror of `cnn`: linear layers, then convolutions between which the image is doubled.

    Images as large as Nature-DQN's come from a linear layer and convolutions of 64, 64 and 32 channels, each of which
    sees the image doubled. Smaller ones go the way of the small `cnn` backwards: through 512 features, then
    convolutions of 64 channels at a quarter of the size and of 32 at half of it.

    Images are enlarged by repeating pixels: transposed convolutions leave checkerboards (Odena et al., "Deconvolution
    and checkerboard artifacts", Distill, 2016), and would fit some sizes only.

    Args:
        config: Options; with `batch_norm`, all hidden layers are normalized over the minibatch.
        in_features: Length of the feature vector.
        space: The space of one image.
    """

    def __init__(self, config: BackboneConfig, in_features: int, space: gym.spaces.Box) -> None:
        super().__init__(in_features, space)
        channels, height, width = image_size(space)
        self.channels_last = channels_last(space)
        self.batch_norm = config.batch_norm
        small = min(height, width) < SMALLEST_CNN_IMAGE
        layers, before = self._linear(in_features, 512) if small else [], 512 if small else in_features
        sizes = [(height, width)]
        for _ in range(2 if small else 3):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        smallest = sizes.pop()
        # Each feature has a norm of its own here: a channel's mean picture would make examples alike.
        layers += [*self._linear(before, 64 * smallest[0] * smallest[1]), nn.Unflatten(1, (64, *smallest))]
        before = 64
        for size, after in zip(sizes[::-1], (64, 32) if small else (64, 64, 32), strict=True):
            enlarge = nn.Upsample(size=size)
            convolve = [nn.Conv2d(before, after, 3, padding=1), *self._norm(after), nn.ReLU()]
            layers += [*convolve, enlarge] if small else [enlarge, *convolve]
            before = after
        last = nn.Conv2d(before, channels, 3, padding=1)
        self.layers = nn.Sequential(*layers, last)
        initialize(self.layers, config.init)
        initialize(last, config.init, gain=1.0)

    def _norm(self, channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if self.batch_norm else []

    def _linear(self, before: int, after: int) -> list[nn.Module]:
        return [nn.Linear(before, after), *([BatchNorm(after)] if self.batch_norm else []), nn.ReLU()]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.squash(self.layers(features))
        return x.permute(0, 2, 3, 1) if self.channels_last else x


def build_decoder(config: BackboneConfig, in_features: int, space: gym.Space) -> Decoder:
    """Build the mirror of the backbone that a config names.

    Args:
        config: Options; a backbone for images is mirrored by convolutions, the `mlp` by linear layers, and `auto` is
            convolutions for images of bytes only.
        in_features: Length of the feature vector.
        space: The space of what comes out.

    Raises:
        UserError: The space is no Box, or the config names a backbone without a mirror for it.
    """
    if not isinstance(space, gym.spaces.Box):
        raise UserError(f"decoders make vectors and images, in Box spaces, not {space}; decode to a Box")
    images = is_image(space) if config.backbone == "auto" else BACKBONES[config.backbone].load().reads(space)
    if not images and config.backbone not in ("auto", "mlp"):
        raise UserError(f"the {config.backbone} backbone has no mirror that makes {space}; take --backbone mlp")
    decoder = (ImageDecoder if images else VectorDecoder)(config, in_features, space)
    if config.spectral_norm:
        add_spectral_norm(decoder)
    return decoder
