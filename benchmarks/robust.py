"""Agents with and without hardening, each under the strongest of several attacks.

    python benchmarks/robust.py [--seeds 5] [--envs CartPole-v1 ...] [--kinds sa ...] [--episodes 50] [--processes 1]

Agents are trained with the presets, `rltool train ppo ENV` and `rltool train ppo ENV --robust KIND`, and attacked
within one epsilon: by noise, PGD on the margin, MAD, Robust-Sarsa, and two adversaries trained against that very agent,
one of them for 1,000,000 timesteps.
What counts is the lowest of the mean returns. Scores are normalized, (return - random) / (clean - random), where
`clean` is the median of the plain agents without an attack.

Runs lie in FOLDER; what has been trained there, or measured with as many episodes, is not again. Results go into
`benchmarks/results/robust-agents.json` and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from publishing import ROOT, Row, publish, report
from rl import EVALUATION_SEED

import rltool
from rltool.attacks import MAD, PGD, Attack, LearnedAdversary, RandomNoise, Sarsa, attack_agent


class Case(NamedTuple):
    """Where agents are attacked, in which ball, and the kinds of hardening that have a preset for it.

    Plain agents fall there, or begin to.
    """

    env: str
    epsilon: float
    unit: str
    kinds: tuple[str, ...]
    backbone: str = "mlp"
    plain_timesteps: int | None = None  # Where those of the preset do not suffice without hardening.

    @property
    def name(self) -> str:
        """As it stands in the table."""
        where = self.env if self.backbone == "mlp" else f"{self.env}, {self.backbone}"
        return where if self.unit == "raw" else f"{where} in units of {self.unit}"


CASES = (
    Case("CartPole-v1", 0.25, "1,1,0.1,0.5", ("persistent",)),
    Case("CartPole-v1", 0.25, "1,1,0.1,0.5", ("persistent",), "lstm", 500_000),
    Case("CartPole-v1", 0.07, "raw", ("sa",)),
    Case("Pendulum-v1", 0.15, "5,1,1", ("persistent",)),
    Case("InvertedPendulum-v5", 0.06, "raw", ("persistent",)),
    Case("Hopper-v5", 0.075, "std", ("persistent",)),
)
LONGER = 1_000_000  # Timesteps of the second adversary; the first has the default.


def train(case: Case, kind: str, seed: int, work: Path) -> rltool.Run:
    """A finished run; one that is there already is gone on with, where it stopped."""
    path = work / "-".join([case.env, *([case.backbone] if case.backbone != "mlp" else []), kind, str(seed)])
    if (path / "config.json").exists():
        run = rltool.resume(path)
    else:
        options: dict[str, Any] = {"backbone": case.backbone} | ({} if kind == "plain" else {"robust": kind})
        if kind == "plain" and case.plain_timesteps is not None:
            options["total_timesteps"] = case.plain_timesteps
        run = rltool.train("ppo", case.env, seed=seed, run_dir=str(work), name=path.name, save_freq=0, **options)
    if not run.summary["finished"]:
        raise SystemExit(f"{path} was stopped; start this again to go on")
    return run


def measure(seed: int, case: Case, kind: str, work: Path, episodes: int) -> dict[str, Any]:
    """The mean returns of one agent: without an attack, under each, and of random actions."""
    torch.set_num_threads(1)
    run = train(case, kind, seed, work)
    kept = run.path / f"attacked-{case.epsilon:g}-{case.unit}-{episodes}.json"
    ball: dict[str, Any] = {"epsilon": case.epsilon, "unit": case.unit}
    attacks: dict[str, Attack] = {
        "random": RandomNoise(**ball),
        "pgd": PGD(loss="margin", steps=10, **ball),
        "mad": MAD(**ball),
        "sarsa": Sarsa(**ball),
        "learned": LearnedAdversary(**ball),
        "longer": LearnedAdversary(total_timesteps=LONGER, **ball),
    }
    found = dict(json.loads(kept.read_text())) if kept.exists() else {}
    for name, attack in attacks.items():
        if name in found:
            continue
        played = attack_agent(run.agent, case.env, attack, episodes, EVALUATION_SEED + seed)
        found[name] = played.attacked.mean_return
        found |= {"clean": played.clean.mean_return, "actions_at_random": played.random.mean_return}
        kept.write_text(json.dumps(found))
    summary = {name: run.summary[name] for name in ("seconds", "total_timesteps")}
    return {"seed": seed, **found, "strongest": min(found[name] for name in attacks), **summary}


def cells(measured: list[dict[str, Any]], epsilon: float) -> dict[str, str]:
    """Medians over seeds."""

    def median(name: str) -> str:
        return f"{statistics.median(m[name] for m in measured):,.0f}"

    scores = [m["figure"] for m in measured]
    return {
        "epsilon": f"{epsilon:g}",
        "seeds": str(len(measured)),
        **{name: median(name) for name in ("clean", "random", "pgd", "mad", "sarsa", "learned", "longer")},
        "score without": f"{statistics.median(m['score_without'] for m in measured):.2f}",
        "score under the strongest": f"{statistics.median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})",
        "timesteps": f"{max(m['total_timesteps'] for m in measured):,}",
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--envs", nargs="+", default=[case.env for case in CASES], metavar="ENV", help="only these")
    parser.add_argument("--backbones", nargs="+", metavar="BACKBONE", help="only with these")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these, and plain")
    parser.add_argument("--episodes", type=int, default=50, help="of each attack")
    parser.add_argument("--processes", type=int, default=1, help="agents that are measured at a time")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "robust", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    rows: list[Row] = []
    for case in (case for case in CASES if case.env in args.envs):
        kinds = [kind for kind in case.kinds if args.kinds is None or kind in args.kinds]
        if not kinds or (args.backbones is not None and case.backbone not in args.backbones):
            continue
        clean = None
        for kind in ["plain", *kinds]:
            with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
                same = (case, kind, args.work, args.episodes)
                measured = list(pool.map(measure, range(args.seeds), *([each] * args.seeds for each in same)))
            print(kind, case.name, *measured, sep="\n", flush=True)
            if clean is None:
                clean = statistics.median(m["clean"] for m in measured)
            for m in measured:
                low = m["actions_at_random"]
                m["figure"] = (m["strongest"] - low) / (clean - low)
                m["score_without"] = (m["clean"] - low) / (clean - low)
            row: Row = (f"{case.name}, {kind}", {"rltool": measured}, cells(measured, case.epsilon))
            publish("agents", row, args.out, args.page, script="robust")
            rows.append(row)
    report("agents", rows)


if __name__ == "__main__":
    main()
