"""How many timesteps PPO needs with each way of exploring, where rewards are rare.

Every way has the same options but its own; nothing is tuned for an environment. A run is solved when the mean return of
100 deterministic episodes reaches the mark, and that of 100 others, too; it then ends. Results go to
benchmarks/results/exploration.json and the table into docs/exploration.md:

    python benchmarks/exploration.py [--seeds 5] [--jobs 1] [--ways icm rnd] [--envs MountainCar-v0]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import rltool
from rltool import evaluate
from rltool.agents import PPO

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "exploration.md"
START, END = "<!-- table -->", "<!-- end of table -->"
OPTIONS: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 128,
    "batch_size": 256,
    "num_epochs": 4,
    "learning_rate": 1e-3,
    "normalize_returns": True,
}
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "entropy": {"ent_coef": 0.01},
    "rnd": {"rnd": True},
    "slow rnd": {"rnd": True, "rnd_learning_rate": 1e-4},
    "icm": {"icm": True},
}
MARKS = {"MountainCar-v0": -130.0, "rltool/KeyDoor-v0": 0.9}
BUDGET = 1_000_000
EVAL_FREQ = 20_480  # Timesteps; ten rollouts.
EPISODES = 100


def train(env_id: str, way: str, seed: int) -> dict[str, Any]:
    """One run: timesteps until the mark was reached (None: not within the budget), and the best mean return."""
    torch.set_num_threads(1)
    agent = PPO(env_id, seed=seed, **OPTIONS, **WAYS[way])
    row: dict[str, Any] = {"env_id": env_id, "way": way, "seed": seed, "solved_at": None, "best_return": -np.inf}

    def check(agent: Any, metrics: Any) -> bool:
        if agent.timesteps % EVAL_FREQ == 0 or agent.timesteps >= BUDGET:
            result = evaluate(agent, env_id, EPISODES, seed=10_000 + seed).mean_return
            if result >= MARKS[env_id]:  # By luck? Once more, with other episodes.
                result = evaluate(agent, env_id, EPISODES, seed=20_000 + seed).mean_return
                if result >= MARKS[env_id]:
                    row["solved_at"] = agent.timesteps
            row["best_return"] = max(row["best_return"], result)
        return row["solved_at"] is None

    agent.learn(BUDGET, check)
    print(row, flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each environment and way, seeds solved, timesteps until then, and returns."""
    lines = [
        "| environment | exploration | solved | timesteps until then: median (range) | return: worst to best seed |"
    ]
    lines.append("|---|---|---|---|---|")
    for env_id, way in product(MARKS, WAYS):
        mine = [row for row in rows if (row["env_id"], row["way"]) == (env_id, way)]
        if not mine:
            continue
        times = [row["solved_at"] for row in mine if row["solved_at"] is not None]
        shown = f"{statistics.median(times):,.0f} ({min(times):,} to {max(times):,})" if times else "-"
        returns = [row["best_return"] for row in mine]
        flags = " ".join(f"--{k.replace('_', '-')}{'' if v is True else f' {v}'}" for k, v in WAYS[way].items())
        name = f"`{flags}`" if flags else "none"
        lines.append(
            f"| {env_id} | {name} | {len(times)} of {len(mine)} | {shown} | {min(returns):.2f} to {max(returns):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train, write the numbers and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--envs", nargs="+", choices=list(MARKS), default=list(MARKS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "exploration.json")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()

    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    jobs = [(e, w, s) for e in arguments.envs for w in arguments.ways for s in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for new in pool.map(train, *zip(*jobs, strict=True)):
            rows = [row for row in rows if not all(row[key] == new[key] for key in ("env_id", "way", "seed"))]
            rows = sorted([*rows, new], key=lambda row: (row["env_id"], row["way"], row["seed"]))
            write(rows, arguments.out, arguments.page)
    print(table(rows))


def write(rows: list[dict[str, Any]], out: Path, page: Path) -> None:
    """Keep the numbers, and put the table into the page."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gym.__version__,
        "rltool": rltool.__version__,
    }
    result = {"versions": versions, "options": OPTIONS, "ways": WAYS, "budget": BUDGET, "marks": MARKS, "rows": rows}
    out.write_text(json.dumps(result, indent=2) + "\n")
    if page.exists():
        head, _, rest = page.read_text().partition(START)
        page.write_text(f"{head}{START}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
