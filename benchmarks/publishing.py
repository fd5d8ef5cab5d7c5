"""What the scripts make of measurements: figures, ratios, JSON files, and tables in the documentation."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Measurement = dict[str, Any]
Measured = dict[str, list[Measurement]]  # By side.
Row = tuple[str, Measured, dict[str, str]]  # Name, measurements, cells of the table by column.
ROOT = Path(__file__).resolve().parent.parent
CONSOLE = Console(highlight=False)
# Parts whose numbers are no times: rows from another machine stand beside those from this one.
SCORES = {
    *("rl-final", "backbones-learn", "seqgan-oracle", "seqgan-grammar"),
    *("imitation-scores", "imitation-single", "imitation-rewards", "robust-agents"),
}


def figures(measurements: Sequence[Measurement]) -> list[float]:
    """The numbers of interest; one that was not reached counts as infinite."""
    return [math.inf if m["figure"] is None else m["figure"] for m in measurements]


def spread(measurements: Sequence[Measurement], digits: int = 0, middle: Any = statistics.median) -> str:
    """The median (or mean) and the extremes, as text."""
    values = figures(measurements)
    texts = [f"{x:z,.{digits}f}" if math.isfinite(x) else "–" for x in (middle(values), min(values), max(values))]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def ratio(above: Sequence[Measurement], below: Sequence[Measurement]) -> str:
    """The quotient of the medians, as text."""
    quotient = statistics.median(figures(above)) / statistics.median(figures(below))
    return f"{quotient:.2f}" if 0 < quotient < math.inf else "–"


def machine() -> dict[str, Any]:
    """Versions and hardware."""
    packages = ("rltool", "stable_baselines3", "torch", "gymnasium", "numpy")
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
    }


def publish(part: str, row: Row, out: Path, page: Path, script: str = "rl") -> None:
    """Put a row into a part's JSON file and its section of the page.

    Other rows from this machine are kept; scores also from another one with the same versions.
    """
    name, measurements, cells = row
    file, here = out / f"{script}-{part}.json", machine()
    before = json.loads(file.read_text()) if file.exists() else {}
    there = before.get("machine", {})
    same = there.get("versions") == here["versions"] if f"{script}-{part}" in SCORES else there == here
    rows = before["rows"] if same else {}
    for kept in rows.values():
        kept.setdefault("cpu", there["cpu"])
    medians = {side: statistics.median(figures(m)) for side, m in measurements.items()}
    rows[name] = {
        "measured": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": here["cpu"],
        "table": cells,
        "medians": {side: value if math.isfinite(value) else None for side, value in medians.items()},
        "measurements": measurements,
    }
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n")

    lines = [["", *cells], ["---"] * (len(cells) + 1)]
    lines += [[key, *(row["table"].get(column, "–") for column in cells)] for key, row in rows.items()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    versions = ", ".join(f"{package} {version}" for package, version in here["versions"].items())
    days = sorted({row["measured"][:10] for row in rows.values()})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    cpus = " and ".join(sorted({each["cpu"] for each in rows.values()}))
    note = f"Measured {when} on {cpus}, {here['cores']} cores; {versions}."
    start, end = f"<!-- {script}:{part} -->", f"<!-- /{script}:{part} -->"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    if start not in text:
        text += f"\n## {part.capitalize()}\n\n{start}\n{end}\n"
    head, tail = text.split(start)[0], text.split(end)[1]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{start}\n\n{table}\n\n{note}\n\n{end}{tail}")


def report(part: str, rows: list[Row]) -> None:
    """Print a part's table."""
    table = Table("", *rows[0][2], title=part)
    for name, _, cells in rows:
        table.add_row(name, *cells.values())
    CONSOLE.print(table)
