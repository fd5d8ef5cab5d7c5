"""`rltool train ... --seeds 0-4`: the same training with several seeds, in parallel processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rltool.errors import UserError

if TYPE_CHECKING:
    from rltool.training.run import Run


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
    from rltool.training.methods import METHODS
    from rltool.training.options import resolve_options

    known = METHODS[method].load()
    resolve_options(known, data, options)
    folder = make_folder(method, data, options)
    jobs = {f"seed-{seed}": {**options, "seed": seed} for seed in seeds}
    say(f"{method} on {data}, seeds {', '.join(map(str, seeds))}, {workers(jobs)} at a time → {folder}", as_json)
    try:
        failed = train_jobs(method, data, folder, jobs, lambda run: run.result, as_json)
    except KeyboardInterrupt:
        print(f"stopped; go on with each seed: rltool resume {folder}/seed-S", file=sys.stderr)
        raise typer.Exit(1) from None
    _report(
        folder,
        known.evaluation_metric,
        [seed for seed in seeds if f"seed-{seed}" not in failed],
        {int(name.removeprefix("seed-")): text for name, text in failed.items()},
        as_json,
    )


def make_folder(method: str, data: str, options: dict[str, Any]) -> Path:
    """A new folder DIR/NAME for several runs.

    Raises:
        UserError: It exists, or cannot be made.
    """
    from rltool.training.config import RunConfig
    from rltool.training.run import _next_free, sanitize

    parent = Path(options.get("run_dir", RunConfig.model_fields["run_dir"].default))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if not options.get("name"):
            return _next_free(parent, sanitize(f"{method}-{data}"))
        folder = parent / sanitize(options["name"])
        if folder.exists():
            raise UserError(f"{folder} exists; choose another --name")
        folder.mkdir()
    except OSError as error:
        raise UserError(f"cannot write {parent}: {error.strerror}") from None
    return folder


def workers(jobs: Collection[Any]) -> int:
    """How many trainings go on at once."""
    return min(len(jobs), os.cpu_count() or 1)


def train_jobs(
    method: str,
    data: str,
    folder: Path,
    jobs: Mapping[str, dict[str, Any]],
    result: Callable[[Run], float | None],
    as_json: bool,
) -> dict[str, str]:
    """Train jobs into folders of their own, each in a process, and say how each ends.

    A run that is there already is gone on with, which is done at once where it is finished.

    Args:
        method: Name of the method.
        data: What to train on.
        folder: Where the runs' folders are.
        jobs: Options of each run, by the name of its folder.
        result: What is said of a run.
        as_json: Whether standard output is for one JSON object.

    Returns:
        What went wrong, by the name of the job.

    Raises:
        KeyboardInterrupt: Ctrl-C; all runs have stopped, and can be gone on with.
    """
    from rltool.training.methods import METHODS
    from rltool.training.progress import figure
    from rltool.training.run import Run

    metric = METHODS[method].load().evaluation_metric
    waiting = list(jobs)
    running: dict[str, tuple[subprocess.Popen[str], Any]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers(jobs):
                name = waiting.pop(0)
                job = {**jobs[name], "run_dir": str(folder), "name": name}
                errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process ends
                command = [sys.executable, "-m", "rltool.cli.seeds", json.dumps([method, data, job])]
                # A session of its own: Ctrl-C reaches it through us, once, however we got it.
                process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=errors, text=True, start_new_session=True
                )
                running[name] = (process, errors)
            time.sleep(0.05)
            for name, (process, errors) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                errors.seek(0)
                text = errors.read().strip()
                if process.returncode == 0:
                    run = Run(folder / name)
                    value, what = result(run), metric.removeprefix("mean_")
                    said = f"no {what}" if value is None else f"{what} {figure(metric, value)}"
                    say(f"{name.replace('-', ' ')}: {said}, {run.summary['seconds']:.1f} s", as_json)
                else:
                    failed[name] = text.split("\n")[-1]
                    say(f"{name.replace('-', ' ')}: {failed[name]}", as_json)
    except KeyboardInterrupt:
        for process, _ in running.values():
            process.send_signal(signal.SIGINT)
        try:
            for process, _ in running.values():
                process.wait()
        except KeyboardInterrupt:
            for process, _ in running.values():
                process.kill()
        raise
    return failed


def _report(folder: Path, metric: str, seeds: list[int], failed: dict[int, str], as_json: bool) -> None:
    import numpy as np

    from rltool.adaptation.verdict import compare_seeds
    from rltool.training.checkpoint import write_atomically
    from rltool.training.progress import figure
    from rltool.training.run import Run
    from rltool.training.statistics import bootstrap_interval, iqm

    runs = [Run(folder / f"seed-{s}") for s in seeds]
    results = [run.result for run in runs]
    values = np.array([result for result in results if result is not None], dtype=float)
    report: dict[str, Any] = {"run": str(folder), "seeds": seeds, "failed": failed}
    if len(values):
        low, high = bootstrap_interval(values)
        report |= {metric: float(values.mean()), "iqm": iqm(values), "interval_95": [low, high]}
    means, lines = compare_seeds([run.summary for run in runs])
    report |= {**means, **({"notes": lines} if lines else {})}
    write_atomically(folder / "summary.json", (json.dumps(report, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(report))
    elif len(values):
        mean, middle, least, most = (figure(metric, value) for value in (report[metric], report["iqm"], low, high))
        print(
            f"{len(seeds)} seeds: mean {metric.removeprefix('mean_')} {mean}, IQM {middle}, "
            f"95% interval {least} to {most}",
            *lines,
            f"compare:   rltool plot {folder}",
            sep="\n",
        )
    if failed:
        raise typer.Exit(1)


def say(text: str, as_json: bool) -> None:
    """Tell the user how it goes, on standard error where standard output is for JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _one_job() -> None:
    from rltool.errors import TrainingError
    from rltool.training.train import resume, train

    method, data, options = json.loads(sys.argv[1])
    path = Path(options["run_dir"]) / options["name"]
    try:
        run = resume(path) if path.exists() else train(method, data, **options)
    except (UserError, TrainingError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
    raise SystemExit(0 if run.summary["finished"] else 1)


if __name__ == "__main__":
    _one_job()
