"""Environments stepped together: by one process or by a few, each of which steps a group of them."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from rltool.envs.workers import EnvMaker, Group, Shared, Worker, aligned, attempt, empty_rows, make_all, results_of
from rltool.trees import Tree, map_tree, tree_leaves


class ParallelVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps copies of an environment together, with the results of Gymnasium's `SyncVectorEnv`, in a few processes.

    Each process steps a group of environments one after another: this one the first group, workers the others. So a
    step takes one message to each worker and back, however many environments there are; rewards and observations
    (those of a fixed size) come back in shared memory. Trajectories do not depend on the number of processes.

    What an environment raises is raised here, with the worker's traceback as a note, and all go on from there. Workers
    ignore Ctrl-C, which reaches all processes of a terminal: they end when this process closes them, or ends.

    Args:
        makers: Functions that make the environments, which must have equal spaces.
        processes: How many step them, this one included; with one, there are no workers.
        autoreset_mode: An `AutoresetMode` or its value.
        infos: False leaves out all infos but `final_obs`: merging the many of MuJoCo's takes a tenth of a step.

    Attributes:
        envs: The environments of this process: the first group.

    Raises:
        RuntimeError: The spaces differ.
    """

    def __init__(
        self,
        makers: Sequence[EnvMaker],
        processes: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        infos: bool = True,
    ) -> None:
        self.num_envs = len(makers)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        # Rounded down: this process, which also has the messages to write, gets the smallest group.
        bounds = [self.num_envs * i // processes for i in range(processes + 1)]
        self._parts = [slice(*pair) for pair in itertools.pairwise(dict.fromkeys(bounds))]
        self._workers: list[Worker] = []

        self.envs = make_all(makers[self._parts[0]])
        self.metadata = self.envs[0].metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = self.envs[0].render_mode
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        context = multiprocessing.get_context()
        rows = empty_rows(self.single_observation_space, self.single_action_space, self.num_envs)
        size = sum(map(aligned, tree_leaves(rows)))
        memory = context.RawArray("B", size) if len(self._parts) > 1 else bytearray(size)
        shared = Shared(
            self.single_observation_space,
            self.single_action_space,
            self.num_envs,
            self.autoreset_mode,
            infos,
            memory,
        )
        self._rows = shared.rows()
        try:
            for part in self._parts[1:]:
                self._workers.append(Worker(context, functools.partial(make_all, makers[part]), shared, part))
            self._group = Group(self.envs, shared, self._parts[0])
            results_of([worker.answer() for worker in self._workers])
        except BaseException:
            self.close()
            raise

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tree, dict[str, Any]]:
        """Begin a new episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: Environment i gets seed + i, or the i-th of several.
            options: Passed on to each environment; `reset_mask`, boolean `(num_envs,)`, is taken out.

        Returns:
            Observations of all environments `(num_envs, ...)`, and the infos of those that were reset.
        """
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"there are {len(seeds)} seeds for {self.num_envs} environments")
        mask = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            options = {name: value for name, value in options.items() if name != "reset_mask"}
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
                raise ValueError(f"options['reset_mask'] must be boolean ({self.num_envs},), not {mask!r}")
        replies = self._run("reset", [(seeds[part], options, mask[part]) for part in self._parts])
        return self._observations(replies), self._infos(replies)

    def step(self, actions: Any) -> tuple[Tree, Any, Any, Any, dict[str, Any]]:
        """Take a step in every environment.

        Args:
            actions: An element of the action space.

        Returns:
            Observations `(num_envs, ...)`, rewards, terminated and truncated `(num_envs,)`, and infos.

        Raises:
            ResetNeeded: An episode has ended, and nothing resets it.
        """
        if not isinstance(actions, np.ndarray) or self.action_space.shape is None:
            actions = list(iterate(self.action_space, actions))
        rows = self._rows
        if self._workers and _alike(actions, rows.actions):
            np.copyto(rows.actions, actions)
            replies = self._run("step", [(None,)] * len(self._parts))
        else:
            replies = self._run("step", [(actions[part],) for part in self._parts])
        return (
            self._observations(replies),
            rows.rewards.copy(),
            rows.terminated.copy(),
            rows.truncated.copy(),
            self._infos(replies),
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Each environment's attribute of this name or, if it can be called, what it returns."""
        return tuple(itertools.chain(*self._run("call", [(name, args, kwargs)] * len(self._parts))))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Each environment's attribute of this name."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute in each environment: to its own value out of a list or tuple, or all to the same."""
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"there are {len(values)} values for {self.num_envs} environments")
        self._run("set_attr", [(name, values[part]) for part in self._parts])

    def render(self) -> tuple[Any, ...]:
        """A frame of each environment."""
        return self.call("render")

    @property  # type: ignore[misc]  # Only to read, as `SyncVectorEnv`'s.
    def np_random(self) -> Any:
        """Each environment's random generator; those of workers as copies."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """Each environment's seed."""
        return self.get_attr("np_random_seed")

    def close_extras(self, **_: Any) -> None:
        """Close the environments and end the workers."""
        for worker in self._workers:
            worker.dismiss()
        for env in self.envs:
            env.close()
        for worker in self._workers:
            worker.end()

    def __del__(self) -> None:
        """End the workers of a vector environment that nobody closed."""
        if getattr(self, "_workers", None):
            self.close()

    def _run(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a command, given its arguments for each group, returns for each group."""
        if self.closed:
            raise ClosedEnvironmentError("the environments have been closed")
        for worker, each in zip(self._workers, arguments[1:], strict=True):
            worker.ask(command, each)
        # If this group fails, the others' replies are waited for all the same: then all stand at the same step.
        mine = attempt(getattr(self._group, command), *arguments[0])
        return results_of([mine, *[worker.answer() for worker in self._workers]])

    def _observations(self, replies: Sequence[tuple[Any, Any]]) -> Tree:
        if self._group.fixed_size:
            return map_tree(np.copy, self._rows.observations)
        observations = [each for of_group, _ in replies for each in of_group]
        out: Any = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, observations, out)

    def _infos(self, replies: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part, (_, infos) in zip(self._parts, replies, strict=True):
            for i, info in infos:
                merged = self._add_info(merged, info, part.start + i)
        return merged


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return both and one.shape == other.shape and one.dtype == other.dtype
