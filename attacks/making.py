"""Attacks made from a name and options, as the command line gives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
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
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise UserError(no_such_option(name, f"--{option.replace('_', '-')}", known))
    return kind(**options)


def no_such_option(attack: str, flag: str, known: Iterable[str]) -> str:
    """The sentence about an option that an attack lacks.

    Args:
        attack: Its name.
        flag: What was given.
        known: The hyperparameters that it has.
    """
    flags = ", ".join(f"--{each.replace('_', '-')}" for each in sorted(known))
    return f"{attack} has no {flag}; it takes {flags}"
