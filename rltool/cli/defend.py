"""`rltool defend RUN`: what a defense of a classifier is worth, against attackers who know of it and who do not."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, open_classifier
from rltool.errors import UserError


def defend(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A classifier's run: its folder, its name in runs/, latest.",
            autocompletion=complete_run,
        ),
    ],
    name: Annotated[str, typer.Option("--with", "-w", help="Which defense; see `rltool list defenses`.")] = "smoothing",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="Option of the defense, as sigma=0.8."),
    ] = None,
    attack_name: Annotated[
        str, typer.Option("--attack", "-a", help="Which attack; see `rltool list attacks`.")
    ] = "pgd",
    epsilon: Annotated[float, typer.Option("--epsilon", help="Radius of the ball of perturbations.")] = 0.1,
    norm: Annotated[
        Literal["linf", "l2"] | None, typer.Option("--norm", help="Its norm.", show_default="the attack's")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the attacks through the defense.", min=1)] = 40,
    bpda: Annotated[
        bool, typer.Option("--bpda/--no-bpda", help="Let gradients go around a defense that has none.")
    ] = True,
    eot: Annotated[
        int, typer.Option("--eot", help="Draws of a random defense that each gradient is the mean of.", min=1)
    ] = 10,
    examples: Annotated[int, typer.Option("--examples", help="Test examples to attack.", min=1)] = 1_000,
    seed: Annotated[int, typer.Option("--seed", help="Seeds attack and defense.", min=0)] = 0,
    json_: AsJson = False,
) -> None:
    """Put a defense before a classifier, and attack both: without knowing of the defense, and through it."""
    from rltool.attacks.defenses import make_defense
    from rltool.attacks.defenses.report import defend_classifier
    from rltool.attacks.making import make_attack
    from rltool.cli.options import parse_assignments

    made = make_defense(name, seed, **parse_assignments(option or [], "--option", "sigma=0.8"))
    given: dict[str, Any] = {"epsilon": epsilon} | ({} if norm is None else {"norm": norm})
    attack = make_attack(attack_name, seed=seed, **given)
    classifier = open_classifier(run)
    if classifier is None:
        raise UserError(
            f"{run} is no classifier's run; these defenses are for classifiers, as: rltool train classifier digits"
        )
    report = defend_classifier(classifier, made, attack, examples=examples, bpda=bpda, eot=eot, steps=steps)
    figures = {
        "data": classifier.data,
        "defense": name,
        "attack": attack_name,
        "norm": attack.norm,
        "epsilon": epsilon,
        "bpda": bpda and not report.differentiable,
        "eot": eot if report.random else 1,
        **report.as_dict(),
        "meaning": report.meaning,
    }
    if json_:
        print(json.dumps(figures))
    else:
        _print_table(figures)


def _print_table(figures: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    attack, defense = figures["attack"], figures["defense"]
    table = Table(box=box.SIMPLE, title=f"{defense} on {figures['data']}, {figures['examples']} examples")
    table.add_column("accuracy")
    for column in ("no attack", "attack unaware of it", "attack through it"):
        table.add_column(column, justify="right")
    table.add_row("no defense", f"{figures['clean']:.2%}", f"{figures['attacked']:.2%}", "")
    row = (figures[f"defended_{each}"] for each in ("clean", "static", "adaptive"))
    table.add_row(defense, *(f"{each:.2%}" for each in row))
    Console().print(table)
    through = " by BPDA" if figures["bpda"] else ""
    through += f" over {figures['eot']} draws" if figures["eot"] > 1 else ""
    print(
        f"{attack}, {figures['norm']} within {figures['epsilon']:g}; gradients through the defense{through}; "
        f"{figures['seconds']:.1f} s\n{figures['meaning']}"
    )
