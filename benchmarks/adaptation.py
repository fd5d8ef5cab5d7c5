"""Every method on the pairs that `docs/adapting.md` reports, several seeds each.

    python benchmarks/adaptation.py moons moved inverted open --seeds 5
    python benchmarks/adaptation.py usps-mnist mnist-usps --data FOLDER --seeds 5

FOLDER holds `mnist9k.npz` and `usps8k.npz`; without it, `mnist` and `usps` are fetched. Results go to
`benchmarks/results/adaptation.json`, one line for each training to the screen.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from rltool.adaptation.presets import PRESETS
from rltool.data.datasets import load_dataset
from rltool.training.methods import METHODS
from rltool.training.options import resolve_options

FILE = Path(__file__).parent / "results" / "adaptation.json"
PAIRS = {
    "moons": "moons:moons@40deg",
    "inverted": "digits:digits~inverted",
    "moved": "digits:digits~shifted~noisy",
    "usps-mnist": "usps:mnist",
    "mnist-usps": "mnist:usps",
    "open": "digits~0-5:digits~4-9~shifted~noisy",
}
METHODS_HERE = ["source-only", "target-oracle", "dann", "entropy", "dirt-t"]
OPEN_METHODS = ["source-only", "universal"]  # Of classes that the source lacks, others know nothing.


def measure(method: str, pair: str, data: str, seed: int, **options) -> dict:
    """Train once, with the options tuned for a pair, and without controls."""
    known = METHODS[method].load()
    tuned = pair in known.presets
    run, config, _ = resolve_options(known, data, {"preset": pair if tuned else "none", "controls": False, **options})
    learner = known.learner_class()(data, config, seed=seed)
    learner.prepare()
    start, cpu = time.perf_counter(), time.process_time()
    learner.learn(run.total_timesteps)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    result = learner.test()
    figures = {name: result[name] for name in ("source_accuracy", "target_accuracy", "h_score") if name in result}
    return {"method": method, "pair": pair, "seed": seed, **figures, "seconds": seconds, "cpu_seconds": cpu}


def shared_options(pair: str) -> dict:
    """What methods without options of their own for a pair take from `dann`, so that all have the same budget."""
    tuned = dict(PRESETS["universal" if pair == PAIRS["open"] else "dann"].get(pair, {}))
    own = ("beta1", "weight", "domain_learning_rate", "domain_steps", "domain_penalty")
    return {name: value for name, value in tuned.items() if name not in own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", choices=PAIRS)
    parser.add_argument("--methods", nargs="+", help=f"default: {', '.join(METHODS_HERE)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="Folder with mnist9k.npz and usps8k.npz.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    for name in args.pairs:
        pair = data = PAIRS[name]
        if args.data and "mnist" in pair:
            files = {"mnist": args.data / "mnist9k.npz", "usps": args.data / "usps8k.npz"}
            data = ":".join(str(files[side]) for side in pair.split(":"))
        load_dataset(data.split(":")[0])  # Fetched before the clock runs.
        for method in args.methods or (OPEN_METHODS if name == "open" else METHODS_HERE):
            options = {} if pair in PRESETS.get(method, {}) else shared_options(pair)
            known = {*METHODS[method].load().config.model_fields, "total_timesteps", "eval_freq", "save_freq"}
            options = {key: value for key, value in options.items() if key in known}
            found = [measure(method, pair, data, seed, **options) for seed in range(args.seeds)]
            rows = [row for row in rows if (row["method"], row["pair"]) != (method, pair)] + found
            FILE.write_text(json.dumps(rows, indent=1) + "\n")
            figure = "h_score" if "h_score" in found[0] else "target_accuracy"
            target, cpu = ([row[key] for row in found] for key in (figure, "cpu_seconds"))
            print(
                f"{pair} {method}: {figure} {np.mean(target):.3f} ± {np.std(target):.3f} (least {min(target):.3f}), "
                f"{np.mean(cpu):.0f} s of one core",
                flush=True,
            )


if __name__ == "__main__":
    main()
