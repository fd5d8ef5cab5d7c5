"""Functions of a run that are given once more: a run never names any, since it may come from a stranger."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Shaping = Annotated[
    str | None, typer.Option("--shaping", metavar="MODULE:FUNCTION", help="The run's shaping function, once more.")
]
Potential = Annotated[
    str | None, typer.Option("--potential", metavar="MODULE:FUNCTION", help="The run's potential, once more.")
]


def given_functions(shaping: str | None, potential: str | None) -> dict[str, Any]:
    """Those that are given, by name."""
    functions = {"shaping": shaping, "potential": potential}
    return {name: function for name, function in functions.items() if function is not None}
