"""What happens beside training: rows of metrics, evaluations, checkpoints, the best weights, the display."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from rltool.errors import TrainingError
from rltool.training.checkpoint import State, save_state
from rltool.training.config import RunConfig
from rltool.training.loggers import CSVLogger, Row, TensorBoardLogger
from rltool.training.progress import Progress
from rltool.training.run import Run


class Recorder:
    """A callback for `learn` that keeps a run's folder up to date.

    Rows, evaluations and checkpoints come whenever the timesteps pass a multiple of `log_freq`, `eval_freq` and
    `save_freq`. All of its own state travels in the checkpoint.

    Args:
        run: The folder.
        learner: What is trained.
        total_timesteps: Where training ends.
        progress: The display.
        state: A checkpoint's values for it, to go on from.
    """

    def __init__(
        self, run: Run, learner: Any, total_timesteps: int, progress: Progress, state: dict[str, Any] | None = None
    ) -> None:
        self.run, self.learner, self.progress = run, learner, progress
        self.options: RunConfig = run.options
        self.total_timesteps = total_timesteps
        kept = state or {"sums": {}, "counts": {}, "elapsed": 0.0, "best": None, "timesteps": 0}
        self.sums: dict[str, Any] = dict(kept["sums"])
        self.counts: dict[str, int] = dict(kept["counts"])
        self.elapsed: float = kept["elapsed"]
        self.best: dict[str, float] | None = kept["best"]
        self.timesteps: int = kept["timesteps"]
        self.loggers: list[CSVLogger | TensorBoardLogger] = [CSVLogger(run.path / "metrics.csv", self.timesteps)]
        if self.options.track == "tensorboard":
            self.loggers.append(TensorBoardLogger(run.path))
        self.row_start = (self.timesteps, self.elapsed)
        self.started = time.perf_counter()
        self.interrupted = False

    def seconds(self) -> float:
        """Training time so far, over all resumes."""
        return self.elapsed + time.perf_counter() - self.started

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train: the budget is used up, or the learner says that it has converged."""
        return self.timesteps >= self.total_timesteps or getattr(self.learner, "converged", False)

    def __call__(self, learner: Any, metrics: dict[str, Any]) -> bool:
        """After an update: take its metrics in, and do what is due."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        before, now = self.timesteps, learner.timesteps
        self.timesteps = now
        last = self.finished

        def due(freq: int) -> bool:
            return freq > 0 and (last or now // freq > before // freq)

        evaluate = due(self.options.eval_freq)
        if evaluate or due(self.options.log_freq):
            row = self._row()
            if evaluate:
                row |= self._evaluate()
            for logger in self.loggers:
                logger.write(row)
            self.progress.update(row)
        if last or due(self.options.save_freq):
            self.save()
        return not self.interrupted

    def _row(self) -> Row:
        seconds, (row_timesteps, row_seconds) = self.seconds(), self.row_start
        self.row_start = (self.timesteps, seconds)
        train = {f"train/{name}": float(total) / self.counts[name] for name, total in self.sums.items()}
        bad = [name for name, value in train.items() if not math.isfinite(value)]
        if bad:
            usual = "lower --learning-rate or --max-grad-norm, or normalize observations and returns"
            raise TrainingError(
                f"{bad[0]} stopped being a finite number before timestep {self.timesteps:,}; "
                f"{getattr(self.learner, 'remedy', usual)}"
            )
        self.sums, self.counts = {}, {}
        return {
            "time/total_timesteps": self.timesteps,
            "time/time_elapsed": round(seconds, 4),
            "time/fps": round((self.timesteps - row_timesteps) / max(seconds - row_seconds, 1e-9), 1),
            **self.learner.metrics(),
            **train,
        }

    def _evaluate(self) -> Row:
        result = self.learner.evaluate(self.options.eval_episodes, seed=self.options.seed)
        if self.best is None or result["score"] >= self.best["score"]:
            self.best = {**result, "timesteps": self.timesteps}
            self.learner.save(self.run.path / "model.safetensors")
        return {f"eval/{name}": value for name, value in result.items() if name != "score"}

    def save(self) -> None:
        """Write a checkpoint, and the weights if no evaluation chooses them.

        Raises:
            TrainingError: The weights are not finite: the checkpoint before stays the last.
        """
        state: State = self.learner.checkpoint()
        for name, tensor in state.tensors.items():
            if tensor.is_floating_point() and name.startswith(("policy", "model")) and not tensor.isfinite().all():
                raise TrainingError(
                    f"the weights stopped being finite numbers before timestep {self.timesteps:,}; "
                    "lower --learning-rate"
                )
        state.values["recorder"] = {
            "sums": {name: float(total) for name, total in self.sums.items()},
            "counts": self.counts,
            "elapsed": self.seconds(),
            "best": self.best,
            "timesteps": self.timesteps,
        }
        save_state(self.run.path / "checkpoints" / f"step-{self.timesteps:012d}.safetensors", state)
        for old in self.run.checkpoints()[: -self.options.keep_checkpoints]:
            old.unlink(missing_ok=True)
        if self.best is None:
            self.learner.save(self.run.path / "model.safetensors")

    def summarize(self) -> dict[str, Any]:
        """Write and return `summary.json`."""
        seconds = self.seconds()
        best = {name: value for name, value in (self.best or {}).items() if name != "score"}
        rollout = {name: value for name, value in self.learner.metrics().items() if not math.isnan(value)}
        summary = {
            "method": self.run.method,
            "data": self.run.data,
            "finished": self.finished,
            **({"converged": True} if getattr(self.learner, "converged", False) else {}),
            "total_timesteps": self.timesteps,
            "seconds": round(seconds, 3),
            "timesteps_per_second": round(self.timesteps / max(seconds, 1e-9), 1),
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "mean_return": best.get("mean_return", rollout.get("rollout/ep_rew_mean")),
            **{f"best_{name}": value for name, value in best.items()},
            **rollout,
        }
        self.run.write_json("summary.json", summary)
        return summary


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    try:
        import resource
    except ImportError:  # Windows has no such module.
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Interruption:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after this update; the second stops at once."""

    def __init__(self, request: Callable[[], None]) -> None:
        self.request = request
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._handle)
        except ValueError:  # Not the main thread: signals are not ours to take.
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self.previous[number])
        self.request()
