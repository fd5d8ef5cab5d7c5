"""Runs that are killed at random moments and resumed, against runs that were not: they must not differ in a bit.

    python benchmarks/resume.py [--kills 100] [--cases ppo-cartpole ...]

Each case is trained once without a break. Then, over and over, the same command is started, killed (SIGKILL) after a
random time, and resumed until it is done, with kills on the way. Weights, the whole last checkpoint and all rows of
metrics but the clock's must be the same bytes. Writes `benchmarks/results/resume.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "resume.json"
OPTIONS = ["--preset", "none", "--eval-episodes", "4", "--log-freq", "500", "--quiet"]
CLOCK = ("time/time_elapsed", "time/fps")
CASES: dict[str, list[str]] = {
    "reinforce": ["reinforce", "CartPole-v1", "-n", "16000", "--credit", "value_baseline", "--save-freq", "1500"],
    "a2c": ["a2c", "Pendulum-v1", "-n", "16000", "--num-envs", "4", "--normalize-observations", "--save-freq", "1500"],
    "ppo": ["ppo", "CartPole-v1", "-n", "16384", "--num-envs", "8", "--num-steps", "32", "--save-freq", "2000",
            "--normalize-returns", "--learning-rate-schedule", "linear"],
    "ppo, gSDE": ["ppo", "Pendulum-v1", "-n", "12288", "--num-envs", "4", "--num-steps", "64", "--save-freq", "1500",
                  "--action-std", "gsde", "--sde-sample-freq", "4"],
    "ppo, lstm": ["ppo", "rltool/CartPoleNoVelocity-v1", "-n", "8192", "--num-envs", "8", "--num-steps", "64",
                  "--backbone", "lstm", "--save-freq", "1000"],
    "a2c, sync": ["a2c", "FrozenLake-v1", "-n", "8000", "--num-envs", "4", "--save-freq", "1000"],
    "a2c, sync, action masks": ["a2c", "Taxi-v4", "-n", "4000", "--num-envs", "4", "--save-freq", "600"],
    "ppo, async": ["ppo", "CartPole-v1", "-n", "4096", "--num-envs", "2", "--num-steps", "64", "--save-freq", "500",
                   "--env-arg", "vectorization=async"],
    "ppo, Box2D": ["ppo", "LunarLander-v3", "-n", "8192", "--num-envs", "4", "--num-steps", "128",
                   "--save-freq", "1000"],
    "a2c, MuJoCo": ["a2c", "Hopper-v5", "-n", "12000", "--num-envs", "4", "--save-freq", "1500",
                    "--normalize-observations"],
    "ppo, rnd": ["ppo", "MountainCar-v0", "-n", "12288", "--num-envs", "8", "--num-steps", "64", "--rnd",
                 "--save-freq", "1500"],
    "a2c, icm": ["a2c", "CartPole-v1", "-n", "6000", "--num-envs", "4", "--icm", "--save-freq", "800"],
}  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`rltool ARGUMENTS`, in the folder, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rltool", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
    """Wait for the process, or kill it and all its children after some seconds; returns whether it was killed."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} failed:\n{errors.decode()}")
    return False


def contents(run: Path) -> dict[str, Any]:
    """All that a run's files say, but for the clock."""
    from rltool.training.checkpoint import load_state

    state = load_state(sorted((run / "checkpoints").glob("*.safetensors"))[-1])
    state.values["recorder"].pop("elapsed")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{name: row[name] for name in row if name not in CLOCK} for row in csv.DictReader(file)]
    return {
        "model": (run / "model.safetensors").read_bytes(),
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()},
        "values": json.dumps(state.values, sort_keys=True),
        "metrics": rows,
    }


def try_case(name: str, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill and resume until there were `kills` kills; returns how many, and how many results were identical."""
    command = ["train", *CASES[name], *OPTIONS, "--name", "run"]
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    began = time.perf_counter()
    finish(start(folder, *command))
    whole = time.perf_counter() - began
    expected = contents(folder / "runs/run")
    killed, runs, identical, differing = 0, 0, 0, []
    while killed < kills:
        shutil.rmtree(folder / "runs")
        again = finish(start(folder, *command), rng.uniform(0.3, 1) * whole)
        while again:
            killed += 1
            there = (folder / "runs/run/config.json").exists()
            arguments = ["resume", "runs/run", "--quiet"] if there else command
            if not there:
                shutil.rmtree(folder / "runs", ignore_errors=True)
            again = finish(start(folder, *arguments), rng.uniform(0.3, 1.5) * whole if killed < kills else None)
        runs += 1
        found = contents(folder / "runs/run")
        differing += [part for part in expected if found[part] != expected[part]]
        identical += found == expected
    shutil.rmtree(folder)
    return {"kills": killed, "runs": runs, "identical": identical, "differing": differing}


def main() -> None:
    """Try the cases, write down and show what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of all cases together")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng, results = random.Random(options.seed), {}
    for index, name in enumerate(options.cases):
        kills = options.kills // len(options.cases) + (index < options.kills % len(options.cases))
        results[name] = try_case(name, kills, rng)
        print(f"{name}: {results[name]}", flush=True)
    total = {key: sum(result[key] for result in results.values()) for key in ("kills", "runs", "identical")}
    print(total)
    RESULTS.write_text(json.dumps({"total": total, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
