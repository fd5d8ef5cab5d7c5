"""Pictures of the game that a trained agent plays, as a data set."""

from __future__ import annotations

import hashlib
import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rltool.agents.evaluation import for_evaluation, make_rendered_env, watch, with_masks
from rltool.agents.video import prepare_display
from rltool.data.examples import TEST_SHARE, Dataset, Part
from rltool.errors import UserError
from rltool.training.run import Run

SIZE, COUNT = 32, 2_000
SMALLEST, LEAST = 8, 20


class EnoughFrames(Exception):
    """As many as were wanted are there."""


def load_frames(name: str) -> Dataset:
    """Let the agent of a run play, as `rltool eval` does, and keep what a viewer would see.

    The same run gives the same frames; they are kept in its folder `frames/`. The last fifth of them, later episodes
    where there are several, are the test part.

    Args:
        name: The run; options may follow: `RUN,size=64,n=5000` for frames of 64 x 64 pixels, and 5,000 of them.

    Raises:
        UserError: There is no such run or option, it has no agent, or its environment does not render.
    """
    folder, options = _parse(name)
    run, size, count = Run(folder), options["size"], options["n"]
    weights = run.path / "model.safetensors"
    if not weights.is_file() or not hasattr(run.agent, "predict"):
        raise UserError(f"{folder} has no trained agent that plays; frames are recorded of one, as of a ppo run")
    played = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    file = run.path / "frames" / f"{size}x{count}-{played}.npz"
    frames = _kept(file, (count, size, size, 3))
    if frames is None:
        frames = record_frames(run.agent, run.data, count, size, env_kwargs=run.options.env_kwargs)
        _keep(file, frames)
    x = np.ascontiguousarray(np.divide(frames, 255, dtype=np.float32).transpose(0, 3, 1, 2))
    part = Part(x, np.zeros(count, dtype=np.int64))
    learned = count - int(TEST_SHARE * count)
    train, test = (part.select(rows) for rows in np.split(np.arange(count), [learned]))
    return Dataset(f"frames-{run.path.name}", train, test, ())


def record_frames(
    agent: Any, env_id: str, count: int, size: int, seed: int = 0, env_kwargs: dict[str, Any] | None = None
) -> np.ndarray:
    """Frames of an agent's episodes, one after the other, `(count, size, size, 3)` bytes.

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
    numbers = itertools.count()

    def keep(frame: np.ndarray, episode: int) -> None:
        number = next(numbers)
        if number == count:
            raise EnoughFrames
        frames[number] = Image.fromarray(frame).convert("RGB").resize((size, size), Image.Resampling.BOX)

    prepare_display()
    env = make_rendered_env(env_id, "rgb_array", with_masks(agent, for_evaluation(env_kwargs or {})))
    try:
        with suppress(EnoughFrames):
            for episode in itertools.count():
                watch(agent, env, 1, seed + episode, on_frame=keep)
    finally:
        env.close()
    return frames


def _parse(name: str) -> tuple[str, dict[str, int]]:
    folder, *given = name.split(",")
    options = {"size": SIZE, "n": COUNT}
    for each in given:
        key, _, value = each.partition("=")
        if key not in options or not value.isdecimal():
            raise UserError(f"frames take size=PIXELS and n=NUMBER, as frames:{folder},size=64,n=5000; not '{each}'")
        options[key] = int(value)
    if options["size"] < SMALLEST or options["n"] < LEAST:
        raise UserError(f"frames have a size of at least {SMALLEST} pixels, and there are at least {LEAST} of them")
    return folder, options


def _kept(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Frames of a file; None where it is not there, or something else."""
    try:
        with np.load(file) as arrays:
            frames: np.ndarray = arrays["frames"]
    except Exception:  # Whatever a damaged archive may raise: they are recorded again.
        return None
    return frames if frames.shape == shape and frames.dtype == np.uint8 else None


def _keep(file: Path, frames: np.ndarray) -> None:
    with suppress(OSError):  # Where nothing can be kept, they are recorded again.
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        with open(temporary, "wb") as opened:
            np.savez_compressed(opened, frames=frames)
        os.replace(temporary, file)
