"""Sequence GANs beside their controls: what a discriminator's verdicts are worth.

    python benchmarks/seqgan.py [oracle|grammar|all] [--seeds 5] [--rows NAME ...]

Every run trains its own controls: maximum likelihood alone and a constant reward, for as many updates; and measures the
first one's generator again at the temperature at which the test data are as unlikely to it as to the sequence GAN's.
`oracle`: negative log-likelihood of 2,000 samples under the oracle, in nats a token. `grammar`: share of 2,000 samples
that the grammar accepts. Results go into `benchmarks/results/seqgan-PART.json` and `docs/benchmarks.md`.
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

from publishing import ROOT, Measurement, Row, publish, report, spread

SIDES = {"": "seqgan", "mle_": "likelihood", "constant_": "constant reward", "cold_": "likelihood, colder"}
# By row: the data, and the options that differ from the preset.
LARGE = ["--preset", "none", "--total-timesteps", "70000", "--pretraining", "45000"]
YU = ["--credit", "rollouts", "--reward", "probability", "--baseline", "none", "--discriminator-steps", "1"]
ORACLE: dict[str, tuple[str, list[str]]] = {
    "oracle, preset": ("oracle", []),
    "oracle, learned baseline": ("oracle", ["--baseline", "value"]),
    "oracle, 32 units": ("oracle", LARGE),
    "oracle, as Yu et al.": ("oracle", YU),
    "oracle-100, 32 units": ("oracle-100", LARGE),
}
# As the oracle's preset, for a generator that is too small for the grammar.
SMALL = ["--model-size", "6", "--embedding-size", "16", "--learning-rate", "3e-3", "--discriminator-pretraining", "250"]
SMALL += ["--discriminator-learning-rate", "5e-3", "--total-timesteps", "70000", "--pretraining", "45000"]
GRAMMAR: dict[str, tuple[str, list[str]]] = {"grammar, 6 units": ("grammar", SMALL), "grammar": ("grammar", [])}


def train(data: str, options: list[str], seed: int, folder: str) -> dict[str, Any]:
    """The summary of a run with its controls."""
    command = [sys.executable, "-m", "rltool", "train", "seqgan", data, "--seed", str(seed), "--run-dir", folder]
    done = subprocess.run([*command, "--name", f"s{seed}", *options, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr[-3000:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def measure(rows: dict[str, tuple[str, list[str]]], metric: str, sign: int, args: argparse.Namespace) -> Iterator[Row]:
    """A row for each variant: the metric of each side, and how often the sequence GAN is better than both controls."""
    for name, (data, options) in rows.items():
        if args.rows and name not in args.rows:
            continue
        sides: dict[str, list[Measurement]] = {side: [] for side in SIDES.values()}
        tests: dict[str, list[Measurement]] = {side: [] for side in SIDES.values()}
        seconds, wins = [], 0
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(args.seeds):
                summary = train(data, options, seed, folder)
                for prefix, side in SIDES.items():
                    shown = {k: summary.get(f"{prefix}{k}") for k in ("nll_test", "self_bleu", "bleu", "unique")}
                    sides[side].append({"seed": seed, "figure": summary[f"{prefix}{metric}"], **shown})
                    tests[side].append({"figure": summary.get(f"{prefix}nll_test")})
                seconds.append({"figure": summary["seconds"]})
                own, *controls = (sides[side][-1]["figure"] for side in ("seqgan", "likelihood", "constant reward"))
                wins += all(sign * (own - control) > 0 for control in controls)
                print(name, seed, {side: round(m[-1]["figure"], 4) for side, m in sides.items()}, flush=True)
        cells = {f"{metric}, {side}": spread(measured, 3) for side, measured in sides.items()}
        cells |= {"test data": f"{summary.get(f'real_{metric}'):.3f}", "better than both": f"{wins}/{args.seeds}"}
        cells |= {f"nll_test, {side}": spread(tests[side], 3) for side in ("seqgan", "likelihood")}
        yield name, sides, {**cells, "seconds": spread(seconds)}


PARTS = {"oracle": (ORACLE, "nll_oracle", -1), "grammar": (GRAMMAR, "grammatical", 1)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    for part in PARTS if args.part == "all" else [args.part]:
        rows = []
        for row in measure(*PARTS[part], args):
            publish(part, row, args.out, args.page, script="seqgan")
            rows.append(row)
        if rows:
            report(part, rows)


if __name__ == "__main__":
    main()
