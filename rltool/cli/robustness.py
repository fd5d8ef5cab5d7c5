"""`rltool robustness RUN...`: what attacks leave of a score, against epsilon."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rltool.attacks.config import ATTACKS
from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, EnvArgs, EnvOption, VecNormalize, open_agent, open_classifier, print_json
from rltool.errors import UserError

if TYPE_CHECKING:
    from rltool.attacks.attack import Attack
    from rltool.attacks.robustness import Cell, Robustness

AGENT_ATTACKS, CLASSIFIER_ATTACKS = "random,pgd,mad,sarsa", "random,fgsm,pgd,apgd,square"
FRONTIER_ATTACKS = "mad,timed,critical"  # The first at random timesteps, the others at chosen ones.
UNITS = {"raw": "", "std": ", standard deviations"}


def robustness(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs, or Stable-Baselines3 .zip files; several go into one picture.",
            autocompletion=complete_run,
        ),
    ],
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks",
            "-a",
            help="Which, as pgd,mad; see [bold]rltool list attacks[/].",
            show_default=f"{AGENT_ATTACKS} for agents, {CLASSIFIER_ATTACKS} for classifiers; {FRONTIER_ATTACKS} "
            "with --shares",
        ),
    ] = None,
    epsilons: Annotated[str, typer.Option("--epsilons", help="Radii of the ball.")] = "0.025,0.05,0.1,0.2",
    shares: Annotated[
        str | None,
        typer.Option(
            "--shares",
            help="Of an agent, at a single epsilon: the score against the share of the timesteps that are attacked, as "
            "0.05,0.1,0.25,0.5,1. timed and critical choose them, other attacks take them at random.",
        ),
    ] = None,
    norm: Annotated[Literal["linf", "l2", "l1"], typer.Option("--norm", help="Its norm.")] = "linf",
    unit: Annotated[
        str,
        typer.Option("--unit", help="Unit of epsilon: raw, std (of what agents saw), or one for each feature."),
    ] = "raw",
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes of each measurement.", min=1)] = 50,
    examples: Annotated[int, typer.Option("--examples", help="Test examples of each, for classifiers.", min=1)] = 1_000,
    env: EnvOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and attacks.", min=0)] = 0,
    env_arg: EnvArgs = None,
    vecnormalize: VecNormalize = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The picture: .png, .svg or .pdf; a .csv goes beside it.",
            show_default="robustness.png (frontier.png with --shares), in the run's folder if it is one",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Measure what attacks leave of the return, or the accuracy, at several epsilons: table, picture, CSV.

    What has been measured is kept beside each run in robustness.json: a command that was cut off goes on where it was.
    """
    from rltool.attacks.making import make_attack, make_policy_attack
    from rltool.attacks.robustness import (
        AgentOverShares,
        AgentUnderTest,
        Cells,
        ClassifierUnderTest,
        measure_robustness,
    )
    from rltool.attacks.robustness_plot import NAMES, draw_robustness, table_of, write_csv

    if out is not None and out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--out ends in .png, .svg or .pdf; not '{out}'")
    axis, file, levels = "epsilon", "robustness", _numbers("--epsilons", epsilons)
    options: dict[str, Any] = {"norm": norm, "seed": seed} | ({"unit": unit} if unit != "raw" else {})
    if shares is not None:
        if len(levels) > 1:
            raise UserError("--shares asks what many timesteps do at a single epsilon; give one, as --epsilons 0.1")
        options["epsilon"] = levels[0]
        axis, file, levels = "share", "frontier", _numbers("--shares", shares)
    results = []
    for name in runs:
        classifier = open_classifier(name)
        subject: AgentUnderTest | ClassifierUnderTest
        if classifier is not None:
            if shares is not None:
                raise UserError("--shares is of an agent's timesteps; leave it out for a classifier")
            subject = ClassifierUnderTest(classifier, examples)
            folder, names = _folder(name), attacks or CLASSIFIER_ATTACKS
            test = classifier.dataset.test
            data = hashlib.sha256(test.x.tobytes() + test.y.tobytes()).hexdigest()
            key: dict[str, Any] = {"examples": examples, "test": data}
            make = make_attack
        else:
            agent, folder, where, env_kwargs = open_agent(name, env, env_arg or [], vecnormalize)
            kind = AgentUnderTest if shares is None else AgentOverShares
            subject = kind(agent, where, episodes, seed, env_kwargs)
            names = attacks or (AGENT_ATTACKS if shares is None else FRONTIER_ATTACKS)
            key = {"env": where, "env_kwargs": env_kwargs, "episodes": episodes, "statistics": _statistics(agent)}
            make = make_policy_attack
        key |= {**options, "unit": unit, "weights": _digest(name, folder)}
        stored = Path(f"{name}.{file}.json") if Path(name).is_file() else folder / f"{file}.json"
        made = {each.strip(): partial(_made, make, each.strip(), options, axis) for each in names.split(",")}
        shown = None if json_ else partial(_progress, name)
        cells = Cells(stored, key)
        results.append(measure_robustness(subject, made, levels, folder.name or name, cells, shown, axis))
    picture = out or (_folder(runs[0]) if len(runs) == 1 else Path()) / f"{file}.png"
    ball = f"{norm}{UNITS.get(unit, f', in {unit}')}"
    xlabel = f"epsilon ({ball})" if shares is None else f"{NAMES[axis]}, epsilon {options['epsilon']:g} ({ball})"
    draw_robustness(results, picture, xlabel)
    table = write_csv(results, picture.with_suffix(".csv"))
    if json_:
        print_json({"runs": [_report(result) for result in results], "picture": str(picture), "csv": str(table)})
        return
    from rich.console import Console

    for result in results:
        Console().print(table_of(result))
    print(f"{picture}\n{table}")


def _made(make: Callable[..., Attack], name: str, options: Mapping[str, Any], axis: str, level: float) -> Attack:
    kind = ATTACKS[name].load()
    if not hasattr(kind, "epsilon"):
        raise UserError(
            f"{name} has no epsilon, which a curve is drawn over; rltool attack --attack {name} measures it"
        )
    if axis == "epsilon":
        return make(name, epsilon=level, **options)
    return make(name, **options, **({"budget": level} if hasattr(kind, "budget") else {}))


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} takes numbers, as 0.05,0.1; not '{text}'") from None


def _folder(run: str) -> Path:
    from rltool.training.run import resolve_run

    return Path() if Path(run).is_file() else resolve_run(run)


def _digest(run: str, folder: Path) -> str:
    """What weights there are: what was measured of others is no longer true."""
    file = Path(run) if Path(run).is_file() else folder / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _statistics(agent: Any) -> str:
    """What observations are normalized by, which may lie in a file of its own."""
    normalizer = agent.policy.normalizer
    tensors = () if normalizer is None else normalizer.state_dict().values()
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()


def _progress(run: str, cell: Cell) -> None:
    print(f"  {run}: {cell.attack} at {cell.level:g} leaves {cell.score:.4g} ({cell.seconds:.1f} s)", file=sys.stderr)


def _report(result: Robustness) -> dict[str, Any]:
    return {
        "run": result.name,
        "metric": result.metric,
        "clean": result.clean.score,
        "chance": result.chance,
        "area": result.area,
        "envelope": [{result.axis: cell.level, "score": cell.score} for cell in result.envelope],
        "cells": list(result.rows()),
    }
