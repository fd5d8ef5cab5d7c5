"""Saving and restoring the complete state of a vector environment, so that a resumed run continues bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rltool.envs.parallel import ParallelVectorEnv

# What decides CartPoleVectorEnv's next step, its generator aside; `low` and `high` bound its autoresets.
_CARTPOLE_ATTRIBUTES = ("state", "steps", "prev_done", "low", "high")


def get_env_state(env: VectorEnv[Any, Any, Any]) -> dict[str, Any] | None:
    """The complete state of a vector environment, without that of wrappers around it.

    Args:
        env: any vector environment, wrapped or not.

    Returns:
        NumPy arrays and JSON-able values by name, copies all: what the environment's own `get_state()` returns, or
        the attributes of Gymnasium's `CartPoleVectorEnv`, or what `Replay` around each single environment remembers
        (`make_vector_env` sees to that), with the number of the environment after each name. None for an environment
        whose state cannot be had; `Replay.replay_state` says when that is.
    """
    base: Any = env.unwrapped
    if hasattr(base, "get_state") and hasattr(base, "set_state"):
        return base.get_state()
    if type(base) is CartPoleVectorEnv:
        return get_cartpole_state(base)
    if _has_replay(base):
        states = base.get_attr("replay_state")
        if any(state is None for state in states):
            return None
        return {f"{name}.{i}": value for i, state in enumerate(states) for name, value in state.items()}
    return None


def set_env_state(env: VectorEnv[Any, Any, Any], state: dict[str, Any]) -> bool:
    """Put a vector environment into the state that `get_env_state` returned for one of its kind and size.

    Args:
        env: a vector environment made in the same way as the one the state was taken from.
        state: what `get_env_state` returned; it is copied.

    Returns:
        Whether it goes on bit for bit from there. False if the episodes, played again, took another course, because
        something random in them does not come from the environment's generator, or if the state says only how to play
        them again, as that of single environments, and these are batched: then reset the environment.

    Raises:
        ValueError: if the environment cannot be put into a state, or has another number of environments.
    """
    base: Any = env.unwrapped
    if hasattr(base, "get_state") and hasattr(base, "set_state"):
        if any(name.startswith("episode.") for name in state):
            return False
        base.set_state(state)
    elif type(base) is CartPoleVectorEnv:
        set_cartpole_state(base, state)
    elif _has_replay(base):
        return _replay(base, state)
    else:
        raise ValueError(f"{type(base).__name__} cannot be put into a saved state")
    return True


def get_cartpole_state(env: CartPoleVectorEnv) -> dict[str, Any]:
    """The complete state of Gymnasium's batched CartPole, or of a subclass that adds nothing to it."""
    state = {name: _copy(getattr(env, name)) for name in _CARTPOLE_ATTRIBUTES}
    return state | {"np_random": env.np_random.bit_generator.state}


def set_cartpole_state(env: CartPoleVectorEnv, state: dict[str, Any]) -> None:
    """Put Gymnasium's batched CartPole into a state that `get_cartpole_state` returned.

    Raises:
        ValueError: if it comes from another number of environments.
    """
    _check_size(env, np.size(state["steps"]))
    for name in _CARTPOLE_ATTRIBUTES:
        setattr(env, name, _copy(state[name]))
    env.np_random.bit_generator.state = state["np_random"]


def _has_replay(env: Any) -> bool:
    # Asked in a way that cannot fail: in a worker process, a missing attribute would be the end of it.
    known = isinstance(env, ParallelVectorEnv | SyncVectorEnv | AsyncVectorEnv)
    return known and all(env.call("has_wrapper_attr", "replay_exact"))


def _replay(env: Any, state: dict[str, Any]) -> bool:
    _check_size(env, sum(name.startswith("episode.") for name in state))
    states: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
    for full_name, value in state.items():
        name, _, index = full_name.rpartition(".")
        states[int(index)][name] = value
    for each in states:
        each["resets_in_next_step"] = env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.set_attr("replay_state", states)
    env.reset()  # Replays, and the vector environment comes to know the observations.
    return all(env.get_attr("replay_exact"))


def _check_size(env: VectorEnv[Any, Any, Any], size: int) -> None:
    if size != env.num_envs:
        raise ValueError(f"the state is of {size} environments, but there are {env.num_envs} here")


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
