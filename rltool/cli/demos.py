"""`rltool demos NAME`: what is in demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rltool.cli.completion import complete_demonstrations, complete_environment

MOST_CHOICES = 20  # Actions of more choices, or of several numbers, get one line each number.
MOST_LINES = 12
BARS = "▁▂▃▄▅▆▇█"


def demos(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A Minari dataset or a file.npz; without it, the datasets here are listed.",
            autocompletion=complete_demonstrations,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", help="Check that they fit this environment.", autocompletion=complete_environment),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw them too: a .png, .svg or .pdf.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at demonstrations: returns, lengths, actions."""
    from rltool.cli import list_
    from rltool.envs.demonstration_files import load_demonstrations
    from rltool.envs.demonstration_report import action_histograms, describe, draw_demonstrations
    from rltool.errors import UserError

    if name is None:
        if json_:
            from rltool.envs.demonstration_names import local_datasets

            print(json.dumps({"demonstrations": local_datasets()}))
        else:
            list_.demos()
        return
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot ends in .png, .svg or .pdf; not '{plot}'")
    if env is None:
        loaded = load_demonstrations(name)
    else:
        from rltool.envs import make_env

        loaded = load_demonstrations(name)
        made = make_env(env, action_masks=True, **loaded.env_kwargs)
        made.close()
        loaded = load_demonstrations(name, made.observation_space, made.action_space, env)
    figures = describe(loaded)
    if json_:
        print(json.dumps(figures))
    else:
        _print(figures, action_histograms(loaded))
    if plot is not None:
        draw_demonstrations(loaded, plot)
        if not json_:
            print(f"\ndrawn into {plot}")


def _print(figures: dict[str, Any], histograms: list[Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="cyan")
    facts.add_column(overflow="fold")
    arguments = "".join(f", {key}={value}" for key, value in figures["env_kwargs"].items())
    facts.add_row("environment", escape(f"{figures['env'] or 'unknown'}{arguments}"))
    facts.add_row("observations", escape(figures["observation_space"]))
    facts.add_row("actions", escape(figures["action_space"]))
    facts.add_row("timesteps", f"{figures['timesteps']:,}")
    facts.add_row("episodes", f"{figures['episodes']:,}{_endings(figures)}")
    console.print(f"[bold]{escape(figures['name'])}[/]")
    console.print(facts)

    columns = ("mean", "std", "min", "q1", "median", "q3", "max")
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="cyan", min_width=12)
    for column in columns:
        table.add_column({"q1": "25%", "q3": "75%"}.get(column, column), justify="right", min_width=7)
    for row in ("return", "length"):
        values = [figures[row][column] for column in columns]
        table.add_row(row, *("unknown" if value is None else f"{value:.1f}" for value in values))
    console.print()
    console.print(table)
    console.print()
    console.print(_action_table(histograms))


def _endings(figures: dict[str, Any]) -> str:
    if figures["terminated"] is None:
        return "; whether they were terminated or truncated is unknown"
    return f": {figures['terminated']:,} terminated, {figures['truncated']:,} truncated"


def _action_table(histograms: list[Any]) -> Any:
    """A bar for each choice of a single number; for several, or for continuous ones, a small histogram each."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("action", style="cyan", min_width=12)
    first = histograms[0]
    if len(histograms) == 1 and first.edges is None and len(first.counts) <= MOST_CHOICES:
        table.add_column("")
        table.add_column("share", justify="right")
        for k, count in enumerate(first.counts):
            bar = "█" * round(40 * count / first.counts.max())
            table.add_row(str(first.first + k), bar, f"{count / first.counts.sum():.1%}")
        return table
    table.add_column("how often")
    for column in ("from", "to", "mean", "std"):
        table.add_column(column, justify="right")
    for histogram in histograms[:MOST_LINES]:
        counts, values = histogram.counts, histogram.values
        bars = "".join(BARS[round((len(BARS) - 1) * count / counts.max())] if count else " " for count in counts)
        numbers = (values.min(), values.max(), values.mean(), values.std())
        table.add_row(escape(histogram.name), bars, *(f"{x:.4g}" for x in numbers))
    if len(histograms) > MOST_LINES:
        table.add_row(f"and {len(histograms) - MOST_LINES} more", "")
    return table
