"""Looking ahead: the discriminator as it will be after some more steps, as a function of the generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from rltool.training.optimizers import Adam, Optimizer


def unrolled(
    discriminator: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor],
    steps: int,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The discriminator after `steps` steps of Adam, through which gradients pass (Metz et al., ICLR 2017).

    Args:
        discriminator: What is trained by `optimizer`; it stays as it is.
        optimizer: Its optimizer, whose moments are gone on from.
        loss: From a discriminator, as a function of examples, to its loss.
        steps: How many.
    """
    assert isinstance(optimizer, Adam)  # The config sees to that.
    names = [name for name, parameter in discriminator.named_parameters() if parameter in optimizer.places]
    shapes = [parameter.shape for parameter in optimizer.places]
    weights = optimizer.parameters.detach().clone().requires_grad_()
    first, second = optimizer.moment1.clone(), optimizer.moment2.clone()
    b1, b2 = optimizer.betas

    def at(flat: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        parts = flat.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return lambda x: torch.func.functional_call(discriminator, named, (x,))

    for step in range(optimizer.steps + 1, optimizer.steps + steps + 1):
        (gradient,) = torch.autograd.grad(loss(at(weights)), weights, create_graph=True)
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient.square()
        # Within the root, so that its gradient is finite where a weight's has always been 0.
        scale = ((second + 1e-16) / (1 - b2**step)).sqrt() + optimizer.epsilon
        weights = weights - optimizer.learning_rate / (1 - b1**step) * first / scale
    return at(weights)
