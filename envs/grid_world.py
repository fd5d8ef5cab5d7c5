"""A grid of easy and hard ground with two places to end up in: small enough to be computed with exactly."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import Bools, DiscreteActionsVectorEnv, Floats

# A path, sand, swamp, a hut and a house.
MAP = [
    "....~~..",
    ".::.~~.H",
    ".::..:..",
    "...~~:..",
    ".~~~~:..",
    ".~..::..",
    ".~.....~",
    "h....~~~",
]
VALUES = {".": -1.0, ":": -2.0, "~": -5.0, "h": 5.0, "H": 20.0}  # of arriving there
ENDS = "hH"
COLORS = {
    ".": (236, 233, 226),
    ":": (238, 208, 142),
    "~": (106, 140, 120),
    "h": (226, 168, 30),
    "H": (192, 72, 60),
}

HEIGHT, WIDTH = len(MAP), len(MAP[0])
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
MAX_EPISODE_STEPS = 100
PIXELS = 40  # a side of a cell

_CELLS = np.array([list(row) for row in MAP]).ravel()  # a state is row * WIDTH + column
_REWARDS = np.array([VALUES[what] for what in _CELLS])
_TERMINAL = np.isin(_CELLS, list(ENDS))
_STARTS = np.flatnonzero(~_TERMINAL)


@functools.cache
def _after() -> NDArray[np.int64]:
    """The state after a move in each direction, `(4, states)`; nothing moves over the edge."""
    rows, columns = np.divmod(np.arange(_CELLS.size), WIDTH)
    moved = [(np.clip(rows + r, 0, HEIGHT - 1), np.clip(columns + c, 0, WIDTH - 1)) for r, c in MOVES]
    return np.array([row * WIDTH + column for row, column in moved])


class GridWorldEnv(gym.Env[int, Any]):
    """Walk to the house, or to the hut if that is nearer, around the swamp if that is worth the way.

    Observation: the number of the cell, row * 8 + column. Actions 0, 1, 2, 3: up, right, down, left; with probability
    `slip` the move goes to the left or the right of where it was meant to go, and nothing moves over the edge. Reward:
    what the cell arrived in is worth, -1 (path), -2 (sand), -5 (swamp), 5 (hut) or 20 (house); the last two end the
    episode. Initial state: anywhere else. An episode is cut off after 100 timesteps.

    Attributes:
        state: array of the cell.
        P: the transition table, `{state: {action: [(probability, next state, reward, terminated), ...]}}`.
        initial_state_distrib: `(64,)`; the probability of each initial state.
        nrow: number of rows.
        ncol: number of columns.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, render_mode: str | None = None, slip: float = 0.1) -> None:
        """Set up one environment.

        Args:
            render_mode: None, "rgb_array" or "ansi".
            slip: the probability of going astray.

        Raises:
            gymnasium.error.Error: if that is no probability.
        """
        if not 0 <= slip <= 1:
            raise gym.error.Error(f"slip is a probability, between 0 and 1, not {slip}")
        self.render_mode = render_mode
        self.slip = slip
        self.observation_space = Discrete(_CELLS.size)
        self.action_space = Discrete(len(MOVES))
        self.nrow, self.ncol = HEIGHT, WIDTH
        self.initial_state_distrib = np.where(_TERMINAL, 0, 1 / len(_STARTS))
        self.state: NDArray[np.int64] | None = None

    @functools.cached_property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        return {
            state: {
                action: [
                    (probability, int(to), float(_REWARDS[to]), bool(_TERMINAL[to]))
                    for turn, probability in ((-1, self.slip / 2), (0, 1 - self.slip), (1, self.slip / 2))
                    for to in (_after()[(action + turn) % len(MOVES), state],)
                    if probability > 0
                ]
                for action in range(len(MOVES))
            }
            for state in range(_CELLS.size)
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode somewhere."""
        super().reset(seed=seed)
        self.state = np.array([_STARTS[self.np_random.integers(len(_STARTS))]])
        return int(self.state[0]), {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move."""
        assert self.state is not None, "call reset() before step()"
        direction = _direction(np.asarray(action), self.np_random.random(), self.slip)
        self.state = _after()[direction, self.state]
        cell = int(self.state[0])
        return cell, float(_REWARDS[cell]), bool(_TERMINAL[cell]), False, {}

    def render(self) -> Any:
        """Draw the grid: an `(320, 320, 3)` uint8 image, or text with the agent as an @."""
        if self.render_mode is None:
            gym.logger.warn("GridWorldEnv.render() needs render_mode='rgb_array' or 'ansi' at construction")
            return None
        assert self.state is not None, "call reset() before render()"
        cells = _CELLS.copy()
        if self.render_mode == "ansi":
            cells[self.state] = "@"
            return "\n".join("".join(row) for row in cells.reshape(HEIGHT, WIDTH)) + "\n"
        colors = np.array([COLORS[what] for what in cells], np.uint8).reshape(HEIGHT, WIDTH, 3)
        image = colors.repeat(PIXELS, 0).repeat(PIXELS, 1)
        image[::PIXELS] = image[:, ::PIXELS] = 255  # lines between cells
        row, column = divmod(int(self.state[0]), WIDTH)
        y, x = np.ogrid[: HEIGHT * PIXELS, : WIDTH * PIXELS]
        center = PIXELS / 2
        image[np.hypot(y - row * PIXELS - center, x - column * PIXELS - center) < 0.32 * PIXELS] = (58, 112, 196)
        return image


class GridWorldVectorEnv(DiscreteActionsVectorEnv):
    """`GridWorldEnv`, batched; `state` is `(1, num_envs)`. Its generator is drawn from in every step, too."""

    single_env = GridWorldEnv

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        slip: float = 0.1,
    ) -> None:
        """See `BatchedVectorEnv`."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode, slip=slip)

    def _sample(self, count: int, options: dict[str, Any]) -> NDArray[np.int64]:
        return _STARTS[self.np_random.integers(len(_STARTS), size=count)][None]

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        directions = _direction(actions, self.np_random.random(self.num_envs), self.single.slip)
        self.state = _after()[directions, self._state]
        return _REWARDS[self.state[0]], _TERMINAL[self.state[0]]

    def _observe(self) -> NDArray[Any]:
        return self._state[0].copy()


def _direction(action: NDArray[Any], chance: Any, slip: float) -> NDArray[Any]:
    """Where a move goes: `chance` is uniform in [0, 1)."""
    turn = np.where(chance < slip / 2, -1, np.where(chance < slip, 1, 0))
    return (action + turn) % len(MOVES)
