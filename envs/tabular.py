"""Environments with a transition table, as arrays: what exact methods compute with instead of playing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from rltool.errors import UserError

Floats = NDArray[np.float64]

MAX_ENTRIES = 50_000_000  # of a table; three of them are kept, 8 bytes an entry


@dataclass(frozen=True)
class Tabular:
    """The model of an environment with S states and A actions.

    A transition that terminates leads to its next state, too (that is where the reward lies), but from there nothing
    goes on: it is as if the episode stayed for ever where nothing happens and nothing is earned.

    Attributes:
        transitions: `(S, A, S)`; the probability of the next state, given a state and an action.
        terminations: `(S, A, S)`; the part of it with which the episode ends there.
        rewards: `(S, A, S)`; the mean, where it varies; where a transition cannot happen, what arriving in its next
            state is worth elsewhere.
        initial: `(S,)`; the distribution of an episode's first state.
        horizon: Timesteps after which an episode is cut off; None if it never is.
        shape: How states lie on a grid: rows, columns, and whatever else a state has, row by row; None on no grid.
    """

    transitions: Floats
    terminations: Floats
    rewards: Floats
    initial: Floats
    horizon: int | None = None
    shape: tuple[int, ...] | None = None

    @property
    def num_states(self) -> int:
        """S."""
        return self.transitions.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transitions.shape[1]

    @cached_property
    def continuing(self) -> Floats:
        """`(S, A, S)`; the probability of the next state, and of the episode going on there."""
        return self.transitions - self.terminations

    @cached_property
    def expected_rewards(self) -> Floats:
        """`(S, A)`; the mean reward of an action."""
        return (self.transitions * self.rewards).sum(-1)

    @cached_property
    def reachable(self) -> NDArray[np.bool_]:
        """`(S,)`; the states in which an episode can ask for an action."""
        return _reachable(self.continuing, self.initial)

    @cached_property
    def enterable(self) -> NDArray[np.bool_]:
        """`(S,)`; the states that an episode can arrive in, by an action, for good or not."""
        arrivals = self.transitions[self.reachable].sum((0, 1)) > 0
        return np.asarray(arrivals, np.bool_)

    @cached_property
    def arrival_rewards(self) -> Floats:
        """`(S,)`; the mean reward of arriving in a state, over all that lead there with equal weight."""
        return _arrival_means(self.transitions[self.reachable], self.rewards[self.reachable])

    def expected_return(self, policy: Floats, horizon: int | None = None) -> float:
        """The mean return of an episode, exactly and undiscounted.

        Args:
            policy: `(S, A)`; the probability of each action.
            horizon: Timesteps at most; by default the environment's own, or 1,000 where it has none.
        """
        step = np.einsum("sa,sat->st", policy, self.continuing)
        reward = (policy * self.expected_rewards).sum(-1)
        state, total = self.initial, 0.0
        for _ in range(horizon or self.horizon or 1_000):
            total += float(state @ reward)
            state = state @ step
        return total


def tabular_model(env: gym.Env[Any, Any]) -> Tabular | None:
    """The model of an environment that brings its table along, as those of Gymnasium's toy text do; None without one.

    The table is `env.unwrapped.P`, `{state: {action: [(probability, next state, reward, terminated), ...]}}`; beside
    it lies `initial_state_distrib`. Observations are the numbers of states.

    Raises:
        UserError: There is a table, but it is too large to be computed with.
    """
    world: Any = env.unwrapped
    table, space, actions = getattr(world, "P", None), env.observation_space, env.action_space
    initial = getattr(world, "initial_state_distrib", None)
    if not isinstance(table, dict) or initial is None or not isinstance(actions, Discrete):
        return None
    # A wrapper may show something else than the state.
    if not isinstance(space, Discrete) or space.n != len(table) or space.start != 0 or actions.start != 0:
        return None
    size = (len(table), int(actions.n), len(table))
    if np.prod(size) > MAX_ENTRIES:
        raise UserError(f"a table of {size[0]:,} states is too large to compute with exactly")
    transitions, terminations, rewards = np.zeros(size), np.zeros(size), np.zeros(size)
    for state, choices in table.items():
        for action, outcomes in choices.items():
            for probability, following, reward, terminated in outcomes:
                transitions[state, action, following] += probability
                terminations[state, action, following] += probability * bool(terminated)
                rewards[state, action, following] += probability * reward
    possible = transitions > 0
    rewards = np.divide(rewards, transitions, out=rewards, where=possible)
    initial = np.asarray(initial, np.float64)
    # Tables have rows for states in which an episode has ended, too; what happens there means nothing.
    real = _reachable(transitions - terminations, initial)
    rewards = np.where(possible & real[:, None, None], rewards, _arrival_means(transitions[real], rewards[real]))
    horizon = env.spec.max_episode_steps if env.spec is not None else None
    return Tabular(transitions, terminations, rewards, initial, horizon, _grid(world, size[0]))


def _reachable(continuing: Floats, initial: Floats) -> NDArray[np.bool_]:
    """`(S,)`; the states that steps `(S, A, S)` lead to, from those that an episode can begin in."""
    step = continuing.sum(1) > 0
    reached = initial > 0
    while (more := reached | step[reached].any(0)).sum() > reached.sum():
        reached = more
    return np.asarray(reached, np.bool_)


def _arrival_means(transitions: Floats, rewards: Floats) -> Floats:
    """`(S,)`; the mean reward of arriving in a state by transitions `(states, A, S)`, 0 where none leads there."""
    arrivals = transitions.sum((0, 1))
    sums = (transitions * rewards).sum((0, 1))
    return np.divide(sums, arrivals, out=np.zeros_like(sums), where=arrivals > 0)


def _grid(world: Any, num_states: int) -> tuple[int, ...] | None:
    """Rows, columns and the rest of the states of the environments that say so: each in its own way."""
    if hasattr(world, "nrow") and hasattr(world, "ncol"):  # FrozenLake, GridWorld
        shape = (int(world.nrow), int(world.ncol))
    elif type(world).__name__ == "TaxiEnv":
        shape = (5, 5)
    else:
        shape = tuple(getattr(world, "shape", ()))[:2]  # CliffWalking
    cells = int(np.prod(shape)) if len(shape) == 2 else 0
    if not cells or num_states % cells:
        return None
    return shape if cells == num_states else (*shape, num_states // cells)
