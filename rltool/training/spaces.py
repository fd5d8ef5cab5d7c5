"""Gymnasium spaces as JSON, so that a saved agent knows its spaces without its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rltool.errors import UserError


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """Describe a space with JSON values.

    Raises:
        UserError: The space, or a part of it, is of a kind that cannot be saved.
    """
    match space:
        case spaces.Box():
            low, high = _pack(space.low), _pack(space.high)
            return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            nvec, start = space.nvec.tolist(), space.start.tolist()
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n}
        case spaces.Dict():
            # Pairs, not an object: keys may be numbers, and their order counts.
            if not all(type(key) in (str, int) for key in space):
                raise UserError(
                    f"the keys of a Dict space must be text or whole numbers to be saved, not {list(space)}"
                )
            return {"type": "Dict", "spaces": [[key, space_to_json(part)] for key, part in space.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(part) for part in space]}
        case spaces.Graph():
            edges = None if space.edge_space is None else space_to_json(space.edge_space)
            return {"type": "Graph", "nodes": space_to_json(space.node_space), "edges": edges}
    raise UserError(
        f"agents with a {type(space).__name__} space cannot be saved; use Box, Discrete, MultiDiscrete, MultiBinary, "
        "Graph, or a Dict or Tuple of them"
    )


def space_from_json(value: dict[str, Any]) -> gym.Space:
    """The space that `space_to_json` described.

    Raises:
        UserError: It is no description of a space.
    """
    try:
        return _build(value)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError):
        raise UserError("a space is described wrongly; the file is from a newer version or damaged") from None


def _build(value: dict[str, Any]) -> gym.Space:
    match value["type"]:
        case "Box":
            shape, dtype = tuple(value["shape"]), value["dtype"]
            low, high = (np.broadcast_to(np.asarray(value[bound], dtype), shape) for bound in ("low", "high"))
            return spaces.Box(low, high, shape, dtype)
        case "Discrete":
            space = spaces.Discrete(value["n"], start=value["start"])
            # Gymnasium before 1.2 knows 64 bits only, and no argument for it.
            dtype = value.get("dtype", "int64")
            return space if space.dtype == dtype else spaces.Discrete(value["n"], start=value["start"], dtype=dtype)
        case "MultiDiscrete":
            return spaces.MultiDiscrete(value["nvec"], value["dtype"], start=value["start"])
        case "MultiBinary":
            return spaces.MultiBinary(value["n"])
        case "Dict":
            return spaces.Dict([(key, _build(part)) for key, part in value["spaces"]])
        case "Tuple":
            return spaces.Tuple([_build(part) for part in value["spaces"]])
        case "Graph":
            return spaces.Graph(_build(value["nodes"]), None if value["edges"] is None else _build(value["edges"]))
    raise UserError(f"no space of type {value['type']!r} is known here; the file is from a newer version or damaged")


def _pack(bound: np.ndarray) -> Any:
    """A bound as a nested list, or as one number if it is the same everywhere."""
    return bound.flat[0].item() if bound.size and (bound == bound.flat[0]).all() else bound.tolist()
