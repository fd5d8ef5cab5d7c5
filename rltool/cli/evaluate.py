"""`rltool eval RUN`: let a trained agent play, or measure what else was trained."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from rltool.cli.opening import (
    AsJson,
    EnvArgs,
    EnvOption,
    RunOrZip,
    VecNormalize,
    open_adapted,
    open_agent,
    open_classifier,
    open_generator,
)


def evaluate(
    run: RunOrZip,
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play.", min=1)] = 20,
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="(GANs) Samples to draw.", min=1, show_default="2,500, or 50 for each mode"),
    ] = None,
    extractor: Annotated[
        str,
        typer.Option("--extractor", help="(GANs) What images are seen through: auto, pixels, inception, or a run."),
    ] = "auto",
    env: EnvOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and sampling.", min=0)] = 0,
    stochastic: Annotated[
        bool, typer.Option("--stochastic/--deterministic", help="Sample actions, or take the most probable ones.")
    ] = False,
    render: Annotated[Literal["human"] | None, typer.Option("--render", help="Open a window and watch.")] = None,
    video: Annotated[bool, typer.Option("--video", help="Film the episodes into the run's videos/ folder.")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Film them as animated GIFs.")] = False,
    env_arg: EnvArgs = None,
    vecnormalize: VecNormalize = None,
    json_: AsJson = False,
) -> None:
    """Let a trained agent play, and report its returns; or measure a classifier, or a generator's samples."""
    from rltool.agents import evaluation

    classifier = open_classifier(run)
    if classifier is not None:
        _report_classifier(classifier, json_)
        return
    adapted = open_adapted(run)
    if adapted is not None:
        _report_adapted(adapted, json_)
        return
    generator = open_generator(run)
    if generator is not None:
        _report_generator(generator, samples, seed, extractor, json_)
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
    names, counts = classifier.dataset.classes, result["confusion"]
    wrong = sorted(
        ((count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count),
        key=lambda each: -each[0],
    )
    if wrong:
        print("most often: " + ", ".join(f"{names[i]} read as {names[j]} ({count}x)" for count, i, j in wrong[:3]))


def _report_adapted(learner: Any, as_json: bool) -> None:
    result = learner.test()
    if as_json:
        print(json.dumps({"data": learner.data, **result}))
        return
    target = f"{result['target_accuracy']:.2%}" if "target_accuracy" in result else "unknown, as it has no labels"
    print(
        f"{learner.data}: accuracy in the target {target}, in the source {result['source_accuracy']:.2%}, "
        f"{result['examples']} examples"
    )
    if "h_score" in result:
        print(f"  H-score of known and unknown classes: {result['h_score']:.2%}")
    for name, accuracy in result.get("class_accuracy", {}).items():
        print(f"  {name}: {accuracy:.2%}")
    for sentence in learner.sentences(result):
        print(sentence)


def _report_generator(learner: Any, samples: int | None, seed: int, extractor: str, as_json: bool) -> None:
    if hasattr(learner, "sample_text"):
        _report_sequences(learner, learner.test(samples or 2_000, seed), as_json)
        return
    report = learner.test(samples, seed, extractor)
    print(json.dumps(report.to_dict()) if as_json else report)


def _report_sequences(learner: Any, result: dict[str, Any], as_json: bool) -> None:
    result.pop("score", None)
    if as_json:
        print(json.dumps({"data": learner.data, **result}))
        return
    print(f"{learner.data}: " + ", ".join(f"{name} {value:.4g}" for name, value in result.items()))
