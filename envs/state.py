"""Saving and restoring the complete state of a vector environment, so that a resumed run continues bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import VectorEnv

# What decides CartPoleVectorEnv's next step, its generator aside; `low` and `high` bound its autoresets.
_CARTPOLE_ATTRIBUTES = ("state", "steps", "prev_done", "low", "high")


def get_env_state(env: VectorEnv[Any, Any, Any]) -> dict[str, Any] | None:
    """The complete state of a vector environment, without that of wrappers around it.

    Args:
        env: any vector environment, wrapped or not.

    Returns:
        NumPy arrays and JSON-able values by name, copies all: what the environment's own `get_state()` returns, or
        the attributes of Gymnasium's `CartPoleVectorEnv`. None for an environment whose state cannot be had.
    """
    base = env.unwrapped
    if hasattr(base, "get_state") and hasattr(base, "set_state"):
        return base.get_state()
    if type(base) is CartPoleVectorEnv:
        state = {name: _copy(getattr(base, name)) for name in _CARTPOLE_ATTRIBUTES}
        return state | {"np_random": base.np_random.bit_generator.state}
    return None


def set_env_state(env: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> None:
    """Put a vector environment into the state that `get_env_state` returned for one of its kind and size.

    Args:
        env: a vector environment made in the same way as the one the state was taken from.
        state: what `get_env_state` returned; it is copied.

    Raises:
        ValueError: if the environment cannot be put into a state, or has another number of environments.
    """
    base = env.unwrapped
    if hasattr(base, "get_state") and hasattr(base, "set_state"):
        base.set_state(state)
    elif type(base) is CartPoleVectorEnv:
        if np.shape(state["steps"]) != (base.num_envs,):
            raise ValueError(
                f"the state is of {np.size(state['steps'])} environments, but there are {base.num_envs} here"
            )
        for name in _CARTPOLE_ATTRIBUTES:
            setattr(base, name, _copy(state[name]))
        base.np_random.bit_generator.state = state["np_random"]
    else:
        raise ValueError(f"{type(base).__name__} cannot be put into a saved state")


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
