"""Whether demonstrations fit a policy: one clear sentence for whatever is wrong with them."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id

from rltool.envs.demonstrations import Demonstrations
from rltool.errors import UserError
from rltool.trees import Tree, named_leaves, with_leaves


def check_demonstrations(
    demos: Demonstrations,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    env_id: str | None = None,
) -> Demonstrations:
    """Refuse demonstrations that a policy cannot learn from.

    Args:
        demos: The demonstrations.
        observation_space: Space of the policy's observations; None takes the demonstrations' own.
        action_space: Space of its actions; likewise.
        env_id: The environment they have to come from, if it is known where they come from; None allows any.

    Returns:
        The same with these spaces, their arrays of these spaces' types, rewards as float64.

    Raises:
        UserError: They are from another environment or of other spaces, empty or cut off, their arrays do not go
            together, or observations or actions are not finite or outside their space.
    """
    name = demos.name
    if env_id and demos.env_id and _plain_id(env_id) != _plain_id(demos.env_id):
        raise UserError(f"{name} was recorded in {demos.env_id}, not in {env_id}")
    observation_space, action_space = observation_space or demos.observation_space, action_space or demos.action_space
    if isinstance(action_space, spaces.Dict | spaces.Tuple | spaces.Graph):
        raise UserError(f"actions in {name} are {action_space}; only those of a Box or discrete can be read")
    for what, mine, theirs in (
        ("observation", observation_space, demos.observation_space),
        ("action", action_space, demos.action_space),
    ):
        if mine is not theirs and not _alike(mine, theirs):
            raise UserError(f"the {what} space of {name} is {theirs}, and here it is {mine}")

    n, episodes = len(demos), demos.num_episodes
    if not n or not episodes:
        raise UserError(f"the demonstrations {name} are empty")
    ends = np.asarray(demos.ends)
    if ends[-1] != n - 1 or (np.diff(ends, prepend=-1) < 1).any():
        raise UserError(f"{name} is cut off: its episodes do not end with its last timestep")
    rewards = np.asarray(demos.rewards)
    if rewards.shape != (n,) or rewards.dtype.kind not in "biuf" or np.isinf(rewards.astype(np.float64)).any():
        raise UserError(
            f"rewards in {name} are to be a number for each of the {n} actions (NaN where it is unknown); they are "
            f"{rewards.dtype} {rewards.shape}" + (" and infinite" if rewards.shape == (n,) else "")
        )
    terminated = demos.terminated
    if terminated is not None and (np.shape(terminated) != (episodes,) or not np.isin(terminated, (0, 1)).all()):
        raise UserError(
            f"terminated in {name} is to be true or false for each of its {n} timesteps or {episodes} episodes, "
            f"not an array {np.shape(terminated)}"
        )
    final = demos.final_observations
    if final is None and n > 1 and episodes == n:
        raise UserError(
            f"every episode in {name} is one timestep long and without a final observation, so nothing in it follows "
            "anything; episode_ends is to be true at the last timestep of each episode alone"
        )
    return replace(
        demos,
        observation_space=observation_space,
        action_space=action_space,
        observations=_checked_tree(name, "observations", demos.observations, observation_space, n),
        actions=_checked(name, "actions", demos.actions, action_space, n, inside=True),
        rewards=rewards.astype(np.float64),
        ends=ends,
        terminated=None if terminated is None else np.asarray(terminated, bool),
        final_observations=None
        if final is None
        else _checked_tree(name, "final_observations", final, observation_space, episodes),
    )


def space_tree(space: gym.Space) -> Tree:
    """A nested Dict or Tuple space as the tree of the spaces that it is made of."""
    if isinstance(space, spaces.Dict):
        return {key: space_tree(branch) for key, branch in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(space_tree(branch) for branch in space)
    return space


def _alike(mine: gym.Space, theirs: gym.Space) -> bool:
    """Whether elements of one space can stand for those of the other; the bounds of a Box may differ."""
    if isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box):
        return mine.shape == theirs.shape
    if isinstance(mine, spaces.Dict | spaces.Tuple):
        mine_leaves, their_leaves = named_leaves(space_tree(mine)), named_leaves(space_tree(theirs))
        return mine_leaves.keys() == their_leaves.keys() and all(
            _alike(leaf, their_leaves[name]) for name, leaf in mine_leaves.items()
        )
    return mine == theirs


def _plain_id(env_id: str) -> str:
    """An environment's id without the module that registers it, with its version."""
    name = env_id.rpartition(":")[2]
    try:
        namespace, short_name, version = parse_env_id(name)
    except gym.error.Error:
        return name
    return get_env_id(namespace, short_name, find_highest_version(namespace, short_name)) if version is None else name


def _checked_tree(name: str, what: str, tree: Tree, space: gym.Space, n: int) -> Tree:
    shape = space_tree(space)
    wanted, leaves = named_leaves(shape, what), named_leaves(tree, what)
    if wanted.keys() != leaves.keys():
        raise UserError(f"{name} has {', '.join(leaves)}, and the observation space is {space}")
    return with_leaves(shape, {leaf: _checked(name, leaf, leaves[leaf], wanted[leaf], n) for leaf in wanted}, what)


def _checked(name: str, what: str, rows: np.ndarray, space: gym.Space, n: int, inside: bool = False) -> np.ndarray:
    """The rows `(n, ...)` as the space's type of number, after everything that could be wrong with them."""
    what, shape = f"{what} in {name}", (n, *(space.shape or ()))
    if isinstance(space, spaces.Graph):  # Objects, which no file holds; they come from an environment.
        return rows
    if rows.dtype.kind not in "biuf":
        raise UserError(f"{what} are {rows.dtype}, not numbers")
    finite = np.isfinite(rows)
    if not finite.all():
        raise UserError(f"{what} are NaN or infinite at timestep {_first(~finite)}")
    continuous = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if inside and continuous and rows.dtype.kind != "f":
        raise UserError(f"{what} are discrete ({rows.dtype} numbers), and here they are from {space}")
    if not continuous and rows.dtype.kind == "f" and (rows.shape != shape or (rows != np.floor(rows)).any()):
        raise UserError(f"{what} are continuous ({rows.dtype} numbers), and here they are from {space}")
    if rows.shape != shape:
        raise UserError(f"{what} have the shape {rows.shape}, not {shape}")
    # Observations often leave the bounds of a Box, and nothing depends on those; an index out of range breaks things.
    if inside or not continuous:
        low, high = _bounds(space)
        numbers = rows.astype(space.dtype) if continuous else rows
        outside = (numbers < low) | (numbers > high)
        if outside.any():
            t = _first(outside)
            raise UserError(f"{what} are outside {space}, as {rows[t].tolist()} at timestep {t}")
    return rows.astype(space.dtype, copy=False)


def _bounds(space: gym.Space) -> tuple[np.ndarray | int, np.ndarray | int]:
    """The least and the greatest number in each place of an element."""
    match space:
        case spaces.Box():
            return space.low, space.high
        case spaces.Discrete():
            return int(space.start), int(space.start + space.n - 1)
        case spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            return 0, 1
    raise UserError(f"demonstrations of a {type(space).__name__} space cannot be read")


def _first(where: np.ndarray) -> int:
    """The first timestep at which something holds."""
    return int(np.argmax(where.reshape(len(where), -1).any(1)))
