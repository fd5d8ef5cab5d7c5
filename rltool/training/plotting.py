"""Learning curves as PNG files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rltool.errors import UserError
from rltool.training.checkpoint import disk_error
from rltool.training.methods import METHODS, Method
from rltool.training.run import Run
from rltool.training.statistics import bootstrap_interval, iqm

Curve = tuple[np.ndarray, np.ndarray]


def curve(run: Run, metric: str) -> Curve:
    """Timesteps and values of one metric; rows without it are left out."""
    points = [(row["time/total_timesteps"], row[metric]) for row in run.metrics if metric in row]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def _axes(title: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="timesteps", ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x else "0")
    return figure, axes


def draw_learning_curve(run: Run) -> Path:
    """Draw `learning_curve.png`: return of training episodes, and of evaluations.

    Where a method is evaluated by another figure than it is trained by, each has its own axes.
    """
    method: Method = METHODS[run.method].load()
    plays = method.evaluation_metric == "mean_return"
    apart = not plays and not method.training_metric.endswith(f"/{method.evaluation_metric}")
    figure, axes = _axes(f"{run.method} on {run.data}", "return" if plays else method.evaluation_metric)
    steps, values = curve(run, method.training_metric)
    if len(steps):
        other = axes.twinx() if apart else axes
        other.plot(steps, values, color="tab:blue", label="training (last 100 episodes)" if plays else "training")
        if apart:
            other.spines["top"].set_visible(False)
            axes.yaxis.label.set_color("tab:orange")
            other.set_ylabel(method.training_metric.removeprefix("train/").replace("_", " "), color="tab:blue")
    steps, values = curve(run, f"eval/{method.evaluation_metric}")
    if len(steps):
        label = f"evaluation ({run.options.eval_episodes} episodes)" if plays else "evaluation"
        axes.plot(steps, values, "o-", color="tab:orange", markersize=4, label=label)
        if apart and values.min() > 0:
            axes.set_yscale("log")
    if axes.lines and not apart:
        axes.legend(frameon=False)
    path = run.path / "learning_curve.png"
    figure.savefig(path)
    return path


def draw_reproduction(original: Run, repeated: Run) -> Path:
    """Draw `reproduction.png` into the repeated run: both learning curves, the repeated one dashed."""
    figure, axes = _axes(f"{original.method} on {original.data}, twice", "return")
    for run, style, label in ((original, "-", "original"), (repeated, "--", "repeated")):
        axes.plot(*curve(run, "rollout/ep_rew_mean"), style, label=label)
    axes.legend(frameon=False)
    path = repeated.path / "reproduction.png"
    try:
        figure.savefig(path)
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def draw_drift(run: Run, drift: Mapping[str, np.ndarray]) -> Path:
    """Draw `drift.png`: how often a clone's actions are not the expert's, along the episode, at first and at last."""
    figure, axes = _axes(f"{run.method} on {run.data}: where the clone drifts off", "disagreement with the expert")
    for name, label in (("first", "first clone"), ("last", "last round")):
        values = drift[name]
        window = max(1, len(values) // 50)  # Late timesteps are those of few episodes.
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(np.arange(len(smooth)) + window / 2, smooth, label=label)
    axes.set(xlabel="timestep of the episode", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    path = run.path / "drift.png"
    figure.savefig(path)
    return path


def draw_confusion(run: Run, counts: np.ndarray, classes: Sequence[str]) -> Path:
    """Draw `confusion_matrix.png`: as what the test examples of each class were read.

    Args:
        run: Where to.
        counts: How many of each class (rows) were read as each (columns), `(classes, classes)`.
        classes: Their names.
    """
    from matplotlib.figure import Figure

    size = float(np.clip(1.5 + 0.45 * len(classes), 4, 16))
    figure = Figure(figsize=(size + 1, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class")
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(places, classes)
    axes.set(title=f"{run.method} on {run.data}: test examples", xlabel="read as", ylabel="class")
    if len(classes) <= 20:  # Of more classes, numbers could not be read.
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=8)
    path = run.path / "confusion_matrix.png"
    try:
        figure.savefig(path)
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but seed and place, under a label that tells the groups apart."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        key = repr(
            (run.method, run.data, sorted(run.config["config"].items(), key=str), run.config["run"].get("env_kwargs"))
        )
        groups[key].append(run)
    members = list(groups.values())
    configs = [{"method": g[0].method, "data": g[0].data, **g[0].config["config"]} for g in members]
    names = ["method"]
    names += [
        n
        for n in dict.fromkeys(k for c in configs for k in c)
        if n != "method" and len({str(c.get(n)) for c in configs}) > 1
    ]
    shown = names if len({c["method"] for c in configs}) > 1 or len(names) == 1 else names[1:]
    labels = []
    for config in configs:
        label = ", ".join(
            str(config[n]) if n in ("method", "data", "credit") else f"{n} {config[n]}"
            for n in shown[:4]
            if n in config
        )
        while label in labels:
            label += "'"
        labels.append(label)
    return dict(zip(labels, members, strict=True))


def plot_runs(
    runs: Sequence[Run], out: Path, metric: str = "rollout/ep_rew_mean", statistic: str = "mean", x: str = "timesteps"
) -> Path:
    """Draw several runs into one picture; runs that differ only in their seed become one curve with an interval.

    Args:
        runs: The runs.
        out: The picture: .png, .svg or .pdf.
        metric: A column of `metrics.csv`.
        statistic: `mean` or `iqm` over seeds; the band is a 95% bootstrap interval.
        x: `timesteps` or `seconds`.

    Raises:
        UserError: No run has this metric.
    """
    if not any(metric in row for run in runs for row in run.metrics):
        columns = sorted({name for run in runs for row in run.metrics for name in row})
        if not columns:
            raise UserError("nothing was recorded while these learned, as in runs of `rltool adapt`; see summary.json")
        raise UserError(f"no run has the metric '{metric}'; there are {', '.join(columns)}")
    figure, axes = _axes("", metric)
    axes.set_title(", ".join(sorted({run.data for run in runs})))
    if x == "seconds":
        axes.set_xlabel("seconds")
        axes.xaxis.set_major_formatter("{x:g}")
    for label, members in group_runs(runs).items():
        curves = [curve(run, metric) for run in members]
        if x == "seconds":
            clocks = [dict(zip(*curve(run, "time/time_elapsed"), strict=True)) for run in members]
            curves = [(np.array([clock[s] for s in c[0]]), c[1]) for c, clock in zip(curves, clocks, strict=True)]
        curves = [c for c in curves if len(c[0])]
        if not curves:
            continue
        if len(curves) == 1:
            axes.plot(*curves[0], label=label)
            continue
        start, end = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
        grid = np.linspace(start, end, 200)
        values = np.stack([np.interp(grid, *c) for c in curves])
        center = values.mean(0) if statistic == "mean" else np.array([iqm(v) for v in values.T])
        low, high = np.array(
            [bootstrap_interval(v, np.mean if statistic == "mean" else iqm, samples=300) for v in values.T]
        ).T
        (line,) = axes.plot(grid, center, label=f"{label} ({len(curves)} seeds)")
        axes.fill_between(grid, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out
