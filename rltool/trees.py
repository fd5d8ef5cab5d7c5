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


def named_leaves(tree: Tree, name: str = "") -> dict[str, Any]:
    """The leaves by name: the keys that lead to them, joined by dots, after `name`. None has no leaves.

    Example:
        >>> named_leaves({"a": 1, "b": (2, 3)}, "tree")
        {'tree.a': 1, 'tree.b.0': 2, 'tree.b.1': 3}
    """
    if tree is None:
        return {}
    if not isinstance(tree, dict | tuple):
        return {name: tree}
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {k: leaf for key, branch in branches for k, leaf in named_leaves(branch, f"{name}.{key}").items()}


def with_leaves(tree: Tree, leaves: dict[str, Any], name: str = "") -> Tree:
    """A tree of the same shape with the leaves of these names."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: with_leaves(branch, leaves, f"{name}.{key}") for key, branch in tree.items()}
    if isinstance(tree, tuple):
        branches = [with_leaves(branch, leaves, f"{name}.{key}") for key, branch in enumerate(tree)]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return leaves[name]
