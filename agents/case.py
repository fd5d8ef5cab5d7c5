"""What the rules of a diagnosis look at, and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from torch import nn

from rltool.agents.rollout import Rollout
from rltool.training.loggers import Row
from rltool.trees import Tree, tree_leaves

Severity = Literal["serious", "warning", "note"]
SEVERITIES: list[Severity] = ["serious", "warning", "note"]
FEWEST_ROWS = 4
FEWEST_EPISODES = 20


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong.

    Attributes:
        name: For scripts, as `entropy-collapsed`.
        severity: `serious` (training will hardly work so), `warning` (worth a try), or `note`.
        what: What is wrong, in words.
        evidence: Numbers and timesteps.
        advice: What to try.
    """

    name: str
    severity: Severity
    what: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Played:
    """Whole episodes that an agent has just played; B timesteps in all.

    Attributes:
        observations: `(B, ...)`, a tree.
        values: What the critic expects, `(B,)`.
        returns: Discounted returns, with the critic's value where an episode was truncated, `(B,)`.
        advantages: As the method estimates them, `(B,)`.
        episode_returns: Undiscounted return of each episode.
        lengths: Timesteps of each episode.
        terminated: How many ended for good.
        values_at_truncation: What the critic expects after the last step of those that were cut.
        rollout: Where all this comes from.
        valid: `(T, N)`; the B timesteps of the rollout that belong to the episodes.
    """

    observations: Tree
    values: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray
    episode_returns: list[float]
    lengths: list[int]
    terminated: int
    values_at_truncation: np.ndarray
    rollout: Rollout | None = None
    valid: np.ndarray | None = None

    @property
    def features(self) -> np.ndarray:
        """All numbers with a scale, `(B, F)`: bytes are scaled by the networks, indices and masks have none."""
        leaves = [leaf.reshape(len(leaf), -1) for leaf in tree_leaves(self.observations) if leaf.dtype.kind == "f"]
        return np.concatenate(leaves, axis=1, dtype=np.float64) if leaves else np.empty((len(self.values), 0))


@dataclass(frozen=True)
class Case:
    """What the rules look at.

    Attributes:
        rows: Rows of `metrics.csv`.
        config: Options of the method.
        played: Episodes played now; rules that need them say nothing without.
        policy: The agent's networks; likewise.
        inputs: Some of what was played, as the policy takes it.
        action_space: Space of one action.
        threshold: The return from which the environment counts as solved, if it has one.
    """

    rows: list[Row]
    config: Mapping[str, Any] = field(default_factory=dict)
    played: Played | None = None
    policy: nn.Module | None = None
    inputs: tuple[Any, ...] = ()
    action_space: gym.Space | None = None
    threshold: float | None = None

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps and values of a metric where it is there."""
        points = [(row["time/total_timesteps"], row[name]) for row in self.rows if name in row]
        return np.array([p[0] for p in points]), np.array([p[1] for p in points])

    @property
    def episodes(self) -> int:
        """Episodes that training has seen end."""
        return int(max((row.get("rollout/episodes", 0) for row in self.rows), default=0))

    @property
    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """The learning curve; empty if there is too little of it to judge."""
        steps, returns = self.column("rollout/ep_rew_mean")
        enough = len(returns) >= FEWEST_ROWS and self.episodes >= FEWEST_EPISODES
        return (steps, returns) if enough else (steps[:0], returns[:0])

    @property
    def solved(self) -> bool:
        """Whether training or evaluation ends above the environment's threshold."""
        ends = [self.column(name)[1][-1:] for name in ("rollout/ep_rew_mean", "eval/mean_return")]
        return self.threshold is not None and bool((np.concatenate(ends) >= self.threshold).any())

    @property
    def has_critic(self) -> bool:
        """Whether a critic is trained at all."""
        return self.config.get("credit", "value_baseline") == "value_baseline"
