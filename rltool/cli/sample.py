"""`rltool sample RUN`: let a trained generator make samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rltool.cli.completion import complete_run


def sample(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder, its name in runs/, or latest.", autocompletion=complete_run
        ),
    ],
    n: Annotated[int, typer.Option("-n", "--samples", help="How many.", min=1)] = 64,
    out: Annotated[Path, typer.Option("--out", "-o", help="A picture (.png), or arrays (.npz).")] = Path("samples.png"),
    seed: Annotated[int, typer.Option("--seed", help="Decides which.", min=0)] = 0,
) -> None:
    """Let a trained generator make samples."""
    from rltool.errors import UserError
    from rltool.gan.pictures import save_samples
    from rltool.training.run import Run

    opened = Run(run)
    if not hasattr(opened.agent, "sample"):
        raise UserError(f"{opened.method} makes no samples; train one that does: rltool train wgan-gp digits")
    save_samples(opened.agent, opened.agent.sample(n, seed), out)
    print(f"{n} samples in {out}")
