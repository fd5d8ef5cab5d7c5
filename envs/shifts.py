"""Domain shifts of environments: the same task looks different, or moves differently.

They stand behind an environment's id as behind a data set's: `rltool/Catch-v0~recoloured`, `CartPole-v1~gravityx1.5`,
and several in a row. A factor that is a range, as `~gravityx0.5-2`, is drawn anew for every episode (domain
randomization: Tobin et al., IROS 2017). All that is random comes from the environment's own generator.
"""

from __future__ import annotations

import functools
import math
import operator
import re
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rltool.data.shifts import SHIFTS, SPELLINGS, find_shift, split_shifts
from rltool.envs.wrappers import Reset, Step
from rltool.errors import UserError, unknown

DYNAMICS = {
    "gravity": "gravity, times a factor: ~gravityx1.5",
    "length": "length of the pole, or of the links, times a factor (~pole says the same)",
    "mass": "mass of what is moved, times a factor",
    "gain": "how strongly actions act, times a factor",
    "delay": "actions act some timesteps late: ~delay2",
}
WORDS = {**SPELLINGS, "pole": "length", "force": "gain"}

# What a factor multiplies, by the name of the environment's class.
PARAMETERS: dict[str, dict[str, tuple[str, ...]]] = {
    "CartPoleEnv": {"gravity": ("gravity",), "length": ("length",), "mass": ("masspole",), "gain": ("force_mag",)},
    "PendulumEnv": {"gravity": ("g",), "length": ("l",), "mass": ("m",)},
    "MountainCarEnv": {"gravity": ("gravity",), "gain": ("force",)},
    "AcrobotEnv": {
        "length": ("LINK_LENGTH_1", "LINK_LENGTH_2", "LINK_COM_POS_1", "LINK_COM_POS_2"),
        "mass": ("LINK_MASS_1", "LINK_MASS_2"),
    },
    "MujocoEnv": {"gravity": ("model.opt.gravity",), "mass": ("model.body_mass", "model.body_inertia")},
}

PER_STEP = ("noisy",)  # Another one in each timestep;
PER_EPISODE = ("coloured", "random-conv")  # in each episode; the others are the same for ever.

FORM = re.compile(r"~([a-z-]+?)(?:[x*=]?(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?)?")

Wrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


class ShiftedLook(gym.Wrapper, RecordConstructorArgs):
    """Shows images as `rltool.data.shifts` changes them; textures stay, colors change by episode, noise by step."""

    def __init__(self, env: gym.Env, shift: str) -> None:
        """Shift the observations of `env`.

        Args:
            env: a single environment whose observations are images with 3 channels.
            shift: `~inverted`, `@20deg`, ...
        """
        RecordConstructorArgs.__init__(self, shift=shift)
        gym.Wrapper.__init__(self, env)
        self.change, self.name = find_shift(shift).change, WORDS.get(shift[1:], shift[1:])
        shape = env.observation_space.shape or ()
        self.channels_last = shape[2] <= shape[0]  # As the networks see it.
        self.scale = 255 if env.observation_space.dtype == np.uint8 else 1
        self.seed = zlib.crc32(shift.encode())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self.name in PER_EPISODE:
            self.seed = int(self.np_random.integers(2**31))
        return self._shifted(observation), info

    def step(self, action: Any) -> Step:
        """Take a step."""
        observation, *rest = self.env.step(action)
        return self._shifted(observation), *rest  # type: ignore[return-value]

    def _shifted(self, observation: NDArray[Any]) -> NDArray[Any]:
        rng = self.np_random if self.name in PER_STEP else np.random.default_rng(self.seed)
        image = np.asarray(observation, np.float32) / self.scale
        image = image.transpose(2, 0, 1) if self.channels_last else image
        image = self.change(image[None], rng)[0] * self.scale
        image = image.transpose(1, 2, 0) if self.channels_last else image
        whole = np.rint(image) if self.scale == 255 else image
        return np.ascontiguousarray(whole, self.observation_space.dtype)


class ScaledDynamics(gym.Wrapper, RecordConstructorArgs):
    """Multiplies physical constants of an environment, or its actions, by a factor, which a range is drawn from."""

    def __init__(self, env: gym.Env, what: str, low: float, high: float) -> None:
        """Scale the dynamics of `env`.

        Args:
            env: a single environment that has them (see `fitting`).
            what: "gravity", "length", "mass" or "gain".
            low: the least factor.
            high: the largest; where it is another one, each episode draws its own, evenly on a logarithmic scale.
        """
        RecordConstructorArgs.__init__(self, what=what, low=low, high=high)
        gym.Wrapper.__init__(self, env)
        self.low, self.high, self.factor = low, high, 1.0
        paths = _parameters(env).get(what, ())
        self.usual = {path: np.copy(operator.attrgetter(path)(env.unwrapped)) for path in paths}
        self._scale(low)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self.low != self.high:
            self._scale(math.exp(self.np_random.uniform(math.log(self.low), math.log(self.high))))
        return observation, info

    def step(self, action: Any) -> Step:
        """Take a step."""
        return self.env.step(action if self.usual else action * np.float32(self.factor))

    def _scale(self, factor: float) -> None:
        self.factor = factor
        base: Any = self.unwrapped
        for path, usual in self.usual.items():
            owner, _, name = path.rpartition(".")
            value = usual * factor
            setattr(operator.attrgetter(owner)(base) if owner else base, name, value if value.ndim else float(value))
        if hasattr(base, "polemass_length"):  # What CartPole has computed from others.
            base.total_mass = base.masspole + base.masscart
            base.polemass_length = base.masspole * base.length
        if "model.body_mass" in self.usual:  # And MuJoCo.
            import mujoco

            mujoco.mj_setConst(base.model, mujoco.MjData(base.model))


class DelayedActions(gym.Wrapper, RecordConstructorArgs):
    """Lets actions act some timesteps late; until then nothing is done, or the first of the actions."""

    def __init__(self, env: gym.Env, timesteps: int) -> None:
        """Delay the actions of `env` by `timesteps`."""
        RecordConstructorArgs.__init__(self, timesteps=timesteps)
        gym.Wrapper.__init__(self, env)
        self.timesteps = timesteps
        self.waiting: deque[Any] = deque()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        space = self.action_space
        nothing = space.start if isinstance(space, Discrete) else np.zeros(space.shape or (), space.dtype)
        self.waiting = deque([nothing] * self.timesteps)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """Take a step with the action of some timesteps ago."""
        self.waiting.append(np.copy(action))  # The caller may write the next one into the same array.
        return self.env.step(self.waiting.popleft())


def fitting(env: gym.Env) -> list[str]:
    """Names of the shifts that fit an environment."""
    space, dynamics = env.observation_space, set(_parameters(env))
    acts = isinstance(env.action_space, Box) and not np.issubdtype(env.action_space.dtype or float, np.integer)
    dynamics |= {"gain", "delay"} if acts else {"delay"}
    return [*(SHIFTS if _shows_colors(space) else ()), *(name for name in DYNAMICS if name in dynamics)]


def _shows_colors(space: gym.Space) -> bool:
    if not isinstance(space, Box) or len(space.shape) != 3 or min(space.shape[0], space.shape[2]) != 3:
        return False
    return space.dtype == np.uint8 or bool((space.low >= 0).all() and (space.high <= 1).all())


def _parameters(env: gym.Env) -> dict[str, tuple[str, ...]]:
    names = (cls.__name__ for cls in type(env.unwrapped).__mro__)
    return next((PARAMETERS[name] for name in names if name in PARAMETERS), {})


def shift_layers(shifts: Sequence[str]) -> list[Wrapper]:
    """Wrappers that apply shifts, the first the innermost.

    Args:
        shifts: `~recoloured`, `~gravityx1.5`, `@20deg`, ... as `split_shifts` returns them.

    Raises:
        UserError: There is no such shift, its number is missing or none, or one of dynamics stands twice. Applied, a
            wrapper raises one where the shift does not fit the environment.
    """
    known = [_understood(shift) for shift in shifts]
    names = [each["name"] for each in known if each["name"] in DYNAMICS]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"~{twice} stands twice, of which one would be forgotten; give one number, or one range")
    return [functools.partial(_apply, shift=shift, **each) for shift, each in zip(shifts, known, strict=True)]


def _understood(shift: str) -> dict[str, Any]:
    """Name, least and largest number of a shift of dynamics; the name alone of one of looks."""
    if shift.startswith("@"):
        find_shift(shift)
        return {"name": "rotated"}
    found = FORM.fullmatch(shift)
    name = WORDS.get(found[1], found[1]) if found else shift[1:]
    if name not in {**SHIFTS, **DYNAMICS}:
        raise unknown("shift", name, [*SHIFTS, *DYNAMICS])
    assert found is not None
    numbers = [float(number) for number in found.groups()[1:] if number is not None]
    if name in SHIFTS:
        if numbers:
            raise UserError(f"{shift} takes no number; write ~{name}")
        return {"name": name}
    example = f"~{name}2" if name == "delay" else f"~{name}x1.5"
    if not numbers or min(numbers) <= 0 or numbers != sorted(numbers):
        raise UserError(f"{shift} needs a number above 0, or a range of them, as {example}")
    if name == "delay" and (len(numbers) > 1 or numbers[0] != int(numbers[0])):
        raise UserError(f"{shift} needs a whole number of timesteps, as {example}")
    return {"name": name, "low": numbers[0], "high": numbers[-1]}


def _apply(env: gym.Env, shift: str, name: str, low: float = 1.0, high: float = 1.0) -> gym.Env:
    fits = fitting(env)
    if name not in fits:
        able = ", ".join(f"~{each}" for each in fits)
        why = " (its observations are no color images)" if name in SHIFTS else ""
        id = env.spec.id if env.spec else type(env.unwrapped).__name__
        raise UserError(f"{shift} does not fit {id}{why}; what fits is {able}")
    if name in SHIFTS:
        return ShiftedLook(env, shift)
    if name == "delay":
        return DelayedActions(env, int(low))
    return ScaledDynamics(env, name, low, high)


__all__ = ["DYNAMICS", "DelayedActions", "ScaledDynamics", "ShiftedLook", "fitting", "shift_layers", "split_shifts"]
