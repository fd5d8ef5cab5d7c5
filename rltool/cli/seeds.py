"""`rltool train ... --seeds 0-4`: the same training with several seeds, in parallel processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from rltool.errors import UserError


def parse_seeds(text: str) -> list[int]:
    """`0-4` or `1,3,5` or both, as a list.

    Raises:
        UserError: It is neither.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise UserError(f"--seeds takes numbers and ranges, as 0-4 or 1,3,5; not '{text}'") from None
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds needs different seeds; '{text}' has {'none' if not seeds else 'one twice'}")
    return seeds


def train_seeds(method: str, data: str, seeds: list[int], options: dict[str, Any], as_json: bool) -> None:
    """Train every seed into DIR/NAME/seed-S, as many at once as there are cores, and report over all of them."""
    from rltool.training.config import RunConfig
    from rltool.training.methods import METHODS
    from rltool.training.options import resolve_options
    from rltool.training.progress import figure
    from rltool.training.run import Run, _next_free, sanitize

    known = METHODS[method].load()
    resolve_options(known, data, options)
    metric = known.evaluation_metric
    name = metric.removeprefix("mean_")
    parent = Path(options.get("run_dir", RunConfig.model_fields["run_dir"].default))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if options.get("name"):
            folder = parent / sanitize(options["name"])
            if folder.exists():
                raise UserError(f"{folder} exists; choose another --name")
            folder.mkdir()
        else:
            folder = _next_free(parent, sanitize(f"{method}-{data}"))
    except OSError as error:
        raise UserError(f"cannot write {parent}: {error.strerror}") from None
    waiting = list(seeds)
    running: dict[int, tuple[subprocess.Popen[str], Any]] = {}
    failed: dict[int, str] = {}
    workers = min(len(seeds), os.cpu_count() or 1)
    _say(f"{method} on {data}, seeds {', '.join(map(str, seeds))}, {workers} at a time → {folder}", as_json)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                seed = waiting.pop(0)
                job = {**options, "seed": seed, "run_dir": str(folder), "name": f"seed-{seed}"}
                errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process ends
                command = [sys.executable, "-m", "rltool.cli.seeds", json.dumps([method, data, job])]
                # A session of its own: Ctrl-C reaches it through us, once, however we got it.
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=errors, text=True, start_new_session=True
                )
                running[seed] = (process, errors)
            time.sleep(0.05)
            for seed, (process, errors) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[seed]
                errors.seek(0)
                text = errors.read().strip()
                if process.returncode == 0:
                    run = Run(folder / f"seed-{seed}")
                    result = f"no {name}" if run.result is None else f"{name} {figure(metric, run.result)}"
                    _say(f"seed {seed}: {result}, {run.summary['seconds']:.1f} s", as_json)
                else:
                    failed[seed] = text.split("\n")[-1]
                    _say(f"seed {seed}: {failed[seed]}", as_json)
    except KeyboardInterrupt:
        for process, _ in running.values():
            process.send_signal(signal.SIGINT)
        try:
            for process, _ in running.values():
                process.wait()
        except KeyboardInterrupt:
            for process, _ in running.values():
                process.kill()
        print(f"stopped; go on with each seed: rltool resume {folder}/seed-S", file=sys.stderr)
        raise typer.Exit(1) from None
    _report(folder, metric, [s for s in seeds if s not in failed], failed, as_json)


def _report(folder: Path, metric: str, seeds: list[int], failed: dict[int, str], as_json: bool) -> None:
    import numpy as np

    from rltool.training.checkpoint import write_atomically
    from rltool.training.progress import figure
    from rltool.training.run import Run
    from rltool.training.statistics import bootstrap_interval, iqm

    results = [Run(folder / f"seed-{s}").result for s in seeds]
    values = np.array([result for result in results if result is not None], dtype=float)
    report: dict[str, Any] = {"run": str(folder), "seeds": seeds, "failed": failed}
    if len(values):
        low, high = bootstrap_interval(values)
        report |= {metric: float(values.mean()), "iqm": iqm(values), "interval_95": [low, high]}
    write_atomically(folder / "summary.json", (json.dumps(report, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(report))
    elif len(values):
        mean, middle, least, most = (figure(metric, value) for value in (report[metric], report["iqm"], low, high))
        print(
            f"{len(seeds)} seeds: mean {metric.removeprefix('mean_')} {mean}, IQM {middle}, "
            f"95% interval {least} to {most}\ncompare:   rltool plot {folder}"
        )
    if failed:
        raise typer.Exit(1)


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _one_seed() -> None:
    from rltool.errors import TrainingError
    from rltool.training.train import train

    method, data, options = json.loads(sys.argv[1])
    try:
        run = train(method, data, **options)
    except (UserError, TrainingError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
    raise SystemExit(0 if run.summary["finished"] else 1)


if __name__ == "__main__":
    _one_seed()
