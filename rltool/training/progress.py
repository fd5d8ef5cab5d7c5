"""What a user sees while training: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from rltool.training.loggers import Row

BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Shows nothing; the base of the others."""

    shows = False

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Begin a run of `total` timesteps, `done` of them earlier."""

    def update(self, row: Row) -> None:
        """Take a new row of metrics."""

    def note(self, message: str) -> None:
        """Say something that stays on the screen."""

    def stop(self) -> None:
        """End the display."""


class PlainProgress(Progress):
    """One line each five seconds, for logs and pipes."""

    shows, interval = True, 5.0

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.total = total
        self.last = float("-inf")
        self._print(title)

    def update(self, row: Row) -> None:
        now = time.monotonic()
        finished = row["time/total_timesteps"] >= self.total
        if now - self.last >= self.interval or finished or "eval/mean_return" in row:
            self.last = now
            self._print("  ".join(_cells(row, self.total)))

    def note(self, message: str) -> None:
        self._print(message)

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LiveProgress(Progress):
    """A panel that redraws itself: bar, return with a sparkline, length, speed, time left."""

    shows = True

    def start(self, title: str, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.live import Live

        self.title, self.total, self.first = title, total, done
        self.returns: deque[float] = deque(maxlen=400)
        self.evaluation: float | None = None
        self.row: Row = {"time/total_timesteps": done}
        self.begun = time.monotonic()
        self.live = Live(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=8)
        self.live.start()

    def update(self, row: Row) -> None:
        self.row = row
        if "rollout/ep_rew_mean" in row:
            self.returns.append(row["rollout/ep_rew_mean"])
        self.evaluation = row.get("eval/mean_return", self.evaluation)

    def note(self, message: str) -> None:
        self.live.console.print(message, highlight=False, markup=False)

    def stop(self) -> None:
        self.live.stop()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row, done = self.row, self.row["time/total_timesteps"]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", justify="right")
        grid.add_column()
        if self.returns:
            grid.add_row("return", f"{self.returns[-1]:.1f}  [cyan]{sparkline(self.returns, 40)}[/]")
            grid.add_row("length", f"{row.get('rollout/ep_len_mean', float('nan')):.1f}")
        if self.evaluation is not None:
            grid.add_row("evaluated", f"[green]{self.evaluation:.1f}[/]")
        if "time/fps" in row:
            grid.add_row("speed", f"{row['time/fps']:,.0f} timesteps/s")
        elapsed = time.monotonic() - self.begun
        left = (self.total - done) * elapsed / (done - self.first) if done > self.first else None
        grid.add_row("time", f"{clock(elapsed)} gone, {clock(left) if left is not None else '…'} left")
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(self.total, done, width=50), f"{done:,.0f} of {self.total:,} timesteps")
        return Panel(Group(bar, grid), title=f"[bold]{escape(self.title)}[/]", title_align="left", expand=False)


def make_progress(show: bool) -> Progress:
    """The display that fits where standard error goes."""
    if not show:
        return Progress()
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


def sparkline(values: Any, width: int) -> str:
    """Bars for the values, averaged into at most `width` columns."""
    values = list(values)
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    return "".join(BARS[int((m - low) / ((high - low) or 1) * (len(BARS) - 1))] for m in means)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


def _cells(row: Row, total: int) -> list[str]:
    cells = [f"{row['time/total_timesteps']:>9,.0f}/{total:,} timesteps"]
    for name, label in (
        ("rollout/ep_rew_mean", "return"),
        ("rollout/ep_len_mean", "length"),
        ("eval/mean_return", "evaluated"),
    ):
        if name in row:
            cells.append(f"{label} {row[name]:.1f}")
    return [*cells, f"{row['time/fps']:,.0f} timesteps/s", clock(row["time/time_elapsed"])]
