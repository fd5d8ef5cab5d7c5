"""`rltool adapt RUN --to ENV~shift`: a trained agent in another look of its environment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, print_json
from rltool.errors import UserError


def adapt(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run: its folder, its name in runs/, latest.", autocompletion=complete_run
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="ENV~SHIFT", help="The other look; see `rltool list shifts`.")],
    method: Annotated[
        Literal["dann", "coral", "mmd", "adabn"],
        typer.Option(
            "--method",
            "-m",
            help="What makes features alike: a domain classifier that cannot tell them apart (dann), equal "
            "covariances (coral), or equal moments (mmd). Or, of a policy that normalizes, nothing but the statistics "
            "that it normalizes by (adabn).",
        ),
    ] = "dann",
    timesteps: Annotated[
        int,
        typer.Option(
            "--timesteps",
            "-n",
            help="How many are looked at, in each of the two looks, and again in the target.",
            min=16,
        ),
    ] = 8_000,
    oracle: Annotated[
        str | None,
        typer.Option("--oracle", metavar="RUN", help="A run that was trained in the target, to compare with."),
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes that are played for each return.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Seeds what is seen, the search, and the episodes.", min=0)] = 0,
    run_dir: Annotated[str, typer.Option("--run-dir", help="Folder that the new run is put in.")] = "runs",
    name: Annotated[str | None, typer.Option("--name", help="Name of the new run.")] = None,
    json_: AsJson = False,
) -> None:
    """Adapt a trained agent to another look of its environment; no reward there is used. Makes a new run."""
    from rltool.training.methods import METHODS
    from rltool.training.progress import make_progress
    from rltool.training.run import Run

    opened = Run(run)
    if METHODS[opened.method].load().evaluation_metric != "mean_return":
        raise UserError(f"{run} is a run of {opened.method}, which plays in no environment; take an agent's")
    from rltool.adaptation.transfer import adapt_run

    adapted, report = adapt_run(
        opened,
        to,
        method=method,
        timesteps=timesteps,
        seed=seed,
        episodes=episodes,
        oracle=None if oracle is None else Run(oracle),
        run_dir=run_dir,
        name=name,
        say=make_progress(not json_).note,
    )
    if json_:
        print_json({"run": str(adapted.path), **report.as_dict()})
    else:
        _print_report(report, str(adapted.path))


def _print_report(report: Any, path: str) -> None:
    environments = {"source": report.source_env}
    for row, (low, high), result in zip(
        report.rows(), report.intervals().values(), report.rows().values(), strict=True
    ):
        print(
            f"{row.replace('_', '-'):<9} {result.mean_return:9.2f}  ({low:.2f} to {high:.2f})  "
            f"{environments.get(row, report.target_env)}"
        )
    print(f"{len(report.source.returns)} episodes each, means with 95% intervals; adapted in {report.seconds:.0f} s")
    print(report.verdict())
    print(f"→ {path}")
