"""Victims with a known defect each, on which one flag of `rltool check` has to go up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rltool.attacks.victim import Victim
from rltool.errors import unknown
from rltool.trees import Tree


@dataclass(frozen=True)
class Defect:
    """Something that makes a victim look robust, or an evaluation of it worthless.

    Attributes:
        flag: The check that has to see it.
        summary: A line about it.
        spoil: Makes the defective module of a sound one.
    """

    flag: str
    summary: str
    spoil: Callable[[nn.Module], nn.Module]


def spoiled(victim: Victim, name: str) -> Victim:
    """A victim with a defect.

    Args:
        victim: A sound one, of a module; it is left as it is.
        name: A key of `DEFECTS`.

    Raises:
        UserError: There is no such defect.
    """
    if name not in DEFECTS:
        raise unknown("defect", name, DEFECTS)
    made = victim.around(DEFECTS[name].spoil(victim.module))  # type: ignore[arg-type]
    made.state = victim.state
    return made


class _Spoiled(nn.Module):
    """A module, something before it, and something behind it."""

    def __init__(self, module: nn.Module, before: Any = None, behind: Any = None) -> None:
        super().__init__()
        self.module, self.before, self.behind = module, before or nn.Identity(), behind or nn.Identity()

    def forward(self, x: torch.Tensor, *state: Tree) -> torch.Tensor:
        return self.behind(self.module(self.before(x), *state))


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]


def _ripples(x: torch.Tensor) -> torch.Tensor:
    return x + 1e-3 * torch.sin(1e5 * x)


def _noise(logits: torch.Tensor) -> torch.Tensor:
    return logits + 0.05 * logits.detach().std() * torch.randn_like(logits)


def _coupled(logits: torch.Tensor) -> torch.Tensor:
    return logits - 0.5 * logits.mean(0)


def _training(module: nn.Module) -> nn.Module:
    return _Spoiled(module, behind=nn.Dropout(0.5).train())


DEFECTS = {
    "rounds": Defect(
        "zero-gradients", "rounds its inputs", lambda m: _Spoiled(m, before=lambda x: (x * 16).round() / 16)
    ),
    "no-gradients": Defect("zero-gradients", "lets no gradient through", lambda m: _Spoiled(m, behind=torch.detach)),
    "reversed": Defect("black-box", "gives gradients of the wrong sign", lambda m: _Spoiled(m, before=_Reversed.apply)),
    "ripples": Defect("incomplete", "has ripples that shatter its gradients", lambda m: _Spoiled(m, before=_ripples)),
    "softmax": Defect("probabilities", "gives probabilities", lambda m: _Spoiled(m, behind=lambda z: z.softmax(-1))),
    "huge-logits": Defect(
        "vanishing-loss", "has logits that are too large", lambda m: _Spoiled(m, behind=lambda z: 1e4 * z)
    ),
    "noise": Defect("randomized", "answers at random", lambda m: _Spoiled(m, behind=_noise)),
    "batch": Defect("neighbors", "answers by what else is in the batch", lambda m: _Spoiled(m, behind=_coupled)),
    "training": Defect("training-mode", "was left in training mode", _training),
    "constant": Defect("unbounded", "hardly looks at its inputs", lambda m: _Spoiled(m, before=lambda x: 1e-3 * x)),
}
