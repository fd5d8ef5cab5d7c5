"""A grid of good and bad ground: small enough to be computed with exactly."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import Bools, DiscreteActionsVectorEnv, Floats

# Path, sand, swamp, meadow and home.
MAP = [
    "..,,~~..",
    ".:,,~~.H",
    ".::..:..",
    "...~~:..",
    ".~~~~:..",
    ".~..::.,",
    ".~....,,",
    ",,...~~~",
]
VALUES = {".": 0.0, ":": -0.5, "~": -2.0, ",": 0.5, "H": 2.0}  # of arriving there
COLORS = {
    ".": (236, 233, 226),
    ":": (238, 208, 142),
    "~": (96, 130, 140),
    ",": (146, 190, 110),
    "H": (192, 72, 60),
}

HEIGHT, WIDTH = len(MAP), len(MAP[0])
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
STAY = len(MOVES)
MAX_EPISODE_STEPS = 50
PIXELS = 40  # a side of a cell

_CELLS = np.array([list(row) for row in MAP]).ravel()  # a state is row * WIDTH + column
_REWARDS = np.array([VALUES[what] for what in _CELLS])


@functools.cache
def _after() -> NDArray[np.int64]:
    """The state after a move in each direction or none, `(5, states)`; nothing moves over the edge."""
    rows, columns = np.divmod(np.arange(_CELLS.size), WIDTH)
    moved = [(np.clip(rows + r, 0, HEIGHT - 1), np.clip(columns + c, 0, WIDTH - 1)) for r, c in (*MOVES, (0, 0))]
    return np.array([row * WIDTH + column for row, column in moved])


class GridWorldEnv(gym.Env[Any, Any]):
    """Go where the ground is good, around the swamp if that is worth the way, and stay.

    Observation: the number of the cell, row * 8 + column. Actions 0, 1, 2, 3, 4: up, right, down, left, stay; with
    probability `slip` a move goes to the left or the right of where it was meant to go, and nothing moves over the
    edge. Reward: what the cell arrived in (or stayed in) is worth, 0 (path), -0.5 (sand), -2 (swamp), 0.5 (meadow) or
    2 (home). Nothing ends an episode but the time limit of 50. Initial state: anywhere.

    That the value of every cell counts, and that nothing terminates, makes the reward one that demonstrations give
    away but for a constant.

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
        self.action_space = Discrete(len(MOVES) + 1)
        self.nrow, self.ncol = HEIGHT, WIDTH
        self.initial_state_distrib = np.full(_CELLS.size, 1 / _CELLS.size)
        self.state: NDArray[np.int64] | None = None

    @functools.cached_property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
        """See the class."""
        turns = [turn for turn in ((-1, self.slip / 2), (0, 1 - self.slip), (1, self.slip / 2)) if turn[1] > 0]
        table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
        for state in range(_CELLS.size):
            table[state] = {STAY: [(1.0, state, float(_REWARDS[state]), False)]}
            for action in range(len(MOVES)):
                after = [(p, int(_after()[(action + turn) % len(MOVES), state])) for turn, p in turns]
                table[state][action] = [(p, to, float(_REWARDS[to]), False) for p, to in after]
        return table

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin an episode somewhere."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.integers(_CELLS.size)])
        return int(self.state[0]), {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move."""
        assert self.state is not None, "call reset() before step()"
        direction = _direction(np.asarray(action), self.np_random.random(), self.slip)
        self.state = _after()[direction, self.state]
        cell = int(self.state[0])
        return cell, float(_REWARDS[cell]), False, False, {}

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
        return self.np_random.integers(_CELLS.size, size=(1, count))

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        directions = _direction(actions, self.np_random.random(self.num_envs), self.single.slip)
        self.state = _after()[directions, self._state]
        return _REWARDS[self.state[0]], np.zeros(self.num_envs, np.bool_)

    def _observe(self) -> NDArray[Any]:
        return self._state[0].copy()


def _direction(action: NDArray[Any], chance: Any, slip: float) -> NDArray[Any]:
    """Where an action leads: `chance` is uniform in [0, 1)."""
    turn = np.where(chance < slip / 2, -1, np.where(chance < slip, 1, 0))
    return np.where(action == STAY, STAY, (action + turn) % len(MOVES))
