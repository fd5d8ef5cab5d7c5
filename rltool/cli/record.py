"""`rltool record RUN --out NAME`: demonstrations of a trained agent, a random one, or your own."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, EnvArgs, EnvOption, VecNormalize


def record(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, its name in runs/, latest; a Stable-Baselines3 .zip; with --random or --human, an "
            "environment.",
            autocompletion=complete_run,
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="NAME", help="A Minari dataset (-v0 is added), or a file.npz.")
    ],
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play.", min=1)] = 50,
    random: Annotated[bool, typer.Option("--random", help="Play at random in the environment RUN.")] = False,
    human: Annotated[bool, typer.Option("--human", help="Play yourself in the environment RUN, in a window.")] = False,
    min_return: Annotated[
        float | None, typer.Option("--min-return", help="Keep only episodes with at least this return.")
    ] = None,
    env: EnvOption = None,
    env_arg: EnvArgs = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and sampling.", min=0)] = 0,
    stochastic: Annotated[
        bool, typer.Option("--stochastic/--deterministic", help="Sample actions, or take the most probable ones.")
    ] = False,
    vecnormalize: VecNormalize = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps", help="With --human, timesteps a second.", min=1, max=1000, show_default="the environment's"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace demonstrations of this name.")] = False,
    json_: AsJson = False,
) -> None:
    """Record demonstrations: whole episodes of a trained agent, of a random one, or of yourself."""
    from rltool.envs.demonstration_files import check_storable, save_demonstrations
    from rltool.envs.demonstration_names import check_free, check_writable, full_name
    from rltool.errors import UserError

    if random and human:
        raise UserError("--random and --human exclude each other")
    if (random or human) and env is not None:
        raise UserError(f"with --random and --human, the environment stands in the place of RUN; leave out --env {env}")
    check_free(out, overwrite)
    check_writable(out)

    if random or human:
        from rltool.cli.options import parse_assignments
        from rltool.envs import make_env

        env_id, env_kwargs = run, parse_assignments(env_arg or [])
        probe = make_env(env_id, **{"action_masks": True, **env_kwargs})
        observation_space, action_space = probe.observation_space, probe.action_space
        probe.close()
        check_storable(out, observation_space, action_space)
    failure = None
    if human:
        from rltool.agents.human import PlayFailedError, human_episodes

        player = "human"
        try:
            demos = human_episodes(env_id, episodes, seed, env_kwargs, fps)
        except PlayFailedError as error:
            failure, demos = error, error.demonstrations
    else:
        from rltool.agents.recording import RandomAgent
        from rltool.agents.recording import record as record_agent

        if random:
            player, agent = "random", RandomAgent(action_space, seed)
        else:
            from rltool.cli.opening import open_agent

            agent, _, env_id, env_kwargs = open_agent(run, env, env_arg or [], vecnormalize)
            player = type(agent).__name__
            check_storable(out, agent.observation_space, agent.action_space)
        demos = record_agent(agent, env_id, episodes, seed, not stochastic, env_kwargs)

    if min_return is not None:
        good = [k for k, value in enumerate(demos.returns) if value >= min_return]
        if not good:
            raise failure or UserError(
                f"no episode had a return of {min_return:g}; the best had {demos.returns.max():g}"
            )
        demos = demos.select(good)
    mean, std = float(demos.returns.mean()), float(demos.returns.std())
    description = f"{demos.num_episodes} episodes in {env_id}, mean return {mean:.2f}, recorded by rltool"
    path = save_demonstrations(out, demos, player, description, overwrite)
    if failure is not None:
        failure.add_note(f"what was finished before is kept: {demos.num_episodes} episodes, {full_name(out)} in {path}")
        raise failure

    figures = {
        "name": full_name(out),
        "path": str(path),
        "episodes": demos.num_episodes,
        "timesteps": len(demos),
        "mean_return": mean,
        "std_return": std,
        "mean_length": float(demos.lengths.mean()),
        "env": env_id,
    }
    if json_:
        print(json.dumps(figures))
    else:
        print(
            f"{full_name(out)}: {demos.num_episodes} episodes in {env_id}, {len(demos):,} timesteps, "
            f"return {mean:.2f} ± {std:.2f}\nin {path}; look at them with: rltool demos {out}"
        )
