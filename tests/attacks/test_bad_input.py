"""Whatever is wrong with data, victim or hyperparameters: one sentence, from every attack, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rltool.attacks import (
    APGD,
    FGSM,
    IFGSM,
    MAD,
    MIFGSM,
    NES,
    PGD,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    OnePixel,
    Patch,
    Physical,
    RandomNoise,
    SimBA,
    Square,
    Strongest,
    Transfer,
    Universal,
    Victim,
)
from rltool.attacks.attack import Attack
from rltool.errors import UserError
from tests.attacks.conftest import Digits

KINDS: list[type[Attack]] = [
    RandomNoise,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    MAD,
    APGD,
    DeepFool,
    CarliniWagner,
    Square,
    NES,
    SimBA,
    HopSkipJump,
    OnePixel,
    Universal,
    Physical,
    Patch,
    Strongest,
]


def behind(victim: Victim, change: Callable[[torch.Tensor], Any]) -> Victim:
    return Victim(lambda x: change(victim.module(x)), (0, 1))


DATA: dict[str, tuple[Callable[[Victim, torch.Tensor, torch.Tensor], tuple], str]] = {
    "outside": (lambda v, x, y: (v, x + 1, y), "outside the victim's bounds"),
    "nan": (lambda v, x, y: (v, x * torch.nan, y), "finite floating-point"),
    "bytes": (lambda v, x, y: (v, x.byte(), y), "finite floating-point"),
    "array": (lambda v, x, y: (v, x.numpy(), y), "must be a tensor"),
    "empty": (lambda v, x, y: (v, x[:0], y[:0]), "nothing to attack"),
    "no-victim": (lambda v, x, y: (v.module, x, y), "attack a Victim"),
    "labels-above": (lambda v, x, y: (v, x, y + 10), "classes 0 to 9"),
    "labels-below": (lambda v, x, y: (v, x, y - 10), "classes 0 to 9"),
    "labels-too-few": (lambda v, x, y: (v, x, y[:3]), "one whole number for each"),
    "labels-fractions": (lambda v, x, y: (v, x, y.float()), "one whole number for each"),
    "target-is-label": (lambda v, x, y: (v, x, y, y), "equal to its label"),
    "target-above": (lambda v, x, y: (v, x, y, y + 10), "classes 0 to 9"),
    "probabilities": (lambda v, x, y: (behind(v, lambda z: z.softmax(1)), x, y), "gives probabilities"),
    "nan-outputs": (lambda v, x, y: (behind(v, lambda z: z * torch.nan), x, y), "not finite"),
    "one-axis": (lambda v, x, y: (behind(v, lambda z: z[:, 0]), x, y), "must give"),
    "one-logit": (lambda v, x, y: (behind(v, lambda z: z[:, :1]), x, y), "a single logit"),
    "tuple": (lambda v, x, y: (behind(v, lambda z: (z, z)), x, y), "gives a tuple"),
    "other-shape": (lambda v, x, y: (v, torch.zeros(6, 3, 8, 8), y), "cannot read inputs of the shape"),
    "bounds-shape": (lambda v, x, y: (Victim(v.module, (torch.zeros(5), 1)), x, y), "bounds have the shapes"),
    "no-norm": (lambda v, x, y: (v, x, y), "has no norm 'l7'"),
}


@pytest.mark.parametrize("mistake", DATA)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_sentence(kind: type[Attack], mistake: str, digits: Digits) -> None:
    make, sentence = DATA[mistake]
    victim, x, y = digits
    options = {"norm": "l7"} if mistake == "no-norm" else {}
    with pytest.raises(UserError, match=sentence) as error:
        kind(**options)(*make(victim, x[:6], y[:6]))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


BOUNDED = [kind for kind in KINDS if hasattr(kind, "epsilon")]


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf"), [0.1, -0.1], "many", None])
@pytest.mark.parametrize("kind", BOUNDED, ids=lambda kind: kind.__name__)
def test_epsilons_that_are_none(kind: type[Attack], epsilon: Any) -> None:
    with pytest.raises(UserError, match="epsilon must be"):
        kind(epsilon=epsilon)


@pytest.mark.parametrize("kind", [k for k in BOUNDED if k is not Strongest], ids=lambda kind: kind.__name__)
def test_an_epsilon_for_each_feature(kind: type[Attack], digits: Digits) -> None:
    victim, x, y = digits
    each = np.full((1, 8, 8), 0.1)
    each[0, 0] = 0
    norm = kind.norms[0] if kind is not SimBA else "linf"
    delta = (kind(epsilon=each, norm=norm)(victim, x[:2], y[:2]).x_adv - x[:2]).abs()
    assert float(delta[:, 0, 0].max()) < 1e-12
    assert float(delta.max()) <= 0.1 + 1e-6
    with pytest.raises(UserError, match="epsilon has the shape"):
        kind(epsilon=[0.1] * 5, norm=norm)(victim, x[:2], y[:2])


@pytest.mark.parametrize("kind", [PGD, APGD, DeepFool, CarliniWagner, Physical, Universal, Patch])
def test_no_gradient(kind: type[Attack], digits: Digits) -> None:
    victim, x, y = digits
    with pytest.raises(UserError, match="gives no gradients; attack it with one that needs none"):
        kind()(behind(victim, torch.detach), x[:2], y[:2])


def test_units(digits: Digits) -> None:
    victim, x, y = digits
    never_varied = Victim(victim.module, (0, 1), std=torch.zeros(1, 8, 8))
    assert torch.allclose(PGD(unit="std")(never_varied, x, y).x_adv, x)
    with pytest.raises(UserError, match="the standard deviation has the shape"):
        PGD(unit="std")(Victim(victim.module, (0, 1), std=torch.ones(5)), x, y)


def test_the_divergence_from_what_it_says_leads_to_no_target(digits: Digits) -> None:
    victim, x, y = digits
    with pytest.raises(UserError, match="to no target"):
        MAD()(victim, x, y, (y + 1) % 10)


def test_modes_and_weights_are_left_alone_by_what_fails(digits: Digits) -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), digits[0].module)  # type: ignore[arg-type]
    net.train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for kind in (PGD, Transfer):
        with pytest.raises(UserError):
            kind().fit(Victim(net, (0, 1)), digits[1] + 1, digits[2])(Victim(net, (0, 1)), digits[1] + 1, digits[2])
    assert net[0].training
    assert not net[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
