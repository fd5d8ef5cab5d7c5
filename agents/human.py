"""Recording demonstrations by hand: a window, and keys for actions."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import parse_env_id

from rltool.agents.evaluation import VECTOR_ONLY, make_rendered_env
from rltool.envs import Demonstrations
from rltool.envs.make import check_display
from rltool.errors import TrainingError, UserError
from rltool.networks.observations import ACTION_MASK, stack_observations

# By an environment's name: the action of each key, and the action while no key is held (None: the world waits).
DISCRETE_KEYS: dict[str, tuple[dict[str, int], int | None]] = {
    "CartPole": ({"left": 0, "right": 1}, None),
    "CartPoleNoVelocity": ({"left": 0, "right": 1}, None),
    "MountainCar": ({"left": 0, "right": 2}, 1),
    "Acrobot": ({"left": 0, "right": 2}, 1),
    "LunarLander": ({"left": 1, "up": 2, "right": 3}, 0),
    "CarRacing": ({"right": 1, "left": 2, "up": 3, "down": 4}, 0),
    "FrozenLake": ({"left": 0, "down": 1, "right": 2, "up": 3}, None),
    "CliffWalking": ({"up": 0, "right": 1, "down": 2, "left": 3}, None),
    "CliffWalkingSlippery": ({"up": 0, "right": 1, "down": 2, "left": 3}, None),
    "Taxi": ({"down": 0, "up": 1, "right": 2, "left": 3, "space": 4, "return": 5}, None),
    "Blackjack": ({"return": 0, "space": 1}, None),
    "KeyDoor": ({"up": 0, "right": 1, "down": 2, "left": 3}, None),
    "GridWorld": ({"up": 0, "right": 1, "down": 2, "left": 3}, None),
}

# Worlds that wait for a key, but go on for as long as it is held; elsewhere each stroke is one timestep.
HELD_KEYS = ("CartPole", "CartPoleNoVelocity")

# The keys for the lower and the upper bound of each number of an action.
AXES = (("left", "right"), ("down", "up"), ("s", "w"))
BOX_KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "CarRacing": (("left", "right"), ("", "up"), ("", "down")),
    "LunarLander": (("", "up"), ("left", "right")),
    "LunarLanderContinuous": (("", "up"), ("left", "right")),
}

SMALLEST_WINDOW = (480, 360)  # in pixels; smaller frames are enlarged


@dataclass(frozen=True)
class Controls:
    """What the keys do.

    Attributes:
        actions: The action of each combination of keys.
        idle: The action while no key is held; None: the world waits for one.
        tapped: Whether each stroke of a key is one timestep, however long it is held.
        help: The same for the player to read.
    """

    actions: Mapping[frozenset[str], Any]
    idle: Any = None
    tapped: bool = False
    help: str = ""

    def action(self, held: set[str], struck: set[str]) -> Any:
        """The action of the largest combination of these keys; None where there is nothing to do."""
        keys = struck if self.tapped else held | struck
        fitting = [combination for combination in self.actions if combination <= keys]
        return self.actions[max(fitting, key=len)] if fitting else self.idle


def find_controls(env: gym.Env) -> Controls:
    """Keys for an environment's actions.

    Arrows and space where it is known what the actions do (classic control, Box2D, toy text, Atari); digits for the
    actions of every Discrete space; arrows for a Box of one to three numbers.

    Raises:
        UserError: Its actions are of another kind, or too many for keys.
    """
    space = env.action_space
    name = "" if env.spec is None else parse_env_id(env.spec.id)[1]
    if isinstance(space, gym.spaces.Discrete):
        return _discrete_controls(env, name, space)
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not 1 <= space.shape[0] <= len(AXES):
        raise UserError(f"playing by hand takes Discrete actions or a Box of one to three numbers, not {space}")
    low, high = (np.where(np.isinf(bound), np.sign(bound), bound) for bound in (space.low, space.high))
    idle = np.clip(0, low, high)
    axes = BOX_KEYS.get(name, AXES)[: len(low)]
    actions: dict[frozenset[str], np.ndarray] = {}
    bounds = (low, high)
    choices = [
        [("", idle[k])] + [(key, bound[k]) for key, bound in zip(keys, bounds, strict=True) if key]
        for k, keys in enumerate(axes)
    ]
    for choice in itertools.product(*choices):
        actions[frozenset(key for key, _ in choice if key)] = np.array([number for _, number in choice], space.dtype)
    help_ = [
        f"{key}: {bound[k]:g}" if len(axes) == 1 else f"{key}: number {k + 1} is {bound[k]:g}"
        for k, keys in enumerate(axes)
        for key, bound in zip(keys, bounds, strict=True)
        if key
    ]
    return Controls(actions, actions.pop(frozenset()), help=", ".join(help_))


def _discrete_controls(env: gym.Env, name: str, space: gym.spaces.Discrete) -> Controls:
    first, last = int(space.start), int(space.start + space.n - 1)
    actions: dict[frozenset[str], int] = {}
    keys, idle = DISCRETE_KEYS.get(name, ({}, None))
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if meanings is not None:  # Atari's: NOOP, FIRE, UP, UPRIGHTFIRE, ...
        words = {"UP": "up", "DOWN": "down", "LEFT": "left", "RIGHT": "right", "FIRE": "space"}
        for action, meaning in enumerate(meanings()):
            actions[frozenset(key for word, key in words.items() if word in meaning)] = action
        idle = actions.pop(frozenset(), None)
        keys = {next(iter(combination)): action for combination, action in actions.items() if len(combination) == 1}
    actions |= {frozenset({key}): action for key, action in keys.items()}
    digits = range(max(0, first), min(9, last) + 1)
    actions |= {frozenset({str(digit)}): digit for digit in digits}
    if not actions:
        raise UserError(f"there are no keys for the actions of {space}; by hand, they are numbers from 0 to 9")
    help_ = [f"{key}: {action}" for key, action in keys.items()]
    help_ += [f"{digits[0]} to {digits[-1]}: that action"] if digits else []
    help_ += ["no key: the world waits" if idle is None else f"no key: {idle}"]
    return Controls(actions, idle, idle is None and name not in HELD_KEYS, ", ".join(help_))


class _End(Exception):
    """The player has had enough."""


class _Discard(Exception):
    """The player wants this episode forgotten."""


class Window:
    """A window that shows frames with text below them, and says which keys are held."""

    def __init__(self, title: str, fps: float) -> None:
        """Open it.

        Args:
            title: Of the window.
            fps: How often a second the keys are looked at.

        Raises:
            UserError: There is no display.
        """
        check_display()
        import pygame

        self.pygame, self.title, self.fps = pygame, title, fps
        self.held: set[str] = set()
        try:
            pygame.init()
            pygame.display.init()
        except pygame.error as error:
            raise UserError(f"no window can be opened here: {error}") from None
        self.clock = pygame.time.Clock()
        self.screen: Any = None

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pygame.display.quit()

    def show(self, frame: np.ndarray, text: list[str]) -> None:
        """Show a frame `(height, width, 3)` of bytes above lines of text."""
        pygame = self.pygame
        picture = pygame.surfarray.make_surface(np.swapaxes(frame, 0, 1))
        times = max(1, SMALLEST_WINDOW[1] // frame.shape[0])
        picture = pygame.transform.scale(picture, (frame.shape[1] * times, frame.shape[0] * times))
        width = max(SMALLEST_WINDOW[0], picture.get_width())
        font = pygame.font.Font(None, 22)
        lines = [line for part in text for line in _wrap(part, font, width - 16)]
        height = picture.get_height() + len(lines) * font.get_linesize() + 12
        if self.screen is None or self.screen.get_height() < height:
            self.screen = pygame.display.set_mode((width, height))
            pygame.display.set_caption(self.title)
        self.screen.fill((24, 24, 28))
        self.screen.blit(picture, ((self.screen.get_width() - picture.get_width()) // 2, 0))
        for k, line in enumerate(lines):
            y = picture.get_height() + 6 + k * font.get_linesize()
            self.screen.blit(font.render(line, True, (235, 235, 235)), (8, y))
        pygame.display.flip()

    def keys(self) -> set[str]:
        """The keys struck since the last call, after the time of one frame; those held down are in `held`."""
        pygame, struck = self.pygame, set()
        self.clock.tick(self.fps)
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                raise _End
            if event.type == pygame.WINDOWFOCUSLOST:  # Who lets go of a key elsewhere is not heard here.
                self.held.clear()
            if event.type == pygame.KEYUP:
                self.held.discard(pygame.key.name(event.key))
            if event.type == pygame.KEYDOWN:
                key = pygame.key.name(event.key)
                if key == "escape":
                    raise _End
                if key == "r":
                    raise _Discard
                struck.add(key)
                self.held.add(key)
        return struck


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """The text in lines that are at most as wide, in pixels; broken after commas."""
    lines = [""]
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if font.size(longer)[0] <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


@dataclass
class _Episode:
    observations: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False


class PlayFailedError(TrainingError):
    """The environment or the window failed when some episodes were finished already.

    Attributes:
        demonstrations: Those episodes.
    """

    def __init__(self, message: str, demonstrations: Demonstrations) -> None:
        super().__init__(message)
        self.demonstrations = demonstrations


def human_episodes(
    env_id: str,
    episodes: int | None = None,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    fps: float | None = None,
) -> Demonstrations:
    """Let somebody play in a window, and keep what they saw and did.

    The keys stand in the window. R discards the episode; Esc (or Ctrl-C) ends, and the unfinished one is forgotten.

    Args:
        env_id: The environment; it must be able to render `rgb_array`.
        episodes: After how many it ends; None: when the player ends it.
        seed: Seeds the first episode; the k-th that is begun gets `seed + k`.
        env_kwargs: Arguments of the environment's constructor.
        fps: Timesteps a second; None for what the environment says.

    Returns:
        The finished episodes, with final observations and `terminated`.

    Raises:
        UserError: There is no display, there are no keys for these actions, or no episode was finished.
        PlayFailedError: The environment or the window failed; the error has the episodes finished before.
        TrainingError: The environment failed before any episode was finished.
    """
    check_display()
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # It goes to standard output.
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # Without a sound card, pygame complains.
    env_kwargs = dict(env_kwargs or {})
    env = make_rendered_env(env_id, "rgb_array", {"action_masks": True, **env_kwargs})
    finished: list[_Episode] = []
    failure: Exception | None = None
    try:
        with contextlib.closing(env):
            controls = find_controls(env)
            with Window(f"rltool: {env_id}", fps or float(env.metadata.get("render_fps") or 30)) as window:
                _play_all(env, controls, window, episodes, seed, finished)
    except Exception as error:
        if not finished:
            raise
        failure = error  # What somebody has played by hand is not lost with it.
    if not finished:
        raise UserError("no episode was finished, so there is nothing to keep")
    space, action_space = env.observation_space, env.action_space
    demos = Demonstrations(
        space,
        action_space,
        stack_observations(space, [o for episode in finished for o in episode.observations[:-1]]),
        np.array([action for episode in finished for action in episode.actions], action_space.dtype),
        np.array([reward for episode in finished for reward in episode.rewards]),
        np.cumsum([len(episode.rewards) for episode in finished]) - 1,
        np.array([episode.terminated for episode in finished]),
        stack_observations(space, [episode.observations[-1] for episode in finished]),
        env_id,
        {name: value for name, value in env_kwargs.items() if name not in VECTOR_ONLY},
        "the recorded episodes",
    )
    if failure is not None:
        said = isinstance(failure, TrainingError | UserError)
        message = str(failure) if said else f"the window failed: {type(failure).__name__}: {failure}"
        raise PlayFailedError(message, demos) from failure
    return demos


def _play_all(
    env: gym.Env, controls: Controls, window: Window, episodes: int | None, seed: int, finished: list[_Episode]
) -> None:
    """Add episodes to `finished`, until there are enough or the player ends it."""
    try:
        for attempt in itertools.count():
            if len(finished) == episodes:
                return
            title = f"episode {len(finished) + 1}" + (f" of {episodes}" if episodes else "")
            try:
                episode = _play(env, controls, window, seed + attempt, title)
            except _Discard:
                continue
            finished.append(episode)
            text = f"{title} is over: return {sum(episode.rewards):.1f}, {len(episode.rewards)} timesteps"
            try:
                _pause(env, window, text, "R: discard it, Esc: keep it and end, any other key: keep it and go on")
            except _Discard:
                finished.pop()
    except _End:
        return
    except KeyboardInterrupt:  # In the terminal, instead of Esc in the window.
        if not finished:
            raise


def _play(env: gym.Env, controls: Controls, window: Window, seed: int, title: str) -> _Episode:
    try:
        observation, _ = env.reset(seed=seed)
        # Copies: the environment may write the next observation into the same arrays.
        episode = _Episode([copy.deepcopy(observation)])
        if controls.idle is not None:  # This world does not wait.
            _pause(env, window, controls.help, "any key: begin")
        while True:
            status = f"{title}, timestep {len(episode.rewards)}, return {sum(episode.rewards):.1f}"
            window.show(_frame(env), [status, controls.help, "R: discard the episode, Esc: end"])
            action = controls.action(window.held, window.keys())
            if action is None or not _allowed(env.action_space, observation, action):
                continue
            observation, reward, terminated, truncated, _ = env.step(action)
            episode.observations.append(copy.deepcopy(observation))
            episode.actions.append(action)
            episode.rewards.append(float(reward))
            if terminated or truncated:
                window.show(_frame(env), [status])
                episode.terminated = bool(terminated)
                return episode
    except (TrainingError, UserError, _End, _Discard):
        raise
    except Exception as error:
        raise TrainingError(f"the environment failed: {type(error).__name__}: {error}") from error


def _pause(env: gym.Env, window: Window, *text: str) -> None:
    """Show text until a key is struck."""
    window.show(_frame(env), list(text))
    while not window.keys():
        pass


def _frame(env: gym.Env) -> np.ndarray:
    return np.asarray(env.render())


def _allowed(space: gym.Space, observation: Any, action: Any) -> bool:
    """Whether the observation's action mask, if it has one, allows an action."""
    if (
        not isinstance(observation, dict)
        or ACTION_MASK not in observation
        or not isinstance(space, gym.spaces.Discrete)
    ):
        return True
    return bool(observation[ACTION_MASK][action - space.start])
