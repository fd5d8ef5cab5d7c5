"""Attacks made from a name and options, as the command line gives them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import fields, replace
from typing import Any, cast

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
    kind = ATTACKS[name].load()
    inner: type[Attack] | None = getattr(kind, "inner", None)
    own, known = _options(kind), _options(kind) | (_options(inner) if inner else set())
    for option in options:
        if option not in known:
            raise UserError(no_such_option(name, f"--{option.replace('_', '-')}", known))
    if inner is None:
        return cast(Attack, kind(**options))
    # Made of another attack: what is not its own belongs to that.
    outer = {option: value for option, value in options.items() if option in own}
    rest = {option: value for option, value in options.items() if option not in own}
    return cast(Attack, kind(attack=inner(**rest), **outer))


def _options(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind) if field.init}


def make_policy_attack(name: str, **options: Any) -> Attack:
    """The same for policies.

    Raises:
        UserError: There is no such attack, or it has no such option.
    """
    return suit_policies(make_attack(name, **options), options)


def suit_policies(attack: Attack, options: Container[str]) -> Attack:
    """An attack for policies: where one is sure of its action, cross-entropy is flat, and so the margin is attacked.

    Args:
        attack: The attack.
        options: Hyperparameters that were chosen, which stay as they are.
    """
    if "loss" in options or getattr(attack, "loss", None) != "ce":
        return attack
    return replace(attack, loss="margin")  # type: ignore[call-arg]


def no_such_option(attack: str, flag: str, known: Iterable[str]) -> str:
    """The sentence about an option that an attack lacks.

    Args:
        attack: Its name.
        flag: What was given.
        known: The hyperparameters that it has.
    """
    flags = ", ".join(f"--{each.replace('_', '-')}" for each in sorted(known))
    return f"{attack} has no {flag}; it takes {flags}"
