"""Sequences: how the rows of a batch follow each other, for policies with memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rltool.networks import Backbone
from rltool.networks.observations import as_tensors
from rltool.trees import Tree, map_tree


@dataclass
class Cuts:
    """Where a rollout of N environments was cut into sequences: at episode starts, and where one became too long.

    Attributes:
        time: Row at which each of the S sequences begins, `(S,)`.
        env: The environment it comes from, `(S,)`.
        state: The policy's state before it, a tree of `(S, ...)` arrays.
    """

    time: np.ndarray
    env: np.ndarray
    state: Tree


@dataclass
class Sequences:
    """S sequences of up to L steps, out of the B rows of a batch; every row belongs to one sequence.

    Attributes:
        rows: Row of each step, `(L, S)`; any row where there is no step.
        mask: Where there are steps, `(L, S)`.
        order: What sorts the steps, read line by line, into rows 0..B-1; `(B,)`.
        state: State before each sequence, for each backbone, by name; trees of `(S, ...)` tensors.
    """

    rows: torch.Tensor
    mask: torch.Tensor
    order: torch.Tensor
    state: dict[str, Any]

    def features(self, name: str, backbone: Backbone, observations: Tree) -> torch.Tensor:
        """What a backbone makes of the rows, each seen after those before it in its sequence; `(B, out_features)`."""
        padded = map_tree(lambda leaf: leaf[self.rows], observations)
        return backbone.sequence(padded, self.state[name])[self.mask][self.order]


class SequenceTable:
    """The sequences of one rollout, to take batches from.

    Args:
        cuts: Where they begin.
        shape: T and N.
    """

    def __init__(self, cuts: Cuts, shape: tuple[int, int]) -> None:
        (steps, n), self.state = shape, cuts.state
        # A sequence ends where the next one of its environment begins.
        by_env = np.lexsort((cuts.time, cuts.env))
        ends = np.full(len(by_env), steps)
        same = cuts.env[by_env][1:] == cuts.env[by_env][:-1]
        ends[:-1][same] = cuts.time[by_env][1:][same]
        lengths = np.empty(len(by_env), np.int64)
        lengths[by_env] = ends - cuts.time[by_env]
        step = np.arange(lengths.max())[:, None]
        self.mask = step < lengths
        self.rows = np.where(self.mask, (cuts.time + step) * n + cuts.env, 0)
        self.size = steps * n

    def take(
        self, which: np.ndarray | None = None, valid: np.ndarray | None = None, device: torch.device | str = "cpu"
    ) -> tuple[np.ndarray, Sequences]:
        """Some of the sequences as a batch.

        Args:
            which: Their numbers; None takes all.
            valid: Rows that are wanted, `(T * N,)`; None wants all.
            device: Where tensors live.

        Returns:
            The batch's rows, ascending, as numbers of rows of the rollout; and how they follow each other.
        """
        which = np.arange(self.mask.shape[1]) if which is None else which
        mask = self.mask[:, which]
        rows = self.rows[:, which]
        if valid is not None:
            mask = mask & valid[rows]
        length = int(np.flatnonzero(mask.any(1)).max(initial=0)) + 1
        mask, rows = mask[:length], rows[:length]
        steps = rows[mask]
        order = np.argsort(steps)
        index = steps[order]
        relative = np.searchsorted(index, rows).clip(max=len(index) - 1)
        state = as_tensors(map_tree(lambda leaf: leaf[which], self.state), device)
        where, steps_there, sorting = as_tensors((relative, mask, order), device)
        return index, Sequences(where, steps_there, sorting, state)

    def batches(self, size: int, valid: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """All sequences with valid rows in random groups of about `size` valid rows, as arrays of their numbers."""
        lengths = (self.mask & valid[self.rows]).sum(0)
        order = rng.permutation(np.flatnonzero(lengths))
        group = (np.cumsum(lengths[order]) - 1) // size
        return np.split(order, np.flatnonzero(np.diff(group)) + 1)
