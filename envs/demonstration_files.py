"""Demonstrations on disk: Minari datasets and .npz files, read without trusting what they hold, and checked."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rltool.envs.demonstration_checks import check_demonstrations, space_tree
from rltool.envs.demonstration_names import NOTES, check_free, dataset_metadata, full_name, is_npz, place_of
from rltool.envs.demonstrations import Demonstrations
from rltool.envs.make import make_vector_env
from rltool.errors import TrainingError, UserError, unknown
from rltool.training.spaces import space_from_json, space_to_json
from rltool.trees import Tree, map_tree, named_leaves, tree_leaves, with_leaves

# What the libraries below raise when a file is not what it should be.
_DAMAGE = (OSError, EOFError, KeyError, ValueError, TypeError, AssertionError, RuntimeError, AttributeError)


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


def save_demonstrations(
    target: str | Path,
    demos: Demonstrations,
    algorithm: str | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write demonstrations so that `load_demonstrations` has them again, to the last bit.

    Args:
        target: A `.npz` file, or the name of a Minari dataset (`-v0` is added where the version is missing).
        demos: The demonstrations.
        algorithm: Who played, for Minari's metadata.
        description: A sentence about them, likewise.
        overwrite: Whether to replace what is there.

    Returns:
        The file, or the dataset's folder.

    Raises:
        UserError: The name is taken or malformed, or the format has no place for these spaces.
        TrainingError: The disk is full or cannot be written.
    """
    check_free(target, overwrite)
    check_storable(target, demos.observation_space, demos.action_space)
    path = place_of(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_npz(target):
            _write_npz(path, demos)
            return path
        # What it replaces stays, hidden, until the new one is complete.
        old = path.with_name(f".{path.name}.old")
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        try:
            _write_minari(full_name(target), demos, algorithm, description)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def check_storable(target: str | Path, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Refuse spaces that a format has no place for; to be asked before anything is played.

    Raises:
        UserError: It has none.
    """
    for space in (observation_space, action_space):
        space_to_json(space)
        if any(isinstance(leaf, spaces.Graph) for leaf in tree_leaves(space_tree(space))):
            raise UserError("demonstrations with graphs cannot be saved: they are no arrays")
    if not is_npz(target) and not all(_is_plain(key) for key in _keys(observation_space)):
        raise UserError(
            f"a Minari dataset takes keys that are text without /, not those of {observation_space}; save a file.npz"
        )


def _keys(space: gym.Space) -> Iterator[Any]:
    """The keys of a Dict space and of all Dict spaces in it."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, branch in space.items() if isinstance(space, spaces.Dict) else enumerate(space):
            if isinstance(space, spaces.Dict):
                yield key
            yield from _keys(branch)


def _is_plain(key: Any) -> bool:
    return isinstance(key, str) and "/" not in key and key not in ("", ".")


# Reading.


def _read_minari(source: str) -> Demonstrations:
    name, metadata = full_name(source), dataset_metadata(source)
    notes = metadata[NOTES]
    try:
        if "observation_space" not in metadata or "action_space" not in metadata:
            # Minari would make the environment to find out, from an entry point that the file names.
            raise ValueError("it does not say what its spaces are")
        import minari

        dataset = minari.MinariDataset(place_of(name) / "data")
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
        terminated = np.array([bool(episode.terminations[-1]) for episode in episodes])
        final = map_tree(lambda *leaves: np.stack([leaf[-1] for leaf in leaves]), *parts)
        return Demonstrations(
            observation_space,
            action_space,
            map_tree(lambda *leaves: np.concatenate([leaf[:-1] for leaf in leaves]), *parts),
            np.concatenate([episode.actions for episode in episodes]),
            np.concatenate([episode.rewards for episode in episodes]),
            np.cumsum([len(episode.rewards) for episode in episodes]) - 1,
            terminated if notes.get("terminated", True) else None,
            final if notes.get("final", True) else None,
            notes.get("env_id") or (dataset.env_spec.id if dataset.env_spec else None),
            dict(notes.get("env_kwargs") or {}),
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
            notes["env_kwargs"] = dict(notes["env_kwargs"])
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
        notes.get("env_kwargs", {}),
        str(path),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; objects are refused, since reading one runs what it holds."""
    if not zipfile.is_zipfile(path):  # NumPy takes anything else for a pickle.
        raise UserError(f"{path} is damaged, or no .npz file")
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    # NotImplementedError: what zipfile raises for a compression that it does not know.
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds Python objects, which are not read because they can run code; save plain arrays"
            ) from None
        raise UserError(f"{path} is damaged: {_reason(error)}") from None


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
    numbers = [str(k) for k in range(len(trees))]
    return tuple(trees[k] for k in numbers) if trees.keys() == set(numbers) else trees


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


# Writing.


def _write_npz(path: Path, demos: Demonstrations) -> None:
    arrays: dict[str, Any] = named_leaves(demos.observations, "observations")
    arrays |= {"actions": demos.actions, "rewards": demos.rewards, "episode_ends": _marks(demos)}
    if demos.terminated is not None:
        arrays["terminated"] = _marks(demos, demos.terminated)
    arrays |= named_leaves(demos.final_observations, "final_observations")
    arrays[NOTES] = np.array(json.dumps(_notes(demos)))
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_minari(name: str, demos: Demonstrations, algorithm: str | None, description: str | None) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    final = demos.final_observations
    if final is None:  # Minari has to have one.
        final = map_tree(lambda rows: rows[demos.ends], demos.observations)
    terminated = _marks(demos, np.zeros(demos.num_episodes, bool) if demos.terminated is None else demos.terminated)
    truncated = _marks(demos) & ~terminated
    episodes = [
        EpisodeBuffer(
            observations=map_tree(partial(_with_last, rows, k), demos.observations, final),
            actions=demos.actions[rows],
            rewards=demos.rewards[rows],
            terminations=terminated[rows],
            truncations=truncated[rows],
        )
        for k, rows in enumerate(demos.episodes())
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About metadata that only matters for datasets that are published.
        dataset = minari.create_dataset_from_buffers(
            name,
            episodes,
            observation_space=demos.observation_space,
            action_space=demos.action_space,
            algorithm_name=algorithm,
            description=description,
            jpeg_encoding=False,  # It would change the images.
        )
    spec = _env_spec(demos)
    dataset.storage.update_metadata({NOTES: _notes(demos)} | ({} if spec is None else {"env_spec": spec}))


def _with_last(rows: slice, k: int, observations: np.ndarray, final: np.ndarray) -> np.ndarray:
    return np.concatenate((observations[rows], final[k : k + 1]))


def _marks(demos: Demonstrations, episodes: np.ndarray | bool = True) -> np.ndarray:
    """True at the last timestep of each of these episodes, `(n,)`."""
    marks = np.zeros(len(demos), bool)
    marks[demos.ends] = episodes
    return marks


def _notes(demos: Demonstrations) -> dict[str, Any]:
    """What neither format has a place for."""
    return {
        "observation_space": space_to_json(demos.observation_space),
        "action_space": space_to_json(demos.action_space),
        "env_id": demos.env_id,
        "env_kwargs": json.loads(json.dumps(demos.env_kwargs, default=str)),
        "terminated": demos.terminated is not None,
        "final": demos.final_observations is not None,
    }


def _env_spec(demos: Demonstrations) -> str | None:
    """Gymnasium's description of the environment, without our wrappers, so that Minari can make it again."""
    spec = gym.registry.get((demos.env_id or "").rpartition(":")[2])
    if spec is None:
        return None
    ours = inspect.signature(make_vector_env).parameters
    kwargs = {name: value for name, value in demos.env_kwargs.items() if name not in ours}
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    try:
        return dataclasses.replace(spec, kwargs={**spec.kwargs, **kwargs}, max_episode_steps=limit).to_json()
    except (TypeError, ValueError):  # Something in it is no JSON.
        return None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
