"""Training a run from beginning to end, and going on with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rltool.errors import TrainingError, UserError
from rltool.training.checkpoint import NewerFormatError, disk_error, load_state, remove_temporaries
from rltool.training.lock import locked
from rltool.training.methods import METHODS, Method
from rltool.training.options import resolve_options
from rltool.training.progress import Progress, make_progress
from rltool.training.recorder import Interruption, Recorder
from rltool.training.run import Run, create_run, shown, start_from_others

# Options that are functions: they are given anew whenever a run goes on, since no run may have code called.
FUNCTIONS = ("shaping", "potential")

Callback = Callable[[Any, Mapping[str, Any]], bool | None]


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
    functions = {name: options[name] for name in FUNCTIONS if options.get(name) is not None}
    names = {name: function if isinstance(function, str) else _name(function) for name, function in functions.items()}
    run_config, config, preset = resolve_options(known, data, {**options, **names})
    set_threads(run_config.threads)
    learner = known.learner_class()(
        data, config, seed=run_config.seed, device=run_config.device, env_kwargs=run_config.env_kwargs, **functions
    )
    start_from_others(learner, run_config)
    learner.prepare()
    if run_config.freeze_backbone:  # Who refuses does so before anything is written.
        learner.freeze_backbone(run_config.freeze_backbone)
    budget = getattr(learner, "budget", None)  # Of a learner that counts in passes through its data.
    if budget is not None:
        run_config = run_config.model_copy(update={"total_timesteps": budget})
    run = create_run(method, data, run_config, config.model_dump(mode="json"))
    return begin(run, learner, _describe_preset(preset, data), progress, callback)


def begin(run: Run, learner: Any, described: str, progress: bool, callback: Callback | None) -> Run:
    """Train a fresh learner in a run that was just created.

    Args:
        run: The run.
        learner: What is trained.
        described: Where its options come from, for the display.
        progress: Show a display.
        callback: As in `train`.
    """
    total = run.options.total_timesteps
    with locked(run.path, shown(run.path)):
        display = make_progress(progress)
        display.start(f"{run.method} on {run.data}, {described} → {shown(run.path)}", total)
        return _execute(run, learner, total, display, None, callback)


def resume(
    path: str | Path,
    total_timesteps: int | None = None,
    *,
    callback: Callback | None = None,
    progress: bool = False,
    **functions: Any,
) -> Run:
    """Go on with a run from its last checkpoint; one that has none starts again.

    Args:
        path: The run's folder.
        total_timesteps: Where to end; by default where the run was to end.
        callback: As in `train`.
        progress: Show a display while training.
        **functions: `shaping` and `potential`, as in `train`: a run's files name them, and are never asked to find
            them.

    Raises:
        UserError: There is no such run, its files are damaged, a function is missing, or another process trains it.
    """
    run = Run(path)
    total = total_timesteps or run.options.total_timesteps
    if run.is_finished(total):
        return run
    if "adapt_method" in run.summary:
        raise UserError(
            f"{shown(run.path)} was made by rltool adapt, not by training; go on with a new run: "
            f"rltool train {run.method} {run.data} --init-policy {shown(run.path)}"
        )
    check_functions(run, functions)
    set_threads(run.options.threads)
    with locked(run.path, shown(run.path)):
        for folder in (run.path, run.path / "checkpoints"):
            remove_temporaries(folder)
        learner, kept, sentences = _last_checkpoint(run, functions)
        done = learner.timesteps
        display = make_progress(progress)
        display.start(f"{run.method} on {run.data}, from timestep {done:,} → {shown(run.path)}", total, done)
        for sentence in sentences:
            display.note(sentence)
        return _execute(run, learner, total, display, kept, callback)


def check_functions(run: Run, functions: Mapping[str, Any]) -> None:
    """See that the functions which shaped a run's rewards were given again, and no others.

    Raises:
        UserError: One is missing, or there was none.
    """
    for name, function in functions.items():
        if function is not None and getattr(run.options, name, None) is None:
            raise UserError(f"the rewards of this run were shaped by no {name}; leave it out")
    for name in FUNCTIONS:
        needed = getattr(run.options, name)
        if needed is not None and functions.get(name) is None:
            raise UserError(f"the rewards of this run were shaped by {needed}; give it again: --{name} {needed}")


def _last_checkpoint(run: Run, functions: Mapping[str, Any]) -> tuple[Any, dict[str, Any] | None, list[str]]:
    """A learner as the newest checkpoint that can be read has it, the recorder's state, and what is to be said.

    A damaged checkpoint is set aside as `*.damaged`, and the one before is taken.
    """
    sentences: list[str] = []
    files = run.checkpoints()
    for file in reversed(files):
        learner = run.build(**functions)
        try:
            state = load_state(file)
            exact = learner.restore(state)
            kept: dict[str, Any] = state.values["recorder"]
        except NewerFormatError:
            raise
        except (UserError, KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            sentences.append(f"{file.name} is damaged; going on from the checkpoint before it")
            continue
        for bad in files[files.index(file) + 1 :]:
            bad.rename(bad.with_suffix(".damaged"))
        if not exact:
            sentences.append("this environment's state cannot be kept: new episodes begin, so the resume is not exact")
        return learner, kept, sentences
    if files:
        raise UserError(f"no checkpoint in {shown(run.path)} can be read; remove its checkpoints/ to start again")
    return run.start(**functions), None, []


def _execute(
    run: Run, learner: Any, total: int, display: Progress, kept: dict[str, Any] | None, callback: Callback | None
) -> Run:
    try:
        num_envs = getattr(learner, "timesteps_at_once", 1)
        if total % num_envs:
            display.note(
                f"the budget is rounded up to {-(-total // num_envs) * num_envs:,} timesteps, a multiple of {num_envs} "
                "environments"
            )
        if run.options.freeze_backbone:
            learner.freeze_backbone(run.options.freeze_backbone)
        recorder = Recorder(run, learner, total, display, kept)

        def interrupt() -> None:
            recorder.interrupted = True
            display.note("stopping after this update; Ctrl-C again stops at once")

        try:
            with Interruption(interrupt):
                learner.learn(total, [recorder, *([callback] if callback else [])], resume=True)
        except KeyboardInterrupt:
            display.note(f"stopped at once; go on from the last checkpoint with: {run.resume_command}")
            raise
        except Exception as error:
            error.add_note(_save_what_there_is(recorder))
            raise
        if not recorder.finished:
            recorder.save()
        summary = recorder.summarize()
        if summary["finished"]:
            # Until it is concluded it is not finished: a resume comes back to it.
            run.write_json("summary.json", summary | {"finished": False})
            figures = learner.conclude(run, display)
            if figures is not None:
                run.write_json("summary.json", summary | figures)
    finally:
        display.stop()
    _draw(run)
    return run


def _save_what_there_is(recorder: Recorder) -> str:
    """Keep a training that failed, if the disk and the weights allow; returns what to tell the user."""
    for keep in (recorder.save, recorder.summarize):
        with suppress(TrainingError):
            keep()
    run = recorder.run
    if not run.checkpoints():
        return f"nothing was saved; start again with: {run.resume_command}"
    timesteps = int(run.checkpoints()[-1].stem.removeprefix("step-"))
    return f"saved up to timestep {timesteps:,}; go on with: {run.resume_command}"


def _draw(run: Run) -> None:
    from rltool.training.plotting import draw_learning_curve

    if run.metrics:
        try:
            draw_learning_curve(run)
        except OSError as error:
            raise disk_error(run.path, error) from error


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def _describe_preset(preset: str, data: str) -> str:
    if preset == "none":
        return "default options"
    return "tuned options (--preset none to do without)" if preset == data else f"options tuned for {preset}"


def set_threads(threads: int) -> None:
    """Threads of PyTorch and of NumPy's matrix products."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")  # NumPy's, which acting uses: more are slower on small matrices.
