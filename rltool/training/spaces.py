"""Gymnasium spaces as JSON, so that a saved agent knows its spaces without its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rltool.errors import UserError


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """Describe a space with JSON values. Bounds that are the same everywhere are kept as one number."""
    if isinstance(space, gym.spaces.Box):
        low, high = (
            float(b.flat[0]) if b.size and (b == b.flat[0]).all() else b.tolist() for b in (space.low, space.high)
        )
        return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    raise UserError(f"agents with the space {space} cannot be saved yet")


def space_from_json(value: dict[str, Any]) -> gym.Space:
    """The space that `space_to_json` described."""
    kind = value.get("type")
    if kind == "Box":
        low, high = (np.asarray(value[b], value["dtype"]) for b in ("low", "high"))
        shape = tuple(value["shape"])
        return gym.spaces.Box(np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, value["dtype"])
    if kind == "Discrete":
        return gym.spaces.Discrete(value["n"], start=value["start"])
    raise UserError(f"no space of type {kind!r} is known here; the file is from a newer version or damaged")
