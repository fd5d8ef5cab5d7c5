"""`rltool reproduce RUN`: train it again, and compare bit for bit."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer

from rltool.cli.completion import complete_run
from rltool.cli.functions import Potential, Shaping, given_functions

if TYPE_CHECKING:
    from rltool.training.reproduce import Reproduction


def reproduce(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its name in runs/, or latest.", autocompletion=complete_run
        ),
    ],
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", help="Folder that the repetition is put in.", show_default="the run's")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the repetition.", show_default="<run>-again")
    ] = None,
    shaping: Shaping = None,
    potential: Potential = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train a run again with its own options and seed, and compare every number; exit code 1 if one differs."""
    from rltool.training.plotting import draw_reproduction
    from rltool.training.reproduce import reproduce as repeat
    from rltool.training.run import shown

    given = given_functions(shaping, potential)
    result = repeat(run, run_dir=run_dir, name=name, progress=not quiet and not json_, **given)
    picture = draw_reproduction(result.original, result.repeated)
    if json_:
        print(json.dumps({**result.as_dict(), "plot": str(picture)}))
    else:
        _report(result)
        print(f"both curves: {shown(picture)}")
    if not result.identical:
        raise typer.Exit(1)


def _report(result: Reproduction) -> None:
    width = max(map(len, result.differences), default=0)
    for name, value in result.differences.items():
        words = "identical" if value == 0 else f"differs by up to {value:.3g}" if value < inf else "not in both"
        print(f"{name:<{width}}  {words}")
    if result.weights:
        largest = max(result.weights, key=lambda name: result.weights[name])
        print(f"weights: {len(result.weights)} differ, {largest} most, by up to {result.weights[largest]:.3g}")
    print(result.verdict)
    if not result.identical:
        for name, (then, now) in result.versions.items():
            print(f"may explain it: {name} was {then}, is {now}")
