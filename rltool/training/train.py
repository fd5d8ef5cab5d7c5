"""Training a run from beginning to end, and going on with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rltool.errors import TrainingError, UserError, unknown
from rltool.training.checkpoint import load_state
from rltool.training.config import RunConfig
from rltool.training.methods import METHODS, Method
from rltool.training.progress import Progress, make_progress
from rltool.training.recorder import Interruption, Recorder
from rltool.training.run import Run, create_run, shown
from rltool.validation import validate

Callback = Callable[[Any, Mapping[str, Any]], bool | None]


def resolve_options(method: Method, data: str, options: Mapping[str, Any]) -> tuple[RunConfig, Any, str]:
    """Options given, over the preset's, over the defaults; as the run's config and the method's.

    Returns:
        The run's config, the method's config, and the name of the preset in use ("none" without one).

    Raises:
        UserError: An option, its value or the preset is wrong.
    """
    preset = options.get("preset", "auto")
    if preset == "auto":
        preset = data if data in method.presets else "none"
    elif preset != "none" and preset not in method.presets:
        raise unknown("preset", preset, ["auto", "none", *method.presets])
    fields = {**RunConfig.model_fields, **method.config.model_fields}
    for name in options:
        if name not in fields:
            raise unknown("option", name, fields)
    merged = {**method.presets.get(preset, {}), **options, "preset": preset}
    run = validate(RunConfig, {k: v for k, v in merged.items() if k in RunConfig.model_fields})
    config = validate(method.config, {k: v for k, v in merged.items() if k not in RunConfig.model_fields})
    return run, config, preset


def train(method: str, data: str, *, callback: Callback | None = None, progress: bool = False, **options: Any) -> Run:
    """Train a method and keep everything in a run folder.

    Args:
        method: Name of the method: "reinforce", "a2c", "ppo", ...
        data: What to train on: an environment id.
        callback: Called after every update with the learner and the update's metrics; False ends the training.
        progress: Show a display while training.
        **options: Fields of `RunConfig` (`total_timesteps`, `seed`, `run_dir`, ...) and of the method's config
            (`learning_rate`, ...). What is not given comes from the preset tuned for `data`, if there is one
            (`preset="none"` to do without).

    Returns:
        The run: `.agent`, `.metrics`, `.summary`, `.path`.

    Raises:
        UserError: An argument is wrong; nothing was written.
        TrainingError: Training could not go on; what was trained so far is saved in the run.

    Example:
        >>> run = train("a2c", "CartPole-v1", total_timesteps=4_096, run_dir=tmp)
        >>> run.summary["total_timesteps"]
        4096
    """
    known: Method = METHODS[method].load()
    run_config, config, preset = resolve_options(known, data, options)
    _set_threads(run_config.threads)
    learner = known.learner_class()(
        data, config, seed=run_config.seed, device=run_config.device, env_kwargs=run_config.env_kwargs
    )
    run = create_run(method, data, run_config, config.model_dump(mode="json"))
    display = make_progress(progress)
    display.start(f"{method} on {data}, {_describe_preset(preset, data)} → {shown(run.path)}", run_config.total_timesteps)
    return _execute(run, learner, run_config.total_timesteps, display, None, callback)


def resume(
    path: str | Path,
    total_timesteps: int | None = None,
    *,
    callback: Callback | None = None,
    progress: bool = False,
) -> Run:
    """Go on with a run from its last checkpoint; one that has none starts again.

    Args:
        path: The run's folder.
        total_timesteps: Where to end; by default where the run was to end.
        callback: As in `train`.
        progress: Show a display while training.

    Raises:
        UserError: There is no such run, or its files are damaged.
    """
    run = Run(path)
    total = total_timesteps or run.options.total_timesteps
    display = make_progress(progress)
    checkpoints = run.checkpoints()
    state = load_state(checkpoints[-1]) if checkpoints else None
    if state is not None and state.values["timesteps"] >= total:
        return run
    _set_threads(run.options.threads)
    learner = run.build()
    done = 0
    if state is not None:
        learner.restore(state)
        done = learner.timesteps
    display.start(f"{run.method} on {run.data}, from timestep {done:,} → {shown(run.path)}", total, done)
    return _execute(run, learner, total, display, state.values["recorder"] if state else None, callback)


def _execute(
    run: Run, learner: Any, total: int, display: Progress, kept: dict[str, Any] | None, callback: Callback | None
) -> Run:
    try:
        if total % learner.env.num_envs:
            display.note(
                f"the budget is rounded up to {-(-total // learner.env.num_envs) * learner.env.num_envs:,} timesteps, "
                f"a multiple of {learner.env.num_envs} environments"
            )
        recorder = Recorder(run, learner, total, display, kept)

        def interrupt() -> None:
            recorder.interrupted = True
            display.note("stopping after this update; Ctrl-C again stops at once")

        try:
            with Interruption(interrupt):
                learner.learn(total, [recorder, *([callback] if callback else [])], resume=True)
        except TrainingError as error:
            error.add_note(f"saved up to timestep {learner.timesteps:,}; go on with: rltool resume {shown(run.path)}")
            _save_what_there_is(recorder)
            raise
        if recorder.timesteps < total:
            recorder.save()
        recorder.summarize()
    finally:
        display.stop()
    _draw(run)
    return run


def _save_what_there_is(recorder: Recorder) -> None:
    """Keep the last good weights of a training that failed, if the disk and the weights allow."""
    try:
        recorder.save()
        recorder.summarize()
    except TrainingError:
        pass


def _draw(run: Run) -> None:
    from rltool.training.plotting import draw_learning_curve

    if run.metrics:
        draw_learning_curve(run)


def _describe_preset(preset: str, data: str) -> str:
    if preset == "none":
        return "default options"
    return "tuned options (--preset none to do without)" if preset == data else f"options tuned for {preset}"


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


__all__ = ["UserError", "resolve_options", "resume", "train"]
