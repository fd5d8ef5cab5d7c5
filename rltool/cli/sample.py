"""`rltool sample RUN`: let a trained generator make samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
            help="A picture (.png) or arrays (.npz); a film (.gif, .mp4); a text (sequences).",
            show_default="samples.png, film.gif, or the screen",
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
    temperature: Annotated[
        float, typer.Option("--temperature", help="(Sequences) Logits are divided by it; 0: greedy decoding.", min=0)
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="(Sequences) Draw from so many of the likeliest tokens.", min=1)
    ] = None,
    beam: Annotated[
        int | None, typer.Option("--beam", help="(Sequences) Search the likeliest ones, by a beam so wide.", min=1)
    ] = None,
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
    if hasattr(learner, "sample_text"):
        _sample_sequences(learner, n, out, seed, temperature, top_k, beam, json_)
        return
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


def _sample_sequences(
    learner: Any,
    n: int,
    out: Path | None,
    seed: int,
    temperature: float,
    top_k: int | None,
    beam: int | None,
    as_json: bool,
) -> None:
    """Print sequences, or write them into a file, one in a line."""
    from rltool.gan.sequence.decoding import Decoder

    scored = learner.beam(n, beam) if beam is not None else None
    texts = [text for text, _ in scored] if scored else learner.sample_text(n, seed, Decoder(temperature, top_k))
    if out is not None:
        out.write_text("\n".join(texts) + "\n", encoding="utf-8")
        print(json.dumps({"out": str(out), "samples": len(texts)}) if as_json else f"{len(texts)} sequences: {out}")
    elif as_json:
        scores = {"log_probs": [score for _, score in scored]} if scored else {}
        print(json.dumps({"samples": texts, **scores}))
    else:
        print("\n".join(f"{score:.3f}  {text}" for text, score in scored) if scored else "\n".join(texts))
