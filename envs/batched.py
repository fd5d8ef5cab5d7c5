"""What environments that are batched in NumPy have in common.

A task is its constants, `_sample`, `_transition` and `_observe`; the rest is here. Like Gymnasium's
`CartPoleVectorEnv`, an environment keeps `state` as `(state, num_envs)`, `steps` and `prev_done`.
`AutoresetVectorEnv` is the part of it that knows nothing of how a state is kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


class AutoresetVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]], ABC):
    """Environments that are stepped together: spaces, the time limit, autoreset, final observations.

    Returned arrays belong to the caller: a later step never changes them.

    Attributes:
        single: one environment of the kind, which gives the spaces.
        steps: `(num_envs,)` timesteps since the last reset of each environment.
        prev_done: `(num_envs,)` whether the last step ended the episode, without a reset since.
        max_episode_steps: timesteps after which an episode is truncated.
    """

    def __init__(
        self,
        single: gym.Env[Any, Any],
        num_envs: int,
        max_episode_steps: int | None,
        autoreset_mode: AutoresetMode,
    ) -> None:
        """Set up `num_envs` environments; call `reset` before `step`.

        Args:
            single: one environment of the kind.
            num_envs: number of environments, at least 1.
            max_episode_steps: timesteps until truncation; None for no limit.
            autoreset_mode: what follows the end of an episode, as in Gymnasium: "NextStep" resets in the next step
                (which ignores the action, and gives reward 0), "SameStep" at once (the last observation is in
                `infos["final_obs"]`), "Disabled" leaves it to `reset(options={"reset_mask": ...})`.

        Raises:
            ValueError: if `num_envs` or `autoreset_mode` is not one of the above.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self._step_limit = np.iinfo(np.int32).max if max_episode_steps is None else max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.single: Any = single
        self.metadata = {**single.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, np.int32)
        self.prev_done = np.zeros(num_envs, np.bool_)
        self._actions: NDArray[Any] | None = None

    # What each kind defines.

    @abstractmethod
    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        """Bring all environments but those of `prev_done`, where it does not matter, to the next timestep.

        Args:
            actions: `(num_envs, ...)` valid actions.

        Returns:
            rewards, `(num_envs,)` float64, and terminated, `(num_envs,)` bool, both new arrays.

        Raises:
            ResetNeeded: before the first reset.
        """

    @abstractmethod
    def _observe(self) -> NDArray[Any]:
        """The present observations, a new `(num_envs, observation)` array."""

    @abstractmethod
    def _begin(self, mask: Bools | None, options: dict[str, Any]) -> None:
        """Put environments into initial states.

        Args:
            mask: `(num_envs,)`, which ones; None for all of them.
            options: those of `reset`.

        Raises:
            ResetNeeded: for a mask before the first reset.
        """

    @abstractmethod
    def _check_actions(self, actions: Any) -> NDArray[Any]:
        """`actions` as an array, or a ValueError that says what is wrong with them."""

    # What they share.

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: seeds the generators; None goes on with the present ones.
            options: options of the single environment's `reset`, for this reset only, and "reset_mask", a
                `(num_envs,)` bool array of the environments to reset (all of them without it).

        Returns:
            observations, `(num_envs, observation)`, those of environments not reset unchanged; and no infos.

        Raises:
            ValueError: for options that are no numbers or a mask of another shape or type, or without a True.
            ResetNeeded: for a mask before the first reset.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if mask is None:
            self._seed(seed, np.ones(self.num_envs, np.bool_))
            self._begin(None, options)
            self.steps = np.zeros(self.num_envs, np.int32)
            self.prev_done = np.zeros(self.num_envs, np.bool_)
        else:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at least one True,"
                    f" not {mask!r}"
                )
            self._seed(seed, mask)
            self._reset_where(mask, options)
            self.prev_done = self.prev_done & ~mask
        return self._observe(), {}

    def _seed(self, seed: Any, mask: Bools) -> None:
        """Seed the generators, if there are several those of a mask; None changes nothing."""
        super().reset(seed=seed)

    def _reset_where(self, mask: Bools, options: dict[str, Any]) -> None:
        self._begin(mask, options)
        self.steps[mask] = 0

    def step(self, actions: Any) -> tuple[NDArray[Any], Floats, Bools, Bools, dict[str, Any]]:
        """Advance every environment by one timestep.

        Args:
            actions: `(num_envs,)` integers of a discrete task, `(num_envs, action)` floats of a continuous one (values
                outside the action space are treated as by the single environment).

        Returns:
            observations `(num_envs, observation)`, rewards `(num_envs,)` float64, terminated and truncated
            `(num_envs,)` bool, infos.

        Raises:
            ValueError: for actions of a wrong shape, type or value.
            ResetNeeded: before the first reset; with autoreset disabled, when an episode has ended.
        """
        actions = self._check_actions(actions)
        ended = self.prev_done if np.count_nonzero(self.prev_done) else None
        if ended is not None and self.autoreset_mode is AutoresetMode.DISABLED:
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(ended).tolist()} have ended and autoreset is disabled:"
                " call reset(options={'reset_mask': terminated | truncated}) before step()"
            )

        rewards, terminated = self._transition(actions)
        self.steps += 1
        truncated = self.steps >= self._step_limit
        self._actions = actions
        infos: dict[str, Any] = {}

        if ended is not None:  # NEXT_STEP: these environments spend this step on their reset
            self._reset_where(ended, {})
            rewards[ended] = 0.0
            terminated[ended] = False
            truncated[ended] = False
        self.prev_done = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(self.prev_done):
            infos = self._final_infos(self.prev_done)
            self._reset_where(self.prev_done, {})
            self.prev_done = np.zeros(self.num_envs, np.bool_)
        return self._observe(), rewards, terminated, truncated, infos

    def _final_infos(self, done: Bools) -> dict[str, Any]:
        """The last observations of the episodes that ended, in the format of Gymnasium's `SyncVectorEnv`."""
        observations = self._observe()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(done):  # NumPy cannot assign rows to an object array in one go
            final_obs[index] = observations[index]
        return {
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": {},
            "_final_info": done.copy(),
        }

    def close_extras(self, **kwargs: Any) -> None:
        """Close the single environment, and with it its renderer."""
        self.single.close()

    def _check_size(self, steps: Any) -> None:
        """See that a saved state is of as many environments."""
        if np.shape(steps) != (self.num_envs,):
            raise ValueError(f"the state is of {np.size(steps)} environments, but there are {self.num_envs} here")


class BatchedVectorEnv(AutoresetVectorEnv):
    """What the batched tasks share beyond autoreset: seeding, rendering and the saved state.

    One generator serves all environments; it is drawn from only when environments are reset, in the order of their
    index.

    Attributes:
        state: `(state, num_envs)` array in the units of the single environment, None before the first reset.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium declares it
    single_env: ClassVar[type[gym.Env[Any, Any]]]  # it gives the spaces and draws the frames

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int | None,
        render_mode: str | None,
        autoreset_mode: AutoresetMode,
        **kwargs: Any,
    ) -> None:
        """Set up `num_envs` environments; call `reset` before `step`.

        Args:
            num_envs: see `AutoresetVectorEnv`.
            max_episode_steps: see `AutoresetVectorEnv`.
            render_mode: None, or "rgb_array" for one `(height, width, 3)` uint8 frame per environment.
            autoreset_mode: see `AutoresetVectorEnv`.
            **kwargs: passed on to the single environment.

        Raises:
            ValueError: if `num_envs`, `render_mode` or `autoreset_mode` is not one of the above.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"{type(self).__name__} renders as 'rgb_array' only, not as {render_mode!r}")
        single: Any = self.single_env(render_mode=render_mode, **kwargs)  # type: ignore[call-arg]
        super().__init__(single, num_envs, max_episode_steps, autoreset_mode)
        self.metadata |= {"render_modes": type(self).metadata["render_modes"]}
        self.render_mode = render_mode
        self.state: NDArray[Any] | None = None

    @abstractmethod
    def _sample(self, count: int, options: dict[str, Any]) -> NDArray[Any]:
        """Draw `count` initial states.

        Args:
            count: number of states.
            options: bounds of the draw, as the single environment's `reset` takes them.

        Returns:
            `(state, count)` array.
        """

    def _observe(self) -> NDArray[Any]:
        return self._state.T.astype(np.float32, order="C")

    @property
    def _state(self) -> NDArray[Any]:
        if self.state is None:
            raise ResetNeeded(f"{type(self).__name__} has no state yet: call reset() first")
        return self.state

    def _begin(self, mask: Bools | None, options: dict[str, Any]) -> None:
        if mask is None:
            self.state = self._sample(self.num_envs, options)
        else:
            self._state[:, mask] = self._sample(int(np.count_nonzero(mask)), options)

    def render(self) -> tuple[Any, ...] | None:
        """Draw every environment with the single environment's renderer.

        Returns:
            `num_envs` frames, each `(height, width, 3)` uint8; None, with a warning, without a `render_mode`.
        """
        if self.render_mode is None:
            gym.logger.warn(f"{type(self).__name__}.render() needs render_mode='rgb_array' at construction")
            return None
        return tuple(self._render_one(index) for index in range(self.num_envs))

    def _render_one(self, index: int) -> Any:
        self.single.state = self._state[:, index]
        return self.single.render()

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next: arrays, and the generator's state as a JSON-able dict."""
        return {
            "state": None if self.state is None else self.state.copy(),
            "steps": self.steps.copy(),
            "prev_done": self.prev_done.copy(),
            "np_random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on, bit for bit, from where `get_state` was called on an environment of this class and size.

        Args:
            state: what `get_state` returned; it is copied.

        Raises:
            ValueError: if it comes from another number of environments.
        """
        self._check_size(state["steps"])
        self.state = None if state["state"] is None else np.array(state["state"])
        self.steps = np.array(state["steps"], np.int32)
        self.prev_done = np.array(state["prev_done"], np.bool_)
        self.np_random.bit_generator.state = state["np_random"]


class DiscreteActionsVectorEnv(BatchedVectorEnv):
    """A batched task whose actions are numbers 0, 1, ..."""

    def _check_actions(self, actions: Any) -> NDArray[np.integer[Any]]:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be integers of shape ({self.num_envs},), not {actions.dtype} of shape {actions.shape}"
            )
        count = self.single_action_space.n  # type: ignore[attr-defined]
        # argmin and argmax are several times faster than min and max on arrays of this size.
        if actions[actions.argmin()] < 0 or actions[actions.argmax()] >= count:
            raise ValueError(f"actions must lie in 0..{count - 1}, not in {actions.min()}..{actions.max()}")
        return actions


class ContinuousActionsVectorEnv(BatchedVectorEnv):
    """A batched task whose action is one real number."""

    def _check_actions(self, actions: Any) -> Floats:
        return check_floats(actions, (self.num_envs, 1))


def check_floats(actions: Any, shape: tuple[int, ...]) -> Floats:
    """Continuous actions as an array.

    Raises:
        ValueError: if they are of another shape, no numbers, or NaN.
    """
    actions = np.asarray(actions)
    if actions.shape != shape or actions.dtype.kind not in "fiu":
        raise ValueError(f"actions must be floats of shape {shape}, not {actions.dtype} of shape {actions.shape}")
    if math.isnan(actions.item(actions.argmax())):  # a NaN counts as the maximum
        raise ValueError("actions must be numbers, but some are NaN")
    return actions
