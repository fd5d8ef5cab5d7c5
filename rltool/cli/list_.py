"""`rltool list WHAT`: what there is to choose from."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(help="Show what there is to choose from.", no_args_is_help=True, rich_markup_mode="rich")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # Plain lines, for grep.
        for row in rows:
            print("\t".join(row))
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, style="cyan" if column == columns[0] else None)
    for row in rows:
        table.add_row(*row)
    console.print(table)


@app.command("methods")
def methods() -> None:
    """Methods that `rltool train` knows."""
    from rltool.training.methods import METHODS

    rows = [[entry.name, entry.summary, ", ".join(entry.load().presets)] for entry in METHODS]
    _table("methods", ["method", "what it is", "tuned for"], rows)


@app.command("envs")
def envs(match: Annotated[str, typer.Argument(help="Only ids that contain this.")] = "") -> None:
    """Environments that Gymnasium knows here."""
    from rltool.envs import environment_ids
    from rltool.training.methods import METHODS

    tuned = {entry.name: entry.load().presets for entry in METHODS}
    rows = [
        [name, ", ".join(method for method, presets in tuned.items() if name in presets)]
        for name in environment_ids()
        if match.lower() in name.lower()
    ]
    _table("environments", ["environment", "tuned options for"], rows)


@app.command("backbones")
def backbones() -> None:
    """Networks that `--backbone` takes."""
    from rltool.networks.config import BACKBONES

    _table("backbones", ["backbone", "what it is"], [[entry.name, entry.summary] for entry in BACKBONES])


@app.command("attacks")
def attacks() -> None:
    """Attacks that `rltool attack --attack` takes."""
    from rltool.attacks.config import ATTACKS

    _table("attacks", ["attack", "what it does"], [[entry.name, entry.summary] for entry in ATTACKS])


@app.command("defenses")
def defenses() -> None:
    """Defenses that `rltool defend --with` takes, with their options."""
    from rltool.attacks.defenses.config import DEFENSES

    _table("defenses", ["defense", "what it does"], [[entry.name, entry.summary] for entry in DEFENSES])


@app.command("datasets")
def datasets() -> None:
    """Data sets that classifiers and generators are trained on; a file `.npz`, or a folder of images, is one, too."""
    from rltool.data.datasets import DATASETS, SOURCES
    from rltool.data.sequences import SEQUENCES

    sequences = {name: f"(seqgan) {text}" for name, text in SEQUENCES.items()}
    made = {name: text for name, _, text in (entry.summary.partition(", ") for entry in SOURCES)}  # As frames:RUN.
    rows = [[name, text] for name, text in {**DATASETS, **made, **sequences}.items()]
    _table("data sets", ["data set", "what it is"], rows)


@app.command("shifts")
def shifts() -> None:
    """Shifts that may follow a data set or an environment, as digits~inverted, CartPole-v1~gravityx1.5."""
    from rltool.data.label_shifts import LABEL_SHIFTS
    from rltool.data.shifts import SHIFTS
    from rltool.envs.shifts import DYNAMICS

    rows = [[f"~{name}", each.summary] for name, each in SHIFTS.items()]
    rows += [[f"~{name}", f"(data sets) {each.summary}"] for name, each in LABEL_SHIFTS.items()]
    rows.append(["~0-5", "(data sets) classes 0 to 5 alone; ~0,3,7-9 works, too"])
    rows += [[f"~{name}", f"(environments) {text}"] for name, text in DYNAMICS.items()]
    _table("shifts", ["shift", "what it does"], rows)


@app.command("extensions")
def extensions() -> None:
    """What agents can be extended by; each name is an option of `rltool train`."""
    from rltool.agents.extensions import EXTENSIONS

    rows = [[f"--{entry.name.replace('_', '-')}", entry.summary] for entry in EXTENSIONS]
    _table("extensions", ["option", "what it is"], rows)


@app.command("runs")
def runs(run_dir: Annotated[str, typer.Option("--run-dir", help="Folder of the runs.")] = "runs") -> None:
    """Runs in a folder."""
    from pathlib import Path

    from rltool.errors import UserError
    from rltool.training.methods import METHODS
    from rltool.training.progress import figure
    from rltool.training.run import Run

    rows = []
    for file in sorted(Path(run_dir).rglob("config.json"), key=lambda p: p.stat().st_mtime):
        if file.parent.is_symlink():
            continue
        try:
            run = Run(file.parent)
            summary, result = run.summary, run.result
            metric = METHODS[run.method].load().evaluation_metric
        except UserError:  # Half-written, or another tool's.
            continue
        state = "going on" if not summary else "finished" if summary.get("finished") else "stopped"
        rows.append(
            [
                str(file.parent),
                run.method,
                run.data,
                state,
                f"{summary.get('total_timesteps', 0):,}",
                "" if result is None else figure(metric, result),
            ]
        )
    if not rows:
        print(f"no runs in {run_dir}/; train one with: rltool train a2c CartPole-v1", file=sys.stderr)
        return
    _table("runs", ["run", "method", "data", "state", "timesteps", "result"], rows)


@app.command("demos")
def demos() -> None:
    """Demonstrations on this machine: Minari's datasets."""
    from rltool.envs.demonstration_names import NOTES, dataset_metadata, datasets_folder, local_datasets
    from rltool.errors import UserError

    rows = []
    for name in local_datasets():
        try:
            metadata = dataset_metadata(name)
            env = metadata[NOTES].get("env_id") or json.loads(metadata.get("env_spec") or "{}").get("id") or ""
            episodes, timesteps = (f"{metadata[key]:,}" for key in ("total_episodes", "total_steps"))
        except (UserError, KeyError, ValueError, TypeError, AttributeError):
            rows.append([name, "(damaged)", "", "", ""])
            continue
        rows.append([name, str(env), episodes, timesteps, str(metadata.get("algorithm_name") or "")])
    if not rows:
        print(
            f"no demonstrations in {datasets_folder()}; record some with: rltool record RUN --out NAME", file=sys.stderr
        )
        return
    _table("demonstrations", ["name", "environment", "episodes", "timesteps", "recorded from"], rows)
