"""`rltool train METHOD DATA`: a sub-command for each method, made from its config."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rltool.cli.completion import complete_environment
from rltool.errors import UserError
from rltool.training.methods import METHODS

if TYPE_CHECKING:
    from rltool.training.methods import Method


class MethodGroup(TyperGroup):
    """Knows the methods by name and summary; builds a method's command, with all its options, when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return METHODS.names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in METHODS.names():
            return None
        return TyperCommand(name=cmd_name, help=METHODS[cmd_name].summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = METHODS[args[0]].name
        return name, build_command(name), args[1:]


app = typer.Typer(
    cls=MethodGroup,
    help="Train a method; [bold]rltool train METHOD --help[/] shows its options.",
    no_args_is_help=True,
    subcommand_metavar="METHOD DATA [OPTIONS]",
    rich_markup_mode="rich",
)


@app.callback()
def _train() -> None:
    """Train a method; [bold]rltool train METHOD --help[/] shows its options."""


def build_command(name: str) -> Any:
    """The command of one method."""
    from rltool.cli.options import OptionsCommand, given_options, option_parameters, panel_of, parse_assignments

    entry = METHODS[name]
    method: Method = entry.load()

    domains = method.data == "SOURCE:TARGET"

    def command(**values: Any) -> None:
        if domains:
            values["data"] = _pair(values["data"], values["source"], values["target"])
        options = given_options(method.run, values) | given_options(method.config, values)
        if values["env_arg"]:
            options["env_kwargs"] = parse_assignments(values["env_arg"])
        if options.get("folds") and "fold" not in options:
            _train_folds(name, values["data"], values["seeds"], options, values["json_"])
        elif values["seeds"] is not None:
            _train_seeds(name, values["data"], values["seeds"], options, values["json_"])
        else:
            _train_one(name, values["data"], options, values["json_"], values["quiet"])

    own = list(option_parameters(method.config, name))
    of_method = [each for each in own if panel_of(each) == name]
    parameters = [
        inspect.Parameter(
            "data",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                str,
                typer.Argument(metavar=method.data, help="What to train on.", autocompletion=complete_environment),
            ],
            **({"default": ""} if domains else {}),
        ),
        *(_domain_parameters() if domains else []),
        *of_method,
        *option_parameters(method.run, "Run", skip=frozenset({"env_kwargs"})),
        _parameter(
            "env_arg", list[str], "--env-arg", "Argument of the environment's constructor, as g=9.81.", "Run", []
        ),
        _parameter("seeds", str | None, "--seeds", "Train several seeds in parallel, as 0-4 or 1,3,5.", "Run", None),
        _parameter("json_", bool, "--json", "Print the summary as one JSON object.", "Run", False),
        _parameter("quiet", bool, "--quiet", "Show no progress.", "Run", False),
        *(each for each in own if panel_of(each) != name),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, cls=OptionsCommand, help=f"{name}: {entry.summary}.")(command)
    return get_command(single)


def _parameter(name: str, kind: Any, flag: str, text: str, panel: str, default: Any) -> inspect.Parameter:
    metavar = "NAME=VALUE" if flag == "--env-arg" else None
    option = typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _domain_parameters() -> list[inspect.Parameter]:
    sides = {"source": "Data set to learn labels from, instead of SOURCE:TARGET.", "target": "What goes with --source."}
    return [_parameter(side, str | None, f"--{side}", text, "Run", None) for side, text in sides.items()]


def _pair(data: str, source: str | None, target: str | None) -> str:
    """`source:target`, however a user gave it."""
    if bool(data) == bool(source or target) or bool(source) != bool(target):
        raise UserError("give the two domains either as SOURCE:TARGET or by both --source and --target")
    return data or f"{source}:{target}"


def _train_one(name: str, data: str, options: dict[str, Any], as_json: bool, quiet: bool) -> None:
    from rltool.training.options import resolve_options

    resolve_options(METHODS[name].load(), data, options)  # A wrong option need not wait for PyTorch.
    from rltool.training.train import train

    run = train(name, data, progress=not quiet and not as_json, **options)
    if as_json:
        print(json.dumps({"run": str(run.path), **run.summary}))
    if not run.summary["finished"]:
        if not as_json:
            print(f"stopped at timestep {run.summary['total_timesteps']:,}; go on with: {run.resume_command}")
        raise typer.Exit(1)
    if not as_json and not quiet:
        report(run)


# Returns of the best weights elsewhere.
BESIDE = {"best_target_return": "in the target", "best_attacked_return": "under attack"}


def report(run: Any) -> None:
    """Say how a run ended, and what can be done with it."""
    from rltool.adaptation.verdict import verdict as adapted
    from rltool.agents.controls import verdict
    from rltool.gan.sequence.controls import verdict as verdict_on_sequences

    summary = run.summary
    said = [
        *verdict(summary),
        *verdict_on_sequences(summary),
        *adapted(summary),
        *disagreement(summary),
        *continued(summary),
    ]
    result = summary.get("mean_return")
    print(
        f"{summary['total_timesteps']:,} timesteps in {summary['seconds']:.1f} s "
        f"({summary['timesteps_per_second']:,.0f} timesteps/s)"
        + (f", best return {result:.1f}" if result is not None else "")
        + "".join(f", {where} {summary[name]:.1f}" for name, where in BESIDE.items() if name in summary)
        + (f", test accuracy {summary['test_accuracy']:.2%}" if "test_accuracy" in summary else "")
        + generated(summary)
        + "".join(f"\n{sentence}" for sentence in said)
        + _next_steps(run)
    )


def generated(summary: dict[str, Any]) -> str:
    """What a summary says of the samples of the best weights."""
    from rltool.training.progress import figure

    names = {"modes": "modes", "high_quality": "high quality", "fid": "FID"}
    found = [
        f"{text} {figure(name, summary[f'best_{name}'])}" for name, text in names.items() if f"best_{name}" in summary
    ]
    if "class_kept" in summary:  # By translations.
        found.append(f"class kept {figure('class_kept', summary['class_kept'])}")
    return "".join(f", {each}" for each in found)


def _next_steps(run: Any) -> str:
    from rltool.training.run import shown

    command = f"rltool eval {shown(run.path)}"
    if METHODS[run.method].load().evaluation_metric != "mean_return":
        samples = f"\nsamples:   {shown(run.path)}/samples.png" if (run.path / "samples.png").exists() else ""
        return f"\ntest it:   {command}{samples}"
    return f"\nwatch it:  {command} --render human\nfilm it:   {command} --video"


def disagreement(summary: dict[str, Any]) -> list[str]:
    """What a summary says of DAgger's rounds, in a sentence."""
    if "last_disagreement" not in summary:
        return []
    first, last = summary["first_disagreement"], summary["last_disagreement"]
    return [
        f"disagreement with the expert: {first:.1%} in the first round of its own, {last:.1%} in the last "
        "(drift.png shows it along the episode)"
    ]


def continued(summary: dict[str, Any]) -> list[str]:
    """What a summary says of the run that went on from this one, in a sentence."""
    if "then" not in summary:
        return []
    result = summary["then_return"]
    return [f"went on in {summary['then']}" + (f", best return {result:.1f}" if result is not None else "")]


def _train_folds(name: str, data: str, seeds: str | None, options: dict[str, Any], as_json: bool) -> None:
    from rltool.cli.folds import train_folds

    if seeds is not None:
        raise UserError("give either --seeds or --folds, not both")
    train_folds(name, data, options, as_json)


def _train_seeds(name: str, data: str, seeds: str, options: dict[str, Any], as_json: bool) -> None:
    from rltool.cli.seeds import parse_seeds, train_seeds

    if "seed" in options:
        raise UserError("give either --seed or --seeds, not both")
    train_seeds(name, data, parse_seeds(seeds), options, as_json)
