"""Find the key, open the door, reach the goal: a maze whose only reward is at its end."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rltool.envs.batched import Bools, DiscreteActionsVectorEnv, Floats

# S: an episode begins on one of these; K: key; D: door; G: goal.
MAZE = [
    "###########",
    "#SSSS#....#",
    "#SSSS#....#",
    "#SSSS.....#",
    "#SSSS#....#",
    "#SSSS#...K#",
    "###D#######",
    "#....#....#",
    "#.........#",
    "#....#....#",
    "#....#...G#",
    "###########",
]

HEIGHT, WIDTH = len(MAZE), len(MAZE[0])
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
KEY_LIES, KEY_HELD, DOOR_OPEN = range(3)  # the phases of an episode
MAX_EPISODE_STEPS = 200

_CELLS = np.array([list(row) for row in MAZE]).ravel()  # a cell is row * WIDTH + column
_STARTS = np.flatnonzero(_CELLS == "S")
_KEY, _DOOR, _GOAL = ("".join(MAZE).index(name) for name in "KDG")


def _after(cell: int, phase: int, action: int) -> tuple[int, int]:
    """The cell and the phase after a move."""
    row, column = MOVES[action]
    target = cell + row * WIDTH + column
    if _CELLS[target] == "#" or (target == _DOOR and phase == KEY_LIES):
        return cell, phase
    if target == _KEY and phase == KEY_LIES:
        return target, KEY_HELD
    return target, DOOR_OPEN if target == _DOOR else phase


@functools.cache
def _tables() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """By cell and phase: the states after each action, `(2, cells, 3, 4)`, and the observation, `(cells, 3, n)`."""
    after = np.zeros((2, _CELLS.size, 3, len(MOVES)), np.int64)
    for cell, phase, action in np.ndindex(after.shape[1:]):
        if _CELLS[cell] != "#":
            after[:, cell, phase, action] = _after(cell, phase, action)
    rows, columns = np.divmod(np.arange(_CELLS.size), WIDTH)
    place = np.concatenate((np.eye(HEIGHT)[rows, 1:-1], np.eye(WIDTH)[columns, 1:-1]), axis=1)
    observations = np.zeros((_CELLS.size, 3, place.shape[1] + 2), np.float32)
    observations[..., :-2] = place[:, None]
    observations[:, KEY_HELD, -2] = 1
    observations[:, DOOR_OPEN, -1] = 1
    return after, observations


class KeyDoorEnv(gym.Env[NDArray[np.float32], Any]):
    """A maze of four rooms; the way to the lower two leads through a door, and the key to it lies in the second.

    Observation: 21 numbers that are 0 or 1, the row (10 of them, one is 1), the column (9), whether the key is held
    and whether the door is open. Actions 0, 1, 2, 3: move up, right, down, left; nothing moves against a wall, or the
    door without the key. The key is picked up where it lies, and used up by the door. Reward: 1 at the goal, which
    terminates. Initial state: anywhere in the first room.

    The shortest way takes 33 steps from the farthest start. Within the time limit of 200, moving at random finds the
    key in 34 % and the goal in 0.07 % of the episodes.

    Attributes:
        state: array of the cell, which is row * width + column of the maze, and of the phase: 0 until the key is found,
            1 while it is held, 2 when the door is open.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, render_mode: str | None = None) -> None:
        """Set up one environment; `render_mode` is None or "rgb_array"."""
        self.render_mode = render_mode
        self.observation_space = Box(0, 1, _tables()[1].shape[2:], np.float32)
        self.action_space = Discrete(len(MOVES))
        self.state: NDArray[np.int64] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode somewhere in the first room."""
        super().reset(seed=seed)
        self.state = np.array((_STARTS[self.np_random.integers(len(_STARTS))], KEY_LIES))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move."""
        assert self.state is not None, "call reset() before step()"
        cell, phase = self.state
        self.state = np.array(_after(int(cell), int(phase), int(action)))
        terminated = bool(self.state[0] == _GOAL)
        return self._observe(), float(terminated), terminated, False, {}

    def _observe(self) -> NDArray[np.float32]:
        assert self.state is not None
        cell, phase = self.state
        return _tables()[1][cell, phase].copy()

    def render(self) -> Any:
        """Draw the maze; an `(384, 352, 3)` uint8 image."""
        if self.render_mode is None:
            gym.logger.warn("KeyDoorEnv.render() needs render_mode='rgb_array' at construction")
            return None
        assert self.state is not None, "call reset() before render()"
        return draw(*map(int, self.state))


class KeyDoorVectorEnv(DiscreteActionsVectorEnv):
    """`KeyDoorEnv`, batched; `state` is `(2, num_envs)`."""

    single_env = KeyDoorEnv

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """See `BatchedVectorEnv`."""
        super().__init__(num_envs, max_episode_steps, render_mode, autoreset_mode)
        self._after, self._observations = _tables()

    def _sample(self, count: int, options: dict[str, Any]) -> NDArray[np.int64]:
        return np.array((_STARTS[self.np_random.integers(len(_STARTS), size=count)], np.full(count, KEY_LIES)))

    def _transition(self, actions: NDArray[Any]) -> tuple[Floats, Bools]:
        cells, phases = self._state
        self.state = self._after[:, cells, phases, actions]
        terminated = self.state[0] == _GOAL
        return terminated.astype(np.float64), terminated

    def _observe(self) -> NDArray[np.float32]:
        cells, phases = self._state
        return self._observations[cells, phases]


# Drawing.

PIXELS = 32  # a side of a cell
_FLOOR, _FLOOR_2, _WALL, _WALL_TOP = (236, 233, 226), (229, 226, 218), (66, 74, 92), (88, 98, 120)
_GOLD, _WOOD, _DARK_WOOD = (226, 168, 30), (150, 98, 58), (110, 70, 40)
_GREEN, _LIGHT_GREEN, _BLUE, _WHITE, _BLACK = (
    (52, 150, 92),
    (126, 205, 152),
    (58, 112, 196),
    (255, 255, 255),
    (30, 34, 44),
)

Color = tuple[int, int, int]


def draw(cell: int, phase: int) -> NDArray[np.uint8]:
    """A picture of a state."""
    image = _empty_maze().copy()
    if phase == KEY_LIES:
        _key(_patch(image, _KEY), (0.5, 0.5), 1)
    door = _patch(image, _DOOR)
    if phase == DOOR_OPEN:
        _box(door, (0.09, 0.5), (0.09, 0.5), 0.05, _DARK_WOOD)  # it stands open, along the wall
    else:
        _box(door, (0.5, 0.5), (0.5, 0.5), 0.05, _DARK_WOOD)
        _box(door, (0.5, 0.5), (0.42, 0.42), 0.05, _WOOD)
        _box(door, (0.5, 0.5), (0.02, 0.42), 0, _DARK_WOOD)
        _box(door, (0.72, 0.5), (0.07, 0.07), 0.07, _GOLD)
    agent = _patch(image, cell)
    _box(agent, (0.5, 0.5), (0.36, 0.36), 0.36, _BLUE)
    for x in (0.37, 0.63):
        _box(agent, (x, 0.42), (0.1, 0.1), 0.1, _WHITE)
        _box(agent, (x, 0.44), (0.05, 0.05), 0.05, _BLACK)
    if phase == KEY_HELD:
        _key(agent, (0.5, 0.69), 0.62)
    return np.rint(image).astype(np.uint8)


@functools.cache
def _empty_maze() -> NDArray[np.float64]:
    image = np.zeros((HEIGHT * PIXELS, WIDTH * PIXELS, 3))
    for cell, what in enumerate(_CELLS):
        patch = _patch(image, cell)
        if what == "#":
            patch[:] = _WALL
            _box(patch, (0.5, 0.44), (0.45, 0.38), 0.06, _WALL_TOP)
        else:
            patch[:] = _FLOOR if sum(divmod(cell, WIDTH)) % 2 else _FLOOR_2
    goal = _patch(image, _GOAL)
    for half, color in ((0.42, _GREEN), (0.3, _LIGHT_GREEN), (0.16, _GREEN)):
        _box(goal, (0.5, 0.5), (half, half), half, color)
    return image


def _patch(image: NDArray[np.float64], cell: int) -> NDArray[np.float64]:
    """The cell's part of the image; what is drawn there is drawn in the image."""
    row, column = divmod(int(cell), WIDTH)
    return image[row * PIXELS : (row + 1) * PIXELS, column * PIXELS : (column + 1) * PIXELS]


def _key(patch: NDArray[np.float64], center: tuple[float, float], size: float) -> None:
    x, y = center
    for offset, half, radius in (
        ((-0.2, 0), (0.15, 0.15), 0.15),  # the bow
        ((0.12, 0), (0.24, 0.045), 0.03),  # the shank
        ((0.2, 0.09), (0.035, 0.09), 0.02),  # the bits
        ((0.32, 0.09), (0.035, 0.09), 0.02),
    ):
        place = (x + size * offset[0], y + size * offset[1])
        _box(patch, place, (size * half[0], size * half[1]), size * radius, _GOLD)
    _box(patch, (x - 0.2 * size, y), (0.06 * size, 0.06 * size), 0.06 * size, _WHITE)


def _box(
    patch: NDArray[np.float64], center: tuple[float, float], half: tuple[float, float], radius: float, color: Color
) -> None:
    """Paint a box with rounded corners (a disk, if the radius is half the size), smooth at its edge.

    Lengths are in cells, x to the right and y down.
    """
    places = (np.arange(PIXELS) + 0.5) / PIXELS
    x = np.abs(places[None, :] - center[0]) - half[0] + radius
    y = np.abs(places[:, None] - center[1]) - half[1] + radius
    distance = np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - radius
    coverage = np.clip(0.5 - distance * PIXELS, 0, 1)[..., None]
    patch += coverage * (np.array(color) - patch)
