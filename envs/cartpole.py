"""CartPole without its velocities: what an agent has to remember in order to balance the pole."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rltool.envs.state import get_cartpole_state, set_cartpole_state

OBSERVED = [0, 2]  # of position, velocity, angle and angular velocity


def _observed_space(space: Any) -> Box:
    return Box(space.low[OBSERVED], space.high[OBSERVED], dtype=np.float32)


class CartPoleNoVelocityEnv(CartPoleEnv):
    """Gymnasium's CartPole, of which only the cart's position and the pole's angle are observed."""

    def __init__(self, sutton_barto_reward: bool = False, render_mode: str | None = None) -> None:
        """Set up one environment, with the options of Gymnasium's CartPole."""
        super().__init__(sutton_barto_reward=sutton_barto_reward, render_mode=render_mode)
        self.observation_space = _observed_space(self.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode, as in CartPole."""
        observation, info = super().reset(seed=seed, options=options)
        return observation[OBSERVED], info

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step, as in CartPole."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation[OBSERVED], reward, terminated, truncated, info


class CartPoleNoVelocityVectorEnv(CartPoleVectorEnv):
    """Gymnasium's batched CartPole, of which only the carts' positions and the poles' angles are observed."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = 500,
        render_mode: str | None = None,
        sutton_barto_reward: bool = False,
    ) -> None:
        """Set up `num_envs` environments, with the options of Gymnasium's batched CartPole."""
        super().__init__(num_envs, max_episode_steps, render_mode, sutton_barto_reward)
        self.single_observation_space = _observed_space(self.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin new episodes; the observations are `(num_envs, 2)`."""
        observations, infos = super().reset(seed=seed, options=options)
        return observations[:, OBSERVED], infos

    def step(self, action: Any) -> tuple[NDArray[np.float32], Any, Any, Any, dict[str, Any]]:
        """Take a step in each environment; the observations are `(num_envs, 2)`."""
        observations, *rest = super().step(action)
        return observations[:, OBSERVED], *rest  # type: ignore[return-value]

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what happens next."""
        return get_cartpole_state(self)

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on, bit for bit, from where `get_state` was called on an environment of this class and size."""
        set_cartpole_state(self, state)
