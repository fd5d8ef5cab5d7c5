"""Demonstrations on disk: Minari datasets and .npz files, read without trusting what they hold, and checked."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rltool.envs.demonstration_checks import check_demonstrations, space_tree
from rltool.envs.demonstrations import Demonstrations
from rltool.errors import UserError, unknown
from rltool.training.spaces import space_from_json
from rltool.trees import Tree, map_tree, named_leaves, tree_leaves, with_leaves

# What the libraries below raise when a file is not what it should be.
_DAMAGE = (OSError, EOFError, KeyError, ValueError, TypeError, AssertionError, RuntimeError, AttributeError)

# Key of what this toolkit notes about a dataset: in Minari's metadata, and (as text) among the arrays of an .npz.
NOTES = "rltool"


def load_demonstrations(
    source: str | Path | Demonstrations,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    env_id: str | None = None,
) -> Demonstrations:
    """Demonstrations that fit a policy; nothing is downloaded, and no code from the files is run.

    Args:
        source: A `.npz` file, the name of a local Minari dataset (`-v0` is added where the version is missing), or
            demonstrations, which are only checked.
        observation_space: Space of the policy's observations; None takes the source's own.
        action_space: Space of its actions; likewise.
        env_id: The environment they have to come from; None allows any. Where the source does not know, so be it.

    Returns:
        Demonstrations with these spaces, their arrays of these spaces' types.

    Raises:
        UserError: There is no such thing, it is damaged, empty or cut off, or it does not fit.
    """
    if isinstance(source, Demonstrations):
        demos = source
    elif is_npz(source):
        demos = _read_npz(Path(source), observation_space, action_space)
    else:
        demos = _read_minari(str(source))
    return check_demonstrations(demos, observation_space, action_space, env_id)


def is_npz(source: str | Path) -> bool:
    """Whether a name stands for an .npz file, and not for a Minari dataset."""
    return Path(source).suffix == ".npz"


# Minari's folder. Looking into it takes no import of Minari.


def datasets_folder() -> Path:
    """Where Minari keeps its datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_datasets() -> list[str]:
    """Names of the Minari datasets on this machine, sorted."""
    folder = datasets_folder()
    files = folder.glob("**/data/metadata.json")
    names = (file.parent.parent.relative_to(folder) for file in files)
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def dataset_name(name: str) -> str:
    """A Minari dataset's full name: with `-v0`, where the version is missing.

    Raises:
        UserError: No dataset can be called so.
    """
    if not re.fullmatch(r"[-\w]+(/[-\w]+)*", name):
        raise UserError(
            f"'{name}' names no demonstrations: a file ends in .npz, and a Minari dataset's name has only letters, "
            "digits, - and _ (and / between groups)"
        )
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


# Reading.


def _read_minari(source: str) -> Demonstrations:
    name = dataset_name(source)
    folder = datasets_folder() / name / "data"
    if not folder.is_dir():
        if names := local_datasets():
            raise unknown("demonstrations", name, names)
        raise UserError(f"no demonstrations '{name}', nor any others in {datasets_folder()}; rltool record makes some")
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        notes = metadata.get(NOTES) or {}
        if "observation_space" not in metadata or "action_space" not in metadata:
            # Minari would make the environment to find out, from an entry point that the file names.
            raise ValueError("it does not say what its spaces are")
        import minari

        dataset = minari.MinariDataset(folder)
        observation_space, action_space = dataset.observation_space, dataset.action_space
        if notes:  # Minari forgets types of numbers and the order of keys.
            observation_space = space_from_json(notes["observation_space"])
            action_space = space_from_json(notes["action_space"])
        episodes = list(dataset.iterate_episodes())
        if not episodes:
            raise UserError(f"the demonstrations {name} are empty")
        for k, episode in enumerate(episodes):
            # There is one observation more than actions: what followed the last.
            counts = {len(leaf) - 1 for leaf in tree_leaves(episode.observations)} | {len(episode.actions)}
            if counts != {len(episode.rewards)} or not len(episode.terminations):
                raise ValueError(f"its episode {k} has {len(episode.rewards)} rewards for {sorted(counts)} timesteps")
        # In the order of the space's keys, which HDF5 forgets.
        shape = space_tree(observation_space)
        parts = [with_leaves(shape, named_leaves(episode.observations)) for episode in episodes]
        return Demonstrations(
            observation_space,
            action_space,
            map_tree(lambda *leaves: np.concatenate([leaf[:-1] for leaf in leaves]), *parts),
            np.concatenate([episode.actions for episode in episodes]),
            np.concatenate([episode.rewards for episode in episodes]),
            np.cumsum([len(episode.rewards) for episode in episodes]) - 1,
            np.array([bool(episode.terminations[-1]) for episode in episodes]) if notes.get("terminated", 1) else None,
            map_tree(lambda *leaves: np.stack([leaf[-1] for leaf in leaves]), *parts)
            if notes.get("final", 1)
            else None,
            notes.get("env_id") or (dataset.env_spec.id if dataset.env_spec else None),
            notes.get("env_kwargs") or {},
            name,
        )
    except _DAMAGE as error:
        raise UserError(f"the demonstrations {name} cannot be read: {_reason(error)}") from None


def _read_npz(path: Path, observation_space: gym.Space | None, action_space: gym.Space | None) -> Demonstrations:
    if not path.is_file():
        raise unknown("file", str(path), [str(file) for file in path.parent.glob("*.npz")])
    arrays = _arrays(path)
    there = {name.partition(".")[0] if "observations" in name else name for name in arrays} - {NOTES}
    for name in ("observations", "actions", "rewards", "episode_ends"):
        if name not in there:
            raise UserError(f"{path} has no array '{name}'; it has {', '.join(sorted(there)) or 'nothing'}")
    notes: dict[str, Any] = {}
    try:
        if NOTES in arrays:
            notes = json.loads(str(arrays[NOTES]))
            observation_space = space_from_json(notes["observation_space"])
            action_space = space_from_json(notes["action_space"])
    except _DAMAGE as error:
        raise UserError(f"the demonstrations {path} cannot be read: {_reason(error)}") from None
    actions, marks, terminated = arrays["actions"], arrays["episode_ends"], arrays.get("terminated")
    n = len(np.atleast_1d(actions))
    if marks.shape != (n,) or not np.isin(marks, (0, 1)).all():
        raise UserError(
            f"episode_ends in {path} is to be true or false for each of {n} actions, not {marks.dtype} {marks.shape}"
        )
    if n and not marks[-1]:
        raise UserError(f"{path} is cut off: its last episode has no end (episode_ends is false at the last timestep)")
    ends = np.flatnonzero(marks)
    if terminated is not None and terminated.shape == (n,):
        terminated = terminated[ends]
    observations = _tree(path, arrays, "observations", observation_space)
    return Demonstrations(
        observation_space or _guess_space(observations),
        action_space or _guess_space(actions),
        observations,
        actions,
        arrays["rewards"],
        ends,
        terminated,
        _tree(path, arrays, "final_observations", observation_space) if "final_observations" in there else None,
        notes.get("env_id"),
        notes.get("env_kwargs") or {},
        str(path),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; objects are refused, since reading one runs what it holds."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise UserError(
                f"{path} holds Python objects, which are not read because they can run code; save plain arrays"
            ) from None
        raise UserError(f"{path} is damaged, or no .npz file: {_reason(error)}") from None


def _tree(path: Path, arrays: Mapping[str, np.ndarray], name: str, space: gym.Space | None) -> Tree:
    """The tree whose leaves are the arrays `name`, `name.key`, `name.key.0` and so on."""
    if space is None:
        return _guess_tree({k.removeprefix(name): array for k, array in arrays.items() if k.split(".")[0] == name})
    shape = space_tree(space)
    for leaf in named_leaves(shape, name):
        if leaf not in arrays:
            raise UserError(f"{path} has no array '{leaf}', and the observations are {space}")
    return with_leaves(shape, dict(arrays), name)


def _guess_tree(leaves: Mapping[str, np.ndarray]) -> Tree:
    """The tree with these leaves, named by the keys that lead to them, each after a dot."""
    if "" in leaves:
        return leaves[""]
    branches: dict[str, dict[str, np.ndarray]] = {}
    for name, leaf in leaves.items():
        _, key, *rest = name.split(".", 2)
        branches.setdefault(key, {})["".join(f".{part}" for part in rest)] = leaf
    trees = {key: _guess_tree(branch) for key, branch in branches.items()}
    return tuple(trees[str(k)] for k in range(len(trees))) if "0" in trees else trees


def _guess_space(tree: Tree) -> gym.Space:
    """A space that an array's rows (or a tree's) are elements of, for files that do not say theirs."""
    if isinstance(tree, dict):
        return spaces.Dict({key: _guess_space(branch) for key, branch in tree.items()})
    if isinstance(tree, tuple):
        return spaces.Tuple([_guess_space(branch) for branch in tree])
    shape = tree.shape[1:]
    if tree.dtype == np.uint8 and len(shape) > 1:
        return spaces.Box(0, 255, shape, np.uint8)
    if tree.dtype.kind in "iub" and len(tree) and tree.min() >= 0:
        counts = tree.max(0).astype(np.int64) + 1
        return spaces.MultiDiscrete(counts) if shape else spaces.Discrete(int(counts))
    return spaces.Box(-np.inf, np.inf, shape, tree.dtype if tree.dtype.kind == "f" else np.float32)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
