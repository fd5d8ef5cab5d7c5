"""Examples to learn from: observations, and what is to be said about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rltool.agents.policy import Policy
from rltool.agents.sequences import Cuts, Sequences, SequenceTable
from rltool.envs import Demonstrations
from rltool.networks.observations import as_tensors
from rltool.trees import Tree, map_tree


@dataclass
class Batch:
    """B timesteps.

    Attributes:
        observations: A tree of tensors `(B, ...)`.
        targets: What is to be learned about them, `(B, ...)`.
        weights: How much each counts, `(B,)`.
        sequences: For a policy with a memory, how they follow each other.
    """

    observations: Tree
    targets: torch.Tensor
    weights: torch.Tensor
    sequences: Sequences | None = None

    def __len__(self) -> int:
        return len(self.targets)


class Examples:
    """Timesteps of whole episodes. They are taken one by one or, for a policy with a memory, episode by episode.

    Args:
        policy: Who learns from them.
        demos: n timesteps.
        targets: What is to be learned about each, `(n, ...)`.
        weights: How much each counts, `(n,)`; None: all the same.

    Attributes:
        lengths: Timesteps of each unit that is taken as a whole, `(U,)`.
    """

    def __init__(
        self, policy: Policy, demos: Demonstrations, targets: np.ndarray, weights: np.ndarray | None = None
    ) -> None:
        n = len(demos)
        weights = np.ones(n) if weights is None else weights
        self.device = policy.value_head.linear.weight.device
        self.observations = as_tensors(demos.observations, self.device)
        self.targets, self.weights = as_tensors((targets, weights.astype(np.float32)), self.device)
        self.table: SequenceTable | None = None
        self.lengths = np.ones(n, np.int64)
        if policy.has_memory:
            self.lengths = demos.lengths
            state = policy.initial_state(demos.num_episodes)
            self.table = SequenceTable(Cuts(demos.starts, np.zeros(demos.num_episodes, np.int64), state), (n, 1))

    def __len__(self) -> int:
        """Number of timesteps."""
        return len(self.targets)

    def take(self, units: np.ndarray) -> Batch:
        """The given units."""
        rows, sequences = (units, None) if self.table is None else self.table.take(units, device=self.device)
        index = torch.from_numpy(rows).to(self.device)
        observations = map_tree(lambda leaf: leaf.index_select(0, index), self.observations)
        return Batch(observations, self.targets[index], self.weights[index], sequences)

    def split(self, units: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The first units, together of at most `size` timesteps (but at least one unit), and the rest."""
        # No unit has less than one timestep, so that those after the first `size` cannot matter.
        count = max(1, int(np.searchsorted(np.cumsum(self.lengths[units[:size]]), size, side="right")))
        return units[:count], units[count:]

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """All of them in batches of about `size` timesteps, in random order if `rng` says which."""
        units = np.arange(len(self.lengths)) if rng is None else rng.permutation(len(self.lengths))
        while len(units):
            first, units = self.split(units, size)
            yield self.take(first)


def held_out(num_episodes: int, fraction: float, before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which episodes are not learned from, `(num_episodes,)` bool: at least one, but never the only one.

    Args:
        num_episodes: Number of episodes.
        fraction: The share that is held out.
        before: The choice among the first episodes, which stays as it is, `(k,)` bool.
        rng: Chooses among the others.
    """
    count = 0 if fraction == 0 else min(max(1, round(fraction * num_episodes)), num_episodes - 1)
    chosen = np.zeros(num_episodes, bool)
    chosen[: len(before)] = before
    others = len(before) + rng.permutation(num_episodes - len(before))
    chosen[others[: max(0, count - chosen.sum())]] = True
    return chosen


def balancing_weights(actions: np.ndarray) -> np.ndarray:
    """Weights `(n,)` of mean 1 that make every one of the different actions `(n, ...)` count the same."""
    _, kind, counts = np.unique(actions.reshape(len(actions), -1), axis=0, return_inverse=True, return_counts=True)
    return len(actions) / (len(counts) * counts[kind.ravel()])
