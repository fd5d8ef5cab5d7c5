"""The exact state of an environment that cannot tell its own: how its episode began, and the actions since."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

# Longer episodes are not kept, so that memory is bounded where there is no time limit. Atari's are 27,000 steps.
MAX_STEPS = 100_000


class Replay(gym.Wrapper, RecordConstructorArgs):
    """Passes everything through, and remembers what it takes to bring a fresh copy of the environment to this point.

    That is the state of the random generator before the last reset, the arguments of that reset, and the actions
    since. To go on from a state, assign it to `replay_state`: the next `reset`, whatever its arguments, plays the
    episode up to that point and returns its last observation. All this goes through a vector environment's
    `get_attr`, `set_attr` and `reset`, so it works in worker processes, too.

    Attributes:
        replay_exact: Whether the last episode that was played again came out as it had been the first time.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.replay_exact = True
        # Atari games have a generator of their own, which goes on from one episode to the next.
        base: Any = env.unwrapped
        self._clone_emulator = base.clone_state if hasattr(base, "ale") and hasattr(base, "clone_state") else None
        self._episode: dict[str, Any] | None = None
        self._emulator: Any = None
        self._actions: deque[Any] = deque(maxlen=MAX_STEPS + 1)
        self._observation: Any = None
        self._ended = False
        self._restoring: dict[str, Any] | None = None
        self._restored_end: dict[str, Any] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; or, after a state was assigned to `replay_state`, get to where that was taken."""
        if self._restoring is not None:
            return self._restore()
        self._episode = {
            "generator": self._generator_state(),
            "seed": None if seed is None else int(seed),
            "options": copy.deepcopy(options),
        }
        self._emulator = None if self._clone_emulator is None else self._clone_emulator(include_rng=True)
        self._actions.clear()
        self._restored_end = None
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._ended = False
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Pass the action on, and remember it."""
        if self._restored_end is not None:
            return self._step_after_restored_end()
        self._actions.append(copy.copy(action))  # The caller may write the next action into the same array.
        result = self.env.step(action)
        self._observation, _, terminated, truncated, _ = result
        self._ended = terminated or truncated
        return result

    @property
    def replay_state(self) -> dict[str, Any] | None:
        """Arrays and JSON-able values by name; None if there are none that would do.

        That is before the first reset, after more than `MAX_STEPS` steps of one episode, for actions that are not
        arrays or numbers, and after a reset with options that JSON cannot hold.
        """
        if self._episode is None or len(self._actions) > MAX_STEPS or self.action_space.shape is None:
            return None
        try:
            episode = json.loads(json.dumps(self._episode, default=_to_json))
        except (AttributeError, TypeError, ValueError):
            return None
        empty = np.empty((0, *self.action_space.shape), self.action_space.dtype)
        state: dict[str, Any] = {
            "actions": np.array(self._actions) if self._actions else empty,
            "episode": episode | {"ended": bool(self._ended), "now": self._fingerprint()},
        }
        if self._emulator is not None:
            state["emulator"] = np.frombuffer(self._emulator.serialize(), np.uint8).copy()
        return state

    @replay_state.setter
    def replay_state(self, state: dict[str, Any]) -> None:
        self._restoring = state

    def _restore(self) -> tuple[Any, dict[str, Any]]:
        state, self._restoring = self._restoring, None
        assert state is not None
        episode = state["episode"]
        try:
            if episode["generator"] is not None:
                self.unwrapped.np_random.bit_generator.state = episode["generator"]
            if "emulator" in state:
                ale_state = importlib.import_module("ale_py").ALEState
                self.unwrapped.restore_state(ale_state(state["emulator"].tobytes()))  # type: ignore[attr-defined]
            observation, info = self.reset(seed=episode["seed"], options=episode["options"])
            for action in state["actions"]:
                if self._ended:
                    break
                observation, _, _, _, info = self.step(action)
            self.replay_exact = self._ended == episode["ended"] and self._fingerprint() == episode["now"]
        except Exception:  # An episode that takes another course may well be one that these actions do not fit.
            self.replay_exact = False
            return self.reset()
        self._restored_end = state if self._ended else None
        return observation, info

    def _step_after_restored_end(self) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """What the vector environment would do if it knew that this episode had ended."""
        assert self._restored_end is not None
        if not self._restored_end["resets_in_next_step"]:
            raise ResetNeeded("the episode has ended: call reset() before step()")
        observation, info = self.reset()
        return observation, 0.0, False, False, info

    def _generator_state(self) -> Any:
        bit_generator = getattr(getattr(self.unwrapped, "np_random", None), "bit_generator", None)
        return None if bit_generator is None else bit_generator.state

    def _fingerprint(self) -> dict[str, Any]:
        """What differs if the episode took another course."""
        space, observation = self.observation_space, self._observation
        if space.shape is None:
            content = json.dumps(space.to_jsonable([observation]), default=_to_json).encode()
        else:
            content = np.asarray(observation).tobytes()
        return {
            "steps": len(self._actions),
            "generator": json.loads(json.dumps(self._generator_state(), default=_to_json)),
            "observation": hashlib.sha256(content).hexdigest(),
        }


def _to_json(value: Any) -> Any:
    """Arrays and NumPy's numbers: the states of some generators hold some, but accept lists as well."""
    return value.tolist()
