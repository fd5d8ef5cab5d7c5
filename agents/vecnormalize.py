"""Observation statistics of Stable-Baselines3's `VecNormalize`, read from their pickle without executing it.

A pickle is a program, and one from a stranger may do anything. Here every class and function that it names is replaced
by an inert record, and the few numbers wanted are rebuilt from the records' bytes.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rltool.errors import UserError
from rltool.networks import RunningNorm


class Record:
    """Stands for whatever a pickle would have made or called: it keeps the arguments and the state, and does nothing.

    Attributes:
        origin: Module and name of the class or function it stands for.
        args: What the class or function would have been called with.
        state: What the object would have been filled with.
    """

    origin: tuple[str, str] = ("", "")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any) -> Record:
        return Record(*args)

    def append(self, value: Any) -> None:
        """What a pickle calls to fill lists."""

    extend = append


class Unpickler(pickle.Unpickler):
    """Reads a pickle as data: every class and function that it names is a `Record`, without exception."""

    def find_class(self, module: str, name: str) -> type[Record]:
        return type("Record", (Record,), {"origin": (module, name)})


def numbers(value: Any) -> np.ndarray:
    """The array or number that a record (or a plain Python number) describes.

    Raises:
        ValueError: It describes something else. (So do TypeError and AttributeError, for malformed records.)
    """
    if not isinstance(value, Record):
        return np.array(float(value))
    match value.origin[1]:
        case "_reconstruct":  # numpy.(_)core.multiarray
            _, shape, dtype, fortran, data = value.state
            order = "F" if fortran else "C"
        case "_frombuffer":  # numpy.(_)core.numeric, since pickle protocol 5
            data, dtype, shape, order = value.args
        case "scalar":
            (dtype, data), shape, order = value.args, (), "C"
        case name:
            raise ValueError(f"{name} is no number")
    code = dtype.state[1] + dtype.args[0]
    if not re.fullmatch(r"[<>|=][fiu][1248]", code):
        raise ValueError(f"{code} is no kind of number")
    return np.frombuffer(data, code).reshape(shape, order="F" if order == "F" else "C").astype(np.float64)


def find_statistics(path: Path) -> Path | None:
    """The `vecnormalize.pkl` that belongs to a zip, if there is one.

    rl-baselines3-zoo keeps that of `CartPole-v1_1/CartPole-v1.zip` in `CartPole-v1_1/CartPole-v1/`, and so that of
    `CartPole-v1_1/best_model.zip`.
    """
    folder = path.absolute().parent
    folders = (folder, folder / path.stem, folder / folder.name.rpartition("_")[0])
    return next((f / "vecnormalize.pkl" for f in folders if (f / "vecnormalize.pkl").is_file()), None)


def read_vecnormalize(path: Path, space: gym.Space) -> RunningNorm | None:
    """Observation statistics from a file that `VecNormalize.save` wrote, without executing it.

    Args:
        path: The file.
        space: Space of the observations that are to be normalized.

    Returns:
        The statistics; None if they were switched off (`norm_obs=False`).

    Raises:
        UserError: The file is missing or damaged, or its statistics are of other observations.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        state = Unpickler(io.BytesIO(path.read_bytes())).load().state
        if not state.get("norm_obs", True):
            return None
        rms = state["obs_rms"].state
        mean, var, count = (numbers(rms[name]) for name in ("mean", "var", "count"))
        clip, epsilon = (float(numbers(state[name])) for name in ("clip_obs", "epsilon"))
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(
            f"{path} holds no observation statistics of VecNormalize, or it is damaged: {type(error).__name__}"
        ) from None
    if not (mean.shape == var.shape == space.shape):
        raise UserError(f"{path} is about observations of shape {mean.shape}, the agent's have shape {space.shape}")
    norm = RunningNorm(mean.shape, clip, epsilon)
    norm.load_state_dict(
        {name: torch.from_numpy(value) for name, value in (("mean", mean), ("var", var), ("count", count))}
    )
    return norm
