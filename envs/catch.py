"""Catch what falls: a small game whose observations are images, learned on a CPU in about a minute."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import Bools, DiscreteActionsVectorEnv, Floats

SIZE = 10  # Rows and columns.
BALLS = 10  # Of an episode.
BALL, PADDLE = (255, 255, 255), (0, 200, 80)
PIXELS = 24  # A side of a cell in a rendered frame.
MAX_EPISODE_STEPS = BALLS * (SIZE - 1)


def _sample(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    return np.array((np.zeros(count, np.int64), rng.integers(SIZE, size=count), np.full(count, SIZE // 2)))


def _advance(
    state: NDArray[np.int64], actions: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.int64], Floats]:
    """One timestep of `(3, num_envs)` games: the next states, and rewards `(num_envs,)`."""
    row, column, paddle = state[0] + 1, state[1], np.clip(state[2] + actions - 1, 0, SIZE - 1)
    landed = row == SIZE - 1
    rewards = (landed & (column == paddle)).astype(np.float64)
    after = np.array((row, column, paddle))
    if landed.any():
        after[0, landed] = 0
        after[1, landed] = rng.integers(SIZE, size=int(landed.sum()))
    return after, rewards


def _images(state: NDArray[np.int64]) -> NDArray[np.uint8]:
    row, column, paddle = state
    games = np.arange(len(row))
    images = np.zeros((len(row), SIZE, SIZE, 3), np.uint8)
    images[games, SIZE - 1, paddle] = PADDLE
    images[games, row, column] = BALL
    return images


class CatchEnv(gym.Env[NDArray[np.uint8], Any]):
    """Ten balls fall, one after the other, and a paddle on the ground catches them.

    Observation: a `(10, 10, 3)` uint8 image; the ball is white, the paddle green, all else black. Actions 0, 1, 2: the
    paddle moves left, stays, moves right. A ball falls a row a step, which is
    just enough to get to it from everywhere. Reward: 1 for each ball that is caught. An episode is cut after 10 balls,
    90 timesteps.

    Attributes:
        state: array of the ball's row and column, and the paddle's column.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, render_mode: str | None = None) -> None:
        """Set up one environment; `render_mode` is None or "rgb_array"."""
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = Discrete(3)
        self.state: NDArray[np.int64] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode: a ball at the top, the paddle in the middle."""
        super().reset(seed=seed)
        self.state = _sample(self.np_random, 1)[:, 0]
        return _images(self.state[:, None])[0], {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the paddle, and let the ball fall."""
        assert self.state is not None, "call reset() before step()"
        after, rewards = _advance(self.state[:, None], np.array([int(action)]), self.np_random)
        self.state = after[:, 0]
        return _images(after)[0], float(rewards[0]), False, False, {}

    def render(self) -> Any:
        """Draw the game; a `(240, 240, 3)` uint8 image."""
        if self.render_mode is None:
            gym.logger.warn("CatchEnv.render() needs render_mode='rgb_array' at construction")
            return None
        assert self.state is not None, "call reset() before render()"
        return _images(self.state[:, None])[0].repeat(PIXELS, 0).repeat(PIXELS, 1)


class CatchVectorEnv(DiscreteActionsVectorEnv):
    """`CatchEnv`, batched; `state` is `(3, num_envs)`. Balls that follow others are drawn in steps, too."""

    single_env = CatchEnv

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """See `BatchedVectorEnv`."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode)

    def _sample(self, count: int, options: dict[str, Any]) -> NDArray[np.int64]:
        return _sample(self.np_random, count)

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        self.state, rewards = _advance(self._state, actions, self.np_random)
        return rewards, np.zeros(self.num_envs, np.bool_)

    def _observe(self) -> NDArray[np.uint8]:
        return _images(self._state)
