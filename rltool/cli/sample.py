"""`rltool sample RUN`: let a trained generator make samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rltool.cli.completion import complete_run
from rltool.cli.opening import AsJson, open_generator


def sample(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its name in runs/, or latest.", autocompletion=complete_run
        ),
    ],
    n: Annotated[int, typer.Option("-n", "--samples", help="How many; rows of --interpolate.", min=1)] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A picture (.png) or arrays (.npz); a film (.gif, .mp4).",
            show_default="samples.png, or film.gif",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides which.", min=0)] = 0,
    condition: Annotated[
        str | None, typer.Option("--condition", help="What the samples are to be, where the generator takes that.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Strips from one sample to another, through the noise between them.")
    ] = False,
    film: Annotated[bool, typer.Option("--film", help="What the samples became, from frame to frame.")] = False,
    json_: AsJson = False,
) -> None:
    """Let a trained generator make samples."""
    from rltool.errors import UserError
    from rltool.gan import pictures
    from rltool.training.run import Run

    opened = Run(run)
    learner = open_generator(run)
    if learner is None:
        raise UserError(f"{opened.method} makes no samples; train one that does: rltool train wgan-gp digits")
    out = out or Path("film.gif" if film else "samples.png")
    if film:
        pictures.save_film(learner, opened, out)
    elif interpolate:
        pictures.save_interpolation(learner, out, n, seed, condition)
    else:
        wanted = None if condition is None else learner.read_condition(condition, n)
        pictures.save_samples(learner, learner.sample(n, seed, wanted), out)
    what = "a film" if film else f"{n} interpolations" if interpolate else f"{n} samples"
    print(json.dumps({"run": str(opened.path), "out": str(out), "seed": seed}) if json_ else f"{what}: {out}")
