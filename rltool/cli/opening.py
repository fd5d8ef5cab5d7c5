"""What every verb that plays with a trained agent opens: the agent, and the environment that it plays in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rltool.cli.completion import complete_environment, complete_run

if TYPE_CHECKING:
    from rltool.training.run import Run

# Arguments and options that these verbs share.
RunOrZip = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, its name in runs/, latest; or a Stable-Baselines3 .zip.",
        autocompletion=complete_run,
    ),
]
EnvOption = Annotated[
    str | None,
    typer.Option(
        "--env", help="Environment to play in.", show_default="the run's", autocompletion=complete_environment
    ),
]
EnvArgs = Annotated[
    list[str] | None,
    typer.Option("--env-arg", metavar="NAME=VALUE", help="Argument of the environment's constructor, as g=9.81."),
]
VecNormalize = Annotated[
    str | None, typer.Option("--vecnormalize", help="Observation statistics of a .zip, if not beside it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def open_agent(
    run: str, env: str | None, env_arg: list[str], vecnormalize: str | None
) -> tuple[Any, Path, str, dict[str, Any]]:
    """The agent that a user named, its folder, its environment and the arguments of that.

    Args:
        run: A run, or a file that holds an agent.
        env: Another environment than the run's.
        env_arg: Arguments of its constructor, each `name=value`.
        vecnormalize: Observation statistics of a Stable-Baselines3 zip.

    Raises:
        UserError: There is no such agent, it does not fit the environment, or does not say which it plays in.
    """
    from rltool.agents import evaluation
    from rltool.agents.loading import load_agent
    from rltool.cli.options import parse_assignments
    from rltool.data.shifts import split_shifts
    from rltool.errors import UserError

    if Path(run).is_file():
        agent = load_agent(run, vecnormalize=vecnormalize)
        for note in getattr(agent, "notes", []):
            print(note, file=sys.stderr)
        folder, env_id = Path("."), env or getattr(agent, "env_id", None)
        env_kwargs = getattr(agent, "env_kwargs", {})
        if env_id is None:
            raise UserError(f"{run} does not say which environment it plays in; add --env, as --env CartPole-v1")
    else:
        opened = open_run_of_agent(run)
        agent, folder = opened.agent, opened.path
        env_id, env_kwargs = env or opened.data, opened.options.env_kwargs
    shifted = env is not None and not Path(run).is_file() and split_shifts(env)[1] != ()
    if env is not None and not (shifted and split_shifts(env)[0] == split_shifts(opened.data)[0]):
        env_kwargs = {}  # They are those of another environment, not of this one in another look.
    env_kwargs = evaluation.for_evaluation(env_kwargs) | parse_assignments(env_arg)
    evaluation.check_spaces(agent, env_id, env_kwargs)
    return agent, folder, env_id, env_kwargs


def open_run_of_agent(name: str) -> Run:
    """The run of that name.

    Raises:
        UserError: There is none, or it is not an agent's.
    """
    from rltool.errors import UserError
    from rltool.training.methods import METHODS
    from rltool.training.run import Run

    run = Run(name)
    if METHODS[run.method].load().evaluation_metric != "mean_return":
        raise UserError(f"{name} is a run of {run.method}, which plays in no environment; take an agent's")
    return run


def open_generator(run: str) -> Any | None:
    """The GAN of a run; None where a run, or a file, is of something else."""
    from rltool.training.methods import METHODS
    from rltool.training.run import Run

    if Path(run).is_file():
        return None
    learner = METHODS[Run(run).method].load().learner_class()
    return Run(run).agent if hasattr(learner, "sample") else None


def open_classifier(run: str) -> Any | None:
    """The classifier of a run; None where a run, or a file, is of something else."""
    from rltool.training.methods import METHODS
    from rltool.training.run import Run

    if Path(run).is_file():
        return None
    opened = Run(run)
    method = METHODS[opened.method].load()
    return opened.agent if method.evaluation_metric == "accuracy" else None


def open_adapted(run: str) -> Any | None:
    """The classifier of a run that adapted one; None where a run, or a file, is of something else."""
    from rltool.training.methods import METHODS
    from rltool.training.run import Run

    if Path(run).is_file():
        return None
    opened = Run(run)
    return opened.agent if METHODS[opened.method].load().evaluation_metric == "target_accuracy" else None


def print_json(report: Any) -> None:
    """Print one JSON object; what is no number there, as nan, is null."""
    print(json.dumps(_with_null(report)))


def _with_null(value: Any) -> Any:
    match value:
        case dict():
            return {key: _with_null(each) for key, each in value.items()}
        case list() | tuple():
            return [_with_null(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value
