"""`rltool train ... --folds N`: cross-validation, N trainings that each validate on another part of the examples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from rltool.cli.seeds import make_folder, say, train_jobs, workers
from rltool.errors import UserError


def train_folds(method: str, data: str, options: dict[str, Any], as_json: bool) -> None:
    """Train every fold into DIR/NAME/fold-K, as many at once as there are cores, and report over all of them.

    The same command goes on with what was stopped: what is finished stays, the rest is trained further.

    Raises:
        UserError: An option or the data will not do, or DIR/NAME holds something else; nothing was trained.
    """
    from rltool.data.datasets import load_dataset
    from rltool.training.methods import METHODS
    from rltool.training.options import resolve_options

    run_config, config, _ = resolve_options(METHODS[method].load(), data, options)
    if not run_config.eval_freq:
        raise UserError("--folds needs evaluations, on the part that is held out; leave --eval-freq 0 out")
    if METHODS[method].load().evaluation_metric == "target_accuracy":
        raise UserError("folds divide the source alone and say nothing of the target; leave --folds out")
    load_dataset(data)  # What is wrong with it is said once, and what is to be fetched is fetched once.
    folder = _open_folder(method, data, options)
    jobs = {f"fold-{k}": {**options, "fold": k} for k in range(config.folds)}
    say(f"{method} on {data}, {config.folds} folds, {workers(jobs)} at a time → {folder}", as_json)
    try:
        failed = train_jobs(method, data, folder, jobs, lambda run: run.summary.get("best_accuracy"), as_json)
    except KeyboardInterrupt:
        print(f"stopped; go on with the same command and --name {folder.name}", file=sys.stderr)
        raise typer.Exit(1) from None
    _report(folder, [name for name in jobs if name not in failed], failed, as_json)


def _open_folder(method: str, data: str, options: dict[str, Any]) -> Path:
    """A new folder DIR/NAME, or the one that the same command has made.

    Raises:
        UserError: It holds something else, or cannot be made.
    """
    from rltool.training.checkpoint import write_atomically
    from rltool.training.config import RunConfig
    from rltool.training.run import sanitize

    asked = json.loads(json.dumps({"method": method, "data": data, "options": options}))
    if options.get("name"):
        folder = Path(options.get("run_dir", RunConfig.model_fields["run_dir"].default)) / sanitize(options["name"])
        file = folder / "folds.json"
        if file.exists():
            known = json.loads(file.read_text())
            # The name may have been added to go on.
            known["options"]["name"] = options["name"]
            if known != asked:
                raise UserError(f"{folder} is a cross-validation with other options; choose another --name")
            return folder
    folder = make_folder(method, data, options)
    write_atomically(folder / "folds.json", (json.dumps(asked, indent=2) + "\n").encode())
    return folder


def _report(folder: Path, names: list[str], failed: dict[str, str], as_json: bool) -> None:
    import numpy as np

    from rltool.training.checkpoint import write_atomically
    from rltool.training.run import Run

    summaries = [Run(folder / name).summary for name in names]
    report: dict[str, Any] = {"run": str(folder), "folds": len(names), "failed": failed}
    if summaries:
        validated = np.array([each["best_accuracy"] for each in summaries])
        report |= {
            "validation_accuracy": float(validated.mean()),
            "validation_std": float(validated.std(ddof=1)) if len(validated) > 1 else 0.0,
            "validation_accuracies": validated.tolist(),
            "test_accuracy": float(np.mean([each["test_accuracy"] for each in summaries])),
        }
    write_atomically(folder / "summary.json", (json.dumps(report, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(report))
    elif summaries:
        print(
            f"{len(names)} folds: validation accuracy {report['validation_accuracy']:.2%} ± "
            f"{report['validation_std']:.2%} (from {validated.min():.2%} to {validated.max():.2%}), "
            f"test accuracy {report['test_accuracy']:.2%} on average"
        )
    if failed:
        raise typer.Exit(1)
