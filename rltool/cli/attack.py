"""`rltool attack RUN`: attack what a trained agent sees, or what a classifier is shown."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from rltool.cli.opening import AsJson, EnvArgs, EnvOption, RunOrZip, VecNormalize, open_agent, open_classifier


def attack(
    run: RunOrZip,
    name: Annotated[str, typer.Option("--attack", "-a", help="Which attack; see `rltool list attacks`.")] = "pgd",
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Radius of the ball of perturbations.", show_default="0.1")
    ] = None,
    norm: Annotated[
        Literal["linf", "l2", "l1"] | None, typer.Option("--norm", help="Its norm.", show_default="the attack's")
    ] = None,
    unit: Annotated[
        Literal["raw", "std"] | None,
        typer.Option(
            "--unit",
            help="Unit of epsilon: the input's own, or standard deviations of what the agent has seen.",
            show_default="raw",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of an iterated attack.", show_default="the attack's")
    ] = None,
    step_size: Annotated[
        float | None, typer.Option("--step-size", help="Length of each.", show_default="2.5 epsilon / steps")
    ] = None,
    restarts: Annotated[int | None, typer.Option("--restarts", help="Random starts.", show_default="1")] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            help="What is maximized: ce, margin, dlr, away-towards, kl.",
            show_default="margin for agents, where it would be ce",
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="Most queries of a black-box attack.", show_default="1000")
    ] = None,
    adversary: Annotated[
        str | None,
        typer.Option("--adversary", help="Run or file of a learned adversary.", show_default="one is trained"),
    ] = None,
    total_timesteps: Annotated[
        int | None,
        typer.Option(
            "--total-timesteps", "-n", help="Budget of an adversary that is trained here.", show_default="100000"
        ),
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play, each way.", min=1)] = 50,
    fraction: Annotated[float, typer.Option("--fraction", help="Share of the timesteps that are attacked.")] = 1.0,
    examples: Annotated[
        int, typer.Option("--examples", help="Test examples to attack, for classifiers.", min=1)
    ] = 1_000,
    env: EnvOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and attack.", min=0)] = 0,
    env_arg: EnvArgs = None,
    vecnormalize: VecNormalize = None,
    json_: AsJson = False,
) -> None:
    """Attack what a trained agent sees, or what a classifier is shown, and say what is left of its score."""
    from rltool.attacks.making import make_attack

    given = {
        "epsilon": epsilon,
        "norm": norm,
        "unit": unit,
        "steps": steps,
        "step_size": step_size,
        "restarts": restarts,
        "loss": loss,
        "queries": queries,
        "adversary": adversary,
        "total_timesteps": total_timesteps,
    }
    options = {option: value for option, value in given.items() if value is not None}
    made = make_attack(name, seed=seed, **options)  # First: a wrong option need not wait for the run.

    classifier = open_classifier(run)
    if classifier is not None:
        from rltool.attacks.classifiers import attack_classifier

        where, figures = classifier.data, attack_classifier(classifier, made, examples).as_dict()
    else:
        from rltool.attacks.policies import attack_agent

        if loss is None and getattr(made, "loss", None) == "ce":
            made = make_attack(
                name, seed=seed, loss="margin", **options
            )  # Where a policy is sure of its action, cross-entropy is flat.
        agent, _, where, env_kwargs = open_agent(run, env, env_arg or [], vecnormalize)
        figures = attack_agent(agent, where, made, episodes, seed, fraction=fraction, env_kwargs=env_kwargs).as_dict()
    report = {
        "data": where,
        "attack": name,
        "norm": made.norm,
        "epsilon": getattr(made, "epsilon", None),
        "unit": getattr(made, "unit", "raw"),
        **figures,
    }
    print(json.dumps(report) if json_ else _sentences(report))


def _sentences(report: dict[str, Any]) -> str:
    radius = "" if report["epsilon"] is None else f" within {report['epsilon']:g}"
    unit = " standard deviations" if report["unit"] == "std" else ""
    begin = f"{report['attack']} on {report['data']} ({report['norm']}{radius}{unit}): "
    if "examples" in report:
        return begin + (
            f"accuracy {report['clean']:.2%} without, {report['attacked']:.2%} with it; {report['examples']} examples, "
            f"median distance {report['median_distance']:.4g}, {report['queries']:.0f} queries each, "
            f"{report['seconds']:.1f} s"
        )
    return begin + (
        f"return {report['clean']:.2f} without, {report['attacked']:.2f} ± {report['attacked_std']:.2f} with it, "
        f"{report['random']:.2f} at random; {report['normalized']:.0%} of the way is left. "
        f"{report['flip_rate']:.0%} of the actions changed; {report['episodes']} episodes, {report['seconds']:.1f} s"
    )
