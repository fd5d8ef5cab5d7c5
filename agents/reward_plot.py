"""Pictures of rewards: the environment's own beside the one that was recovered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rltool.agents.adversarial import recovered_reward
from rltool.agents.maxent_irl import MaxEntIRL
from rltool.agents.on_policy import OnPolicyAgent
from rltool.agents.policy import environment_actions, policy_actions, without_mask
from rltool.agents.reward_metrics import pearson, pearson_distance, tabular_epic_distance
from rltool.agents.reward_model import RewardModel, RewardTable, Steps
from rltool.envs.tabular import Floats, Tabular
from rltool.errors import UserError
from rltool.training.checkpoint import disk_error
from rltool.training.run import Run
from rltool.trees import Tree, map_tree

STEPS = 4_096  # That a reward of continuous states is compared on.
SHAPINGS = 128  # Potentials whose shaping is forgiven.


def draw_reward(run: Run, out: Path, dims: tuple[int, int] | None = None) -> Path:
    """Draw the reward that a run has recovered beside the environment's own.

    Args:
        run: A run of maxent-irl, gail or airl.
        out: The picture: .png, .svg or .pdf.
        dims: Components of the observation to draw over, where it is a vector; by default the first two.

    Raises:
        UserError: The run has recovered no reward that can be drawn.
        TrainingError: The picture cannot be written.
    """
    agent = run.agent
    if not isinstance(agent, MaxEntIRL):
        return draw_sampled_reward(agent, recovered_reward(run), out, dims, f"{run.method} on {run.data}")
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


def draw_sampled_reward(
    agent: OnPolicyAgent,
    model: RewardModel | RewardTable,
    out: Path,
    dims: tuple[int, int] | None = None,
    title: str = "",
) -> Path:
    """Draw the true and a recovered reward of the same steps over two components of the observation.

    The steps are the agent's own, every other action of them random. Colors are means over the steps in a cell; the
    third picture has a point for each step.

    Args:
        agent: Who plays.
        model: The recovered reward.
        out: The picture: .png, .svg or .pdf.
        dims: Components of the observation; by default the first two.
        title: What stands above, before the figures.

    Raises:
        UserError: Observations are no vectors, or have no such component.
        TrainingError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    space = model.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.shape[0] < 2:
        raise UserError(f"a reward is drawn over observations that are vectors, not over {space}")
    x, y = dims or (0, 1)
    if not 0 <= min(x, y) <= max(x, y) < space.shape[0]:
        raise UserError(f"--dims takes two components of {space.shape[0]}, from 0 on; not {x},{y}")
    steps, true = sample_steps(agent)
    recovered = model.rewards(steps)
    correlation, distance = pearson(true, recovered), shaped_distance(true, recovered, steps, agent.config.gamma)
    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    alike = f"Pearson {correlation:.2f}, distance but for shaping {distance:.2f}"
    if np.isnan(correlation):
        alike = "one of the two is the same for every step, so there is nothing to compare"
    figure.suptitle(f"{title}{': ' if title else ''}{alike}")
    one, two, three = figure.subplots(1, 3)
    seen = np.asarray(steps.observations)
    for axes, name, reward in ((one, "true", true), (two, "recovered", recovered)):
        cells = axes.hexbin(seen[:, x], seen[:, y], C=reward, gridsize=35, cmap="viridis")
        figure.colorbar(cells, ax=axes, shrink=0.8)
        axes.set(title=name, xlabel=f"observation[{x}]", ylabel=f"observation[{y}]")
    three.plot(true, recovered, ".", markersize=2, alpha=0.4)
    three.set(title="of each step", xlabel="true", ylabel="recovered")
    three.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out)
    except OSError as error:
        raise disk_error(out, error) from error
    return out


def sample_steps(agent: OnPolicyAgent, count: int = STEPS) -> tuple[Steps, np.ndarray]:
    """At least `count` steps that an agent makes, every other action at random, and their true rewards `(B,)`."""
    actor, collector, rng = agent.policy.actor(agent.rng), agent.collector, np.random.default_rng(0)
    to_policy, space = policy_actions(agent.action_space, agent.config.squash), agent.env.action_space
    space.seed(0)

    def act(observations: Tree, *state: Tree) -> Any:
        own = actor(observations, *state)
        actions, *after = own if state else (own,)
        random = to_policy(np.asarray(space.sample())).astype(actions.dtype).reshape(actions.shape)
        chosen = rng.random(len(actions)) < 0.5
        mixed = np.where(chosen.reshape(-1, *[1] * (actions.ndim - 1)), random, actions)
        return (mixed, *after) if state else mixed

    collector.reset(seed=0)
    rollout = collector.collect(act, -(-count // agent.env.num_envs))
    valid, rows = rollout.valid, rollout.valid.ravel()
    seen, successors = rollout.seen(valid), map_tree(lambda leaf: leaf[rows], rollout.successors())
    if agent.policy.masked:
        seen, successors = without_mask(seen), without_mask(successors)
    actions = environment_actions(agent.action_space)(rollout.actions[valid])
    nothing = np.zeros(len(actions), np.int64)
    absorbed = rollout.terminated[valid].astype(np.int64)
    return Steps(seen, actions, successors, nothing, absorbed), rollout.rewards[valid].astype(np.float64)


def shaped_distance(first: np.ndarray, second: np.ndarray, steps: Steps, gamma: float) -> float:
    """The Pearson distance of two rewards of the same steps once both are freed of what shaping can explain.

    EPIC asks rewards about steps that nobody made, which an environment cannot answer. Here shaping by potentials
    h = cos(w . s + b), with many random w and b, is taken out of both by least squares instead.

    Args:
        first: Rewards, `(B,)`.
        second: Rewards, `(B,)`.
        steps: The steps; observations are vectors.
        gamma: The discount factor of the shaping.

    Returns:
        0 for rewards that are the same but for scale, a constant and shaping, .71 for unrelated ones, 1 for opposites.
    """
    rng, before = np.random.default_rng(0), np.asarray(steps.observations, np.float64)
    mean, scale = before.mean(0), before.std(0) + 1e-8
    weights, phases = rng.normal(size=(before.shape[1], SHAPINGS)), rng.uniform(0, 2 * np.pi, SHAPINGS)

    def potentials(observations: np.ndarray, absorbed: np.ndarray) -> np.ndarray:
        h = np.cos((observations - mean) / scale @ weights + phases)
        return np.column_stack((np.where(absorbed[:, None], 0.0, h), absorbed))

    after = potentials(np.asarray(steps.successors, np.float64), steps.absorbed)
    shaping = gamma * after - potentials(before, steps.absorbing)
    basis = np.column_stack((shaping, np.ones(len(before))))
    rest = [r - basis @ np.linalg.lstsq(basis, r, rcond=None)[0] for r in (first, np.asarray(second, np.float64))]
    return pearson_distance(*rest)


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
