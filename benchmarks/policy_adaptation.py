"""Policies in another look of their environment, or where it moves differently: `docs/adapting-policies.md`.

    python benchmarks/policy_adaptation.py looks while dynamics --seeds 5

Results go to `benchmarks/results/policy_adaptation.json`, one line for each seed to the screen. Everything is trained
with the options that `rltool train` uses; returns are means of 50 episodes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import rltool
from rltool.adaptation.transfer import adapt_run
from rltool.agents.evaluation import evaluate

FILE = Path(__file__).parent / "results" / "policy_adaptation.json"
GAME, LOOKS = "rltool/Catch-v0", ("inverted", "recoloured")
METHODS = ("dann",)
POLE, MOVES, RANGE = "CartPole-v1", "~gravityx1.5~polex2", "~gravityx0.5-2~polex0.5-3"


def mean_return(run: rltool.Run, env: str) -> float:
    """Of 50 episodes, of a seed that nothing was trained with."""
    return evaluate(run.agent, env, 50, seed=1_000).mean_return


def looks(seed: int, folder: str) -> list[dict]:
    """Afterwards: `METHODS` and AdaBN, beside an oracle, and a policy that has learned behind random filters."""
    train = {"seed": seed, "run_dir": folder}
    source, randomized = rltool.train("ppo", GAME, **train), rltool.train("ppo", f"{GAME}~random-conv", **train)
    normalized = rltool.train("ppo", GAME, batch_norm=True, backbone="mlp", **train)
    rows = []
    for look in LOOKS:
        target = f"{GAME}~{look}"
        row = {"target": target, "seed": seed, "oracle": mean_return(rltool.train("ppo", target, **train), target)}
        for method in METHODS:
            report = adapt_run(source, target, method=method, seed=seed, run_dir=folder)[1]
            row |= {"source": report.source.mean_return, "zero_shot": report.zero_shot.mean_return}
            row |= {method: report.adapted.mean_return, f"{method}_seconds": report.seconds}
        report = adapt_run(normalized, target, method="adabn", seed=seed, run_dir=folder)[1]
        row |= {"adabn_source": report.source.mean_return, "adabn": report.adapted.mean_return}
        rows.append(row | {"random_conv": mean_return(randomized, target)})
    return rows


def joint(seed: int, folder: str) -> list[dict]:
    """While learning: features of both looks alike."""
    rows = []
    for look in LOOKS:
        target = f"{GAME}~{look}"
        run = rltool.train("ppo", GAME, adapt="dann", target=target, seed=seed, run_dir=folder)
        rows.append({"target": target, "seed": seed, "joint_dann": mean_return(run, target)})
        rows[-1] |= {"joint_dann_source": mean_return(run, GAME), "seconds": run.summary["seconds"]}
    return rows


def dynamics(seed: int, folder: str) -> list[dict]:
    """A longer pole under more gravity: as it was, after training on a range of both, and trained there."""
    names = {"zero_shot": POLE, "randomized": POLE + RANGE, "oracle": POLE + MOVES}
    runs = {name: rltool.train("ppo", env, seed=seed, run_dir=folder) for name, env in names.items()}
    row = {name: mean_return(run, POLE + MOVES) for name, run in runs.items()}
    return [{"target": POLE + MOVES, "seed": seed, "source": mean_return(runs["zero_shot"], POLE), **row}]


PARTS = {"looks": looks, "while": joint, "dynamics": dynamics}


def main() -> None:
    """Measure, and print means and deviations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows: list[dict] = []
    for part in arguments.parts:
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                for row in PARTS[part](seed, folder):
                    rows.append({"part": part, **row})
                    print(rows[-1], flush=True)
    kept = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [row for row in kept if row["part"] not in arguments.parts]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(kept + rows, indent=1) + "\n")
    for part, target in dict.fromkeys((row["part"], row["target"]) for row in rows):
        mine = [row for row in rows if (row["part"], row["target"]) == (part, target)]
        for name in mine[0]:
            if name not in ("part", "target", "seed"):
                values = np.array([row[name] for row in mine])
                print(f"{part} {target} {name}: {values.mean():.2f} ± {values.std():.2f}, least {values.min():.2f}")


if __name__ == "__main__":
    main()
