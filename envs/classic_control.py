"""Gymnasium's classic control tasks, batched in NumPy.

`gymnasium.make_vec` steps Acrobot, MountainCar (both) and Pendulum one environment at a time. Here every
operation works on all environments at once, with the dynamics, spaces, rewards and time limits of Gymnasium's own
environments. A task is its constants, `_sample`, `_transition` and `_observe`; `ClassicControlVectorEnv` is the rest.

Like Gymnasium's `CartPoleVectorEnv`, an environment keeps `state` as `(state, num_envs)`, `steps` and `prev_done`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds, verify_number_and_cast
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


class ClassicControlVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]], ABC):
    """What the batched tasks share: spaces, seeding, the time limit, autoreset, rendering and the saved state.

    One generator serves all environments; it is drawn from only when environments are reset, in the order of their
    index. Returned arrays belong to the caller: a later step never changes them.

    Attributes:
        state: `(state, num_envs)` array in the units of the single environment, None before the first reset.
        steps: `(num_envs,)` timesteps since the last reset of each environment.
        prev_done: `(num_envs,)` whether the last step ended the episode, without a reset since.
        max_episode_steps: timesteps after which an episode is truncated.
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
            num_envs: number of environments, at least 1.
            max_episode_steps: timesteps until truncation; None for no limit.
            render_mode: None, or "rgb_array" for one `(height, width, 3)` uint8 frame per environment.
            autoreset_mode: what follows the end of an episode, as in Gymnasium: "NextStep" resets in the next step
                (which ignores the action, and gives reward 0), "SameStep" at once (the last observation is in
                `infos["final_obs"]`), "Disabled" leaves it to `reset(options={"reset_mask": ...})`.
            **kwargs: passed on to the single environment.

        Raises:
            ValueError: if `num_envs`, `render_mode` or `autoreset_mode` is not one of the above.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"{type(self).__name__} renders as 'rgb_array' only, not as {render_mode!r}")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self._step_limit = np.iinfo(np.int32).max if max_episode_steps is None else max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.single: Any = self.single_env(render_mode=render_mode, **kwargs)  # type: ignore[call-arg]
        self.metadata = {
            **type(self).metadata,
            "render_fps": self.single.metadata["render_fps"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = self.single.observation_space
        self.single_action_space = self.single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.state: Floats | None = None
        self.steps = np.zeros(num_envs, np.int32)
        self.prev_done = np.zeros(num_envs, np.bool_)
        self._actions: NDArray[Any] | None = None

    # What a task defines.

    @abstractmethod
    def _sample(self, count: int, options: dict[str, Any]) -> Floats:
        """Draw `count` initial states.

        Args:
            count: number of states.
            options: bounds of the draw, as the single environment's `reset` takes them.

        Returns:
            `(state, count)` array.
        """

    @abstractmethod
    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        """Replace `state` by a new array, one timestep later.

        Args:
            actions: `(num_envs, ...)` valid actions.

        Returns:
            rewards, `(num_envs,)` float64, and terminated, `(num_envs,)` bool, both new arrays.
        """

    def _observe(self) -> NDArray[np.float32]:
        """The observations of `state`, a new `(num_envs, observation)` float32 array."""
        return self._state.T.astype(np.float32, order="C")

    @abstractmethod
    def _check_actions(self, actions: Any) -> NDArray[Any]:
        """`actions` as an array, or a ValueError that says what is wrong with them."""

    # What they share.

    @property
    def _state(self) -> Floats:
        if self.state is None:
            raise ResetNeeded(f"{type(self).__name__} has no state yet: call reset() first")
        return self.state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: seeds the generator of all environments; None goes on with the present one.
            options: the single environment's bounds of the initial state, for this reset only, and "reset_mask", a
                `(num_envs,)` bool array of the environments to reset (all of them without it).

        Returns:
            observations, `(num_envs, observation)` float32, those of environments not reset unchanged; and no infos.

        Raises:
            ValueError: for bounds that are no numbers or a mask of another shape or type, or without a True.
            ResetNeeded: for a mask before the first reset.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if mask is None:
            self.state = self._sample(self.num_envs, options)
            self.steps = np.zeros(self.num_envs, np.int32)
            self.prev_done = np.zeros(self.num_envs, np.bool_)
        else:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at least one True,"
                    f" not {mask!r}"
                )
            self._reset_where(mask, options)
            self.prev_done = self.prev_done & ~mask
        return self._observe(), {}

    def _reset_where(self, mask: Bools, options: dict[str, Any]) -> None:
        self._state[:, mask] = self._sample(int(np.count_nonzero(mask)), options)
        self.steps[mask] = 0

    def step(self, actions: Any) -> tuple[NDArray[np.float32], Floats, Bools, Bools, dict[str, Any]]:
        """Advance every environment by one timestep.

        Args:
            actions: `(num_envs,)` integers of a discrete task, `(num_envs, 1)` floats of a continuous one (values
                outside the action space are clipped there, as in the single environment).

        Returns:
            observations `(num_envs, observation)` float32, rewards `(num_envs,)` float64, terminated and truncated
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

    def close_extras(self, **kwargs: Any) -> None:
        """Release the renderer."""
        self.single.close()

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
        if np.shape(state["steps"]) != (self.num_envs,):
            raise ValueError(
                f"the state is of {np.size(state['steps'])} environments, but there are {self.num_envs} here"
            )
        self.state = None if state["state"] is None else np.array(state["state"])
        self.steps = np.array(state["steps"], np.int32)
        self.prev_done = np.array(state["prev_done"], np.bool_)
        self.np_random.bit_generator.state = state["np_random"]


class _DiscreteActions(ClassicControlVectorEnv):
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


class _ContinuousActions(ClassicControlVectorEnv):
    def _check_actions(self, actions: Any) -> Floats:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, 1) or actions.dtype.kind not in "fiu":
            raise ValueError(
                f"actions must be floats of shape ({self.num_envs}, 1), not {actions.dtype} of shape {actions.shape}"
            )
        if math.isnan(actions[actions.argmax(), 0]):  # a NaN counts as the maximum
            raise ValueError("actions must be numbers, but some are NaN")
        return actions


class AcrobotVectorEnv(_DiscreteActions):
    """Swing a two-link pendulum above the bar by a torque at the joint between its links.

    State: theta1 (0 hangs down), theta2 (relative to the first link) [rad], and their velocities [rad/s], within
    +-4 pi and +-9 pi. Observation: cos and sin of theta1, of theta2, and the velocities. Actions 0, 1, 2: torque
    -1, 0, +1 N m. Reward: -1 each timestep, 0 on reaching the goal, which terminates. Initial state: each uniform in
    +-0.1 (options "low" and "high"). The equations are those of the book, integrated by one Runge-Kutta step of 0.2 s.

    Source: Sutton, "Generalization in Reinforcement Learning: Successful Examples Using Sparse Coarse Coding",
    NeurIPS 1995; Sutton and Barto, "Reinforcement Learning: An Introduction", example 11.3 (first edition).
    """

    single_env = AcrobotEnv

    dt = 0.2  # s
    link_length_1 = 1.0  # m; the second link's length enters neither the dynamics nor the goal
    link_mass_1, link_mass_2 = 1.0, 1.0  # kg
    link_com_1, link_com_2 = 0.5, 0.5  # m, from the link's upper end to its center of mass
    link_inertia = 1.0  # kg m^2, of each link
    gravity = 9.8  # m/s^2
    torques = np.array([-1.0, 0.0, 1.0])  # N m
    max_velocities = np.array([[4 * math.pi], [9 * math.pi]])  # rad/s

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 500,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """See `ClassicControlVectorEnv`."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode)
        m1, m2, l1, inertia = self.link_mass_1, self.link_mass_2, self.link_length_1, self.link_inertia
        lc1, lc2, g = self.link_com_1, self.link_com_2, self.gravity
        # The constants of `_derivative`, all divided by m2 l1 lc2, which cancels from the equations. Arrays, because
        # NumPy multiplies by a 0-d array faster than by a Python float.
        unit = m2 * l1 * lc2
        self._unit = np.array(unit)
        self._inertia_1 = np.array((m1 * lc1**2 + m2 * (l1**2 + lc2**2) + 2 * inertia) / unit)
        self._inertia_2 = np.array((m2 * lc2**2 + inertia) / unit)
        self._weight_1 = np.array((m1 * lc1 + m2 * l1) * g / unit)
        self._weight_2 = np.array(m2 * lc2 * g / unit)

    def _sample(self, count: int, options: dict[str, Any]) -> Floats:
        low, high = maybe_parse_reset_bounds(options, -0.1, 0.1)
        state = self.np_random.uniform(low, high, (4, count))
        return state.astype(np.float32).astype(np.float64)  # the single environment rounds its first state

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        torque, dt, state = self.torques[actions] / self._unit, self.dt, self._state
        k1 = self._derivative(state, torque)
        k2 = self._derivative(state + dt / 2 * k1, torque)
        k3 = self._derivative(state + dt / 2 * k2, torque)
        k4 = self._derivative(state + dt * k3, torque)
        k2 += k3
        state = state + dt / 6 * (k1 + 2 * k2 + k4)

        angles, velocities = state[:2], state[2:]
        angles -= 2 * math.pi * np.rint(angles / (2 * math.pi))
        np.maximum(velocities, -self.max_velocities, out=velocities)
        np.minimum(velocities, self.max_velocities, out=velocities)
        self.state = state

        theta1, theta2 = angles
        terminated = -np.cos(theta1) - np.cos(theta1 + theta2) > 1.0
        return terminated - 1.0, terminated

    def _derivative(self, state: Floats, torque: Floats) -> Floats:
        """d/dt of (theta1, theta2, velocity1, velocity2)."""
        theta1, theta2, velocity1, velocity2 = state
        cos2, sin2 = np.cos(theta2), np.sin(theta2)
        square1 = velocity1 * velocity1
        speed = velocity1 + velocity2

        d1 = cos2 + cos2 + self._inertia_1
        d2 = cos2 + self._inertia_2
        phi2 = self._weight_2 * np.sin(theta1 + theta2)
        phi1 = self._weight_1 * np.sin(theta1) + phi2 - sin2 * (speed * speed - square1)
        ratio = d2 / d1
        acceleration2 = (torque + ratio * phi1 - sin2 * square1 - phi2) / (self._inertia_2 - ratio * d2)
        acceleration1 = -ratio * acceleration2 - phi1 / d1
        return np.array((velocity1, velocity2, acceleration1, acceleration2))

    def _observe(self) -> NDArray[np.float32]:
        angles, (velocity1, velocity2) = self._state[:2], self._state[2:]
        (cos1, cos2), (sin1, sin2) = np.cos(angles), np.sin(angles)
        return np.array((cos1, sin1, cos2, sin2, velocity1, velocity2)).T.astype(np.float32, order="C")


class MountainCarVectorEnv(_DiscreteActions):
    """Drive an underpowered car out of a valley by gaining momentum on both slopes.

    State and observation: position in [-1.2, 0.6] and velocity in +-0.07, per timestep; the left wall stops the car.
    Actions 0, 1, 2: push left, none, right. Reward: -1 each timestep. Terminates at position 0.5 with at least
    `goal_velocity`. Initial state: position uniform in [-0.6, -0.4] (options "low" and "high"), at rest.

    Source: Moore, "Efficient Memory-based Learning for Robot Control", PhD thesis, University of Cambridge, 1990.
    """

    single_env = MountainCarEnv

    min_position, max_position, max_speed = -1.2, 0.6, 0.07
    goal_position = 0.5
    gravity = 0.0025
    pushes = np.array([-0.001, 0.0, 0.001])

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 200,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        goal_velocity: float = 0,
    ) -> None:
        """See `ClassicControlVectorEnv`; `goal_velocity` is the least velocity at which the goal counts."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode, goal_velocity=goal_velocity)
        self.goal_velocity = goal_velocity

    def _sample(self, count: int, options: dict[str, Any]) -> Floats:
        low, high = maybe_parse_reset_bounds(options, -0.6, -0.4)
        return np.array((self.np_random.uniform(low, high, count), np.zeros(count)))

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        position, velocity = self._state
        acceleration = self.pushes[actions] - self.gravity * np.cos(3 * position)
        velocity = (velocity + acceleration).clip(-self.max_speed, self.max_speed)
        position = (position + velocity).clip(self.min_position, self.max_position)
        np.maximum(velocity, 0.0, out=velocity, where=position == self.min_position)
        self.state = np.array((position, velocity))
        terminated = (position >= self.goal_position) & (velocity >= self.goal_velocity)
        return np.full(self.num_envs, -1.0), terminated


class MountainCarContinuousVectorEnv(_ContinuousActions):
    """The mountain car with a force in [-1, 1], paid for by its square.

    State and observation: as `MountainCarVectorEnv`, in float32, as the single environment computes. Reward:
    -0.1 force^2 each timestep (before clipping), and 100 on reaching position 0.45 with at least `goal_velocity`,
    which terminates. Initial state: position uniform in [-0.6, -0.4] (options "low" and "high"), at rest.

    Source: Moore, "Efficient Memory-based Learning for Robot Control", PhD thesis, University of Cambridge, 1990.
    """

    single_env = Continuous_MountainCarEnv

    min_position, max_position, max_speed = -1.2, 0.6, 0.07
    goal_position = 0.45
    gravity, power = 0.0025, 0.0015

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 999,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        goal_velocity: float = 0,
    ) -> None:
        """See `ClassicControlVectorEnv`; `goal_velocity` is the least velocity at which the goal counts."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode, goal_velocity=goal_velocity)
        self.goal_velocity = goal_velocity

    def _sample(self, count: int, options: dict[str, Any]) -> Floats:
        low, high = maybe_parse_reset_bounds(options, -0.6, -0.4)
        return np.array((self.np_random.uniform(low, high, count), np.zeros(count)), np.float32)

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        position, velocity = self._state
        action = actions[:, 0]
        slope = self.gravity * np.cos(3 * position, dtype=np.float64)  # rounded after the product, like the original
        acceleration = self.power * action.clip(-1.0, 1.0) - slope.astype(position.dtype)
        velocity = (velocity + acceleration).clip(-self.max_speed, self.max_speed)
        position = (position + velocity).clip(self.min_position, self.max_position)
        np.maximum(velocity, 0.0, out=velocity, where=position == self.min_position)
        self.state = np.array((position, velocity), np.float32)
        terminated = (position >= self.goal_position) & (velocity >= self.goal_velocity)
        return 100.0 * terminated - 0.1 * np.square(action, dtype=np.float64), terminated


class PendulumVectorEnv(_ContinuousActions):
    """Swing a pendulum up, by a torque too weak to lift it at once, and hold it there.

    State: angle [rad] (0 is upright, not wrapped) and velocity in +-8 rad/s. Observation: cos and sin of the angle, and
    the velocity. Action: torque in +-2 N m. Reward: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), with the angle
    wrapped to +-pi, of the state before the step. Never terminates. Initial state: angle uniform in +-pi, velocity in
    +-1 (options "x_init" and "y_init").
    """

    single_env = PendulumEnv

    mass, length = 1.0, 1.0  # kg, m
    max_speed, max_torque = 8.0, 2.0  # rad/s, N m
    dt = 0.05  # s

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 200,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        g: float = 10.0,
    ) -> None:
        """See `ClassicControlVectorEnv`; `g` is the acceleration of gravity in m/s^2."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode, g=g)
        self.g = g

    def _sample(self, count: int, options: dict[str, Any]) -> Floats:
        angle = verify_number_and_cast(options.get("x_init", math.pi))
        velocity = verify_number_and_cast(options.get("y_init", 1.0))
        high = np.array([[angle], [velocity]])
        return self.np_random.uniform(-high, high, (2, count))

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        angle, velocity = self._state
        m, length, dt = self.mass, self.length, self.dt
        torque = actions[:, 0].clip(-self.max_torque, self.max_torque)
        wrapped = angle - 2 * math.pi * np.rint(angle / (2 * math.pi))
        rewards = -(wrapped**2) - 0.1 * velocity**2 - 0.001 * torque**2

        acceleration = 3 * self.g / (2 * length) * np.sin(angle) + 3 / (m * length**2) * torque
        velocity = (velocity + acceleration * dt).clip(-self.max_speed, self.max_speed)
        self.state = np.array((angle + velocity * dt, velocity))
        return rewards, np.zeros(self.num_envs, np.bool_)

    def _observe(self) -> NDArray[np.float32]:
        angle, velocity = self._state
        return np.array((np.cos(angle), np.sin(angle), velocity)).T.astype(np.float32, order="C")

    def _render_one(self, index: int) -> Any:
        # The single environment also draws the last torque, but none right after a reset.
        if self._actions is not None and self.steps[index] > 0:
            self.single.last_u = self._actions[index, 0].clip(-self.max_torque, self.max_torque)
        else:
            self.single.last_u = None
        return super()._render_one(index)
