"""What is in demonstrations: figures, and a picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rltool.envs.demonstrations import Demonstrations
from rltool.errors import UserError
from rltool.trees import named_leaves

QUARTILES = {"min": 0, "q1": 25, "median": 50, "q3": 75, "max": 100}
MOST_CHOICES = 20  # of discrete actions that are shown one by one
MOST_COMPONENTS = 12  # of observations, in a picture


def describe(demos: Demonstrations) -> dict[str, Any]:
    """Figures of demonstrations, as JSON can hold them; what is unknown is None."""
    returns = demos.returns
    known = bool(np.isfinite(returns).all())
    return {
        "name": demos.name,
        "env": demos.env_id,
        "observation_space": str(demos.observation_space),
        "action_space": str(demos.action_space),
        "episodes": demos.num_episodes,
        "timesteps": len(demos),
        "mean_return": float(returns.mean()) if known else None,
        "std_return": float(returns.std()) if known else None,
        "returns": _quartiles(returns) if known else None,
        "lengths": _quartiles(demos.lengths),
        "mean_length": float(demos.lengths.mean()),
        "terminated": None if demos.terminated is None else int(demos.terminated.sum()),
        "actions": action_shares(demos),
    }


def _quartiles(values: np.ndarray) -> dict[str, float]:
    return {name: float(np.percentile(values, q)) for name, q in QUARTILES.items()}


def action_shares(demos: Demonstrations) -> dict[str, float]:
    """Shares of the actions, by name: of each choice, each component that is on, or each tenth of a Box's range."""
    space, actions = demos.action_space, demos.actions.reshape(len(demos), -1)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiBinary) and actions.shape[1] > 1:
        return {f"bit {k}": float(share) for k, share in enumerate(actions.mean(0))}
    if actions.dtype.kind in "iub":
        kinds, counts = np.unique(actions, axis=0, return_counts=True)
        order = np.argsort(-counts)[:MOST_CHOICES] if len(kinds) > MOST_CHOICES else np.arange(len(kinds))
        return {",".join(map(str, kinds[k])): float(counts[k] / len(actions)) for k in order}
    shares = {}
    for k in range(min(actions.shape[1], 3)):
        counts, edges = np.histogram(actions[:, k], bins=10)
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            shares[f"[{k}] {low:+.2f} to {high:+.2f}"] = float(count / len(actions))
    return shares


def draw_demonstrations(demos: Demonstrations, path: Path) -> Path:
    """Draw returns, lengths, actions and the ranges of the observations into a picture.

    Raises:
        UserError: The file ends in nothing that can be drawn into, or cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"a picture ends in .png, .svg or .pdf; not '{path}'")
    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    title = f"{demos.name}: {demos.num_episodes} episodes" + (f" in {demos.env_id}" if demos.env_id else "")
    figure.suptitle(title)
    (returns, lengths), (actions, observations) = figure.subplots(2, 2)
    for axes, values, label in ((returns, demos.returns, "return"), (lengths, demos.lengths, "timesteps")):
        axes.set(xlabel=f"{label} of an episode", ylabel="episodes")
        if np.isfinite(values).all():
            axes.hist(values, bins=min(30, max(5, demos.num_episodes)))
        else:
            axes.text(0.5, 0.5, "rewards are unknown", ha="center", transform=axes.transAxes)
    shares = action_shares(demos)
    actions.barh(list(shares), list(shares.values()))
    actions.invert_yaxis()
    actions.set(xlabel="share of the timesteps", ylabel="action")
    columns: dict[str, np.ndarray] = {}
    for name, leaf in named_leaves(demos.observations, "").items():
        if leaf.dtype != object:
            flat = leaf.reshape(len(leaf), -1)
            columns |= {f"{name.lstrip('.')}[{k}]": flat[:, k] for k in range(min(flat.shape[1], MOST_COMPONENTS))}
    columns = dict(list(columns.items())[:MOST_COMPONENTS])
    observations.boxplot(list(columns.values()), orientation="horizontal", showfliers=False)
    observations.set_yticklabels(list(columns))
    observations.invert_yaxis()
    observations.set(xlabel="value", ylabel="component of the observation")
    for axes in (returns, lengths, actions, observations):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path
