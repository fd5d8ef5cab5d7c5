"""Observations of any space: as arrays that can be stored, as tensors, as vectors.

A batch of observations is a tree of arrays with the same leading axes. An element of a Graph space has no fixed shape:
in arrays it is an object, in tensors a batch of graphs is padded to the largest (`GraphBatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rltool.errors import UserError
from rltool.trees import Tree, map_tree

ACTION_MASK = "action_mask"  # The key of a Dict observation that says which actions are allowed.


class GraphBatch(NamedTuple):
    """B graphs, padded to V nodes and E edges.

    Attributes:
        nodes: Node features, `(B, V, F)` floats or, where nodes are Discrete, `(B, V)` integers.
        node_mask: Which nodes there are, `(B, V)`.
        edges: Edge features, `(B, E, G)` floats or `(B, E)` integers; G is 0 where edges have none.
        links: Source and target node of each edge, `(B, E, 2)`; 0 where there is no edge.
        edge_mask: Which edges there are, `(B, E)`.
    """

    nodes: torch.Tensor
    node_mask: torch.Tensor
    edges: torch.Tensor
    links: torch.Tensor
    edge_mask: torch.Tensor


def is_image(space: gym.Space) -> bool:
    """Whether a space holds images: three axes of bytes, channels first or last."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def channels_last(space: gym.Space) -> bool:
    """Whether an image's channels are its last axis: the smaller of the outer axes is the channels."""
    first, _, third = space.shape or ()
    return third <= first


def image_size(space: gym.Space) -> tuple[int, int, int]:
    """Channels, height and width of images, whichever axis the channels are."""
    first, second, third = space.shape or ()
    return (third, first, second) if channels_last(space) else (first, second, third)


def space_leaves(space: gym.Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], gym.Space]]:
    """The spaces that a nested Dict or Tuple is made of, each with the keys that lead to it."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        branches = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        for key, branch in branches:
            yield from space_leaves(branch, (*path, key))
    else:
        yield path, space


def at(tree: Tree, path: tuple[Any, ...]) -> Any:
    """The branch of a tree that a path of keys leads to."""
    for key in path:
        tree = tree[key]
    return tree


def interchangeable(mine: gym.Space, theirs: gym.Space) -> bool:
    """Whether what reads one space can read the other; the bounds of a Box may differ."""
    if isinstance(mine, spaces.Dict | spaces.Tuple):
        mine_leaves, their_leaves = dict(space_leaves(mine)), dict(space_leaves(theirs))
        return mine_leaves.keys() == their_leaves.keys() and all(
            interchangeable(leaf, their_leaves[path]) for path, leaf in mine_leaves.items()
        )
    if isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box):
        return mine.shape == theirs.shape
    return mine == theirs


def check_observation_space(space: gym.Space) -> None:
    """Refuse spaces whose elements cannot be stored.

    Raises:
        UserError: A part of the space is of another kind than Box, Discrete, MultiDiscrete, MultiBinary or Graph.
    """
    known = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Graph)
    for path, leaf in space_leaves(space):
        if not isinstance(leaf, known):
            where = f" at {'.'.join(map(str, path))}" if path else ""
            raise UserError(
                f"observations from {type(leaf).__name__} spaces{where} cannot be read; use Box, Discrete, "
                "MultiDiscrete, MultiBinary, Graph, or a Dict or Tuple of them"
            )


def empty_batch(space: gym.Space, *leading: int) -> Tree:
    """Uninitialized arrays for observations, `(*leading, ...)`; float64 is kept as float32, graphs as objects."""
    if isinstance(space, spaces.Dict):
        return {key: empty_batch(branch, *leading) for key, branch in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(empty_batch(branch, *leading) for branch in space)
    if isinstance(space, spaces.Graph):
        return np.empty(leading, object)
    dtype = np.float32 if space.dtype == np.float64 else space.dtype
    return np.empty((*leading, *(space.shape or ())), dtype)


def stored_form(space: gym.Space) -> Callable[[Tree], Tree]:
    """A function from what a vector environment returns to a tree of arrays."""
    if not any(isinstance(leaf, spaces.Graph) for _, leaf in space_leaves(space)):
        return lambda observations: observations

    def store(space: gym.Space, observations: Tree) -> Tree:
        if isinstance(space, spaces.Dict):
            return {key: store(branch, observations[key]) for key, branch in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(store(branch, part) for branch, part in zip(space, observations, strict=True))
        if not isinstance(space, spaces.Graph):
            return observations
        graphs = np.empty(len(observations), object)
        for index, graph in enumerate(observations):  # NumPy would take the graphs apart.
            graphs[index] = graph
        return graphs

    return lambda observations: store(space, observations)


def allow_all(observations: Tree, where: np.ndarray) -> Tree:
    """A batch of observations whose action masks, if there are any, allow everything in some rows.

    An episode's last observation may forbid all actions, yet a policy is asked for one where the step only resets.
    """
    if isinstance(observations, dict) and ACTION_MASK in observations:
        mask = observations[ACTION_MASK].copy()
        mask[where] = 1
        return {**observations, ACTION_MASK: mask}
    return observations


def stack_observations(space: gym.Space, observations: list[Any]) -> Tree:
    """Single observations as one batch."""
    if isinstance(space, spaces.Dict):
        return {key: stack_observations(branch, [o[key] for o in observations]) for key, branch in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack_observations(branch, [o[k] for o in observations]) for k, branch in enumerate(space))
    if isinstance(space, spaces.Graph):
        return stored_form(space)(observations)
    return np.stack([np.asarray(observation) for observation in observations])


def as_batch(space: gym.Space, observation: Any) -> tuple[Tree, bool]:
    """An observation, or a batch of them, as a batch; and whether it was a single one.

    Raises:
        ValueError: It has another shape than the space's elements.
    """
    path, leaf = next(iter(space_leaves(space)))
    if isinstance(leaf, spaces.Graph):
        single = isinstance(at(observation, path), spaces.GraphInstance)
    else:
        shape, expected = np.shape(at(observation, path)), leaf.shape or ()
        single = shape == expected
        if not single and shape[1:] != expected:
            raise ValueError(f"expected an observation of shape {expected} or a batch of them, not {shape}")
    if single:
        return stack_observations(space, [observation]), True
    batch = stored_form(space)(observation)
    return (map_tree(np.asarray, batch) if path else np.asarray(batch)), False


def as_tensors(observations: Tree, device: torch.device | str = "cpu") -> Tree:
    """A tree of arrays `(B, ...)` as a tree of tensors, graphs padded; None stays None."""
    return None if observations is None else map_tree(lambda leaf: _as_tensor(leaf, device), observations)


def _as_tensor(leaf: np.ndarray, device: torch.device | str) -> Any:
    if leaf.dtype == object:
        return GraphBatch(*(part.to(device) for part in pad_graphs(list(leaf))))
    return torch.from_numpy(np.ascontiguousarray(leaf)).to(device)


def pad_graphs(graphs: list[Any]) -> GraphBatch:
    """Graphs as one batch."""
    v = max((len(graph.nodes) for graph in graphs), default=0)
    e = max((0 if graph.edge_links is None else len(graph.edge_links) for graph in graphs), default=0)

    def pad(parts: list[Any], rows: int) -> torch.Tensor:
        example = next((part for part in parts if part is not None and part.size), None)
        if example is None:
            example = np.zeros((0, 0), np.float32)
        dtype = np.float32 if example.dtype == np.float64 else example.dtype
        padded = np.zeros((len(parts), rows, *example.shape[1:]), dtype)
        for row, part in zip(padded, parts, strict=True):
            if part is not None and len(part):
                row[: len(part)] = part
        return torch.from_numpy(padded)

    def mask(counts: list[int], rows: int) -> torch.Tensor:
        return torch.arange(rows)[None] < torch.tensor(counts)[:, None]

    links = [None if graph.edge_links is None else graph.edge_links.astype(np.int64) for graph in graphs]
    edge_counts = [0 if part is None else len(part) for part in links]
    return GraphBatch(
        nodes=pad([graph.nodes for graph in graphs], v),
        node_mask=mask([len(graph.nodes) for graph in graphs], v),
        edges=pad([graph.edges for graph in graphs], e),
        links=pad(links, e) if e else torch.zeros(len(graphs), 0, 2, dtype=torch.int64),
        edge_mask=mask(edge_counts, e),
    )


def restore_observations(space: gym.Space, leaves: dict[str, np.ndarray], name: str) -> Tree:
    """A batch of observations from what `named_leaves(as_tensors(batch), name)` returned."""
    if isinstance(space, spaces.Dict):
        return {key: restore_observations(branch, leaves, f"{name}.{key}") for key, branch in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(restore_observations(branch, leaves, f"{name}.{key}") for key, branch in enumerate(space))
    if not isinstance(space, spaces.Graph):
        return leaves[name]
    parts = [leaves[f"{name}.{key}"] for key in range(len(GraphBatch._fields))]
    graphs = []
    for nodes, node_mask, edges, links, edge_mask in zip(*parts, strict=True):
        nodes = nodes[node_mask].astype(space.node_space.dtype)
        if space.edge_space is None or not edge_mask.any():
            graphs.append(spaces.GraphInstance(nodes, None, links[edge_mask] if edge_mask.any() else None))
        else:
            edges = edges[edge_mask].astype(space.edge_space.dtype)
            graphs.append(spaces.GraphInstance(nodes, edges, links[edge_mask]))
    return stored_form(space)(graphs)


class Flatten(nn.Module):
    """Observations of any space but Graph as vectors `(B, out_features)`.

    Numbers stay as they are, bytes are divided by 255, a Discrete or MultiDiscrete choice becomes one-hot; parts of
    Dict and Tuple spaces stand one after another.

    Args:
        space: The space of one observation.
        scale_bytes: Whether bytes are divided by 255.

    Raises:
        UserError: The space holds graphs, or something that is no number.
    """

    def __init__(self, space: gym.Space, scale_bytes: bool = True) -> None:
        super().__init__()
        check_observation_space(space)
        self.plain = isinstance(space, spaces.Box | spaces.MultiBinary)
        self.leaves = [(path, _Leaf(leaf, scale_bytes)) for path, leaf in space_leaves(space)]
        self.out_features = sum(leaf.size for _, leaf in self.leaves)

    def forward(self, observations: Tree) -> torch.Tensor:
        if self.plain:
            return self.leaves[0][1].tensor(observations)
        return torch.cat([leaf.tensor(at(observations, path)) for path, leaf in self.leaves], 1)

    def as_numpy(self) -> Callable[[Tree], np.ndarray]:
        """The same from NumPy to NumPy."""
        if self.plain:
            return self.leaves[0][1].array
        return lambda observations: np.concatenate(
            [leaf.array(at(observations, path)) for path, leaf in self.leaves], 1
        )


class _Leaf:
    """One leaf of a space, as part of a vector."""

    def __init__(self, space: gym.Space, scale_bytes: bool) -> None:
        if isinstance(space, spaces.Graph):
            raise UserError("graphs are read by the gnn backbone alone; take --backbone gnn (or auto)")
        self.scale = 1 / 255 if isinstance(space, spaces.Box) and space.dtype == np.uint8 and scale_bytes else None
        self.choices = None
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            # Choice k of one-hot blocks that stand side by side: the index where its block begins, minus its start.
            n = np.atleast_1d(np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)).ravel()
            self.choices = np.cumsum(n) - n - np.asarray(space.start).ravel()
            self.size = int(n.sum())
        else:
            self.size = int(np.prod(space.shape or ()))

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(len(x), -1)
        if self.choices is not None:
            index = x.long() + torch.from_numpy(self.choices).to(x.device)
            return torch.zeros(len(x), self.size, device=x.device).scatter_(1, index, 1.0)
        return x.float() if self.scale is None else x.float() * self.scale

    def array(self, x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(x), -1)
        if self.choices is not None:
            one_hot = np.zeros((len(x), self.size), np.float32)
            np.put_along_axis(one_hot, x.astype(np.int64) + self.choices, 1.0, 1)
            return one_hot
        x = x.astype(np.float32, copy=False)
        return x if self.scale is None else x * np.float32(self.scale)
