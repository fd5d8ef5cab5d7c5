"""`rltool diagnose RUN`: what looks wrong, and what to try."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from rltool.cli.completion import complete_run

if TYPE_CHECKING:
    from rltool.agents.diagnosis import Diagnosis


def diagnose(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its name in runs/, or latest.", autocompletion=complete_run
        ),
    ],
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play.", min=1)] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and sampling.", min=0)] = 0,
    curvature: Annotated[
        bool | None,
        typer.Option(
            "--curvature/--no-curvature",
            help="Say whether the weights lie at a minimum of the loss or at a saddle.",
            show_default="for small networks",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say in plain words what looks wrong with a training, and what to try."""
    from rltool.agents.diagnosis import diagnose as look

    result = look(run, episodes, seed, curvature)
    print(json.dumps(result.as_dict())) if json_ else _report(result)


def _report(result: Diagnosis) -> None:
    from rltool.training.run import shown

    run, returns = result.run, result.returns
    print(
        f"{shown(run.path)}: {run.method} on {run.data}; {len(returns)} episodes played, return "
        f"{sum(returns) / len(returns):.4g}"
    )
    for finding in result.findings:
        print(f"\n{finding.severity}: {finding.what} ({finding.name})")
        print(f"  seen: {finding.evidence}\n  try:  {finding.advice}")
    if result.healthy:
        print("\nnothing looks wrong")
    if result.curvature is not None:
        print(f"\n{result.surface}")
