"""Robustness curves as pictures and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rltool.attacks.robustness import Cell, Robustness
from rltool.errors import UserError
from rltool.training.checkpoint import write_atomically

NAMES = {"epsilon": "epsilon", "share": "share of timesteps attacked"}


def draw_robustness(results: Sequence[Robustness], out: Path, xlabel: str = "epsilon") -> Path:
    """Draw robustness curves; of several victims in one picture, each in its color.

    Thin lines are single attacks, thick ones with their 95% interval the least that any of them leaves.

    Args:
        results: What was measured.
        out: The picture: .png, .svg or .pdf.
        xlabel: Under the horizontal axis.

    Raises:
        UserError: Returns and accuracies do not go into one picture, or it cannot be written.
    """
    from matplotlib.figure import Figure

    metrics = {result.metric for result in results}
    if len(metrics) > 1:
        raise UserError("returns of agents and accuracies of classifiers do not go into one picture; draw two")
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    styles = ["-", "--", "-.", ":"]
    for number, result in enumerate(results):
        color = f"C{number}" if len(results) > 1 else "black"
        for index, attack in enumerate(result.attacks):
            thin = {"color": color, "alpha": 0.45} if len(results) > 1 else {"color": f"C{index}"}
            label = attack if len(results) == 1 else None
            x, y = _points(result.curve(attack))
            axes.plot(x, y, styles[index % 4], linewidth=1, marker="o", markersize=3, label=label, zorder=3, **thin)
        x, y = _points(result.envelope)
        label = "least of all" if len(results) == 1 else f"{result.name} (area {result.area:.2f})"
        # Under the thin ones, which often lie on it.
        thick: dict[str, Any] = {"linewidth": 2.5} if len(results) > 1 else {"linewidth": 6, "alpha": 0.3}
        axes.plot(x, y, color=color, label=label, **thick)
        low, high = zip(*(cell.interval for cell in result.envelope), strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    chance = min(result.chance for result in results)
    axes.axhline(chance, color="gray", linestyle=":", linewidth=1, label="chance")
    axes.set(xlabel=xlabel, ylabel=metrics.pop(), xlim=(0, None))
    axes.set_title(f"{results[0].name}: area {results[0].area:.2f}" if len(results) == 1 else "least of all attacks")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return out


def write_csv(results: Sequence[Robustness], out: Path) -> Path:
    """Write every cell of every victim as a row of a CSV file."""
    rows = [row for result in results for row in result.rows()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out, text.getvalue().encode())
    return out


def table_of(result: Robustness) -> Any:
    """A table for the terminal: a row for each attack, a column for each epsilon; the least last."""
    from rich.table import Table

    plain = ".3f" if result.metric == "accuracy" else ".4g"
    table = Table(title=f"{result.name}: {result.metric} against {NAMES[result.axis]}", title_justify="left")
    table.add_column("attack")
    for level in (0.0, *result.levels):
        table.add_column(f"{level:g}", justify="right")
    for attack in result.attacks:
        table.add_row(attack, *(f"{cell.score:{plain}}" for cell in result.curve(attack)))
    table.add_section()
    table.add_row("least", *(f"{cell.score:{plain}}" for cell in result.envelope), style="bold")
    intervals = (f"{cell.interval[0]:.3g}–{cell.interval[1]:.3g}" for cell in result.envelope)
    table.add_row("95%", *intervals, style="dim")
    table.add_row("normalized", *(f"{result.normalized(cell.score):.2f}" for cell in result.envelope), style="dim")
    if result.metric == "return":
        table.add_row("worst 10%", *(f"{cell.cvar:{plain}}" for cell in result.envelope), style="dim")
    return table


def _points(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    return [cell.level for cell in cells], [cell.score for cell in cells]
