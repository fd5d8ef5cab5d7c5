"""How much faster the batched environments are than Gymnasium's SyncVectorEnv, and what several processes cost.

Both are stepped in turn in one process with the same random actions; only `step` is timed, and the median over the
rounds is reported. Run it with OMP_NUM_THREADS=1 on an idle machine:

    python benchmarks/envs.py [--rounds 9] [--json benchmarks/results/envs.json]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from rich.console import Console
from rich.table import Table

from rltool.envs import ParallelVectorEnv, Replay, make_vector_env

ENV_IDS = ("Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
NUM_ENVS = (8, 64)
INFOS = {name: np.float64(1) for name in ("x_position", "x_velocity", "z_distance", "reward_forward", "reward_ctrl")}


class Idle(gym.Env):
    """An environment whose step takes no time, with as many infos as MuJoCo's: what remains is the cost of stepping."""

    observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Return zeros."""
        return np.zeros(8, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Return zeros."""
        return np.zeros(8, np.float32), 0.0, False, False, INFOS


def seconds_per_step(env: VectorEnv[Any, Any, Any], actions: list[Any]) -> float:
    """The mean duration of a step over the given batches of actions."""
    start = time.perf_counter()
    for batch in actions:
        env.step(batch)
    return (time.perf_counter() - start) / len(actions)


def compare(env_id: str, num_envs: int, rounds: int) -> dict[str, Any]:
    """Time the batched environment and SyncVectorEnv in turn.

    Args:
        env_id: an id that has a batched form.
        num_envs: number of environments in both.
        rounds: timings of each; the medians are returned.

    Returns:
        microseconds per step of all environments by either, and their ratio.
    """
    batched = make_vector_env(env_id, num_envs, seed=0, vectorization="vector")
    sync = SyncVectorEnv([lambda: Replay(gym.make(env_id))] * num_envs)
    sync.reset(seed=0)
    actions = [batched.action_space.sample() for _ in range(1000)]
    few = actions[: max(6400 // num_envs, 100)]
    seconds_per_step(batched, actions), seconds_per_step(sync, few)  # warm up
    times = [(seconds_per_step(batched, actions), seconds_per_step(sync, few)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "env_id": env_id,
        "num_envs": num_envs,
        "batched_us": 1e6 * ours,
        "sync_us": 1e6 * theirs,
        "ratio": theirs / ours,
    }


def overheads(num_envs: int, rounds: int) -> dict[str, float]:
    """What a step in two processes takes beyond half of what one in one process takes.

    Args:
        num_envs: number of environments.
        rounds: timings of each; the medians are compared.

    Returns:
        microseconds per step of all environments, without infos and with them.
    """
    taken = {}
    for processes, infos in itertools.product((1, 2), (False, True)):
        with contextlib.closing(ParallelVectorEnv([Idle] * num_envs, processes, infos=infos)) as env:
            env.reset(seed=0)
            env.action_space.seed(0)
            actions = [env.action_space.sample() for _ in range(200)]
            taken[processes, infos] = statistics.median(seconds_per_step(env, actions) for _ in range(rounds))
    over = {infos: 1e6 * (taken[2, infos] - taken[1, infos] / 2) for infos in (False, True)}
    return {"without_infos_us": over[False], "with_infos_us": over[True]}


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "envs.json")
    arguments = parser.parse_args()

    rows = [compare(env_id, num_envs, arguments.rounds) for env_id in ENV_IDS for num_envs in NUM_ENVS]
    extra = {num_envs: overheads(num_envs, arguments.rounds) for num_envs in (2, 8, 16)}

    table = Table("environment", "num_envs", "batched [us/step]", "SyncVectorEnv [us/step]", "ratio")
    for row in rows:
        numbers = f"{row['batched_us']:.1f}", f"{row['sync_us']:.0f}", f"{row['ratio']:.1f}"
        table.add_row(row["env_id"], str(row["num_envs"]), *numbers)
    console = Console()
    console.print(table)
    for num_envs, cost in extra.items():
        text = f"{cost['without_infos_us']:.0f} us, and with infos {cost['with_infos_us']:.0f} us"
        console.print(f"A worker's cost in each step of {num_envs} environments: {text}")

    versions = {"python": platform.python_version(), "numpy": np.__version__, "gymnasium": gym.__version__}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"versions": versions, "envs": rows, "overheads": extra}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
