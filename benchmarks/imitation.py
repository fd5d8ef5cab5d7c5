"""Learning from ten demonstrations: how much of the way from random to the demonstrator each method goes.

    python benchmarks/imitation.py [scores|single|rewards|peer|all] [--seeds 5] [--runs gail:CartPole-v1 ...]

`scores`: (return - random) / (demonstrator - random) of bc, dagger, gail and airl, over 100 deterministic episodes that
none of them has seen; `demonstrator` is the mean return of whoever made the demonstrations, over 200 others.
`single`: the same of bc on CartPole, from each of the demonstrations alone.
`rewards`: the same of a fresh PPO that is trained on the reward which airl recovered, and on nothing else.
`peer`: bc, gail and airl beside those of `imitation`, from the same demonstrations, for as many timesteps, in turn. It
wants an environment of its own, whose Python `--peer` names:

    python -m venv peer && peer/bin/pip install imitation "numpy<2" "setuptools<80" torch==2.13.0

Demonstrators are trained with their presets, into FOLDER/experts (`--work FOLDER`), if they are not there yet. Results
go into `benchmarks/results/imitation-PART.json` and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from publishing import ROOT, Row, publish, report
from rl import EVALUATION_SEED

ENVS = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "LunarLander-v3"]
METHODS = ["bc", "dagger", "gail", "airl"]
CASES = [*itertools.product(ENVS, METHODS), ("Hopper-v5", "bc"), ("Hopper-v5", "gail")]
# What `imitation` reports for its MuJoCo tasks, as interquartile means over ten seeds with ten million timesteps.
PEER = {"bc": "0.94", "dagger": "1.00", "gail": "0.957", "airl": "0.918"}
DEMONSTRATIONS = 10
# Budgets; where none stands here, the preset's or the default.
TIMESTEPS = {
    "gail:CartPole-v1": 200_000,
    "airl:CartPole-v1": 200_000,
    "gail:Acrobot-v1": 300_000,
    "airl:Acrobot-v1": 300_000,
    "gail:MountainCar-v0": 300_000,
    "airl:MountainCar-v0": 300_000,
    "gail:Hopper-v5": 1_000_000,
}


def rltool(*words: object) -> dict[str, Any]:
    """What a verb prints with --json."""
    command = [sys.executable, "-m", "rltool", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def prepare(env: str, work: Path) -> tuple[Path, Path, float, float]:
    """The demonstrator's run, its demonstrations, its mean return over other episodes, and that of random ones."""
    expert, demos, random = work / "experts" / env, work / f"{env}.npz", work / f"{env}-random.npz"
    if not expert.exists():
        rltool("train", "ppo", env, "--run-dir", work / "experts", "--name", env, "--quiet")
    if not demos.exists():
        rltool("record", expert, "--episodes", DEMONSTRATIONS, "--seed", 7, "--out", demos)
    if not random.exists():
        rltool("record", "--random", env, "--episodes", 100, "--out", random)
    played = rltool("eval", expert, "--episodes", 200, "--seed", EVALUATION_SEED)
    return expert, demos, played["mean_return"], rltool("demos", random, "--env", env)["return"]["mean"]


def train(method: str, env: str, folder: str, seed: int, *options: object) -> dict[str, Any]:
    """The summary of a run, and its mean return over 100 episodes."""
    where = ["--run-dir", folder, "--name", f"{method}-{seed}", "--seed", seed, "--save-freq", 0]
    summary = rltool("train", method, env, *where, *options)
    played = rltool("eval", summary["run"], "--episodes", 100, "--seed", EVALUATION_SEED + seed)
    return {
        "seed": seed,
        "run": summary["run"],
        "mean_return": played["mean_return"],
        **{name: summary[name] for name in ("seconds", "total_timesteps")},
    }


def cells(measured: list[dict[str, Any]]) -> dict[str, str]:
    """The interquartile mean with its 95% interval, the extremes, and what it cost."""
    import numpy as np

    from rltool.training.statistics import bootstrap_interval, iqm

    scores = np.array([m["figure"] for m in measured])
    low, high = bootstrap_interval(scores, iqm)
    return {
        "score (IQM)": f"{iqm(scores):.2f} ({low:.2f} to {high:.2f})",
        "worst and best seed": f"{scores.min():.2f}, {scores.max():.2f}",
        "timesteps": f"{max(m['total_timesteps'] for m in measured):,}",
        "seconds": f"{np.median([m['seconds'] for m in measured]):.0f}",
    }


def options_of(method: str, env: str, expert: Path, demos: Path) -> list[object]:
    """What a method learns from, and for how long."""
    options: list[object] = ["--expert", expert] if method == "dagger" else ["--demos", demos]
    options += ["--no-controls"] if method in ("gail", "airl") else []
    budget = TIMESTEPS.get(f"{method}:{env}")
    return [*options, "-n", budget, "--eval-freq", budget] if budget else options


def scores(args: argparse.Namespace) -> Iterator[Row]:
    """Scores of each method in each environment."""
    for env, method in CASES:
        if args.runs and f"{method}:{env}" not in args.runs:
            continue
        expert, demos, demonstrator, random = prepare(env, args.work)
        with tempfile.TemporaryDirectory() as folder:
            options = options_of(method, env, expert, demos)
            measured = [train(method, env, folder, seed, *options) for seed in range(args.seeds)]
        for m in measured:
            m["figure"] = (m["mean_return"] - random) / (demonstrator - random)
            print(f"{method} {env}", m, flush=True)
        yield f"{method}, {env}", {"rltool": measured}, {**cells(measured), "`imitation`, MuJoCo": PEER[method]}


def single(args: argparse.Namespace) -> Iterator[Row]:
    """Scores of behavior cloning from one demonstration, each of the ten in turn."""
    from rltool.envs import load_demonstrations
    from rltool.envs.demonstration_files import save_demonstrations

    env = "CartPole-v1"
    _, demos, demonstrator, random = prepare(env, args.work)
    everything = load_demonstrations(demos)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(DEMONSTRATIONS):
            one = save_demonstrations(Path(folder) / f"{number}.npz", everything.select([number]))
            m = train("bc", env, folder, number, "--demos", one)
            measured.append(m | {"figure": (m["mean_return"] - random) / (demonstrator - random)})
            print(f"bc {env}, one demonstration", measured[-1], flush=True)
    yield f"bc, {env}, one demonstration", {"rltool": measured}, cells(measured)


def rewards(args: argparse.Namespace) -> Iterator[Row]:
    """Scores of fresh agents on recovered rewards."""
    for env in ("CartPole-v1", "Pendulum-v1"):
        if args.runs and f"airl:{env}" not in args.runs:
            continue
        expert, demos, demonstrator, random = prepare(env, args.work)
        measured = []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(args.seeds):
                first = train("airl", env, folder, seed, *options_of("airl", env, expert, demos))
                m = train("ppo", env, folder, seed, "--reward", first["run"])
                measured.append(m | {"figure": (m["mean_return"] - random) / (demonstrator - random)})
                print(f"ppo on airl's reward, {env}", measured[-1], flush=True)
        yield f"ppo on airl's reward, {env}", {"rltool": measured}, cells(measured)


def peer(args: argparse.Namespace) -> Iterator[Row]:
    """Scores and seconds beside those of `imitation`."""
    import numpy as np

    from rltool.training.statistics import iqm

    if args.peer is None:
        print("peer: left out; --peer names a Python that has imitation")
        return
    script = Path(__file__).parent / "peers" / "adversarial_imitation.py"
    for env, method in itertools.product(("CartPole-v1", "Pendulum-v1"), ("bc", "gail", "airl")):
        if args.runs and f"{method}:{env}" not in args.runs:
            continue
        expert, demos, demonstrator, random = prepare(env, args.work)
        sides: dict[str, list[dict[str, Any]]] = {"rltool": [], "imitation": []}
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(args.seeds):
                mine = train(method, env, folder, seed, *options_of(method, env, expert, demos))
                command = [args.peer, script, method, env, demos, mine["total_timesteps"], seed, EVALUATION_SEED + seed]
                done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
                sides["rltool"].append(mine)
                sides["imitation"].append(json.loads(done.stdout.splitlines()[-1]) | {"seed": seed})
        row = {}
        for side, measured in sides.items():
            for m in measured:
                m["figure"] = (m["mean_return"] - random) / (demonstrator - random)
                print(f"{side}: {method} {env}", m, flush=True)
            values = [m["figure"] for m in measured]
            row[f"{side}: score"] = f"{iqm(np.array(values)):.2f} ({min(values):.2f} to {max(values):.2f})"
        seconds = {side: statistics.median(m["seconds"] for m in measured) for side, measured in sides.items()}
        row |= {f"{side} [s]": f"{value:.0f}" for side, value in seconds.items()}
        row |= {"imitation / rltool": f"{seconds['imitation'] / seconds['rltool']:.1f}"}
        row |= {"timesteps": f"{max(m['total_timesteps'] for m in sides['rltool']):,}"}
        yield f"{method}, {env}", sides, row


PARTS = {"scores": scores, "single": single, "rewards": rewards, "peer": peer}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", nargs="+", metavar="METHOD:ENV", help="only these")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "imitation", help="folder of demonstrators")
    parser.add_argument("--peer", type=Path, help="Python that has `imitation`")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for part in PARTS if args.part == "all" else [args.part]:
        rows = []
        for row in PARTS[part](args):
            publish(part, row, args.out, args.page, script="imitation")
            rows.append(row)
        if rows:
            report(part, rows)


if __name__ == "__main__":
    main()
