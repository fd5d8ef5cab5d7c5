"""Wrappers of single environments: action masks, stacked frames, Atari's preprocessing, and shaped rewards."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformObservation, TransformReward
from numpy.typing import NDArray

from rltool.envs.functions import check_arguments, load_function
from rltool.errors import TrainingError, UserError

Observation = Any
Reset = tuple[Observation, dict[str, Any]]
Step = tuple[Observation, Any, bool, bool, dict[str, Any]]

REWARD_ARGUMENTS = ("observation", "action", "reward", "next_observation", "terminated")
POTENTIAL_ARGUMENTS = ("observation",)


class ActionMaskObservation(gym.Wrapper, RecordConstructorArgs):
    """Makes the mask of allowed actions, which some environments offer in their infos, a part of the observation.

    The observation becomes `{"observation": ..., "action_mask": ...}`. The mask is an int8 array with a 1 for each
    action that is allowed; all are where an info has no mask, and where the episode has ended.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.action_space, Discrete):
            raise UserError(f"action masks need a discrete action space, not {env.action_space}")
        self.num_actions = int(env.action_space.n)
        self.observation_space = Dict(observation=env.observation_space, action_mask=MultiBinary(self.num_actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return {"observation": observation, "action_mask": self._mask(info)}, info

    def step(self, action: Any) -> Step:
        """Take a step; a TrainingError if the mask then forbids every action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        # No action follows the end, so some environments forbid all of them there.
        mask = np.ones(self.num_actions, np.int8) if terminated or truncated else self._mask(info)
        return {"observation": observation, "action_mask": mask}, reward, terminated, truncated, info

    def _mask(self, info: dict[str, Any]) -> NDArray[np.int8]:
        if "action_mask" not in info:
            return np.ones(self.num_actions, np.int8)
        mask = np.asarray(info["action_mask"])
        if mask.shape != (self.num_actions,):
            raise TrainingError(
                f"the environment's action mask has the shape {mask.shape}, but there are {self.num_actions} actions"
            )
        if not mask.any():
            raise TrainingError("the environment's action mask forbids every action although the episode goes on")
        return (mask != 0).astype(np.int8)


def stack_frames(env: gym.Env, count: int) -> gym.Env:
    """Make the last `count` observations one; at the beginning of an episode, the first is repeated.

    Returns:
        An environment whose observations are `(count, n)` for vectors of n numbers, `(count, height, width)` for gray
        images, and for images with channels as they are with `count` times as many channels, the latest last.

    Raises:
        UserError: if `count` is less than 1 or the observations are not arrays.
    """
    if count < 1:
        raise UserError(f"frame-stack is {count}; it must be at least 1")
    space = env.observation_space
    if space.shape is None:
        raise UserError(f"frames can be stacked of observations that are arrays, not of {space}")
    stacked = FrameStackObservation(env, count)
    if not isinstance(space, Box) or len(space.shape) != 3:
        return stacked
    # As the networks see it: the smaller of the outer axes is the channels.
    axis = 2 if space.shape[2] <= space.shape[0] else 0
    low, high = (np.concatenate([bound] * count, axis) for bound in (space.low, space.high))
    merged = Box(low, high, dtype=space.dtype)
    return TransformObservation(stacked, lambda frames: np.concatenate(frames, axis), merged)


def preprocess_atari(env: gym.Env, terminal_on_life_loss: bool, clip_rewards: bool, channel_axis: bool) -> gym.Env:
    """The usual preparation of Atari games, by Gymnasium's `AtariPreprocessing`.

    An episode begins with up to 30 steps without an action; an action is held for 4 frames; an observation is the
    maximum of the last 2 frames, in gray, 84 by 84. Games that wait for the fire button get it pressed (`FireStart`).

    Args:
        env: an Atari game with a frame skip of 1.
        terminal_on_life_loss: the loss of a life terminates the episode (and the game begins anew).
        clip_rewards: rewards are replaced by their signs.
        channel_axis: observations are `(84, 84, 1)` rather than `(84, 84)`.

    Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015.
    """
    fires = "FIRE" in env.unwrapped.get_action_meanings()[1:2]  # type: ignore[attr-defined]
    env = AtariPreprocessing(env, terminal_on_life_loss=terminal_on_life_loss, grayscale_newaxis=channel_axis)
    env = FireStart(env) if fires else env
    return TransformReward(env, lambda reward: float(np.sign(float(reward)))) if clip_rewards else env


class FireStart(gym.Wrapper, RecordConstructorArgs):
    """Presses fire where a life begins: Breakout and its like do nothing until then.

    An agent that acts deterministically and has not learned to press it would wait until the episode is cut.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.lives = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode, and the game."""
        observation, info = self.env.reset(seed=seed, options=options)
        fired, _, terminated, truncated, fired_info = self.env.step(1)
        if terminated or truncated:
            observation, info = self.env.reset(options=options)
        else:
            observation, info = fired, fired_info
        self.lives = info.get("lives", 0)
        return observation, info

    def step(self, action: Any) -> Step:
        """Take a step and, if it cost a life, fire."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if info.get("lives", 0) < self.lives and not (terminated or truncated):
            observation, more, terminated, truncated, info = self.env.step(1)
            reward = float(reward) + float(more)
        self.lives = info.get("lives", 0)
        return observation, reward, terminated, truncated, info


class PotentialShaping(gym.Wrapper, RecordConstructorArgs):
    """Adds `gamma * potential(s') - potential(s)` to each reward, with a potential of 0 where the episode terminates.

    What is optimal stays so: the shaped return of an episode, discounted by `gamma`, is the plain one less the
    potential of its first observation. Where an episode is truncated its future still counts, and so does the
    potential there.

    Source: Ng, Harada and Russell, "Policy invariance under reward transformations", ICML 1999.
    """

    def __init__(self, env: gym.Env, potential: Callable[[Observation], float], gamma: float) -> None:
        """Shape the rewards of `env`.

        Args:
            env: a single environment.
            potential: gives a number for an observation.
            gamma: the discount of the agent that learns from these rewards.

        Raises:
            UserError: if `potential` does not take one argument.
        """
        RecordConstructorArgs.__init__(self, potential=potential, gamma=gamma)
        gym.Wrapper.__init__(self, env)
        check_arguments(potential, _name(potential), POTENTIAL_ARGUMENTS)
        self.potential, self.gamma = potential, gamma
        self._last = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = _number(self.potential, observation)
        return observation, info

    def step(self, action: Any) -> Step:
        """Take a step; a TrainingError if the potential fails or is no finite number."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        potential = 0.0 if terminated else _number(self.potential, observation)
        reward = float(reward) + self.gamma * potential - self._last
        self._last = potential
        return observation, reward, terminated, truncated, info


class FunctionShaping(gym.Wrapper, RecordConstructorArgs):
    """Replaces each reward by `function(observation, action, reward, next_observation, terminated)`."""

    def __init__(self, env: gym.Env, function: Callable[[Observation, Any, float, Observation, bool], float]) -> None:
        """Replace the rewards of `env`.

        Args:
            env: a single environment.
            function: gives the reward of a step. It must not change its arguments.

        Raises:
            UserError: if `function` does not take these five arguments.
        """
        RecordConstructorArgs.__init__(self, function=function)
        gym.Wrapper.__init__(self, env)
        check_arguments(function, _name(function), REWARD_ARGUMENTS)
        self.function = function
        self._observation: Observation = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = copy.deepcopy(observation)  # The environment may write the next one into the same array.
        return observation, info

    def step(self, action: Any) -> Step:
        """Take a step; a TrainingError if the function fails or gives no finite number."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = _number(self.function, self._observation, action, reward, observation, terminated)
        self._observation = copy.deepcopy(observation)
        return observation, reward, terminated, truncated, info


def _number(function: Callable[..., Any], *arguments: Any) -> float:
    """What the user's function gives, as a finite number."""
    try:
        result = function(*arguments)
    except Exception as error:
        raise TrainingError(f"'{_name(function)}' failed with {type(error).__name__}: {error}") from error
    try:
        number = float(result)
    except (TypeError, ValueError):
        raise TrainingError(f"'{_name(function)}' gave {result!r}; it must give a number") from None
    if not math.isfinite(number):
        raise TrainingError(f"'{_name(function)}' gave {number}; it must give a finite number")
    return number


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{function.__module__}:{name}"


class FreshWorld(gym.Wrapper, RecordConstructorArgs):
    """Gives Gymnasium's BipedalWalker a new Box2D world for each episode, as its LunarLander has.

    Its own reset empties the old world and fills it again, but what earlier episodes leave there decides about the last
    bits of later ones: they depend on more than the seed, and cannot be played again. The first episode is the same.
    """

    def __init__(self, env: gym.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode in a new world."""
        base: Any = self.unwrapped
        base.world = importlib.import_module("Box2D").b2World()
        base.terrain = []  # It went with the old world: the reset must not look for it in the new one.
        return self.env.reset(seed=seed, options=options)


def reward_shaping(
    shaping: str | Callable[..., float] | None, potential: str | Callable[..., float] | None, gamma: float
) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None:
    """What changes the rewards of a single environment, for `make_vector_env`'s `shaping`.

    Args:
        shaping: A function for `FunctionShaping`, or its name `module:function`.
        potential: A function for `PotentialShaping`, or its name.
        gamma: Discount factor of the learner.

    Returns:
        A function from an environment to a wrapped one; None if there is nothing to change.

    Raises:
        UserError: There is no such function, or it takes another number of arguments.
    """
    if isinstance(shaping, str):
        shaping = load_function(shaping, REWARD_ARGUMENTS)
    if isinstance(potential, str):
        potential = load_function(potential, POTENTIAL_ARGUMENTS)
    if shaping is None and potential is None:
        return None

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        if shaping is not None:
            env = FunctionShaping(env, shaping)
        return env if potential is None else PotentialShaping(env, potential, gamma)

    return wrap
