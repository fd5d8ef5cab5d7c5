"""`rltool defend RUN`: what a defense of a classifier is worth, against attackers who know of it and who do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, open_classifier, print_json
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
    epsilon: Annotated[
        float | None,
        typer.Option("--epsilon", help="Radius of the ball of perturbations.", show_default="the attack's"),
    ] = None,
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
    detect: Annotated[
        Literal["squeezing", "mahalanobis"] | None,
        typer.Option("--detect", help="Look for attacked examples with such a detector instead."),
    ] = None,
    false_positives: Annotated[
        float, typer.Option("--false-positives", help="Share of clean examples that it may refuse (--detect).")
    ] = 0.05,
    certify: Annotated[
        float | None,
        typer.Option(
            "--certify", metavar="SIGMA", help="Certify l2 radii by randomized smoothing with such noise instead."
        ),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", help="Noisy copies of each example (--certify).", min=1)] = 1_000,
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw certified accuracy against the radius (--certify).")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Test examples.", min=1)] = 1_000,
    seed: Annotated[int, typer.Option("--seed", help="Seeds attack and defense.", min=0)] = 0,
    json_: AsJson = False,
) -> None:
    """Put a defense before a classifier, and attack both: without knowing of the defense, and through it."""
    from rltool.attacks.defenses import make_defense
    from rltool.attacks.defenses.report import defend_classifier
    from rltool.attacks.making import make_attack
    from rltool.cli.options import parse_assignments

    if certify is not None:
        _certify(_classifier(run), certify, draws, examples, seed, out, json_)
        return
    given = {name: value for name, value in (("epsilon", epsilon), ("norm", norm)) if value is not None}
    attack = make_attack(attack_name, seed=seed, **given)
    if detect is not None:
        _detect(_classifier(run), detect, false_positives, attack, examples, json_)
        return
    made = make_defense(name, seed, **parse_assignments(option or [], "--option", "sigma=0.8"))
    classifier = _classifier(run)
    report = defend_classifier(classifier, made, attack, examples=examples, bpda=bpda, eot=eot, steps=steps)
    figures = {
        "data": classifier.data,
        "defense": name,
        "attack": attack_name,
        "norm": attack.norm,
        "epsilon": getattr(attack, "epsilon", None),
        "bpda": bpda and not report.differentiable,
        "eot": eot if report.random else 1,
        **report.as_dict(),
        "meaning": report.meaning,
    }
    if json_:
        print_json(figures)
    else:
        _print_table(figures)


def _classifier(run: str) -> Any:
    classifier = open_classifier(run)
    if classifier is None:
        raise UserError(
            f"{run} is no classifier's run; these defenses are for classifiers, as: rltool train classifier digits"
        )
    return classifier


def _certify(
    classifier: Any, sigma: float, draws: int, examples: int, seed: int, out: Path | None, as_json: bool
) -> None:
    from rltool.attacks.defenses.certified import certify_classifier

    report = certify_classifier(classifier, sigma, examples=examples, n=draws, seed=seed)
    if out is not None:
        report.plot(out)
    if as_json:
        print_json({"data": classifier.data, **report.as_dict()})
        return
    for radius, accuracy in zip(report.radii, report.certified_accuracy, strict=True):
        print(f"within {radius:.3f} (l2): {accuracy:.2%}")
    print(
        f"accuracy {report.clean:.2%} without noise, {report.smoothed:.2%} smoothed with sigma {sigma:g}, which "
        f"abstains on {report.abstained:.2%}; mean certified radius {report.mean_radius:.3f}; "
        f"{report.examples} examples, {report.n} draws each, {report.seconds:.1f} s"
    )


def _detect(classifier: Any, name: str, false_positives: float, attack: Any, examples: int, as_json: bool) -> None:
    from rltool.attacks.defenses.detection import detect_classifier, make_detector

    report = detect_classifier(classifier, make_detector(name, classifier, false_positives), attack, examples)
    if as_json:
        print_json({"data": classifier.data, "detector": name, "epsilon": attack.epsilon, **report.as_dict()})
        return
    print(
        f"{name} on {classifier.data}: {report.false_positives:.2%} of the clean examples are refused; of what "
        f"fools the classifier without knowing of the detector, {report.detected:.2%} (AUC {report.auc:.3f}). "
        f"Wrong and not refused: {report.undetected_static:.2%} under that attack, {report.undetected_adaptive:.2%} "
        f"under one that knows of it; {report.examples} examples, {report.seconds:.1f} s"
    )


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
    radius = "" if figures["epsilon"] is None else f" within {figures['epsilon']:g}"
    through = " by BPDA" if figures["bpda"] else ""
    through += f" over {figures['eot']} draws" if figures["eot"] > 1 else ""
    print(
        f"{attack}, {figures['norm']}{radius}; gradients through the defense{through}; "
        f"{figures['seconds']:.1f} s\n{figures['meaning']}"
    )
