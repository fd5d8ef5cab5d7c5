"""Training a run again from its own `config.json`, and comparing the two bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rltool.errors import TrainingError, UserError
from rltool.training.checkpoint import load_state, read_values
from rltool.training.loggers import Row
from rltool.training.run import Run, create_run, shown
from rltool.training.train import begin, check_functions, resume, set_threads

TIMESTEPS = "time/total_timesteps"


@dataclass(frozen=True)
class Reproduction:
    """How two trainings with the same options differ.

    Attributes:
        original: The run.
        repeated: Its repetition.
        differences: Largest absolute difference of each column of `metrics.csv` but `time/*`; infinite where one of
            the two lacks a value.
        identical_until: Timesteps of the last row before the first difference; None if already the first row differs.
        first_differing: Columns that differ in the first row that does.
        weights: Largest absolute difference of each weight that differs.
        versions: What differs between then and now that may explain it, as `{name: (then, now)}`.
    """

    original: Run
    repeated: Run
    differences: dict[str, float]
    identical_until: int | None
    first_differing: list[str]
    weights: dict[str, float]
    versions: dict[str, tuple[str, str]]

    @property
    def identical(self) -> bool:
        """Whether rows and weights are the same, bit for bit."""
        return not self.first_differing and not self.weights

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.identical:
            return "identical: every row of metrics.csv and every weight"
        if not self.first_differing:
            return f"all rows are identical, but not all weights ({len(self.weights)} differ)"
        columns = ", ".join(self.first_differing)
        if self.identical_until is None:
            return f"different from the first row on: {columns}"
        return f"identical until timestep {self.identical_until:,}, then different: {columns}"

    def as_dict(self) -> dict[str, Any]:
        """What `rltool reproduce --json` prints."""
        return {
            "run": str(self.original.path),
            "repeated": str(self.repeated.path),
            "identical": self.identical,
            "verdict": self.verdict,
            "identical_until": self.identical_until,
            "first_differing": self.first_differing,
            "differences": {name: _finite(value) for name, value in self.differences.items()},
            "weights": {name: _finite(value) for name, value in self.weights.items()},
            "versions": {name: list(pair) for name, pair in self.versions.items()},
        }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None  # JSON knows no infinity.


def reproduce(
    path: str | Path,
    *,
    run_dir: str | None = None,
    name: str | None = None,
    progress: bool = False,
    **functions: Any,
) -> Reproduction:
    """Train a run again, with the same options and seed, into a new folder, and compare.

    A run that was stopped is repeated up to where it stands, one that was trained further by `resume` as well. The
    controls of `gail` and `airl` are not trained again.

    Args:
        path: The run's folder, its name, or `latest`.
        run_dir: Folder of the repetition; by default the run's own parent.
        name: Name of the repetition; by default `<run>-again`.
        progress: Show a display while training.
        **functions: `shaping` and `potential`, if the run's rewards were shaped, as in `resume`.

    Raises:
        UserError: There is no such run, it is still going on, or a function is missing.
        TrainingError: Training could not go on, or was stopped.

    Example:
        >>> reproduce(trained.path).verdict  # doctest: +SKIP
        'identical: every row of metrics.csv and every weight'
    """
    original = Run(path)
    until = original.summary.get("total_timesteps")
    if not isinstance(until, int) or until < 1:
        raise UserError(
            f"{shown(original.path)} has no summary: it is going on, or was killed; "
            f"finish it with: rltool resume {shown(original.path)}"
        )
    if "adapt_method" in original.summary:
        raise UserError(
            f"{shown(original.path)} was made by rltool adapt, not by training; make it again by the command in its "
            "config.json"
        )
    check_functions(original, functions)
    parent = Path(run_dir) if run_dir is not None else original.path.parent
    options = original.options.model_copy(
        update={"run_dir": str(parent), "name": name or _free_name(parent, f"{original.path.name}-again")}
    )
    set_threads(options.threads)
    learner = original.start(**functions)
    config = learner.config.model_dump(mode="json")
    if config.get("controls"):
        config["controls"] = False  # They are runs of their own, and compared with nothing here.
    run = create_run(original.method, original.data, options, config)
    stop = (lambda learner, _: learner.timesteps < until) if until < options.total_timesteps else None
    repeated = begin(run, learner, f"the options of {shown(original.path)}", progress, stop)
    if repeated.summary["finished"] and repeated.summary["total_timesteps"] < until:
        repeated = resume(repeated.path, _last_goal(original, until), progress=progress, **functions)
    if repeated.summary["total_timesteps"] < until:
        raise TrainingError(f"stopped before the end, so nothing was compared; {shown(repeated.path)} can be removed")
    return compare(original, repeated)


def _last_goal(run: Run, until: int) -> int:
    """The budget that a run was last resumed with: schedules end there, and it need not be a multiple of anything."""
    goals = [read_values(file).get("total_timesteps") for file in run.checkpoints()[-1:]]
    return next((goal for goal in goals if isinstance(goal, int)), until)


def _free_name(parent: Path, stem: str) -> str:
    k, name = 1, stem
    while (parent / name).exists():
        k += 1
        name = f"{stem}-{k}"
    return name


def compare(original: Run, repeated: Run) -> Reproduction:
    """Compare rows and weights of two runs."""
    one, two = ({row[TIMESTEPS]: row for row in run.metrics} for run in (original, repeated))
    differences: dict[str, float] = {}
    first_differing: list[str] = []
    identical_until: int | None = None
    for timesteps in sorted(one.keys() | two.keys()):
        row = differ(one.get(timesteps, {}), two.get(timesteps, {}))
        for name, value in row.items():
            differences[name] = max(value, differences.get(name, 0.0))
        if not first_differing:
            first_differing = [name for name, value in row.items() if value > 0]
            if not first_differing:
                identical_until = int(timesteps)
    return Reproduction(
        original, repeated, differences, identical_until, first_differing, _weights(original, repeated),
        _versions(original, repeated),
    )  # fmt: skip


def differ(one: Row, two: Row) -> dict[str, float]:
    """Absolute difference of each column of two rows but `time/*`; infinite where only one has it."""
    names = [name for name in dict.fromkeys([*one, *two]) if not name.startswith("time/")]
    return {n: abs(one[n] - two[n]) if n in one and n in two else float("inf") for n in names}


def _weights(original: Run, repeated: Run) -> dict[str, float]:
    """Differences of the best weights, and of the last checkpoint's where both have the same one."""
    pairs = [(run.path / "model.safetensors" for run in (original, repeated))]
    last = [run.checkpoints()[-1:] for run in (original, repeated)]
    if last[0] and last[1] and last[0][0].name == last[1][0].name:
        pairs.append(file for (file,) in last)
    found: dict[str, float] = {}
    for pair in pairs:
        one, two = (load_state(file).tensors for file in pair)
        for name in sorted(one.keys() | two.keys()):
            value = _difference(one.get(name), two.get(name))
            if value > 0:
                found[name] = value
    return found


def _difference(one: torch.Tensor | None, two: torch.Tensor | None) -> float:
    if one is None or two is None or one.shape != two.shape or one.dtype != two.dtype:
        return float("inf")
    if torch.equal(one, two):
        return 0.0
    difference = float((one.double() - two.double()).abs().max())
    return difference if difference > 0 else float("inf")  # NaN: it compares with nothing.


def _versions(original: Run, repeated: Run) -> dict[str, tuple[str, str]]:
    one, two = (
        {**run.config.get("versions", {}), "platform": run.config.get("platform", "unknown")}
        for run in (original, repeated)
    )
    names = dict.fromkeys([*one, *two])
    pairs = {name: (str(one.get(name, "unknown")), str(two.get(name, "unknown"))) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
