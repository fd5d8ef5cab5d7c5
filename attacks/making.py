"""Attacks made from a name and options, as the command line gives them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from rltool.attacks.attack import Attack
from rltool.attacks.config import ATTACKS
from rltool.errors import UserError


def make_attack(name: str, **options: Any) -> Attack:
    """Make an attack.

    Args:
        name: As in `rltool list attacks`.
        **options: Its hyperparameters.

    Raises:
        UserError: There is no such attack, or it has no such option.
    """
    kind: type[Attack] = ATTACKS[name].load()
    known = {field.name for field in fields(kind)}
    for option in options:
        if option not in known:
            flags = ", ".join(f"--{each.replace('_', '-')}" for each in sorted(known))
            raise UserError(f"{name} has no --{option.replace('_', '-')}; it takes {flags}")
    return kind(**options)


def make_policy_attack(name: str, **options: Any) -> Attack:
    """The same for policies: where one is sure of its action, cross-entropy is flat, and so the margin is attacked.

    Raises:
        UserError: There is no such attack, or it has no such option.
    """
    attack = make_attack(name, **options)
    return replace(attack, loss="margin") if "loss" not in options and getattr(attack, "loss", "") == "ce" else attack  # type: ignore[call-arg]
