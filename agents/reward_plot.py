"""Pictures of rewards: the environment's own beside the one that was recovered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rltool.agents.maxent_irl import MaxEntIRL
from rltool.agents.reward_metrics import pearson, tabular_epic_distance
from rltool.envs.tabular import Floats, Tabular
from rltool.errors import UserError
from rltool.training.checkpoint import disk_error
from rltool.training.run import Run, shown


def draw_reward(run: Run, out: Path) -> Path:
    """Draw the reward that a run has recovered beside the environment's own.

    Args:
        run: A run of maxent-irl.
        out: The picture: .png, .svg or .pdf.

    Raises:
        UserError: The run has recovered no reward that can be drawn.
        TrainingError: The picture cannot be written.
    """
    agent = run.agent
    if not isinstance(agent, MaxEntIRL):
        raise UserError(f"{shown(run.path)} holds no table of rewards; maxent-irl recovers one")
    return draw_reward_table(agent.model, agent.reward, out, f"{run.method} on {run.data}", agent.config.gamma)


def draw_reward_table(model: Tabular, recovered: Floats, out: Path, title: str = "", gamma: float = 0.99) -> Path:
    """Draw the true and the recovered reward of a tabular environment side by side, on its grid.

    Each has its own scale of colors, since a policy tells nothing of scale. Where a state has more to it than its cell
    (the passenger's in a taxi), a cell shows the mean; an action's reward is drawn as the mean over actions. Cells that
    no episode reaches are left white.

    Args:
        model: The environment.
        recovered: `(S,)`, the reward of arriving in a state, or `(S, A)`, of an action in a state.
        out: The picture: .png, .svg or .pdf.
        title: What stands above, before the figures.
        gamma: The discount factor that EPIC shapes with.

    Raises:
        TrainingError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    true, seen = (model.arrival_rewards, model.enterable) if recovered.ndim == 1 else _of_actions(model)
    correlation = pearson(true[seen], recovered[seen])
    # Like with like: where only actions were looked at, so it is with the true reward.
    epic = tabular_epic_distance(model.rewards if recovered.ndim == 1 else true, recovered, model, gamma)
    rows, columns = (model.shape or (1, model.num_states))[:2]
    below = columns > 2 * rows
    width, height = max(4.0, 0.6 * columns + 1), max(2.2, 0.6 * rows)
    size = (width, 2 * height + 0.5) if below else (2 * width, height + 0.5)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    figure.suptitle(f"{title}{': ' if title else ''}Pearson {correlation:.2f}, EPIC distance {epic:.2f}")
    for axes, name, reward in zip(
        figure.subplots(*((2, 1) if below else (1, 2))), ("true", "recovered"), (true, recovered), strict=True
    ):
        _draw_grid(figure, axes, name, on_grid(model, reward, seen))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out)
    except OSError as error:
        raise disk_error(out, error) from error
    return out


def on_grid(model: Tabular, reward: Floats, seen: np.ndarray) -> Floats:
    """A reward `(S,)` or `(S, A)` as `(rows, columns)`, a mean where a cell stands for several, NaN where for none."""
    states = reward if reward.ndim == 1 else reward.mean(1)
    states = np.where(seen, states, np.nan)
    rows, columns, *rest = model.shape or (1, model.num_states)
    cells = states.reshape(rows, columns, int(np.prod(rest)))
    known = np.isfinite(cells)
    sums = np.where(known, cells, 0).sum(-1)
    return np.divide(sums, known.sum(-1), out=np.full(sums.shape, np.nan), where=known.any(-1))


def _of_actions(model: Tabular) -> tuple[Floats, np.ndarray]:
    return model.expected_rewards, model.reachable


def _draw_grid(figure: Any, axes: Any, name: str, grid: Floats) -> None:
    image = axes.imshow(grid, cmap="viridis")
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set(title=name, xticks=[], yticks=[])
    if grid.size <= 100:
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (row, column), number in np.ndenumerate(grid):
            if np.isfinite(number):
                color = "white" if number < middle else "black"
                axes.text(column, row, f"{round(number, 2) + 0:.2g}", ha="center", va="center", fontsize=7, color=color)
