"""Filters that give back what images are known to be: a denoising autoencoder, and a generator's nearest image."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rltool.attacks.defenses.defense import Defense, number, require, whole
from rltool.errors import UserError
from rltool.networks import build_backbone
from rltool.networks.config import BackboneConfig
from rltool.networks.decoder import build_decoder
from rltool.training.optimizers import Adam
from rltool.training.run import Run

BATCH = 128


class Autoencoder(Defense):
    """A denoising autoencoder (Vincent et al., 2008): a backbone, a few numbers, and the backbone's mirror.

    It learns to give back training images from noisy ones.

    Args:
        noise: Standard deviation of that noise.
        latent: How many numbers an image becomes.
        steps: Minibatches that it learns from.
        learning_rate: Step size of Adam, which falls to 0.

    Raises:
        UserError: An option is out of range.
    """

    def __init__(self, noise: float = 0.2, latent: int = 24, steps: int = 1_500, learning_rate: float = 2e-3) -> None:
        super().__init__()
        require(number(noise), "noise", "a number above 0", noise)
        require(whole(latent, 1), "latent", "a whole number above 0", latent)
        require(whole(steps, 1), "steps", "a whole number above 0", steps)
        require(number(learning_rate), "learning_rate", "a number above 0", learning_rate)
        self.noise, self.latent, self.steps, self.learning_rate = noise, latent, steps, learning_rate
        self.encoder: nn.Module | None = None
        self.decoder: nn.Module | None = None

    def fit(self, x: torch.Tensor) -> Self:
        shape = tuple(x.shape[1:])
        config = BackboneConfig(backbone="mlp", hidden_sizes=(256,), activation="relu")
        seed = int(torch.randint(2**31, (), generator=self.draw))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(config, gym.spaces.Box(0.0, 1.0, shape, np.float32))
            self.encoder = nn.Sequential(backbone, nn.Linear(backbone.out_features, self.latent)).to(x.device)
            # Bytes: what comes out is in [0, 1].
            self.decoder = build_decoder(config, self.latent, gym.spaces.Box(0, 255, shape, np.uint8)).to(x.device)
        optimizer = Adam(self, self.learning_rate, max_grad_norm=1.0)
        for step in range(self.steps):
            optimizer.learning_rate = self.learning_rate * (1 - step / self.steps)
            clean = x[torch.randint(len(x), (BATCH,), generator=self.draw).to(x.device)]
            noisy = clean + self.noise * torch.randn(clean.shape, generator=self.draw).to(x)
            with torch.enable_grad():
                optimizer.step(F.mse_loss(self._restored(noisy), clean))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._restored(x)

    def _restored(self, x: torch.Tensor) -> torch.Tensor:
        if self.encoder is None or self.decoder is None:
            raise UserError(f"{type(self).__name__} has learned nothing yet; call its fit(x) with training inputs")
        return self.decoder(self.encoder(x))


class Projection(Autoencoder):
    """The nearest image that a generator makes, found by gradient descent on its input (Defense-GAN, 2018).

    The generator is the decoder of an autoencoder that `fit` trains, or one of your own: any module from codes
    `(B, latent)`, drawn from a standard normal distribution, to images. Descent starts at codes that are the same for
    all images. BPDA goes through the autoencoder, or past a generator of your own.

    Args:
        latent: How many numbers a code has.
        descent: Steps of the gradient descent.
        starts: From how many codes it starts; the nearest image of all is taken.
        step_size: Of the descent by Adam.
        generator: Your own.
        noise: As for the autoencoder.
        steps: As for the autoencoder.
        run: A GAN's run, whose generator is taken; it says itself how many numbers a code has.

    Raises:
        UserError: An option is out of range, or the run has no such generator.
    """

    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        latent: int = 12,
        descent: int = 30,
        starts: int = 4,
        step_size: float = 0.2,
        generator: nn.Module | None = None,
        noise: float = 0.2,
        steps: int = 1_500,
        run: str | None = None,
    ) -> None:
        if run is not None:
            generator, latent = _generator_of(str(run))
        super().__init__(noise, latent, steps)
        require(whole(descent, 1), "descent", "a whole number above 0", descent)
        require(whole(starts, 1), "starts", "a whole number above 0", starts)
        require(number(step_size), "step_size", "a number above 0", step_size)
        self.descent, self.starts, self.step_size = descent, starts, step_size
        self.decoder = generator
        self.codes = torch.randn((starts, latent), generator=self.draw)  # Where descent starts, (starts, latent).

    def fit(self, x: torch.Tensor) -> Self:
        if self.decoder is not None:
            made = tuple(self.decoder(self.codes.to(x)).shape[1:])
            if made != tuple(x.shape[1:]):
                raise UserError(f"the generator makes {made}, but the inputs here are {tuple(x.shape[1:])}")
            return self
        super().fit(x)
        assert self.encoder is not None
        with torch.no_grad():
            self.codes = self.encoder(x[torch.randperm(len(x), generator=self.draw)[: self.starts].to(x.device)])
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.decoder is None:
            raise UserError(
                "Projection has no generator yet; call its fit(x), or give it one: Projection(generator=...)"
            )
        images = x.detach().repeat_interleave(self.starts, 0)
        codes = self.codes.to(x).repeat(len(x), 1)
        mean, var = torch.zeros_like(codes), torch.zeros_like(codes)
        for step in range(1, self.descent + 1):
            codes = codes.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(_distances(self.decoder(codes), images).sum(), codes)
            mean, var = 0.9 * mean + 0.1 * gradient, 0.99 * var + 0.01 * gradient.square()
            scale = (var / (1 - 0.99**step)).sqrt() + 1e-8
            codes = codes.detach() - self.step_size * mean / (1 - 0.9**step) / scale
        with torch.no_grad():
            made = self.decoder(codes)
        made, distances = made.unflatten(0, (len(x), self.starts)), _distances(made, images).view(len(x), self.starts)
        return made[torch.arange(len(x), device=x.device), distances.argmin(1)]

    def approximation(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.encoder is None else self._restored(x)


def _generator_of(run: str) -> tuple[nn.Module, int]:
    """The generator of a GAN's run, as it makes samples, and how many numbers of noise it takes.

    Raises:
        UserError: It has none, or one that has to be told what to make.
    """
    learner = Run(run).agent
    generator: Any = getattr(learner, "averaged", None)
    if not hasattr(generator, "noise_size") or learner.usual_conditions(1) is not None:
        raise UserError(f"{run} has no generator that makes samples of noise alone; take one of: rltool train wgan-gp")
    return generator.requires_grad_(False).eval(), generator.noise_size


def _distances(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return (images - others).flatten(1).square().sum(1)
