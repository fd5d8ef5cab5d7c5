"""What a memory costs, and what it is good for.

    python benchmarks/backbones.py [cost|learn|all] [--seeds 3] [--backbones mlp lstm gru transformer]

`cost`: seconds that PPO takes on CartPole-v1 with each backbone at equal timesteps and options, against the mlp's.
`learn`: returns on CartPole without its velocities after 300,000 timesteps with default options: of the best evaluated
weights, over 100 deterministic episodes that neither training nor its evaluations have seen. Results go into
`benchmarks/results/backbones-PART.json` and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from publishing import ROOT, Row, publish, ratio, report, spread
from rl import EVALUATION_SEED

BACKBONES = ["mlp", "lstm", "gru", "transformer"]
OPTIONS = {
    "default options": ["--preset", "none"],
    "tuned options": [],
}


def train(env_id: str, backbone: str, seed: int, timesteps: int, *options: str, episodes: int = 0) -> dict[str, Any]:
    """The summary of a PPO run in a process of its own, and its returns over `episodes` episodes."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--run-dir", folder, "--name", "run"]
        command = [sys.executable, "-m", "rltool", "train", "ppo", env_id, "--backbone", backbone]
        command += ["-n", str(timesteps), "--seed", str(seed), "--json", *where, *options]
        summary = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if episodes:
            again = [sys.executable, "-m", "rltool", "eval", f"{folder}/run", "--json"]
            again += ["--episodes", str(episodes), "--seed", str(EVALUATION_SEED)]
            summary["figure"] = json.loads(subprocess.run(again, check=True, capture_output=True).stdout)["mean_return"]
        else:
            summary["figure"] = summary["seconds"]
        return {name: summary[name] for name in ("figure", "seconds", "total_timesteps", "peak_memory_mb")}


def cost(args: argparse.Namespace) -> Iterator[Row]:
    """Wall-clock at equal timesteps, backbones in turn."""
    for name, options in OPTIONS.items():
        measured: dict[str, list[dict[str, Any]]] = {backbone: [] for backbone in args.backbones}
        for seed in range(args.seeds):
            for backbone, measurements in measured.items():
                measurements.append(train("CartPole-v1", backbone, seed, 32_768, "--eval-freq", "0", *options))
        cells = {f"{backbone} [s]": spread(measurements, 1) for backbone, measurements in measured.items()}
        if "mlp" in measured:
            others = [backbone for backbone in measured if backbone != "mlp"]
            cells |= {f"{backbone} / mlp": ratio(measured[backbone], measured["mlp"]) for backbone in others}
        yield f"PPO, CartPole-v1, {name}", measured, cells


def learn(args: argparse.Namespace) -> Iterator[Row]:
    """Returns where a memory is needed."""
    for backbone in args.backbones:
        runs = [
            train("rltool/CartPoleNoVelocity-v1", backbone, seed, 300_000, episodes=100) for seed in range(args.seeds)
        ]
        returns = ", ".join(f"{run['figure']:.0f}" for run in runs)
        mean = sum(run["figure"] for run in runs) / len(runs)
        yield backbone, {"rltool": runs}, {"return of each seed": returns, "mean": f"{mean:.0f}"}


PARTS = {"cost": cost, "learn": learn}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    for part in PARTS if args.part == "all" else [args.part]:
        rows = []
        for row in PARTS[part](args):
            publish(part, row, args.out, args.page, script="backbones")
            rows.append(row)
        report(part, rows)


if __name__ == "__main__":
    main()
