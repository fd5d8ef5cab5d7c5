"""Penalties on the discriminator's gradient with respect to its input."""

from __future__ import annotations

from collections.abc import Callable

import torch

Judge = Callable[[torch.Tensor], torch.Tensor]


def squared_gradient_norms(judge: Judge, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Squared Euclidean norm `(m,)` of the gradient of each logit, over all values of the examples that it is about.

    It can be differentiated again, with respect to the discriminator's weights.

    Args:
        judge: Examples `(n, ...)` to logits `(m,)`: each of one example, or of a pack of `n / m` in a row.
        x: Examples `(n, ...)`.
        scale: Unit of x that the gradient is taken in.
    """
    x = x.detach().requires_grad_()
    logits = judge(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.reshape(len(logits), -1).square().sum(1) * scale**2


def distance_to_one(squared_norms: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of norms to 1; its gradient is finite at 0, too."""
    return ((squared_norms + 1e-12).sqrt() - 1).square().mean()


def gradient_penalty(
    judge: Judge, real: torch.Tensor, fake: torch.Tensor, scale: float = 1.0, pack: int = 1
) -> torch.Tensor:
    """Norms drawn to 1 at random points between pairs of real and fake (Gulrajani et al., NIPS 2017).

    What is judged as one, a pack of examples in a row, is one point: all of it lies equally far between the two.
    """
    share = torch.rand(len(real) // pack, *(1,) * (real.ndim - 1), dtype=real.dtype, device=real.device)
    share = share.repeat_interleave(pack, 0)
    return distance_to_one(squared_gradient_norms(judge, torch.lerp(real, fake, share), scale))


def r1(judge: Judge, real: torch.Tensor, fake: torch.Tensor, scale: float = 1.0, pack: int = 1) -> torch.Tensor:
    """Half the squared norms at real examples (Mescheder et al., "Which training methods for GANs converge", 2018)."""
    return 0.5 * squared_gradient_norms(judge, real, scale).mean()


def dragan(judge: Judge, real: torch.Tensor, fake: torch.Tensor, scale: float = 1.0, pack: int = 1) -> torch.Tensor:
    """Norms drawn to 1 around real examples (Kodali et al., "On convergence and stability of GANs", 2017).

    The points are moved, each value by up to half of the minibatch's standard deviation.
    """
    moved = real + 0.5 * real.std() * (2 * torch.rand_like(real) - 1)
    return distance_to_one(squared_gradient_norms(judge, moved, scale))


PENALTIES = {"gradient": gradient_penalty, "r1": r1, "dragan": dragan}
