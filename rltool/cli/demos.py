"""`rltool demos NAME`: what is in demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rltool.cli.completion import complete_demonstrations, complete_environment

BAR = 40  # Characters of the longest bar.


def demos(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A Minari dataset or a file.npz; without it, all datasets on this machine.",
            autocompletion=complete_demonstrations,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", help="Check that they fit this environment.", autocompletion=complete_environment),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them: a .png, .svg or .pdf.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in demonstrations: episodes, returns, lengths, actions."""
    if name is None:
        _list(json_)
        return
    from rltool.envs.demonstration_files import load_demonstrations
    from rltool.envs.demonstration_report import describe, draw_demonstrations

    spaces: tuple[Any, Any] = (None, None)
    if env is not None:
        from rltool.envs import make_env

        probe = make_env(env)
        spaces = probe.observation_space, probe.action_space
        probe.close()
    loaded = load_demonstrations(name, *spaces, env)
    figures = describe(loaded)
    if plot is not None:
        figures["plot"] = str(draw_demonstrations(loaded, plot))
    if json_:
        print(json.dumps(figures))
    else:
        _show(figures)


def _list(as_json: bool) -> None:
    from rltool.envs.demonstration_names import dataset_metadata, datasets_folder, local_datasets

    names = local_datasets()
    if as_json:
        print(json.dumps({"demos": names}))
    elif not names:
        print(f"there are no demonstrations in {datasets_folder()}; rltool record makes some")
    for name in [] if as_json else names:
        metadata = dataset_metadata(name)
        print(f"{name}\t{metadata.get('total_episodes', '?')} episodes\t{metadata.get('description', '')}".rstrip())


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    ended = figures["terminated"]
    cut = "unknown how they ended" if ended is None else f"{ended} terminated, {figures['episodes'] - ended} cut off"
    console.print(f"[bold]{figures['name']}[/] in {figures['env'] or 'an unknown environment'}", soft_wrap=True)
    console.print(f"{figures['episodes']} episodes ({cut}), {figures['timesteps']:,} timesteps", soft_wrap=True)
    for kind in ("observation", "action"):
        console.print(f"{kind}s  {figures[f'{kind}_space']}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("mean", "min", "25%", "median", "75%", "max"):
        table.add_column(column, justify="right")
    for title, mean, spread in (
        ("return", figures["mean_return"], figures["returns"]),
        ("timesteps", figures["mean_length"], figures["lengths"]),
    ):
        cells = ["unknown"] if spread is None else [f"{x:,.1f}" for x in (mean, *spread.values())]
        table.add_row(title, *cells)
    console.print(table)
    bars = Table(box=None, pad_edge=False)
    for column in ("action", "share", ""):
        bars.add_column(column, justify="right" if column == "share" else "left")
    largest = max(figures["actions"].values(), default=0) or 1.0
    for action, share in figures["actions"].items():
        bars.add_row(action, f"{share:.1%}", "█" * round(BAR * share / largest))
    console.print(bars)
    if "plot" in figures:
        console.print(f"drawn into {figures['plot']}", soft_wrap=True)
