"""Demonstrations: what somebody saw and did in an environment, episode after episode, as flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np

from rltool.trees import Tree, map_tree


@dataclass(frozen=True, repr=False)
class Demonstrations:
    """Whole episodes, one after another: n timesteps, E episodes.

    Attributes:
        observation_space: Space of one observation.
        action_space: Space of one action.
        observations: `(n, ...)`, a tree; what the demonstrator saw before each action.
        actions: `(n, ...)`, as the environment takes them.
        rewards: `(n,)` float; NaN where they are unknown.
        ends: `(E,)` rising indices: the last timestep of each episode; the last one is n - 1.
        terminated: `(E,)` bool: the episode ended for good, and was not cut off; None if that is unknown.
        final_observations: `(E, ...)`, a tree: what followed each episode's last action; None if that is unknown.
        env_id: The environment they come from, if that is known.
        env_kwargs: Arguments of its constructor.
        name: What they were loaded from, for messages.
    """

    observation_space: gym.Space
    action_space: gym.Space
    observations: Tree
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    terminated: np.ndarray | None = None
    final_observations: Tree | None = None
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = "the demonstrations"

    def __repr__(self) -> str:
        return f"<{self.name}: {self.num_episodes} episodes, {len(self)} timesteps>"

    def __len__(self) -> int:
        """Number of timesteps."""
        return len(self.actions)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.ends)

    @cached_property
    def starts(self) -> np.ndarray:
        """First timestep of each episode, `(E,)`."""
        return np.concatenate(([0], self.ends[:-1] + 1))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Timesteps of each episode, `(E,)`."""
        return self.ends - self.starts + 1

    @cached_property
    def returns(self) -> np.ndarray:
        """Sum of each episode's rewards, `(E,)`; NaN where they are unknown."""
        return np.add.reduceat(self.rewards, self.starts)

    @cached_property
    def has_successor(self) -> np.ndarray:
        """Whether it is known what followed a timestep, `(n,)` bool."""
        known = np.ones(len(self), bool)
        if self.final_observations is None:
            known[self.ends] = False
        return known

    def successors(self) -> Tree:
        """What followed each timestep, a tree `(n, ...)`; where that is unknown, the timestep's own observation."""

        def follow(rows: np.ndarray, final: np.ndarray) -> np.ndarray:
            after = np.concatenate((rows[1:], rows[-1:]))
            after[self.ends] = final
            return after

        final = self.final_observations
        if final is None:
            final = map_tree(lambda rows: rows[self.ends], self.observations)
        return map_tree(follow, self.observations, final)

    def discounted_returns(self, gamma: float) -> np.ndarray:
        """Discounted sum of the rewards from each timestep to the end of its episode, `(n,)`."""
        returns = np.array(self.rewards, np.float64)
        for start, end in zip(self.starts, self.ends, strict=True):
            for t in range(end - 1, start - 1, -1):
                returns[t] += gamma * returns[t + 1]
        return returns

    def select(self, episodes: Sequence[int] | np.ndarray) -> Demonstrations:
        """The given episodes, in the given order."""
        episodes = np.asarray(episodes)
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e] + 1) for e in episodes])
        final = self.final_observations
        return Demonstrations(
            self.observation_space,
            self.action_space,
            map_tree(lambda leaf: leaf[rows], self.observations),
            self.actions[rows],
            self.rewards[rows],
            np.cumsum(self.lengths[episodes]) - 1,
            None if self.terminated is None else self.terminated[episodes],
            None if final is None else map_tree(lambda leaf: leaf[episodes], final),
            self.env_id,
            self.env_kwargs,
            self.name,
        )

    def first(self, count: int | None) -> Demonstrations:
        """The first episodes, as many of `count` as there are; None: all of them."""
        return self if count is None else self.select(np.arange(min(count, self.num_episodes)))

    def episodes(self) -> Iterator[slice]:
        """The rows of each episode."""
        for start, end in zip(self.starts, self.ends, strict=True):
            yield slice(int(start), int(end) + 1)
