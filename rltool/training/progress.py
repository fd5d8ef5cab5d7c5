"""What a user sees while training: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from rltool.training.loggers import Row

BARS = "▁▂▃▄▅▆▇█"
# The metrics that are shown, in this order, where there are such; those of training episodes or examples as a curve.
CURVES = {"rollout/ep_rew_mean": "return", "train/accuracy": "accuracy", "train/nll": "NLL"}
SHOWN = CURVES | {
    "rollout/ep_len_mean": "length",
    "eval/mean_return": "evaluated",
    "eval/accuracy": "evaluated",
    "train/discriminator_loss": "discriminator",
    "train/generator_loss": "generator",
    "eval/fid": "fid",
    "eval/modes": "modes",
    "eval/high_quality": "high quality",
}


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
        if now - self.last >= self.interval or finished or any(name.startswith("eval/") for name in row):
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
        self.curves: dict[str, deque[float]] = {name: deque(maxlen=400) for name in CURVES}
        self.latest: Row = {}
        self.row: Row = {"time/total_timesteps": done}
        self.begun = time.monotonic()
        self.live = Live(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=8)
        self.live.start()

    def update(self, row: Row) -> None:
        self.row = row
        self.latest |= {name: row[name] for name in SHOWN if name in row}
        for name, curve in self.curves.items():
            if name in row:
                curve.append(row[name])

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
        for name, label in SHOWN.items():
            if name in self.latest:
                curve = f"  [cyan]{sparkline(self.curves[name], 40)}[/]" if name in CURVES else ""
                grid.add_row(label, figure(name, self.latest[name]) + curve)
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


def figure(metric: str, value: float) -> str:
    """A result as it is printed: shares as percentages, likelihoods in nats, distances with three digits."""
    if metric.endswith(("accuracy", "high_quality", "class_kept")):
        return f"{value:.2%}"
    if "nll" in metric:
        return f"{value:.3f}"
    return f"{value:.3g}" if metric.endswith(("fid", "loss", "modes")) else f"{value:.1f}"


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
    cells += [f"{label} {figure(name, row[name])}" for name, label in SHOWN.items() if name in row]
    return [*cells, f"{row['time/fps']:,.0f} timesteps/s", clock(row["time/time_elapsed"])]
