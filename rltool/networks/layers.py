"""Layers that PyTorch lacks, and spectral normalization of a whole module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradients[0], None


class GradientReversal(nn.Module):
    """The identity, whose gradient is multiplied by -strength (Ganin & Lempitsky, ICML 2015).

    What stands behind it learns to tell domains apart, and what stands before it to make them alike.

    Args:
        strength: The paper's lambda; assign to `.strength` to follow a schedule.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _ReverseGradient.apply(x, self.strength)


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d`, which refuses a single row while training: that has no variance, so running averages serve it.

    The last minibatch of a pass, or the last rollout of a run, may be a single row.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class NoisyLinear(nn.Module):
    """A linear layer with learned noise (Fortunato et al., "Noisy networks for exploration", ICLR 2018).

    While training, weights are `weight + weight_sigma * f(e_out) f(e_in)` with factorized Gaussian noise e and
    f(x) = sign(x) sqrt(|x|); noise is held until `resample`. In evaluation mode weights are their means, unless
    `exploring` is set: then inference has the same noise, which an agent needs whose updates ask how probable its
    actions were.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        sigma: Initial standard deviation of the noise, times sqrt(in_features).
    """

    noise_in: torch.Tensor
    noise_out: torch.Tensor

    def __init__(self, in_features: int, out_features: int, sigma: float = 0.5) -> None:
        super().__init__()
        self.exploring = False
        bound = 1 / math.sqrt(max(in_features, 1))
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma * bound))
        self.register_buffer("noise_in", torch.zeros(in_features))
        self.register_buffer("noise_out", torch.zeros(out_features))
        self.resample()

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw new noise, from a generator or from PyTorch's own."""
        for noise in (self.noise_in, self.noise_out):
            x = torch.randn(len(noise), generator=generator, device=generator.device if generator else None)
            noise.copy_(x.sign() * x.abs().sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training or self.exploring):
            return F.linear(x, self.weight, self.bias)
        # W x + S * (f(e_out) f(e_in)) x without the noisy matrix: inputs are scaled before S, outputs behind it.
        noise = F.linear(x * self.noise_in, self.weight_sigma, self.bias_sigma)
        return F.linear(x, self.weight, self.bias) + noise * self.noise_out

    def noisy_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias with the noise of this moment."""
        weight = self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)
        return weight, self.bias + self.bias_sigma * self.noise_out


def resample_noise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw new noise in every `NoisyLinear` of a module."""
    for layer in module.modules():
        if isinstance(layer, NoisyLinear):
            layer.resample(generator)


def add_spectral_norm(module: nn.Module) -> nn.Module:
    """Divide the weight of every linear and convolutional layer by its largest singular value, from now on.

    The value is estimated by power iteration, one step for each call while training (Miyato et al., "Spectral
    normalization for generative adversarial networks", ICLR 2018). Initialize weights before; noisy layers stay as they
    are, and so do layers that have it already.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    for layer in [layer for layer in module.modules() if isinstance(layer, kinds)]:
        if not parametrize.is_parametrized(layer):
            parametrizations.spectral_norm(layer)
    return module
