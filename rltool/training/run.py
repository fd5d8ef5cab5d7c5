"""The run: a folder that is complete by itself. Nothing in it is executable."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rltool.errors import TrainingError, UserError
from rltool.training.checkpoint import FORMAT, check_format, disk_error, read_values, write_atomically
from rltool.training.config import RunConfig
from rltool.training.device import has_device
from rltool.training.loggers import Row, read_metrics
from rltool.training.methods import METHODS
from rltool.validation import validate

PACKAGES = ("rltool", "torch", "numpy", "gymnasium")


class Run:
    """A training run on disk.

    Attributes:
        path: The folder.
        config: What `config.json` holds: method, data, all options, versions, command.

    Raises:
        UserError: The folder is missing, half-written, not a run, or a newer version's.

    Example:
        >>> run = Run("runs/ppo-CartPole-v1-1")  # doctest: +SKIP
        >>> run.summary["mean_return"]  # doctest: +SKIP
        500.0
    """

    def __init__(self, path: str | Path) -> None:
        self.path = resolve_run(path)
        self.config: dict[str, Any] = self._read_json("config.json")
        check_format(self.path / "config.json", self.config.get("format"))
        for key, kind in (("method", str), ("data", str), ("run", dict), ("config", dict)):
            if not isinstance(self.config.get(key), kind):
                raise UserError(f"{self.path}/config.json is not a run's (its '{key}' is missing or damaged)")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.config["method"]

    @property
    def data(self) -> str:
        """What it was trained on: an environment id."""
        return self.config["data"]

    @property
    def options(self) -> RunConfig:
        """The run's options, validated."""
        return validate(RunConfig, self.config["run"])

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty while the run is going on."""
        return self._read_json("summary.json") if (self.path / "summary.json").exists() else {}

    @property
    def result(self) -> float | None:
        """What its method is judged by: on test examples, where there are such; None where no episode has ended."""
        metric, summary = METHODS[self.method].load().evaluation_metric, self.summary
        result = next((summary[n] for n in (f"test_{metric}", metric, f"best_{metric}") if n in summary), None)
        return result if isinstance(result, int | float) else None  # Anybody may have written the file.

    def is_finished(self, total_timesteps: int) -> bool:
        """Whether there is nothing left to train up to this many timesteps."""
        summary = self.summary
        reached = summary.get("total_timesteps", 0) >= total_timesteps
        return bool(summary.get("finished")) and (reached or summary.get("converged", False))

    @property
    def metrics(self) -> list[Row]:
        """Rows of `metrics.csv`."""
        return read_metrics(self.path / "metrics.csv")

    @cached_property
    def agent(self) -> Any:
        """The trained agent, with the weights of `model.safetensors` (the best evaluated).

        It is on the run's device, or, where this machine has no such device, on the CPU.
        """
        weights = self.path / "model.safetensors"
        with suppress(FileNotFoundError):
            for data in dict.fromkeys((self.data, str(read_values(weights).get("env_id")))):
                self._admit(data)
        learner_class = METHODS[self.method].load().learner_class()
        return learner_class.load(weights, device=self.options.device if has_device(self.options.device) else "cpu")

    @property
    def model(self) -> Any:
        """The same as `agent`, for methods that train no agent."""
        return getattr(self.agent, "model", self.agent)

    def build(self, **functions: Any) -> Any:
        """A fresh, untrained learner with this run's options, and functions that no run can hold."""
        self._admit(self.data)
        method, options = METHODS[self.method].load(), self.options
        return method.learner_class()(
            self.data,
            validate(method.config, self.config["config"]),
            seed=options.seed,
            device=options.device,
            env_kwargs=options.env_kwargs,
            **functions,
        )

    def _admit(self, data: str) -> None:
        if METHODS[self.method].load().data == "ENV":  # A colon in other data names no module.
            admit_module(data, self.path)

    def start(self, **functions: Any) -> Any:
        """A learner as training begins with it: built, and with what it was to start from."""
        learner = self.build(**functions)
        start_from_others(learner, self.options)
        return learner

    @property
    def resume_command(self) -> str:
        """What goes on with it, as a user types it."""
        functions = {"shaping": self.options.shaping, "potential": self.options.potential}
        if any(function is not None and "<" in function for function in functions.values()):
            wanted = ", ".join(f"{name}=..." for name, function in functions.items() if function is not None)
            return f'rltool.resume("{shown(self.path)}", {wanted}) in Python: its functions have no name'
        given = "".join(f" --{name} {function}" for name, function in functions.items() if function is not None)
        return f"rltool resume {shown(self.path)}{given}"

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted((self.path / "checkpoints").glob("*.safetensors"))

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file into the folder, atomically."""
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            value = json.loads(file.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.path} is not a run: it has no {name}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); the run is damaged") from None
        if not isinstance(value, dict):
            raise UserError(f"{file} does not hold a JSON object; the run is damaged")
        return value


def start_from_others(learner: Any, options: RunConfig) -> None:
    """Give a fresh learner the backbone or the policy of another run.

    Raises:
        UserError: There is no such run, or what it has does not fit.
    """
    if options.init_backbone is not None:
        learner.init_backbone(Run(options.init_backbone).model)
    if options.init_policy is not None:
        source = Run(options.init_policy)
        learner.init_policy(source.model)
        learner.warm_start(source)


def admit_module(data: str, folder: Path) -> None:
    """Announce the module that a run's environment `module:EnvId` imports; refuse one in the run's own folder.

    Raises:
        UserError: The module lies in the folder, or is looked for there: a run from a stranger would run code.
    """
    module = data.rpartition(":")[0]
    if not module or module in sys.modules:
        return
    if Path.cwd().is_relative_to(folder):
        raise UserError(
            f"{data} imports the module {module}, which is never done in a run's own folder; leave {folder}"
        )
    places: Sequence[str] = [*sys.path, os.getcwd()]
    for part in module.split("."):  # Found without being imported: a part is looked for where its parent lies.
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            break
        places = list(spec.submodule_search_locations or [])
        found = [place for place in (spec.origin, *places) if place]
        if any(
            Path(os.path.abspath(place)).is_relative_to(folder) or Path(place).resolve().is_relative_to(folder)
            for place in found
        ):
            raise UserError(
                f"{folder} brings the module {module} along, which is never imported from a run's own folder"
            )
    print(f"importing {module}, which the run names for {data}", file=sys.stderr)


def load(path: str | Path) -> Run:
    """Open a run: its folder, its name in `runs/`, or `latest`.

    Raises:
        UserError: There is none, or it is damaged.

    Example:
        >>> load(trained.path).agent.predict(np.zeros(4, np.float32), deterministic=True)[0] in (0, 1)
        True
    """
    return Run(path)


def resolve_run(path: str | Path, run_dir: str = "runs") -> Path:
    """The folder a user means: a path, the name of a run in `runs/`, or `latest`.

    Raises:
        UserError: There is none.
    """
    for candidate in (Path(path), Path(run_dir) / path):
        if candidate.is_dir():
            return candidate.resolve()
    known = sorted(p.parent.name for p in Path(run_dir).glob("*/config.json") if not p.parent.is_symlink())
    hint = f"; {run_dir}/ has {', '.join(known[-5:])}" if known else "; train one with: rltool train a2c CartPole-v1"
    raise UserError(f"there is no run {path}{hint}")


def shown(path: Path) -> str:
    """A path as a user would type it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def sanitize(name: str) -> str:
    """A name that is a plain folder name everywhere."""
    return re.sub(r"[:/~@>*\s\\]", "-", name)


def create_run(method: str, data: str, options: RunConfig, config: dict[str, Any]) -> Run:
    """Make a new run folder with its `config.json`.

    Raises:
        UserError: The name is taken, or the folder cannot be made.
    """
    parent, path = Path(options.run_dir), None
    if options.name == "latest":
        raise UserError("latest always names the newest run; choose another --name")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if options.name is not None:
            named = parent / sanitize(options.name)
            if named.exists():
                raise UserError(f"{named} exists; choose another --name, or go on with: rltool resume {named}")
            named.mkdir()
            path = named
        else:
            path = _next_free(parent, sanitize(f"{method}-{data}"))
        (path / "checkpoints").mkdir()
        write_atomically(
            path / "config.json",
            (
                json.dumps(
                    {
                        "format": FORMAT,
                        "method": method,
                        "data": data,
                        "run": options.model_dump(mode="json"),
                        "config": config,
                        "command": " ".join(sys.argv),
                        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
                        "platform": _platform(),
                        "git": _git_hash(),
                    },
                    indent=2,
                )
                + "\n"
            ).encode(),
        )
    except (OSError, TrainingError) as error:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        raise UserError(str(disk_error(parent, error) if isinstance(error, OSError) else error)) from None
    _point_latest(parent, path)
    return Run(path)


def _next_free(parent: Path, stem: str) -> Path:
    taken = [int(m[1]) for p in parent.iterdir() if (m := re.fullmatch(re.escape(stem) + r"-(\d+)", p.name))]
    k = max(taken, default=0) + 1
    while True:
        try:
            (parent / f"{stem}-{k}").mkdir()
            return parent / f"{stem}-{k}"
        except FileExistsError:  # Another process took it a moment ago.
            k += 1


def _point_latest(parent: Path, path: Path) -> None:
    temporary = parent / f".latest.{os.getpid()}"
    try:
        temporary.symlink_to(path.name, target_is_directory=True)
        os.replace(temporary, parent / "latest")
    except OSError:  # A convenience: some file systems have no links.
        temporary.unlink(missing_ok=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _platform() -> str:
    """The system, and the instructions PyTorch uses: sums are rounded differently with others."""
    return f"{platform.platform()}, {torch.backends.cpu.get_cpu_capability()}"


def _git_hash() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
