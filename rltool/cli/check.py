"""`rltool check RUN`: whether attacks show of a victim what they seem to show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rltool.cli.opening import (
    AsJson,
    EnvArgs,
    EnvOption,
    RunOrZip,
    VecNormalize,
    open_agent,
    open_classifier,
    print_json,
)

if TYPE_CHECKING:
    from rltool.attacks.checks import Flag

WATCHED = 8_000  # Timesteps of an agent's play, spread over which its observations are taken.


def check(
    run: RunOrZip,
    samples: Annotated[
        int, typer.Option("--samples", help="Test examples, or observations of the agent, to look at.", min=16)
    ] = 200,
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes of each measured return.", min=1)] = 10,
    defect: Annotated[
        str | None,
        typer.Option(
            "--spoil", help="Give the victim a defect first, to see its flag go up; `--spoil list` shows them."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if a flag is raised.")] = False,
    env: EnvOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and attacks.", min=0)] = 0,
    env_arg: EnvArgs = None,
    vecnormalize: VecNormalize = None,
    json_: AsJson = False,
) -> None:
    """Look for red flags: reasons why attacks on this victim would make it look more robust than it is."""
    import numpy as np
    import torch

    from rltool.attacks.broken import DEFECTS, spoiled
    from rltool.attacks.checks import examine, examine_returns, range_of
    from rltool.attacks.policy_value import watch_transitions
    from rltool.attacks.robustness import AgentUnderTest
    from rltool.attacks.victim import Victim
    from rltool.trees import map_tree

    if defect == "list":
        print("\n".join(f"{name:<14}{each.summary} ({each.flag})" for name, each in DEFECTS.items()))
        return
    y: torch.Tensor | None
    classifier = open_classifier(run)
    if classifier is not None:
        space, part = classifier.model.input_space, classifier.dataset.test
        victim = Victim(classifier.model, (space.low, space.high))
        x, y = (torch.from_numpy(array[:samples]).to(classifier.device) for array in (part.x, part.y))
    else:
        agent, _, where, env_kwargs = open_agent(run, env, env_arg or [], vecnormalize)
        victim, y = Victim.from_agent(agent), None
        seen = watch_transitions(agent, where, WATCHED, env_kwargs=env_kwargs, seed=seed)
        rows = np.linspace(0, len(seen) - 1, min(samples, len(seen))).round().astype(int)
        x = victim.clip(seen.observations[rows])
        if seen.state is not None:
            victim.remember(map_tree(lambda leaf: leaf[rows], seen.state))
    flags = examine(victim if defect is None else spoiled(victim, defect), x, y, seed)
    if classifier is None and defect is None:
        flags += examine_returns(AgentUnderTest(agent, where, episodes, seed, env_kwargs), range_of(victim, x), seed)
    raised = [flag.name for flag in flags if flag.raised]
    if json_:
        print_json({"raised": raised, "flags": [vars(flag) for flag in flags]})
    else:
        _show(flags)
    if raised and strict:
        raise typer.Exit(1)


def _show(flags: list[Flag]) -> None:
    for flag in flags:
        print(f"{'RAISED' if flag.raised else 'ok    '}  {flag.name}: {flag.evidence}")
        if flag.raised:
            print(f"        {flag.advice}")
    count = sum(flag.raised for flag in flags)
    print(f"\n{count} of {len(flags)} flags are raised" if count else "\nno flag is raised")
