"""Generator and discriminator: a decoder over noise, and a backbone with one logit."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.errors import UserError
from rltool.gan.config import GANConfig
from rltool.networks.backbone import build_backbone, device_of
from rltool.networks.decoder import build_decoder
from rltool.networks.heads import ValueHead
from rltool.networks.layers import add_spectral_norm


class Scaled(nn.Module):
    """Knows the range of the data; images are in [0, 1], points anywhere.

    Attributes:
        shape: Shape of one example: `(channels, height, width)` or `(d,)`.
        mean: Center of the range: .5 for images, the mean of points, `(d,)`.
        std: Its unit, a scalar: .5 for images, the standard deviation of points over all coordinates.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        images = len(shape) == 3
        self.register_buffer("mean", torch.full((), 0.5) if images else torch.zeros(shape))
        self.register_buffer("std", torch.tensor(0.5 if images else 1.0))

    @property
    def of_images(self) -> bool:
        """Whether examples are images."""
        return len(self.shape) == 3

    def normalize_by(self, x: torch.Tensor) -> None:
        """Take the range of points `(n, d)`; that of images is fixed."""
        if not self.of_images:
            self.mean.copy_(x.mean(0))
            self.std.copy_((x - self.mean).square().mean().sqrt().clamp_min(1e-6))


class Generator(Scaled):
    """Maps noise, and a condition if there is one, to examples in the data's range.

    Args:
        config: Options; the decoder mirrors the discriminator's backbone.
        shape: Shape of one example.
        condition_size: Length of the vector that stands for a condition; 0: there is none.

    Raises:
        UserError: The backbone has no mirror.
    """

    def __init__(self, config: GANConfig, shape: tuple[int, ...], condition_size: int = 0) -> None:
        super().__init__(shape)
        self.noise_size = config.noise_size
        space = (
            gym.spaces.Box(0, 255, shape, np.uint8)  # Comes out in [0, 1].
            if self.of_images
            else gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        )
        options = {
            "hidden_sizes": config.generator_sizes[::-1] or config.hidden_sizes,
            "batch_norm": config.generator_batch_norm,
            "spectral_norm": False,
            "layer_norm": False,
            "dropout": 0.0,
        }
        self.decoder = build_decoder(config.model_copy(update=options), config.noise_size + condition_size, space)

    def noise(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Standard normal noise `(n, noise_size)`, from a generator or from PyTorch's own."""
        return torch.randn(n, self.noise_size, generator=generator, device=device_of(self))

    def forward(self, z: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        x = self.decoder(z if condition is None else torch.cat([z, condition], 1))
        return x if self.of_images else torch.addcmul(self.mean, x, self.std)


class Discriminator(Scaled):
    """Maps examples in the data's range to logits `(n / pack,)`: large for real, small for fake.

    Args:
        config: Options of the backbone, and `pack`: that many examples in a row are judged together.
        shape: Shape of one example.

    Attributes:
        backbone: What turns an example, or a pack of them side by side, into features.
        head: What turns features into a logit.

    Raises:
        UserError: The backbone does not read such examples.
    """

    def __init__(self, config: GANConfig, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.pack = config.pack
        packed = (shape[0] * self.pack, *shape[1:])
        if self.of_images and packed[0] >= packed[2]:
            raise UserError(f"{self.pack} images of {shape[1]} x {shape[2]} pixels do not pack; take a smaller --pack")
        low, high = (0.0, 1.0) if self.of_images else (-np.inf, np.inf)
        if config.backbone == "auto" and self.of_images:
            config = config.model_copy(update={"backbone": "cnn"})
        self.backbone = build_backbone(config, gym.spaces.Box(low, high, packed, np.float32))
        if self.backbone.has_memory:
            raise UserError(
                f"the {config.backbone} backbone reads sequences, and a discriminator is shown one example at a time; "
                "take --backbone cnn, impala, resnet or mlp"
            )
        self.head = ValueHead(self.backbone.out_features, config.init)
        if config.spectral_norm:
            add_spectral_norm(self.head)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the logit is computed from, `(n / pack, out_features)`."""
        x = (x - self.mean) / self.std
        if self.pack > 1:
            x = x.reshape(-1, self.pack * self.shape[0], *self.shape[1:])
        return self.backbone(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Networks(nn.Module):
    """What is saved of a GAN.

    Attributes:
        generator: What makes samples.
        discriminator: What judges them.
    """

    generator: Any  # Methods call theirs by more than a module has.
    discriminator: Any

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    @property
    def backbone(self) -> nn.Module | None:
        """The discriminator's, which classifiers and policies can start from; None where there are several."""
        return getattr(self.discriminator, "backbone", None)
