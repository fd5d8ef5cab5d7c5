"""Collecting experience: a policy acts in a vector environment, and what happens is written into `(T, N, ...)` arrays.

All three autoreset modes of Gymnasium come out the same: `valid` leaves out the steps that only reset, and
`next_values` gives each step the value of its true successor, also where an episode was truncated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from rltool.agents.sequences import Cuts, SequenceTable
from rltool.errors import TrainingError
from rltool.networks.observations import (
    allow_all,
    as_tensors,
    empty_batch,
    restore_observations,
    stack_observations,
    stored_form,
)
from rltool.trees import Tree, first_leaf, map_tree, named_leaves, tree_leaves, with_leaves

FIRST_ROWS = 2_049  # of storage: a long rollout of one environment

Actor = Callable[..., Any]  # From observations to actions or, with a memory, from (observations, state) to both.


@dataclass
class Rollout:
    """Experience of N environments over T timesteps.

    Attributes:
        observations: `(T + 1, N, ...)`, a tree; row t is what the policy saw at t, row T follows the last step.
        actions: `(T, N, ...)`, as the policy gave them (not clipped).
        rewards: `(T, N)`.
        terminated: `(T, N)`; the episode ended for good.
        truncated: `(T, N)`; the episode was cut off, and its future still counts.
        valid: `(T, N)`; False where the step only reset the environment.
        final_observations: `(K, ...)`; last observations of episodes after which row t + 1 is already a new one.
        final_index: The K (t, n) pairs they belong to, as two index arrays.
        cuts: For a policy with memory, where sequences begin.
        bootstrap_state: For a policy with memory, its states before `bootstrap_observations`, a tree `(N + K, ...)`.
    """

    observations: Tree
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    final_observations: Tree
    final_index: tuple[np.ndarray, np.ndarray]
    cuts: Cuts | None = None
    bootstrap_state: Tree = None

    @property
    def done(self) -> np.ndarray:
        """Whether the episode ended at a step, `(T, N)`."""
        return self.terminated | self.truncated

    def seen(self, valid: np.ndarray | None = None) -> Tree:
        """What the policy saw, as rows `(T * N, ...)`, or those where `valid` `(T, N)` alone."""
        if valid is not None:
            return map_tree(lambda leaf: leaf[:-1][valid], self.observations)
        return map_tree(lambda leaf: leaf[:-1].reshape(-1, *leaf.shape[2:]), self.observations)

    @property
    def bootstrap_observations(self) -> Tree:
        """`(N + K, ...)`: observations beyond the rows 0..T-1 whose values `next_values` needs."""
        last = map_tree(lambda leaf: leaf[-1], self.observations)
        return concatenate(last, self.final_observations) if len(self.final_index[0]) else last

    def successors(self) -> Tree:
        """What followed each step, as rows `(T * N, ...)`: where an episode ended, its last observation."""

        def follow(rows: np.ndarray, final: np.ndarray) -> np.ndarray:
            rows = rows[1:].copy()
            rows[self.final_index] = final
            return rows.reshape(-1, *rows.shape[2:])

        return map_tree(follow, self.observations, self.final_observations)

    @cached_property
    def sequence_table(self) -> SequenceTable | None:
        """How rows follow each other, for a policy with memory; None for one without."""
        return None if self.cuts is None else SequenceTable(self.cuts, self.rewards.shape)

    def next_values(self, values: np.ndarray, bootstrap: np.ndarray) -> np.ndarray:
        """Value of each step's successor, `(T, N)`.

        Args:
            values: Values of rows 0..T-1, `(T, N)`.
            bootstrap: Values of `bootstrap_observations`, `(N + K,)`.
        """
        n = values.shape[1]
        successors = np.concatenate((values[1:], bootstrap[None, :n]))
        if len(self.final_index[0]):
            successors[self.final_index] = bootstrap[n:]
        return successors


@dataclass
class EpisodeStatistics:
    """Returns and lengths of the running episodes and of the last 100 finished ones."""

    running_returns: np.ndarray
    running_lengths: np.ndarray
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=100))
    finished: int = 0

    def update(self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray) -> None:
        """Take in `(T, N)` steps; the only Python loop is over episodes that ended."""
        rewards = np.where(valid, rewards, 0).astype(np.float64)
        if not done.any():
            self.running_returns += rewards.sum(axis=0)
            self.running_lengths += valid.sum(axis=0)
            return
        total = self.running_returns + np.cumsum(rewards, axis=0)
        length = self.running_lengths + np.cumsum(valid, axis=0)
        self.running_returns, self.running_lengths = total[-1].copy(), length[-1].copy()
        base_return, base_length = np.zeros(done.shape[1]), np.zeros(done.shape[1], dtype=np.int64)
        for t, n in zip(*np.nonzero(done), strict=True):
            self.returns.append(float(total[t, n] - base_return[n]))
            self.lengths.append(int(length[t, n] - base_length[n]))
            base_return[n], base_length[n] = total[t, n], length[t, n]
            self.finished += 1
        self.running_returns -= base_return
        self.running_lengths -= base_length

    def metrics(self) -> dict[str, float]:
        """Means over the last 100 episodes; empty before the first has ended."""
        if not self.returns:
            return {}
        return {
            "rollout/ep_rew_mean": float(np.mean(self.returns)),
            "rollout/ep_len_mean": float(np.mean(self.lengths)),
            "rollout/episodes": float(self.finished),
        }


def concatenate(*trees: Tree) -> Tree:
    """Trees of arrays, one after another along the first axis."""
    return map_tree(lambda *leaves: np.concatenate(leaves), *trees)


def forget(state: Tree, where: np.ndarray) -> Tree:
    """A policy's state `(N, ...)`, zero (as at the beginning of an episode) where it is to be forgotten; None stays."""
    if state is None:
        return None
    return map_tree(lambda leaf: np.where(where.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), state)


class RolloutCollector:
    """Steps a vector environment and keeps what must survive from one rollout to the next.

    Args:
        env: Any Gymnasium vector environment, in any autoreset mode.
        to_environment: Maps a policy's actions to the environment's (see `environment_actions`).
        initial_state: The state of a policy with memory at the beginning of N episodes.
        sequence_length: Longest sequence that a rollout is cut into, for a policy with memory.
    """

    def __init__(
        self,
        env: VectorEnv,
        to_environment: Callable[[np.ndarray], np.ndarray],
        initial_state: Tree = None,
        sequence_length: int = 1,
    ) -> None:
        self.env = env
        self.to_environment = to_environment
        self.num_envs = env.num_envs
        self.autoreset_mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.observation: Tree = None
        self.done = np.zeros(self.num_envs, dtype=bool)
        self.state = initial_state
        self.starts = np.ones(self.num_envs, dtype=bool)
        self.sequence_length = sequence_length
        self.statistics = EpisodeStatistics(np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.int64))
        self._stored = stored_form(env.single_observation_space)
        self._storage = empty_batch(env.single_observation_space, 1, self.num_envs)

    def reset(self, seed: int | None = None) -> None:
        """Begin a new episode in every environment."""
        self.observation = self._reset(seed=seed)
        self.done = np.zeros(self.num_envs, dtype=bool)
        self.starts = np.ones(self.num_envs, dtype=bool)
        self.statistics.running_returns[:] = 0
        self.statistics.running_lengths[:] = 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that must survive besides the environments: where each episode stands, and the policy's memory."""
        statistics = self.statistics
        arrays = {
            "done": self.done,
            "starts": self.starts,
            "running_returns": statistics.running_returns,
            "running_lengths": statistics.running_lengths,
        }
        return {
            **{name: torch.from_numpy(array) for name, array in arrays.items()},
            **named_leaves(as_tensors(self.observation), "observation"),
            **named_leaves(as_tensors(self.state), "state"),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        kept = {name: tensor.numpy().copy() for name, tensor in state.items()}
        self.done, self.starts = kept["done"], kept["starts"]
        self.statistics.running_returns, self.statistics.running_lengths = (
            kept["running_returns"],
            kept["running_lengths"],
        )
        self.observation = restore_observations(self.env.single_observation_space, kept, "observation")
        self.state = with_leaves(self.state, kept, "state")

    def collect(self, act: Actor, num_steps: int) -> Rollout:
        """Take `num_steps` steps in every environment; the next call overwrites the rollout's observations.

        Raises:
            TrainingError: The environment raised, or returned a number that is not finite.
        """
        rollout = self._run(act, num_steps)
        self.statistics.update(rollout.rewards, rollout.done, rollout.valid)
        return rollout

    def collect_episodes(self, act: Actor, num_steps: int, max_steps: int) -> Rollout:
        """Whole episodes only: each environment begins new ones until `num_steps`, then finishes the one it is in.

        Which episodes are taken depends on when they begin, never on how they end, so short ones are not favored.
        Steps after an environment's last episode, and episodes cut by `max_steps`, are marked invalid.
        """
        self.reset()
        retired = np.zeros(self.num_envs, dtype=bool)

        def all_retired(t: int, done: np.ndarray) -> bool:
            if t + 1 >= num_steps:
                np.logical_or(retired, done, out=retired)
            return bool(retired.all())

        rollout = self._run(act, max_steps, all_retired)
        done = rollout.done
        late_ends = done.copy()
        late_ends[: num_steps - 1] = False
        retired_before = np.zeros_like(done)
        retired_before[1:] = np.logical_or.accumulate(late_ends, axis=0)[:-1]
        whole = np.logical_or.accumulate(done[::-1], axis=0)[::-1]
        rollout.valid &= whole & ~retired_before
        self.statistics.update(rollout.rewards, done & rollout.valid, rollout.valid)
        return rollout

    def _run(self, act: Actor, num_steps: int, stop: Callable[[int, np.ndarray], bool] | None = None) -> Rollout:
        if self.observation is None:
            self.reset()
        # Whatever fails on the way leaves episodes half played: the next rollout begins new ones.
        self.observation, last = None, self.observation
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        memory = None if self.state is None else _MemoryTrace(self, keep_finals=not next_step)
        rows = len(first_leaf(self._storage))
        rewards = np.empty((num_steps, self.num_envs), np.float32)
        terminated = np.empty((num_steps, self.num_envs), bool)
        truncated = np.empty((num_steps, self.num_envs), bool)
        actions: list[np.ndarray] = []
        finals: list[Tree] = []
        final_index: list[tuple[int, int]] = []
        put(self._storage, 0, last)
        for t in range(num_steps):
            if t + 1 == rows:
                rows = self._grow(num_steps + 1)
            seen = take(self._storage, t)
            action = act(seen) if memory is None else memory.act(act, seen, t)
            actions.append(action)
            observation, rewards[t], terminated[t], truncated[t], infos = self._step(self.to_environment(action))
            done = terminated[t] | truncated[t]
            if done.any():
                if next_step:
                    observation = allow_all(observation, done)
                else:
                    final, observation = self._finish_episodes(done, observation, infos)
                    finals.append(final)
                    final_index += [(t, int(n)) for n in np.flatnonzero(done)]
            if memory is not None:
                # In NEXT_STEP mode an episode's first observation comes out of the step that only resets.
                memory.after(done, (terminated[t - 1] | truncated[t - 1] if t else self.done) if next_step else done)
            put(self._storage, t + 1, observation)
            if stop is not None and stop(t, done):
                break
        end = t + 1
        observations = map_tree(lambda leaf: leaf[: end + 1], self._storage)
        rewards, terminated, truncated = rewards[:end], terminated[:end], truncated[:end]
        final = concatenate(*finals) if finals else map_tree(lambda leaf: leaf[0, :0], observations)
        for what, tree in (("an observation", observations), ("an observation", final), ("a reward", rewards)):
            for array in tree_leaves(tree):
                self._check_finite(what, array)
        self.observation = map_tree(lambda leaf: leaf[-1].copy(), observations)

        done = terminated | truncated
        valid = np.ones_like(done)
        if next_step:
            valid[0], valid[1:] = ~self.done, ~done[:-1]
        self.done = done[-1]
        index = np.array(final_index, dtype=np.int64).reshape(-1, 2)
        bootstrap = (None, None) if memory is None else memory.finish()
        return Rollout(
            observations,
            np.stack(actions),
            rewards,
            terminated,
            truncated,
            valid,
            final,
            (index[:, 0], index[:, 1]),
            *bootstrap,
        )

    def _reset(self, **arguments: Any) -> Tree:
        try:
            return self._stored(self.env.reset(**arguments)[0])
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(f"the environment failed in reset(): {type(error).__name__}: {error}") from error

    def _step(self, actions: np.ndarray) -> tuple[Any, ...]:
        try:
            observation, *rest = self.env.step(actions)
            return self._stored(observation), *rest
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(f"the environment failed in step(): {type(error).__name__}: {error}") from error

    def _finish_episodes(self, done: np.ndarray, observation: Tree, infos: dict[str, Any]) -> tuple[Tree, Tree]:
        """Last observations of the episodes that ended, and the observations to go on from."""
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            finals = [infos["final_obs"][n] for n in np.flatnonzero(done)]
            return stack_observations(self.env.single_observation_space, finals), observation
        final = map_tree(lambda leaf: leaf[done].copy(), observation)
        return final, self._reset(options={"reset_mask": done})

    def _check_finite(self, what: str, array: np.ndarray) -> None:
        # A sum is finite only if every term is: one pass, no temporary.
        if array.dtype.kind == "f" and not np.isfinite(array.sum()) and not np.isfinite(array).all():
            raise TrainingError(f"the environment returned {what} that is not a finite number; mend it and resume")

    def _grow(self, most: int) -> int:
        """Double the storage, up to `most` rows: how long whole episodes take is not known in advance."""
        rows = len(first_leaf(self._storage))
        larger = empty_batch(self.env.single_observation_space, min(most, max(2 * rows, FIRST_ROWS)), self.num_envs)
        map_tree(lambda new, old: np.copyto(new[:rows], old), larger, self._storage)
        self._storage = larger
        return len(first_leaf(larger))


def put(storage: Tree, t: int, observation: Tree) -> None:
    """Write a batch of observations into row t."""
    if isinstance(storage, np.ndarray):  # One array, nearly always: every step comes through here.
        storage[t] = observation
    else:
        map_tree(lambda to, leaf: to.__setitem__(t, leaf), storage, observation)


def take(storage: Tree, t: int) -> Tree:
    """Row t."""
    return storage[t] if isinstance(storage, np.ndarray) else map_tree(lambda leaf: leaf[t], storage)


class _MemoryTrace:
    """What a rollout needs to know of the policy's states: those where sequences begin, and those to bootstrap from.

    Args:
        collector: Whose state it follows.
        keep_finals: Whether final observations are no rows of the rollout, and their states are wanted.
    """

    def __init__(self, collector: RolloutCollector, keep_finals: bool) -> None:
        self.collector = collector
        self.keep_finals = keep_finals
        self.age = np.full(collector.num_envs, collector.sequence_length)  # A rollout begins with a cut.
        self.cuts: list[tuple[np.ndarray, np.ndarray, Tree]] = []
        self.final_states: list[Tree] = []

    def act(self, act: Actor, observation: Tree, t: int) -> np.ndarray:
        """Actions; the collector's state is the one after them."""
        collector = self.collector
        if collector.starts.any():
            collector.state = forget(collector.state, collector.starts)
        cut = np.flatnonzero(collector.starts | (self.age == collector.sequence_length))
        if len(cut):
            self.cuts.append((np.full(len(cut), t), cut, map_tree(lambda leaf: leaf[cut], collector.state)))
            self.age[cut] = 0
        self.age += 1
        action, collector.state = act(observation, collector.state)
        return action

    def after(self, done: np.ndarray, starts: np.ndarray) -> None:
        """After a step: where episodes ended, and where the next observation is a first one."""
        if self.keep_finals and done.any():
            self.final_states.append(map_tree(lambda leaf: leaf[done], self.collector.state))
        self.collector.starts = starts

    def finish(self) -> tuple[Cuts, Tree]:
        """All cuts, and the states to bootstrap from: those of row T and of final observations."""
        times, envs, states = zip(*self.cuts, strict=True)
        last = forget(self.collector.state, self.collector.starts)
        bootstrap = concatenate(last, *self.final_states)
        return Cuts(np.concatenate(times), np.concatenate(envs), concatenate(*states)), bootstrap
