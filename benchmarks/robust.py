"""Agents with and without hardening, each under the strongest of several attacks.

    python benchmarks/robust.py [--seeds 5] [--envs CartPole-v1 ...] [--kinds plain sa ...] [--work FOLDER]

Agents are trained with the presets, `rltool train ppo ENV` and `rltool train ppo ENV --robust KIND`, and attacked
within the epsilon that the preset of the hardened one has: by noise, PGD on the margin, MAD, and an adversary trained
against that very agent. What counts is the lowest of the mean returns over 50 episodes. Scores are normalized,
(return - random) / (clean - random), where `clean` is the median of the plain agents without an attack.

Runs lie in FOLDER and are not trained again if they are there. Results go into `benchmarks/results/robust-agents.json`
and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from publishing import ROOT, Row, publish, report
from rl import EVALUATION_SEED

import rltool
from rltool.agents.presets import HARDENED
from rltool.attacks import MAD, PGD, LearnedAdversary, RandomNoise, attack_agent

ENVS = ["CartPole-v1", "Pendulum-v1", "InvertedPendulum-v5"]
EPISODES = 50


def train(env: str, kind: str, seed: int, work: Path) -> rltool.Run:
    """A finished run, perhaps from before."""
    name = f"{env}-{kind}-{seed}"
    if (work / name / "summary.json").exists():
        return rltool.load(work / name)
    options = {} if kind == "plain" else {"robust": kind}
    return rltool.train("ppo", env, seed=seed, run_dir=str(work), name=name, save_freq=0, **options)


def measure(env: str, kind: str, seed: int, preset: dict[str, Any], work: Path) -> dict[str, Any]:
    """The mean returns of one agent: without an attack, under each, and of random actions."""
    run = train(env, kind, seed, work)
    ball = {"epsilon": preset["epsilon"], "unit": preset.get("epsilon_unit", "raw")}
    attacks = {
        "random": RandomNoise(**ball),
        "pgd": PGD(loss="margin", steps=10, **ball),
        "mad": MAD(**ball),
        "learned": LearnedAdversary(seed=seed, **ball),
    }
    played = {
        name: attack_agent(run.agent, env, attack, EPISODES, EVALUATION_SEED + seed) for name, attack in attacks.items()
    }
    first = played["random"]
    returns = {name: each.attacked.mean_return for name, each in played.items()}
    return {
        "seed": seed,
        "clean": first.clean.mean_return,
        "actions_at_random": first.random.mean_return,
        **returns,
        "strongest": min(returns.values()),
        "seconds": run.summary["seconds"],
        "total_timesteps": run.summary["total_timesteps"],
    }


def cells(measured: list[dict[str, Any]], epsilon: str) -> dict[str, str]:
    """Medians over seeds."""

    def median(name: str) -> str:
        return f"{statistics.median(m[name] for m in measured):,.0f}"

    scores = [m["figure"] for m in measured]
    return {
        "epsilon": epsilon,
        "seeds": str(len(measured)),
        **{name: median(name) for name in ("clean", "random", "pgd", "mad", "learned")},
        "score without": f"{statistics.median(m['score_without'] for m in measured):.2f}",
        "score under the strongest": f"{statistics.median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})",
        "timesteps": f"{max(m['total_timesteps'] for m in measured):,}",
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--envs", nargs="+", default=ENVS, metavar="ENV", help="only these")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these, and plain")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "robust", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for env in args.envs:
        kinds = [kind for (_, kind), presets in HARDENED.items() if env in presets]
        kinds = [kind for kind in kinds if args.kinds is None or kind in args.kinds]
        presets = {kind: HARDENED["robust", kind][env] for kind in kinds}
        clean = None
        for kind in ["plain", *kinds]:
            preset = presets[kinds[0]] if kind == "plain" else presets[kind]
            measured = []
            for seed in range(args.seeds):
                measured.append(measure(env, kind, seed, preset, args.work))
                print(kind, env, measured[-1], flush=True)
            if clean is None:
                clean = statistics.median(m["clean"] for m in measured)
            for m in measured:
                low = m["actions_at_random"]
                m["figure"] = (m["strongest"] - low) / (clean - low)
                m["score_without"] = (m["clean"] - low) / (clean - low)
            unit = " std" if preset.get("epsilon_unit") == "std" else ""
            row: Row = (f"{env}, {kind}", {"rltool": measured}, cells(measured, f"{preset['epsilon']:g}{unit}"))
            publish("agents", row, args.out, args.page, script="robust")
            rows.append(row)
    report("agents", rows)


if __name__ == "__main__":
    main()
