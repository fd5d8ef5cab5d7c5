"""Where rows of metrics go: always a CSV file, and TensorBoard if asked."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rltool.errors import UserError
from rltool.training.checkpoint import disk_error, write_atomically

Row = dict[str, float]

FIRST_COLUMNS = [
    "time/total_timesteps",
    "time/time_elapsed",
    "time/fps",
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "rollout/episodes",
]


class CSVLogger:
    """Appends rows to `metrics.csv`; a column that appears later is added to the header, older rows leave it empty.

    Args:
        path: The file; rows already in it are kept if they lie at or before `keep_until` timesteps.
    """

    def __init__(self, path: Path, keep_until: int = 0) -> None:
        self.path = path
        self.columns = list(FIRST_COLUMNS)
        self.rows = (
            [row for row in read_metrics(path) if row["time/total_timesteps"] <= keep_until] if keep_until else []
        )
        for row in self.rows:
            self.columns += [name for name in row if name not in self.columns]
        self._rewrite()

    def write(self, row: Row) -> None:
        """Add one row, on disk when this returns."""
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        try:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(_formatted(row))
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(map(_formatted, self.rows))
        write_atomically(self.path, text.getvalue().encode())


def _formatted(row: Row) -> dict[str, str]:
    return {name: repr(int(value)) if float(value).is_integer() else f"{value:.9g}" for name, value in row.items()}


def read_metrics(path: Path) -> list[Row]:
    """Rows of a `metrics.csv`; empty cells are left out, a half-written last line is dropped."""
    if not path.exists():
        return []
    rows = []
    text = path.read_bytes().decode(errors="replace")
    for cells in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")):
        try:
            row = {name: float(cell) for name, cell in cells.items() if cell}
        except (TypeError, ValueError):
            continue
        if "time/total_timesteps" in row:
            rows.append(row)
    return rows


class TensorBoardLogger:
    """Writes rows as TensorBoard scalars into the run's folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--track tensorboard needs the package: pip install tensorboard") from None
        self.writer: Any = SummaryWriter(str(folder))

    def write(self, row: Row) -> None:
        """Add one row."""
        for name, value in row.items():
            if name != "time/total_timesteps":
                self.writer.add_scalar(name, value, int(row["time/total_timesteps"]))
        self.writer.flush()
