"""What is in demonstrations, for a look at them: figures, histograms, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rltool.envs.demonstrations import Demonstrations
from rltool.errors import TrainingError
from rltool.trees import named_leaves

BINS = 20  # of a histogram over continuous numbers
MOST_RANGES = 64  # Observations of more numbers are drawn as one histogram.
MOST_LINES = 4  # Actions of more numbers are drawn as a map.


@dataclass(frozen=True)
class Histogram:
    """How often one number of the actions has which value.

    Attributes:
        name: Of the number.
        edges: `(K + 1,)` between bins, for continuous ones; None where each count is of one choice.
        first: The choice that the first count is of.
        counts: `(K,)`.
        values: `(n,)`, what was counted.
    """

    name: str
    edges: np.ndarray | None
    first: int
    counts: np.ndarray
    values: np.ndarray


def distribution(values: np.ndarray) -> dict[str, float | None]:
    """Mean, standard deviation, extremes and quartiles; None for each where a value is NaN."""
    quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    figures = {"mean": values.mean(), "std": values.std()}
    figures |= dict(zip(("min", "q1", "median", "q3", "max"), quartiles, strict=True))
    return {name: float(value) if np.isfinite(value) else None for name, value in figures.items()}


def describe(demos: Demonstrations) -> dict[str, Any]:
    """The figures that `rltool demos --json` prints."""
    terminated = None if demos.terminated is None else int(demos.terminated.sum())
    return {
        "name": demos.name,
        "env": demos.env_id,
        "env_kwargs": demos.env_kwargs,
        "observation_space": str(demos.observation_space),
        "action_space": str(demos.action_space),
        "episodes": demos.num_episodes,
        "timesteps": len(demos),
        "return": distribution(demos.returns),
        "length": distribution(demos.lengths),
        "terminated": terminated,
        "truncated": None if terminated is None else demos.num_episodes - terminated,
        "actions": {histogram.name: histogram.counts.tolist() for histogram in action_histograms(demos)},
    }


def action_histograms(demos: Demonstrations) -> list[Histogram]:
    """One histogram for each number of an action."""
    space = demos.action_space
    columns = demos.actions.reshape(len(demos), -1)
    names = ["action"] if not space.shape else [f"action[{k}]" for k in range(columns.shape[1])]
    histograms = []
    for k, (name, values) in enumerate(zip(names, columns.T, strict=True)):
        if isinstance(space, spaces.Box):
            counts, edges = np.histogram(values.astype(np.float64), _bins(space, k, values))
            histograms.append(Histogram(name, edges, 0, counts, values))
        else:
            first, choices = _choices(space, k)
            histograms.append(Histogram(name, None, first, np.bincount(values - first, minlength=choices), values))
    return histograms


def _bins(space: spaces.Box, k: int, values: np.ndarray) -> np.ndarray:
    """Edges over the bounds of a number, or over what there is where it has none."""
    low, high = float(space.low.flat[k]), float(space.high.flat[k])
    low, high = (low, high) if np.isfinite(low) and np.isfinite(high) else (float(values.min()), float(values.max()))
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _choices(space: Any, k: int) -> tuple[int, int]:
    """The first choice of a number, and how many there are."""
    match space:
        case spaces.Discrete():
            return int(space.start), int(space.n)
        case spaces.MultiDiscrete():
            return int(space.start.flat[k]), int(space.nvec.flat[k])
    return 0, 2


def draw_demonstrations(demos: Demonstrations, path: Path) -> Path:
    """Draw returns, lengths, actions and the ranges of observations into one picture.

    Args:
        demos: The demonstrations.
        path: The picture: .png, .svg or .pdf.

    Raises:
        TrainingError: It cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    where = f" in {demos.env_id}" if demos.env_id else ""
    figure.suptitle(f"{demos.name}: {demos.num_episodes} episodes{where}, {len(demos):,} timesteps")
    _draw_values(axes[0, 0], demos.returns, "return")
    _draw_values(axes[0, 1], demos.lengths, "timesteps of an episode")
    _draw_actions(axes[1, 0], action_histograms(demos))
    _draw_observations(axes[1, 1], demos)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _draw_values(axes: Any, values: np.ndarray, label: str) -> None:
    values = values[np.isfinite(values)]
    axes.set(xlabel=label, ylabel="episodes", title=f"mean {values.mean():.4g}" if len(values) else "unknown")
    if len(values):
        axes.hist(values, bins=min(30, max(5, len(values) // 2)))
        axes.axvline(values.mean(), color="black", linestyle="--")
        axes.yaxis.get_major_locator().set_params(integer=True)


def _draw_actions(axes: Any, histograms: list[Histogram]) -> None:
    shares = [histogram.counts / histogram.counts.sum() for histogram in histograms]
    axes.set(xlabel="action", ylabel="share of timesteps")
    if len(histograms) > MOST_LINES:
        table = np.full((len(shares), max(map(len, shares))), np.nan)
        for row, share in zip(table, shares, strict=True):
            row[: len(share)] = share
        continuous = histograms[0].edges is not None
        extent = (0, 1, len(shares) - 0.5, -0.5) if continuous else None
        image = axes.imshow(table, aspect="auto", interpolation="nearest", extent=extent, vmin=0)
        axes.grid(visible=False)
        axes.set(ylabel="number of the action", xlabel="from the lowest to the highest" if continuous else "choice")
        axes.figure.colorbar(image, ax=axes, label="share of timesteps")
        return
    width = 0.8 / len(histograms)
    for k, (histogram, share) in enumerate(zip(histograms, shares, strict=True)):
        if histogram.edges is not None:
            axes.stairs(share, histogram.edges, label=histogram.name, fill=len(histograms) == 1, linewidth=1.5)
        else:
            choices = histogram.first + np.arange(len(share))
            axes.bar(choices + (k - (len(histograms) - 1) / 2) * width, share, width, label=histogram.name)
            axes.xaxis.get_major_locator().set_params(integer=True)
    if len(histograms) > 1:
        axes.legend(frameon=False)


def _draw_observations(axes: Any, demos: Demonstrations) -> None:
    """For each number of an observation its range, the middle 90% of it, and the median."""
    leaves = {name.lstrip("."): leaf.reshape(len(demos), -1) for name, leaf in named_leaves(demos.observations).items()}
    if sum(leaf.shape[1] for leaf in leaves.values()) > MOST_RANGES:
        for name, leaf in leaves.items():
            counts, edges = np.histogram(leaf.astype(np.float32), 50)
            axes.stairs(counts / counts.sum(), edges, label=name)
        axes.set(xlabel="observed number", ylabel="share", yscale="log")
    else:
        start = 0
        for name, leaf in leaves.items():
            low, under, median, over, high = np.quantile(leaf.astype(np.float64), (0, 0.05, 0.5, 0.95, 1), axis=0)
            places = start + np.arange(leaf.shape[1])
            lines = axes.vlines(places, low, high, linewidth=1)
            axes.vlines(places, under, over, linewidth=5, color=lines.get_color(), label=name)
            axes.plot(places, median, "o", color="white", markeredgecolor="black", markersize=4)
            start += leaf.shape[1]
        axes.set(xlabel="number of the observation", ylabel="range; middle 90% thick")
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(leaves) > 1:
        axes.legend(frameon=False)
