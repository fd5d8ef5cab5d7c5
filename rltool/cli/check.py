"""`rltool check RUN`: whether attacks show of a victim what they seem to show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    import torch

    from rltool.attacks.broken import DEFECTS, spoiled
    from rltool.attacks.checks import examine, examine_returns, range_of
    from rltool.attacks.robustness import AgentUnderTest
    from rltool.attacks.victim import Victim

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
        seen, state = observations_of(agent, where, samples, seed, env_kwargs)
        x = victim.clip(seen)
        if state is not None:
            victim.remember(state)
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


def observations_of(agent: Any, env_id: str, count: int, seed: int, env_kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Observations `(count, ...)` of an agent in a few episodes, spread over these; with a memory, its states there."""
    import numpy as np
    import torch

    from rltool.agents.recording import record
    from rltool.agents.rollout import concatenate

    played = record(agent, env_id, 4, seed, env_kwargs=env_kwargs)
    seen = np.asarray(played.observations)
    rows = np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int)
    x = torch.from_numpy(seen[rows].astype(np.float32))
    if not agent.policy.has_memory:
        return x, None
    act, states = agent.policy.actor(None), []
    first, wanted = {0, *(played.ends + 1).tolist()}, set(rows.tolist())
    for row, observation in enumerate(seen):
        if row in first:
            state = agent.policy.initial_state(1)
        if row in wanted:
            states.append(state)
        state = act(observation[None], state)[1]
    return x, concatenate(*states)


def _show(flags: list[Flag]) -> None:
    for flag in flags:
        print(f"{'RAISED' if flag.raised else 'ok    '}  {flag.name}: {flag.evidence}")
        if flag.raised:
            print(f"        {flag.advice}")
    count = sum(flag.raised for flag in flags)
    print(f"\n{count} of {len(flags)} flags are raised" if count else "\nno flag is raised")
