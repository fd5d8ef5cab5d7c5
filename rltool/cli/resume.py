"""`rltool resume RUN`: go on from the last checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from rltool.cli.completion import complete_run
from rltool.cli.functions import Potential, Shaping, given_functions


def resume(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its name in runs/, or latest.", autocompletion=complete_run
        ),
    ],
    total_timesteps: Annotated[
        int | None, typer.Option("--total-timesteps", "-n", help="Go on up to here.", show_default="the run's", min=1)
    ] = None,
    shaping: Shaping = None,
    potential: Potential = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Go on with a run from its last checkpoint."""
    from rltool.cli.train import report
    from rltool.training.run import Run, shown
    from rltool.training.train import resume as go_on

    before = Run(run)
    done = before.summary.get("total_timesteps", 0)
    if before.summary.get("converged") and before.summary["finished"]:
        print(f"{shown(before.path)} has converged at {done:,} timesteps; there is nothing to go on with")
        return
    planned = before.options.total_timesteps
    wanted = total_timesteps or planned
    # A run that has its timesteps may still have to be concluded.
    if before.is_finished(wanted) or (before.summary and done >= wanted and wanted < planned):
        state = "is finished" if before.summary["finished"] else "stands"
        print(f"{shown(before.path)} {state} at {done:,} timesteps; give a larger --total-timesteps to go further")
        return
    after = go_on(before.path, total_timesteps, progress=not quiet, **given_functions(shaping, potential))
    if not after.summary["finished"]:
        done = after.summary["total_timesteps"]
        print(f"stopped at timestep {done:,}; go on with: {after.resume_command}")
        raise typer.Exit(1)
    if not quiet:
        report(after)
