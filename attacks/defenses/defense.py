"""Passive defenses: filters before a classifier, which itself stays as it is (Lecture 10); and how to attack them.

An attacker who knows the filter takes it for the network's first layer. Where it has no gradient, the backward pass
goes through something that has (BPDA, Athalye et al., 2018); where it is random, gradients are means over draws (EOT).
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rltool.attacks.defenses.config import DEFENSES
from rltool.attacks.victim import Victim
from rltool.errors import UserError


class Defense(nn.Module):
    """A filter of inputs; a subclass says what `forward` does to `(B, ...)`, and gives back the same shape.

    Attributes:
        differentiable: Whether the gradient through it says where its output goes.
        random: Whether each call draws anew.
        images: Whether it is for images `(B, channels, height, width)` in [0, 1] alone.
        draw: Where random ones draw from.
    """

    differentiable: ClassVar[bool] = True
    random: ClassVar[bool] = False
    images: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.draw = torch.Generator().manual_seed(0)

    def fit(self, x: torch.Tensor) -> Self:
        """Learn from clean training inputs `(n, ...)`; most have nothing to learn."""
        return self

    def approximation(self, x: torch.Tensor) -> torch.Tensor:
        """What the backward pass of BPDA goes through instead; by default the input itself."""
        return x


class Defended(nn.Module):
    """A classifier behind a defense: inputs `(B, ...)` to logits `(B, K)`.

    Args:
        module: The classifier.
        defense: What its inputs pass through.
        bpda: Differentiate through the defense's approximation.
        eot: How many draws of a random defense each call takes the mean of; of the probabilities, whose logarithms are
            given.
    """

    def __init__(self, module: Any, defense: Defense, *, bpda: bool = False, eot: int = 1) -> None:
        super().__init__()
        self.module, self.defense, self.bpda, self.eot = module, defense, bpda, eot

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.eot == 1:
            return self.module(self.filter(x))
        repeated = x.repeat(self.eot, *(1,) * (x.ndim - 1))
        logits = self.module(self.filter(repeated)).unflatten(0, (self.eot, len(x)))
        return logits.log_softmax(-1).logsumexp(0) - torch.log(torch.tensor(float(self.eot)))

    def filter(self, x: torch.Tensor) -> torch.Tensor:
        """What the classifier is shown of inputs `(B, ...)`."""
        if self.defense.images and x.ndim != 4:
            raise UserError(f"{type(self.defense).__name__} is for images; a sample here is {tuple(x.shape[1:])}")
        if self.bpda:
            around = self.defense.approximation(x)
            with torch.no_grad():
                through = self.defense(x)
            return around + (through - around).detach()
        if not self.defense.differentiable and torch.is_grad_enabled() and x.requires_grad:
            raise UserError(
                f"{type(self.defense).__name__} is not differentiable: say BPDA (bpda=True, or --bpda), whose "
                "backward pass goes around it, or attack with one that needs no gradient, as square"
            )
        return self.defense(x)


def defended(victim: Victim, defense: Defense, *, bpda: bool = False, eot: int = 1) -> Victim:
    """The victim behind a defense, as an attacker who knows of it attacks it.

    Args:
        victim: Without the defense.
        defense: A filter of its inputs.
        bpda: Let gradients go around what has none.
        eot: Draws of a random defense that each output, and each gradient, is the mean of.

    Raises:
        UserError: `eot` is below 1, or the victim's outputs cannot be averaged.

    Example:
        >>> through = defended(Victim(nn.Flatten(), (0, 1)), make_defense("bit-depth", bits=2), bpda=True)
        >>> through.logits(torch.full((1, 1, 2, 2), 0.3))
        tensor([[0.3333, 0.3333, 0.3333, 0.3333]])
    """
    if eot < 1:
        raise UserError(f"eot counts draws of the defense; it must be at least 1, not {eot}")
    if eot > 1 and (victim.probabilities or victim.tolerance is not None):
        raise UserError("draws are averaged for a victim with logits alone; leave eot at 1")
    return victim.around(Defended(victim.module, defense, bpda=bpda, eot=eot if defense.random else 1))


def make_defense(name: str, seed: int = 0, **options: Any) -> Defense:
    """Make a defense.

    Args:
        name: As in `rltool list defenses`.
        seed: Of what it draws, and of what it learns from.
        **options: Its hyperparameters.

    Raises:
        UserError: There is no such defense, or it has no such option.
    """
    kind: type[Defense] = DEFENSES[name].load()
    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            raise UserError(f"{name} has no option {option}; it takes {', '.join(known)}")
    defense = kind(**options)
    defense.draw.manual_seed(seed)
    return defense


def require(fits: bool, option: str, needs: str, value: Any) -> None:
    """See that an option is such as its defense needs.

    Raises:
        UserError: It is not.
    """
    if not fits:
        raise UserError(f"{option} must be {needs}, not {value}")


def whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
