"""Optimizers over one flat vector.

All parameters of a module become views of one vector, and so do their gradients, so that clipping and stepping cost a
handful of operations however many layers there are. For the small networks of control tasks that is a fifth of the
time of an update, and `torch.optim` would also double the start-up time (it imports the compiler).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


class Optimizer:
    """Gradient descent on the parameters of a module, with gradients clipped to a global norm.

    The parameters are moved into `self.parameters`, a flat vector, and stay usable as before.

    Args:
        module: What is trained; parameters that do not require a gradient are left alone.
        learning_rate: Step size; assign to `.learning_rate` to follow a schedule.
        max_grad_norm: The gradient is scaled down to this Euclidean norm (infinity: never).
    """

    def __init__(self, module: nn.Module, learning_rate: float, max_grad_norm: float = float("inf")) -> None:
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        trained = [p for p in module.parameters() if p.requires_grad]
        self.parameters = torch.cat([p.detach().reshape(-1) for p in trained])
        self.gradient = torch.zeros_like(self.parameters)
        self.steps = 0
        self.weight_decay = 0.0
        self.places: dict[nn.Parameter, slice] = {}
        self.frozen: list[slice] = []
        start = 0
        for p in trained:
            end = start + p.numel()
            self.places[p] = slice(start, end)
            p.data = self.parameters[start:end].view(p.shape)
            p.grad = self.gradient[start:end].view(p.shape)
            start = end

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Leave the parameters of these modules as they are from now on, and train all others.

        Their running moments go on meanwhile: with fresh ones, the first steps afterwards would be far too large.
        """
        self.frozen = [self.places[p] for module in modules for p in module.parameters() if p in self.places]

    def step(self, loss: torch.Tensor) -> float:
        """Descend one step along the gradient of `loss`; returns the gradient's norm before clipping.

        A gradient that is not finite changes nothing: the weights stay the last good ones.
        """
        self.gradient.zero_()
        loss.backward()
        with torch.no_grad():
            norm = float(torch.linalg.vector_norm(self.gradient))
            if math.isfinite(norm):
                if norm > self.max_grad_norm:
                    self.gradient.mul_(self.max_grad_norm / (norm + 1e-6))
                self.steps += 1
                self._decay()
                kept = [self.parameters[place].clone() for place in self.frozen]
                self._update()
                for place, values in zip(self.frozen, kept, strict=True):
                    self.parameters[place] = values
        return norm

    def descend(self, loss: torch.Tensor) -> None:
        """`step` without clipping, checking and freezing: it asks for no number, so a GPU need not be waited for."""
        self.gradient.zero_()
        loss.backward()
        self.apply()

    def apply(self) -> None:
        """Descend along the gradient that is there already, from another optimizer's backward pass."""
        with torch.no_grad():
            self.steps += 1
            self._decay()
            self._update()

    def _decay(self) -> None:
        if self.weight_decay:
            self.gradient.add_(self.parameters, alpha=self.weight_decay)

    def _update(self) -> None:
        raise TypeError(f"{type(self).__name__} lacks an update rule")

    def reset(self) -> None:
        """Forget the running moments and the count of steps: what comes is another loss."""
        for moment in self.state().values():
            moment.zero_()
        self.steps = 0

    def state(self) -> dict[str, torch.Tensor]:
        """Running moments, by name; with `steps` they are the whole state."""
        return {name: value for name, value in vars(self).items() if name.startswith("moment")}

    def load_state(self, state: dict[str, torch.Tensor], steps: int) -> None:
        """Go on from what `state` returned."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self.steps = steps


class Adam(Optimizer):
    """Kingma & Ba, 2015. `epsilon` is 1e-5, as on-policy agents have it, not 1e-8."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        max_grad_norm: float = float("inf"),
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__(module, learning_rate, max_grad_norm)
        self.betas = betas
        self.epsilon = epsilon
        self.moment1 = torch.zeros_like(self.parameters)
        self.moment2 = torch.zeros_like(self.parameters)

    def _update(self) -> None:
        b1, b2 = self.betas
        self.moment1.lerp_(self.gradient, 1 - b1)
        self.moment2.mul_(b2).addcmul_(self.gradient, self.gradient, value=1 - b2)
        scale = self.moment2.sqrt().div_((1 - b2**self.steps) ** 0.5).add_(self.epsilon)
        self.parameters.addcdiv_(self.moment1, scale, value=-self.learning_rate / (1 - b1**self.steps))


class RMSprop(Optimizer):
    """Tieleman & Hinton, 2012, as PyTorch has it: epsilon outside the square root."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        max_grad_norm: float = float("inf"),
        alpha: float = 0.99,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__(module, learning_rate, max_grad_norm)
        self.alpha = alpha
        self.epsilon = epsilon
        self.moment2 = torch.zeros_like(self.parameters)

    def _update(self) -> None:
        self.moment2.mul_(self.alpha).addcmul_(self.gradient, self.gradient, value=1 - self.alpha)
        scale = self.moment2.sqrt().add_(self.epsilon)
        self.parameters.addcdiv_(self.gradient, scale, value=-self.learning_rate)


class AdamW(Adam):
    """Loshchilov & Hutter, 2019: weights decay apart from the gradient."""

    def _decay(self) -> None:
        pass

    def _update(self) -> None:
        self.parameters.mul_(1 - self.learning_rate * self.weight_decay)
        super()._update()


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak, 1964), as PyTorch has it."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        max_grad_norm: float = float("inf"),
        momentum: float = 0.9,
    ) -> None:
        super().__init__(module, learning_rate, max_grad_norm)
        self.beta = momentum
        self.moment1 = torch.zeros_like(self.parameters)

    def _update(self) -> None:
        self.moment1.mul_(self.beta).add_(self.gradient)
        self.parameters.add_(self.moment1, alpha=-self.learning_rate)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}
