"""`rltool eval RUN`: let a trained agent play."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from rltool.cli.completion import complete_environment, complete_run


def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, its name in runs/, latest; or a Stable-Baselines3 .zip.",
            autocompletion=complete_run,
        ),
    ],
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play.", min=1)] = 20,
    env: Annotated[
        str | None,
        typer.Option(
            "--env", help="Environment to play in.", show_default="the run's", autocompletion=complete_environment
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and sampling.", min=0)] = 0,
    stochastic: Annotated[
        bool, typer.Option("--stochastic/--deterministic", help="Sample actions, or take the most probable ones.")
    ] = False,
    render: Annotated[Literal["human"] | None, typer.Option("--render", help="Open a window and watch.")] = None,
    video: Annotated[bool, typer.Option("--video", help="Film the episodes into the run's videos/ folder.")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Film them as animated GIFs.")] = False,
    env_arg: Annotated[
        list[str] | None,
        typer.Option("--env-arg", metavar="NAME=VALUE", help="Argument of the environment's constructor, as g=9.81."),
    ] = None,
    vecnormalize: Annotated[
        str | None, typer.Option("--vecnormalize", help="Observation statistics of a .zip, if not beside it.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let a trained agent play, and report its returns."""
    from rltool.agents import evaluation
    from rltool.cli.opening import open_agent, open_classifier

    classifier = open_classifier(run)
    if classifier is not None:
        _report_classifier(classifier, json_)
        return
    agent, folder, env_id, env_kwargs = open_agent(run, env, env_arg or [], vecnormalize)

    if video or gif:
        from rltool.agents.video import film

        kinds = [kind for kind, wanted in (("mp4", video), ("gif", gif)) if wanted]
        result, files = film(
            agent, env_id, folder / "videos", episodes, seed, not stochastic, kinds=kinds, env_kwargs=env_kwargs
        )
        if not json_:
            print("\n".join(f"filmed {file}" for file in files))
    elif render:
        result = evaluation.watch(
            agent, env_id, episodes, seed, not stochastic, render_mode=render, env_kwargs=env_kwargs
        )
    else:
        result = evaluation.evaluate(agent, env_id, episodes, seed, not stochastic, env_kwargs=env_kwargs)

    figures = result.as_dict()
    if json_:
        print(
            json.dumps(
                {"env": env_id, **figures, "seed": seed, "deterministic": not stochastic, "returns": result.returns}
            )
        )
    else:
        print(
            f"{env_id}: return {figures['mean_return']:.2f} ± {figures['std_return']:.2f} "
            f"(from {figures['min_return']:.1f} to {figures['max_return']:.1f}), "
            f"length {figures['mean_length']:.1f}, {episodes} episodes, {'sampled' if stochastic else 'deterministic'}"
        )


def _report_classifier(classifier: Any, as_json: bool) -> None:
    result = classifier.test()
    if as_json:
        print(json.dumps({"data": classifier.data, **result}))
        return
    print(
        f"{classifier.data}: accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}, "
        f"{result['examples']} examples"
    )
    for name, accuracy in result["class_accuracy"].items():
        print(f"  {name}: {accuracy:.2%}")
