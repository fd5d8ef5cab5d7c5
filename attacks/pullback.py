"""Gradients of policies of plain layers, in NumPy: of so few numbers autograd's calls cost more than the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from rltool.networks.mlp import linear_as_numpy
from rltool.networks.normalization import RunningNorm

Pull = Callable[[np.ndarray], np.ndarray]  # From a gradient by the outputs (B, K) to that by the inputs (B, n).
Pullback = Callable[[np.ndarray], tuple[np.ndarray, Pull]]  # From inputs to outputs, and the way back.


def make_pullback(layers: Sequence[nn.Module]) -> Pullback | None:
    """What layers make of inputs `(B, n)`, one after the other, and how a gradient goes back through them.

    Args:
        layers: Linear ones, tanh, ReLU, and running statistics of vectors; on the CPU.

    Returns:
        Their function, with the statistics as they are now; None where one of them is something else, or is watched or
        changed by hooks.

    Example:
        >>> outputs, pull = make_pullback([nn.Linear(4, 2)])(np.ones((8, 4), np.float32))
        >>> pull(np.ones_like(outputs)).shape
        (8, 4)
    """
    if any(type(layer) not in STEPS or getattr(layer, "bias", 0) is None or hooked(layer) for layer in layers):
        return None
    steps = [STEPS[type(layer)](layer) for layer in layers]

    def pullback(x: np.ndarray) -> tuple[np.ndarray, Pull]:
        pulls = []
        for step in steps:
            x, pull = step(x)
            pulls.append(pull)

        def back(gradient: np.ndarray) -> np.ndarray:
            for pull in reversed(pulls):
                gradient = pull(gradient)
            return gradient

        return x, back

    return pullback


def hooked(module: nn.Module) -> bool:
    """Whether there is more to a module's answer than what its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _linear(layer: nn.Linear) -> Pullback:
    weight, bias = linear_as_numpy(layer)
    return lambda x: (x @ weight + bias, lambda gradient: gradient @ weight.T)


def _tanh(layer: nn.Tanh) -> Pullback:
    def step(x: np.ndarray) -> tuple[np.ndarray, Pull]:
        y = np.tanh(x)
        return y, lambda gradient: gradient * (1 - y * y)

    return step


def _relu(layer: nn.ReLU) -> Pullback:
    return lambda x: (np.maximum(x, 0), lambda gradient: gradient * (x > 0))


def _norm(layer: RunningNorm) -> Pullback:
    mean, scale = layer.shift_and_scale()

    def step(x: np.ndarray) -> tuple[np.ndarray, Pull]:
        y = (x - mean) * scale
        return y.clip(-layer.clip, layer.clip), lambda gradient: gradient * scale * (abs(y) <= layer.clip)

    return step


STEPS: dict[type[nn.Module], Callable[[Any], Pullback]] = {
    nn.Linear: _linear,
    nn.Tanh: _tanh,
    nn.ReLU: _relu,
    RunningNorm: _norm,
}
