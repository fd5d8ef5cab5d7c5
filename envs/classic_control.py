"""Gymnasium's classic control tasks, batched in NumPy.

`gymnasium.make_vec` steps Acrobot, MountainCar (both) and Pendulum one environment at a time. Here every
operation works on all environments at once, with the dynamics, spaces, rewards and time limits of Gymnasium's own
environments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds, verify_number_and_cast
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import Bools, ContinuousActionsVectorEnv, DiscreteActionsVectorEnv, Floats


class AcrobotVectorEnv(DiscreteActionsVectorEnv):
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
        """See `BatchedVectorEnv`."""
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


class MountainCarVectorEnv(DiscreteActionsVectorEnv):
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
        """See `BatchedVectorEnv`; `goal_velocity` is the least velocity at which the goal counts."""
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


class MountainCarContinuousVectorEnv(ContinuousActionsVectorEnv):
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
        """See `BatchedVectorEnv`; `goal_velocity` is the least velocity at which the goal counts."""
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


class PendulumVectorEnv(ContinuousActionsVectorEnv):
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
        """See `BatchedVectorEnv`; `g` is the acceleration of gravity in m/s^2."""
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
            self.single.last_u = self._drawn_torque(index)
        else:
            self.single.last_u = None
        return super()._render_one(index)

    def _drawn_torque(self, index: int) -> Any:
        assert self._actions is not None
        return self._actions[index, 0].clip(-self.max_torque, self.max_torque)
