"""Collecting experience: a policy acts in a vector environment, and what happens is written into `(T, N, ...)` arrays.

All three autoreset modes of Gymnasium come out the same: `valid` leaves out the steps that only reset, and
`next_values` gives each step the value of its true successor, also where an episode was truncated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rltool.errors import TrainingError

FIRST_ROWS = 2_049  # of storage: a long rollout of one environment

Actor = Callable[[np.ndarray], np.ndarray]


@dataclass
class Rollout:
    """Experience of N environments over T timesteps.

    Attributes:
        observations: `(T + 1, N, ...)`; row t is what the policy saw at t, row T follows the last step.
        actions: `(T, N, ...)`, as the policy gave them (not clipped).
        rewards: `(T, N)`.
        terminated: `(T, N)`; the episode ended for good.
        truncated: `(T, N)`; the episode was cut off, and its future still counts.
        valid: `(T, N)`; False where the step only reset the environment.
        final_observations: `(K, ...)`; last observations of episodes after which row t + 1 is already a new one.
        final_index: The K (t, n) pairs they belong to, as two index arrays.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    final_observations: np.ndarray
    final_index: tuple[np.ndarray, np.ndarray]

    @property
    def done(self) -> np.ndarray:
        """Whether the episode ended at a step, `(T, N)`."""
        return self.terminated | self.truncated

    @property
    def bootstrap_observations(self) -> np.ndarray:
        """`(N + K, ...)`: observations beyond the rows 0..T-1 whose values `next_values` needs."""
        last = self.observations[-1]
        return np.concatenate((last, self.final_observations)) if len(self.final_observations) else last

    def next_values(self, values: np.ndarray, bootstrap: np.ndarray) -> np.ndarray:
        """Value of each step's successor, `(T, N)`.

        Args:
            values: Values of rows 0..T-1, `(T, N)`.
            bootstrap: Values of `bootstrap_observations`, `(N + K,)`.
        """
        n = values.shape[1]
        successors = np.concatenate((values[1:], bootstrap[None, :n]))
        if len(self.final_observations):
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


def empty_like_space(space: gym.Space, *leading: int) -> np.ndarray:
    """Uninitialized storage for elements of a space, `(*leading, *space.shape)`; float64 is kept as float32."""
    dtype = np.float32 if space.dtype == np.float64 else space.dtype
    return np.empty((*leading, *(space.shape or ())), dtype)


class RolloutCollector:
    """Steps a vector environment and keeps what must survive from one rollout to the next.

    Args:
        env: Any Gymnasium vector environment, in any autoreset mode.
        to_environment: Maps a policy's actions to the environment's (see `environment_actions`).
    """

    def __init__(self, env: VectorEnv, to_environment: Callable[[np.ndarray], np.ndarray]) -> None:
        self.env = env
        self.to_environment = to_environment
        self.num_envs = env.num_envs
        self.autoreset_mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.observation: np.ndarray | None = None
        self.done = np.zeros(self.num_envs, dtype=bool)
        self.statistics = EpisodeStatistics(np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.int64))
        self._storage = empty_like_space(env.single_observation_space, 1, self.num_envs)

    def reset(self, seed: int | None = None) -> None:
        """Begin a new episode in every environment."""
        self.observation = self._reset(seed=seed)
        self.done[:] = False
        self.statistics.running_returns[:] = 0
        self.statistics.running_lengths[:] = 0

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
        observations = self._storage
        rewards = np.empty((num_steps, self.num_envs), np.float32)
        terminated = np.empty((num_steps, self.num_envs), bool)
        truncated = np.empty((num_steps, self.num_envs), bool)
        actions: list[np.ndarray] = []
        final_observations: list[np.ndarray] = []
        final_index: list[tuple[int, int]] = []
        observations[0] = last
        for t in range(num_steps):
            if t + 1 == len(observations):
                observations = self._grow(num_steps + 1)
            action = act(observations[t])
            actions.append(action)
            observation, rewards[t], terminated[t], truncated[t], infos = self._step(self.to_environment(action))
            if not next_step and (done := terminated[t] | truncated[t]).any():
                final, observation = self._finish_episodes(done, observation, infos)
                final_observations.append(final)
                final_index += [(t, int(n)) for n in np.flatnonzero(done)]
            observations[t + 1] = observation
            if stop is not None and stop(t, terminated[t] | truncated[t]):
                break
        end = t + 1
        observations, rewards = observations[: end + 1], rewards[:end]
        terminated, truncated = terminated[:end], truncated[:end]
        final = np.concatenate(final_observations) if final_observations else observations[0, :0]
        for what, array in (("an observation", observations), ("an observation", final), ("a reward", rewards)):
            self._check_finite(what, array)
        self.observation = observations[-1].copy()

        done = terminated | truncated
        valid = np.ones_like(done)
        if next_step:
            valid[0], valid[1:] = ~self.done, ~done[:-1]
        self.done = done[-1]
        index = np.array(final_index, dtype=np.int64).reshape(-1, 2)
        return Rollout(
            observations,
            np.stack(actions),
            rewards,
            terminated,
            truncated,
            valid,
            final,
            (index[:, 0], index[:, 1]),
        )

    def _reset(self, **arguments: Any) -> np.ndarray:
        try:
            return self.env.reset(**arguments)[0]
        except Exception as error:
            raise TrainingError(f"the environment failed in reset(): {type(error).__name__}: {error}") from error

    def _step(self, actions: np.ndarray) -> tuple[Any, ...]:
        try:
            return self.env.step(actions)
        except Exception as error:
            raise TrainingError(f"the environment failed in step(): {type(error).__name__}: {error}") from error

    def _finish_episodes(
        self, done: np.ndarray, observation: np.ndarray, infos: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Last observations of the episodes that ended, and the observations to go on from."""
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return np.stack([infos["final_obs"][n] for n in np.flatnonzero(done)]), observation
        final = observation[done].copy()
        return final, self._reset(options={"reset_mask": done})

    def _check_finite(self, what: str, array: np.ndarray) -> None:
        # A sum is finite only if every term is: one pass, no temporary.
        if array.dtype.kind == "f" and not np.isfinite(array.sum()) and not np.isfinite(array).all():
            raise TrainingError(f"the environment returned {what} that is not a finite number; mend it and resume")

    def _grow(self, most: int) -> np.ndarray:
        """Double the storage, up to `most` rows: how long whole episodes take is not known in advance."""
        space, rows = self.env.single_observation_space, len(self._storage)
        larger = empty_like_space(space, min(most, max(2 * rows, FIRST_ROWS)), self.num_envs)
        larger[:rows] = self._storage
        self._storage = larger
        return larger
