"""Trees: an array or tensor, or a dictionary or tuple of trees. Elements of Dict and Tuple spaces are trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Tree = Any


def map_tree(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to every leaf of a tree (and to the leaves at the same places of others of its shape).

    Example:
        >>> map_tree(lambda x, y: x + y, {"a": 1, "b": (2, 3)}, {"a": 10, "b": (20, 30)})
        {'a': 11, 'b': (22, 33)}
    """
    if isinstance(tree, dict):
        return {key: map_tree(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, tuple):
        branches = [map_tree(function, *branch) for branch in zip(tree, *others, strict=True)]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return function(tree, *others)


def tree_leaves(tree: Tree) -> Iterator[Any]:
    """The leaves, from left to right."""
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from tree_leaves(branch)
    elif isinstance(tree, tuple):
        for branch in tree:
            yield from tree_leaves(branch)
    else:
        yield tree


def first_leaf(tree: Tree) -> Any:
    """The leftmost leaf."""
    return next(tree_leaves(tree))
