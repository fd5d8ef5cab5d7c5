"""`rltool plot RUN...`: curves of several runs and seeds in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rltool.cli.completion import complete_run


def plot(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs; a folder of runs (as --seeds makes) stands for those in it.",
            autocompletion=complete_run,
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="A column of metrics.csv.",
            show_default="the method's: rollout/ep_rew_mean, train/accuracy",
        ),
    ] = None,
    statistic: Annotated[Literal["mean", "iqm"], typer.Option("--statistic", help="What to draw over seeds.")] = "mean",
    x: Annotated[Literal["timesteps", "seconds"], typer.Option("--x", help="The horizontal axis.")] = "timesteps",
    reward: Annotated[
        bool, typer.Option("--reward", help="Draw the reward that one run has recovered, beside the true one.")
    ] = False,
    dims: Annotated[
        str | None,
        typer.Option("--dims", metavar="I,J", help="With --reward: components of the observation to draw over."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture: .png, .svg or .pdf.")] = Path("plot.png"),
) -> None:
    """Draw the curves of runs; those that differ only in their seed become one curve with a 95% interval."""
    from rltool.errors import UserError
    from rltool.training.methods import METHODS
    from rltool.training.plotting import plot_runs
    from rltool.training.run import Run, resolve_run

    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--out ends in .png, .svg or .pdf; not '{out}'")
    opened = []
    for name in runs:
        folder = resolve_run(name)
        if (folder / "config.json").exists():
            opened.append(Run(folder))
        else:
            members = [
                Run(file.parent) for file in sorted(folder.glob("*/config.json")) if not file.parent.is_symlink()
            ]
            if not members:
                raise UserError(f"{folder} is not a run, and there is none in it")
            opened += members
    if reward:
        from rltool.agents.reward_plot import draw_reward

        if len(opened) != 1:
            raise UserError(f"--reward draws one run; these are {len(opened)}")
        print(draw_reward(opened[0], out, _pair(dims)))
        return
    try:
        metric = metric or METHODS[opened[0].method].load().training_metric
        print(plot_runs(opened, out, metric, statistic, x))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def _pair(dims: str | None) -> tuple[int, int] | None:
    from rltool.errors import UserError

    if dims is None:
        return None
    try:
        one, two = (int(part) for part in dims.split(","))
    except ValueError:
        raise UserError(f"--dims takes two numbers, as 0,2; not '{dims}'") from None
    return one, two
