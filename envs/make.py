"""Making environments by id: the fastest correct vector form of each, and one clear sentence for each mistake."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import (
    EnvSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AutoresetMode, VectorEnv

from rltool.envs.functions import import_user_module
from rltool.envs.layers import Preparation, Wrapper, Wrappers, make_layered, probe_action_mask
from rltool.envs.parallel import ParallelVectorEnv
from rltool.envs.registration import register_own_environments
from rltool.envs.replay import Replay
from rltool.envs.shifts import shift_layers, split_shifts
from rltool.envs.threads import usable_cores as _usable_cores
from rltool.errors import UserError

VECTORIZATIONS = ("auto", "vector", "sync", "async")

# Batched forms of Gymnasium's own environments, by the entry point of the single environment: an id that is
# registered anew with another entry point is another environment, and does not get them.
BATCHED = {
    "gymnasium.envs.classic_control.acrobot:AcrobotEnv": "rltool.envs.classic_control:AcrobotVectorEnv",
    "gymnasium.envs.classic_control.mountain_car:MountainCarEnv": "rltool.envs.classic_control:MountainCarVectorEnv",
    "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv": (
        "rltool.envs.classic_control:MountainCarContinuousVectorEnv"
    ),
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": "rltool.envs.classic_control:PendulumVectorEnv",
    "gymnasium.envs.mujoco.ant_v5:AntEnv": "rltool.envs.mujoco:ant",
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": "rltool.envs.mujoco:half_cheetah",
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": "rltool.envs.mujoco:hopper",
    "gymnasium.envs.mujoco.inverted_double_pendulum_v5:InvertedDoublePendulumEnv": (
        "rltool.envs.mujoco:inverted_double_pendulum"
    ),
    "gymnasium.envs.mujoco.inverted_pendulum_v5:InvertedPendulumEnv": "rltool.envs.mujoco:inverted_pendulum",
    "gymnasium.envs.mujoco.reacher_v5:ReacherEnv": "rltool.envs.mujoco:reacher",
    "gymnasium.envs.mujoco.swimmer_v5:SwimmerEnv": "rltool.envs.mujoco:swimmer",
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": "rltool.envs.mujoco:walker2d",
}

# The batched jax forms in Gymnasium 1.4 undo the step of every environment while another one resets. That of Atari's
# games is another environment than the single one: it scales and stacks the images and clips the rewards.
INCORRECT_VECTOR_FORMS = ("gymnasium.envs.phys2d.", "ale_py.")

# What to install for the environments whose entry point starts so.
INSTALLS = {
    "gymnasium.envs.box2d.": "rltool[box2d]",
    "gymnasium.envs.mujoco.": "rltool[mujoco]",
    "ale_py.": "rltool[atari]",
    "gymnasium.envs.phys2d.": "gymnasium[jax]",
    "gymnasium.envs.tabular.": "gymnasium[jax]",
}

# What each worker process adds to a step, without infos and with them, which are pickled. Measured by
# `python benchmarks/envs.py` with two processes on two cores of an AMD EPYC: 9 to 11 microseconds, and 40 to 75.
WORKER_OVERHEAD = {False: 10e-6, True: 60e-6}
# Worker processes cost memory and start-up time, so they have to win clearly.
PROCESSES_MUST_TAKE_LESS_THAN = 0.75

LOAD = Path("/proc/loadavg")

# Options of `gymnasium.make` itself, which every environment takes.
_MAKE_OPTIONS = ("max_episode_steps", "disable_env_checker")


def make_vector_env(
    env_id: str,
    num_envs: int = 8,
    seed: int | None = None,
    *,
    vectorization: str = "auto",
    autoreset_mode: AutoresetMode | str | None = None,
    render_mode: str | None = None,
    wrappers: Wrappers = (),
    action_masks: bool = False,
    frame_stack: int = 1,
    atari_preprocessing: bool = False,
    terminal_on_life_loss: bool = False,
    clip_rewards: bool = False,
    shaping: Wrapper | None = None,
    infos: bool = True,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Make `num_envs` copies of an environment that are stepped together, in the fastest way that is correct.

    That is a batched NumPy form where there is one (the environment's own, or rltool's for Acrobot, MountainCar and
    Pendulum), otherwise a `ParallelVectorEnv` in one process or in several, whichever is expected to be faster after
    a few steps of a scratch copy have been timed, on cores that are free. One process and several give identical
    trajectories; no statistics wrapper is added. Around each single environment lies `Replay`, so that
    `get_env_state` has the state of any of these forms.

    Args:
        env_id: a registered id such as "CartPole-v1", or "module:Id" to import the module that registers it first;
            domain shifts may follow, as in "CartPole-v1~gravityx1.5" (see `rltool.envs.shifts`).
        num_envs: number of environments, at least 1.
        seed: seeds the environments (which are reset, so that a later `reset()` goes on from there) and the action
            space; None leaves both unseeded.
        vectorization: "auto", "vector" (a batched form), "sync" (one process) or "async" (a process for each core, of
            which each steps some of the environments).
        autoreset_mode: an `AutoresetMode` or its value, "NextStep", "SameStep" or "Disabled"; None for the
            environment's default, which is "NextStep". The result has it in `metadata["autoreset_mode"]`.
        render_mode: as in `gymnasium.make`, usually "rgb_array" or "human".
        wrappers: applied, in this order, to each single environment; there is no batched form then, nor
            with any of the next six.
        action_masks: makes the mask of allowed actions a part of the observation, where the environment offers one
            (see `ActionMaskObservation`).
        frame_stack: how many of the last observations the policy sees at once (see `stack_frames`).
        atari_preprocessing: prepares an Atari game in the usual way (see `preprocess_atari`).
        terminal_on_life_loss: with Atari's preprocessing, the loss of a life ends the episode.
        clip_rewards: with Atari's preprocessing, rewards are replaced by their signs.
        shaping: a wrapper that changes the rewards, given the observations of the environment and its `wrappers`, such
            as `functools.partial(PotentialShaping, potential=potential, gamma=0.99)`.
        infos: False where nobody reads the infos, apart from `final_obs`: then environments that are not batched are
            spared the merging of them, a tenth of the time of MuJoCo's.
        **kwargs: options of the environment, and `max_episode_steps` (-1: no limit).

    Returns:
        A vector environment.

    Raises:
        UserError: if there is no such environment, a package it needs is missing, or an argument is wrong.
    """
    if vectorization not in VECTORIZATIONS:
        raise UserError(f"no vectorization '{vectorization}'; choose one of {', '.join(VECTORIZATIONS)}")
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}; it must be at least 1")
    if seed is not None and seed < 0:
        raise UserError(f"the seed is {seed}; it must be at least 0")
    mode = _autoreset_mode(autoreset_mode)
    env_id, shifts = split_shifts(env_id)
    wrappers = (*shift_layers(shifts), *wrappers)
    spec = _find_spec(env_id)
    options = _options(render_mode, kwargs)

    with _user_errors(spec, options):
        _check_options(spec, options)
        preparation = Preparation(
            wrappers, action_masks, frame_stack, atari_preprocessing, terminal_on_life_loss, clip_rewards, shaping
        )
        layers = preparation.layers(spec, options)
        batched = None if layers or vectorization in ("sync", "async") else _batched_form(spec, mode, options)
        if batched is not None:
            if mode is not None and _takes(batched, ["autoreset_mode"]):
                options["autoreset_mode"] = mode
            if not infos and "infos" in inspect.signature(_load(batched)).parameters:
                options["infos"] = False
            spec = dataclasses.replace(spec, vector_entry_point=batched)
            env = gym.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **options)
        elif vectorization == "vector":
            raise UserError(
                f"environment '{spec.id}' has no batched form for these arguments;"
                " use the vectorization 'auto', 'sync' or 'async'"
            )
        else:
            layers.append(Replay)
            processes = {"sync": 1, "async": max(2, _usable_cores())}.get(vectorization)
            if processes is None:
                processes = _processes(spec, num_envs, layers, options, infos)
            makers = [functools.partial(make_layered, spec, layers, options)] * num_envs
            env = ParallelVectorEnv(makers, processes, mode or AutoresetMode.NEXT_STEP, infos)
            env.spec = dataclasses.replace(spec, kwargs=spec.kwargs | options)
    if seed is not None:
        env.reset(seed=seed)
        env.action_space.seed(seed)
    return env


def make_env(env_id: str, render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make a single environment, as `gymnasium.make` does.

    Args:
        env_id: as for `make_vector_env`.
        render_mode: usually "rgb_array" or "human".
        **kwargs: options of the environment, `max_episode_steps` (-1: no limit), and what `make_vector_env` takes from
            `wrappers` to `shaping`.

    Returns:
        A Gymnasium environment.

    Raises:
        UserError: if there is no such environment, a package it needs is missing, or an argument is wrong.
    """
    env_id, shifts = split_shifts(env_id)
    spec = _find_spec(env_id)
    preparation = Preparation(**{name: kwargs.pop(name) for name in Preparation.names() & kwargs.keys()})
    preparation = dataclasses.replace(preparation, wrappers=(*shift_layers(shifts), *preparation.wrappers))
    options = _options(render_mode, kwargs)
    with _user_errors(spec, options):
        _check_options(spec, options)
        return make_layered(spec, preparation.layers(spec, options), options)


def offers_action_mask(env_id: str, **kwargs: Any) -> bool:
    """Whether an environment says in its infos which of its discrete actions are allowed; a scratch copy is asked.

    Args:
        env_id: as for `make_env`.
        **kwargs: options of the environment.

    Raises:
        UserError: as `make_env`.
    """
    spec = _find_spec(split_shifts(env_id)[0])
    options = _options(None, kwargs)
    with _user_errors(spec, options):
        _check_options(spec, options)
        return probe_action_mask(spec, options)


def environment_ids() -> list[str]:
    """The ids of all registered environments, ours and (where installed) Atari's too, without mere redirections."""
    _register_others()
    return sorted(id for id, spec in gym.registry.items() if not _is_redirection(spec))


# Finding the environment.


def _find_spec(env_id: str) -> EnvSpec:
    """The registered spec of `env_id`, its module imported first; without a version, that of the latest."""
    module, _, name = env_id.rpartition(":")
    if module:
        import_user_module(module, env_id)
    elif name not in gym.registry:
        _register_others()
    try:
        namespace, short_name, version = parse_env_id(name)
    except gym.error.Error as error:
        raise UserError(f"'{env_id}' is no environment id; ids look like 'CartPole-v1'") from error
    latest = get_env_id(namespace, short_name, find_highest_version(namespace, short_name))
    spec = gym.registry.get(latest if version is None else name)
    if spec is None:
        raise UserError(f"no environment '{name}'{_advice(name, latest)}")
    if _is_redirection(spec):
        raise UserError(f"environment '{name}' is no longer part of Gymnasium{_advice(name, latest)}")
    return spec


def _advice(name: str, latest: str) -> str:
    """How the sentence about the environment that does not exist ends."""
    ids = {id.lower(): id for id in environment_ids()}
    near = [latest] if latest.lower() in ids else difflib.get_close_matches(name.lower(), ids, 1)
    if re.search(r"^ALE/|(NoFrameskip|Deterministic|-ram)\w*-v\d+$", name) and not _has_atari():
        return '; Atari games need pip install "rltool[atari]"'
    if near:
        return f"; did you mean '{ids[near[0].lower()]}'?"
    return f"; if a module of yours registers it, name the module first, as in 'module:{name}'"


def _is_redirection(spec: EnvSpec) -> bool:
    """Whether the spec only raises an error that says where the environment has moved."""
    return getattr(spec.entry_point, "__module__", None) == "gymnasium.envs"


def _has_atari() -> bool:
    return importlib.util.find_spec("ale_py") is not None


def _register_others() -> None:
    """Register what Gymnasium does not by itself: Atari's games and our own environments."""
    register_own_environments()
    if _has_atari():
        importlib.import_module("ale_py")


# Checking the arguments.


def _autoreset_mode(mode: AutoresetMode | str | None) -> AutoresetMode | None:
    try:
        return None if mode is None else AutoresetMode(mode)
    except ValueError:
        choices = ", ".join(choice.value for choice in AutoresetMode)
        raise UserError(f"no autoreset mode '{mode}'; choose one of {choices}") from None


def _options(render_mode: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for Gymnasium, without those that only ask for the default."""
    options = dict(kwargs)
    if render_mode is not None:
        options["render_mode"] = render_mode
    if options.get("max_episode_steps", 0) is None:
        del options["max_episode_steps"]
    return options


def _check_options(spec: EnvSpec, options: Mapping[str, Any]) -> None:
    if spec.entry_point is None:
        return
    creator = _load(spec.entry_point)
    unknown = [name for name in options if not _takes(creator, [name]) and name not in _MAKE_OPTIONS]
    if unknown:
        names = [name for name in inspect.signature(creator).parameters if name != "render_mode"]
        wrong = ", ".join(f"'{name}'" for name in unknown)
        raise UserError(f"environment '{spec.id}' has no option {wrong}; its options are {', '.join(names) or 'none'}")

    mode, modes = options.get("render_mode"), _metadata(creator).get("render_modes")
    if mode is None or not modes:
        return
    if mode not in (*modes, *(f"{name}_list" for name in modes), *["human"] * ("rgb_array" in modes)):
        raise UserError(f"environment '{spec.id}' cannot render as '{mode}'; choose one of {', '.join(modes)}")
    if mode == "human":
        check_display()


def check_display() -> None:
    """Refuse to open a window where there is no display.

    Raises:
        UserError: There is none.
    """
    if not sys.platform.startswith("linux"):
        return
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")):
        raise UserError(
            "rendering for a human needs a display, and there is none (neither DISPLAY nor WAYLAND_DISPLAY is"
            " set); render as 'rgb_array' into a video, or run under xvfb-run"
        )


def _takes(creator: str | Callable[..., Any], names: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether the creator has keyword parameters of these names."""
    parameters = inspect.signature(_load(creator)).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or set(names) <= set(parameters)


def _metadata(creator: Callable[..., Any]) -> Mapping[str, Any]:
    """The metadata of a creator that is a class; a function has none."""
    metadata = getattr(creator, "metadata", None)
    return metadata if isinstance(metadata, Mapping) else {}


def _load(creator: str | Callable[..., Any]) -> Callable[..., Any]:
    return creator if callable(creator) else load_env_creator(creator)


@contextlib.contextmanager
def _user_errors(spec: EnvSpec, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what Gymnasium raises about a missing package or a wrong option into one sentence."""
    try:
        yield
    except (ImportError, DependencyNotInstalled) as error:
        entry_point = str(spec.entry_point)
        install = next((install for start, install in INSTALLS.items() if entry_point.startswith(start)), None)
        advice = f'pip install "{install}"' if install else str(error)
        raise UserError(f"environment '{spec.id}' needs a package that is not installed: {advice}") from error
    except gym.error.Error as error:
        raise UserError(f"environment '{spec.id}' cannot be made: {error}") from error
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found and found[1] in options:
            raise UserError(f"environment '{spec.id}' has no option '{found[1]}'") from error
        found = re.search(r"missing \d+ required .*arguments?: (.*?)( was raised|$)", str(error))
        if found:
            raise UserError(f"environment '{spec.id}' cannot be made without its option {found[1]}") from error
        raise


# Choosing the vector form.


def _batched_form(
    spec: EnvSpec, mode: AutoresetMode | None, options: Mapping[str, Any]
) -> str | Callable[..., Any] | None:
    """The creator of a batched form that does all that is asked for, if there is one."""
    name: Any = spec.vector_entry_point or BATCHED.get(str(spec.entry_point))
    if name is None or spec.additional_wrappers or options.get("max_episode_steps") == -1:
        return None
    if "disable_env_checker" in options:  # `gymnasium.make` takes it, environments do not.
        return None
    if str(name).startswith(INCORRECT_VECTOR_FORMS):
        return None
    try:
        creator = _load(name)
    except ImportError:
        return None
    passed = {**spec.kwargs, **options}
    if spec.max_episode_steps is not None:
        passed["max_episode_steps"] = spec.max_episode_steps
    if not _takes(creator, passed):
        return None
    if "render_mode" in options and options["render_mode"] not in _metadata(creator).get("render_modes", ()):
        return None
    default = _metadata(creator).get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if mode not in (None, default) and not _takes(creator, ["autoreset_mode"]):
        return None
    return name


def _processes(spec: EnvSpec, num_envs: int, layers: Wrappers, options: Mapping[str, Any], infos: bool) -> int:
    """How many processes are expected to step the environments fastest."""
    most = min(num_envs, _free_cores())
    if most == 1 or options.get("render_mode") == "human":
        return 1
    seconds = _step_seconds(spec, layers, options)

    def of_a_step(processes: int) -> float:
        return math.ceil(num_envs / processes) * seconds + (processes - 1) * WORKER_OVERHEAD[infos]

    best = min(range(2, most + 1), key=of_a_step)
    return best if of_a_step(best) < PROCESSES_MUST_TAKE_LESS_THAN * num_envs * seconds else 1


def _free_cores() -> int:
    """How many cores this process can have to itself: processes that wait for each other must not wait for others."""
    try:
        running = []
        for _ in range(5):
            running.append(int(LOAD.read_text().split()[3].split("/")[0]))
            time.sleep(0.002)
    except (OSError, ValueError):  # No system but Linux tells how many there are at this moment.
        return _usable_cores()
    others = statistics.median_low(running) - 1
    return max(1, min(_usable_cores(), (os.cpu_count() or 1) - others))


def _step_seconds(
    spec: EnvSpec,
    wrappers: Wrappers,
    options: Mapping[str, Any],
    max_seconds: float = 0.03,
    max_steps: int = 1000,
) -> float:
    """The median duration, in seconds, of random steps in a scratch copy of the environment."""
    env = make_layered(spec, wrappers, options)
    env.action_space.seed(0)
    durations: list[float] = []
    seed: int | None = 0
    end, done = time.perf_counter() + max_seconds, True
    while len(durations) < 2 or (len(durations) < max_steps and time.perf_counter() < end):
        if done:
            observation, info = env.reset(seed=seed)
            seed = None
        action = _allowed_action(env.action_space, observation, info)
        start = time.perf_counter()
        observation, _, terminated, truncated, info = env.step(action)
        durations.append(time.perf_counter() - start)
        done = terminated or truncated
    env.close()
    return statistics.median(durations[1:])  # The first step pays for Gymnasium's checks.


def _allowed_action(space: gym.Space[Any], observation: Any, info: Mapping[str, Any]) -> Any:
    """A random action; where the environment says which of a Discrete space are allowed, one of those."""
    mask = info.get("action_mask")
    if mask is None and isinstance(observation, dict):
        mask = observation.get("action_mask")
    if mask is None or not isinstance(space, gym.spaces.Discrete):
        return space.sample()
    return space.sample(mask=np.asarray(mask, np.int8))
