"""The two ways in which a command ends early: the user's mistake, or work that cannot go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: one clear sentence that says what to do; the CLI exits with 2."""


class TrainingError(Exception):
    """Work cannot go on (the environment failed, a number overflowed, the disk is full); the CLI exits with 1."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among the choices, with the nearest one.

    Example:
        >>> str(unknown("method", "poo", ["ppo", "a2c"]))
        "no method 'poo'; did you mean 'ppo'?"
    """
    names = list(choices)
    near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
    if near:
        return UserError(f"no {kind} '{name}'; did you mean '{near[0]}'?")
    return UserError(f"no {kind} '{name}'; choose one of {', '.join(names) or '(none known)'}")
