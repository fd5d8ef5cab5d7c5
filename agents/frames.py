"""Pictures of the game that a trained agent plays, as a data set."""

from __future__ import annotations

import hashlib
import itertools
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from rltool.agents.evaluation import for_evaluation, make_rendered_env, watch, with_masks
from rltool.agents.video import prepare_display
from rltool.data.examples import TEST_SHARE, Dataset, Part
from rltool.errors import UserError
from rltool.training.run import Run

SIZE, COUNT = 32, 2_000
SMALLEST, LEAST = 8, 20
NOTHING = -1  # Of a frame that no action follows.


class EnoughFrames(Exception):
    """As many as were wanted are there."""


def load_frames(name: str) -> Dataset:
    """Let the agent of a run play, as `rltool eval` does, and keep what a viewer would see.

    The same run gives the same frames; they are kept in its folder `frames/`. The last fifth of them, later episodes
    where there are several, are the test part.

    Args:
        name: The run; options may follow: `RUN,size=64,n=5000` for frames of 64 x 64 pixels, and 5,000 of them;
            `RUN,label=action` for frames that are labeled with what the agent did next, without an episode's last one,
            which nothing follows.

    Raises:
        UserError: There is no such run or option, it has no agent, its environment does not render, or its actions have
            no numbers.
    """
    folder, size, count, labeled = _parse(name)
    run = Run(folder)
    weights = run.path / "model.safetensors"
    if not weights.is_file() or not hasattr(run.agent, "predict"):
        raise UserError(f"{folder} has no trained agent that plays; frames are recorded of one, as of a ppo run")
    played = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    file = run.path / "frames" / f"{size}x{count}-{played}.npz"
    space = run.agent.action_space
    if labeled and not isinstance(space, gym.spaces.Discrete):
        raise UserError(f"actions of {run.data} are no labels, for they have no numbers; leave out label=action")
    kept = _kept(file, (count, size, size, 3))
    if kept is None:
        kept = record_frames(run.agent, run.data, count, size, env_kwargs=run.options.env_kwargs)
        _keep(file, *kept)
    frames, actions = kept
    x = np.ascontiguousarray(np.divide(frames, 255, dtype=np.float32).transpose(0, 3, 1, 2))
    classes: tuple[str, ...] = ()
    part = Part(x, np.zeros(count, dtype=np.int64))
    if labeled:
        classes = tuple(str(action) for action in range(space.n))
        part = Part(x, actions).select(np.flatnonzero(actions != NOTHING))
    learned = len(part) - int(TEST_SHARE * len(part))
    train, test = (part.select(rows) for rows in np.split(np.arange(len(part)), [learned]))
    return Dataset(f"frames-{run.path.name}", train, test, classes)


def record_frames(
    agent: Any, env_id: str, count: int, size: int, seed: int = 0, env_kwargs: dict[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of an agent's episodes, one after the other, and what it did next.

    These are bytes `(count, size, size, 3)`, and the numbers of its actions `(count,)`: `NOTHING` where an episode
    ended, or where actions have no numbers.

    Args:
        agent: Anything with `predict`.
        env_id: The environment.
        count: How many frames.
        size: Height and width that they are resized to.
        seed: Seeds the first episode; each one after it gets the next number.
        env_kwargs: Arguments of the environment's constructor.

    Raises:
        UserError: The environment does not render.
    """
    frames = np.empty((count, size, size, 3), dtype=np.uint8)
    actions = np.full(count, NOTHING)
    number = -1
    space = getattr(agent, "action_space", None)

    def keep(frame: np.ndarray, episode: int) -> None:
        nonlocal number
        number += 1
        if number == count:
            raise EnoughFrames
        frames[number] = Image.fromarray(frame).convert("RGB").resize((size, size), Image.Resampling.BOX)

    def predict(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        chosen, state = agent.predict(*args, **kwargs)
        if isinstance(space, gym.spaces.Discrete):
            actions[number] = chosen[0] - space.start
        return chosen, state

    prepare_display()
    env = make_rendered_env(env_id, "rgb_array", with_masks(agent, for_evaluation(env_kwargs or {})))
    try:
        with suppress(EnoughFrames):
            for episode in itertools.count():
                watch(SimpleNamespace(predict=predict), env, 1, seed + episode, on_frame=keep)
    finally:
        env.close()
    return frames, actions


def _parse(name: str) -> tuple[str, int, int, bool]:
    """The run's folder, the size of the frames, how many there are, and whether they are labeled."""
    folder, *given = name.split(",")
    numbers, labeled = {"size": SIZE, "n": COUNT}, False
    for each in given:
        key, _, value = each.partition("=")
        if each == "label=action":
            labeled = True
        elif key in numbers and value.isdecimal():
            numbers[key] = int(value)
        else:
            raise UserError(
                f"frames take size=PIXELS, n=NUMBER and label=action, as frames:{folder},size=64,n=5000; not '{each}'"
            )
    size, count = numbers["size"], numbers["n"]
    if size < SMALLEST or count < LEAST:
        raise UserError(f"frames have a size of at least {SMALLEST} pixels, and there are at least {LEAST} of them")
    return folder, size, count, labeled


def _kept(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Frames and actions of a file; None where it is not there, or something else."""
    try:
        with np.load(file) as arrays:
            frames, actions = arrays["frames"], arrays["actions"]
    except Exception:  # Whatever a damaged archive may raise: they are recorded again.
        return None
    fits = frames.shape == shape and frames.dtype == np.uint8 and actions.shape == shape[:1]
    return (frames, actions) if fits else None


def _keep(file: Path, frames: np.ndarray, actions: np.ndarray) -> None:
    with suppress(OSError):  # Where nothing can be kept, they are recorded again.
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as opened:
            np.savez_compressed(opened, frames=frames, actions=actions)
        os.replace(temporary, file)
