"""From one image to another of the same size: an encoder, residual blocks, a decoder, and skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import gymnasium as gym
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.initialization import initialize
from rltool.networks.observations import image_size
from rltool.networks.resnet import BasicBlock, build_norm


class Translator(nn.Module):
    """Maps images `(B, channels, H, W)` in [0, 1] to images of the same shape, in [0, 1].

    Each stage of the encoder halves the image, and the decoder doubles it again by repeating pixels and convolving, as
    `ImageDecoder` does. Between them are residual blocks (Johnson et al., ECCV 2016, as in CycleGAN); with
    `skip_connections` the decoder also sees what the encoder saw at the same size (Ronneberger et al., "U-Net", MICCAI
    2015, as in pix2pix), so that what stays where it is need not pass the narrow middle.

    Args:
        space: The space of one image: floats, channels first.
        channels: Of the first convolution, then of each stage.
        blocks: Residual blocks in the middle.
        norm: Normalization: "layer", "batch" or "none".
        skip_connections: Whether the decoder sees what the encoder saw.
        init: Weight initialization.

    Raises:
        UserError: The space is not of images.
    """

    def __init__(
        self,
        space: gym.spaces.Box,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        norm: str = "layer",
        skip_connections: bool = True,
        init: str = "orthogonal",
    ) -> None:
        super().__init__()
        if len(space.shape) != 3:
            raise UserError(f"translators map images to images, not {space}; give two data sets of images")
        self.space = space
        self.skip_connections = skip_connections
        depth = image_size(space)[0]
        self.encoder = nn.ModuleList([_convolve(depth, channels[0], norm)])
        for before, after in pairwise(channels):
            self.encoder.append(_convolve(before, after, norm, stride=2))
        self.middle = nn.Sequential(*(BasicBlock(channels[-1], channels[-1], norm) for _ in range(blocks)))
        self.decoder = nn.ModuleList()
        for before, after in pairwise(channels[::-1]):
            seen = after if skip_connections else 0
            self.decoder.append(_convolve(before + seen, after, norm))
        self.last = nn.Conv2d(channels[0], depth, 3, padding=1)
        initialize(self, init)
        initialize(self.last, init, gain=1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for stage in self.encoder:
            x = stage(x)
            seen.append(x)
        x = self.middle(x)
        for stage, before in zip(self.decoder, seen[-2::-1], strict=True):
            x = nn.functional.interpolate(x, before.shape[2:])
            x = stage(torch.cat([x, before], 1) if self.skip_connections else x)
        return torch.sigmoid(self.last(x))


def _convolve(in_channels: int, channels: int, norm: str, stride: int = 1) -> nn.Sequential:
    bias = norm == "none"  # A norm has one.
    convolution = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=bias)
    return nn.Sequential(convolution, build_norm(norm, channels), nn.ReLU())
