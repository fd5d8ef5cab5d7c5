"""What is laid around a single environment before anything learns from it, in the one order that works."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rltool.envs.wrappers import ActionMaskObservation, FreshWorld, preprocess_atari, stack_frames
from rltool.errors import UserError

Wrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
Wrappers = Sequence[Wrapper]

BIPEDAL_WALKER = "gymnasium.envs.box2d.bipedal_walker:BipedalWalker"


@dataclass(frozen=True)
class Preparation:
    """What was asked for; `make_vector_env` explains each."""

    wrappers: Wrappers = ()
    action_masks: bool = False
    frame_stack: int = 1
    atari_preprocessing: bool = False
    terminal_on_life_loss: bool = False
    clip_rewards: bool = False
    shaping: Wrapper | None = None

    @classmethod
    def names(cls) -> set[str]:
        """What can be asked for."""
        return {field.name for field in dataclasses.fields(cls)}

    def layers(self, spec: EnvSpec, options: dict[str, Any]) -> list[Wrapper]:
        """The wrappers that do it, the innermost first; Atari's preprocessing also adds to the options.

        Raises:
            UserError: if some of it does not go together, or not with this environment.
        """
        layers: list[Wrapper] = [FreshWorld] if spec.entry_point == BIPEDAL_WALKER else []
        if self.atari_preprocessing:
            options.update(_atari_options(spec, options))
            layers.append(
                functools.partial(
                    preprocess_atari,
                    terminal_on_life_loss=self.terminal_on_life_loss,
                    clip_rewards=self.clip_rewards,
                    channel_axis=self.frame_stack == 1,  # images have three axes, with or without a stack
                )
            )
        elif self.terminal_on_life_loss or self.clip_rewards:
            raise UserError(
                "terminal-on-life-loss and clip-rewards are parts of Atari's preprocessing; turn that on, too"
            )
        layers += self.wrappers
        if self.shaping is not None:
            layers.append(self.shaping)
        if self.frame_stack != 1:
            layers.append(functools.partial(stack_frames, count=self.frame_stack))
        # Last, because most wrappers of observations do not know what to do with a dictionary.
        if self.action_masks and probe_action_mask(spec, options):
            layers.append(ActionMaskObservation)
        return layers


def make_layered(spec: EnvSpec, layers: Wrappers, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make a single environment, and put the layers around it."""
    env: gym.Env[Any, Any] = gym.make(spec, **options)
    for layer in layers:
        env = layer(env)
    return env


_offered_masks: dict[str, bool] = {}


def probe_action_mask(spec: EnvSpec, options: Mapping[str, Any]) -> bool:
    """Whether a scratch copy of the environment has discrete actions and a mask for them; it is asked only once."""
    if spec.entry_point is None:
        return False
    options = {name: value for name, value in options.items() if name != "render_mode"}
    key = repr((spec, sorted(options.items())))
    if key not in _offered_masks:
        with contextlib.closing(gym.make(spec, **options)) as env:
            discrete = isinstance(env.action_space, gym.spaces.Discrete)
            _offered_masks[key] = discrete and "action_mask" in env.reset(seed=0)[1]
    return _offered_masks[key]


def _atari_options(spec: EnvSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    if not str(spec.entry_point).startswith("ale_py."):
        raise UserError(f"Atari's preprocessing is for games such as ALE/Pong-v5; '{spec.id}' is none of them")
    mine = {"frameskip": 1, "obs_type": "grayscale"}  # The preprocessing skips frames itself, and draws them itself.
    for name in mine:
        if name in options:
            raise UserError(f"Atari's preprocessing decides about '{name}'; leave that option out, or turn it off")
    return mine
