"""The entry point: the verbs, and what a user sees when something goes wrong."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from rltool import __version__
from rltool.cli import (
    adapt,
    attack,
    check,
    defend,
    demos,
    diagnose,
    evaluate,
    list_,
    plot,
    record,
    reproduce,
    resume,
    robustness,
    sample,
    train,
)
from rltool.errors import TrainingError, UserError, unknown

# Typer carries its own click; the base of its usage errors is reached through the one class it exports.
UsageError: Any = typer.BadParameter.__mro__[2]

VERBS = [
    "train",
    "record",
    "demos",
    "eval",
    "sample",
    "adapt",
    "attack",
    "defend",
    "robustness",
    "check",
    "plot",
    "diagnose",
    "resume",
    "reproduce",
    "list",
]


class VerbGroup(TyperGroup):
    """Lists the verbs in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=VERBS.index)


app = typer.Typer(
    name="rltool",
    cls=VerbGroup,
    help="Train agents in Gymnasium environments, watch them, measure them, attack them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train.app, name="train")
app.command("record")(record.record)
app.command("demos")(demos.demos)
app.command("resume")(resume.resume)
app.command("eval")(evaluate.evaluate)
app.command("sample")(sample.sample)
app.command("adapt")(adapt.adapt)
app.command("attack", cls=attack.AttackCommand)(attack.attack)
app.command("defend")(defend.defend)
app.command("robustness")(robustness.robustness)
app.command("check")(check.check)
app.command("plot")(plot.plot)
app.command("diagnose")(diagnose.diagnose)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(list_.app, name="list")


def _print_version(value: bool) -> None:
    if value:
        print(f"rltool {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train agents in Gymnasium environments, watch them, measure them, attack them."""


def fail(error: Any, code: int) -> NoReturn:
    """Print one sentence (or, with --debug, the traceback) and end."""
    if "--debug" in sys.argv:
        raise error
    message = " ".join(_sentence(error).split())
    for note in getattr(error, "__notes__", []):
        message += f"\n{note}"
    if message:  # Empty where the help has just been printed.
        print(f"rltool: {message}", file=sys.stderr)
    raise SystemExit(code)


def _sentence(error: Any) -> str:
    if not isinstance(error, UsageError):
        return str(error)
    if getattr(error, "possibilities", None):
        return str(unknown("option", error.option_name, error.possibilities))
    message = str(error.format_message()).replace("No such option: ", "no option ").replace("Value error, ", "").strip()
    if not message or message.endswith("?"):
        return message
    return f"{message.removesuffix('.')}; see {error.ctx.command_path} --help" if error.ctx else message


def fail_unforeseen(error: Exception) -> NoReturn:
    """Print what was raised without its traceback, how to see that, and end with 1."""
    if "--debug" in sys.argv:
        raise error
    notes = [*getattr(error, "__notes__", []), "where it happened: the same command with --debug"]
    print("\n".join([f"rltool: {type(error).__name__}: {error}", *notes]), file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    """Run the command line."""
    # NumPy's matrix products of a few rows are slower with threads; PyTorch's own number is --threads.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if "--debug" in sys.argv[2:]:  # It may stand anywhere, as users expect.
        sys.argv.remove("--debug")
        sys.argv.insert(1, "--debug")
    try:
        code = get_command(app).main(prog_name="rltool", standalone_mode=False)
    except UserError as error:
        fail(error, 2)
    except UsageError as error:
        fail(error, 2)
    except TrainingError as error:
        fail(error, 1)
    except typer.Abort:
        raise SystemExit(1) from None
    except BrokenPipeError:  # The reader of our output has gone, as in `rltool list envs | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            fail_unforeseen(error)
        fail(UserError(f"the name {str(error.filename)[:40]}... is too long for a file; give a shorter one"), 2)
    except Exception as error:  # Not foreseen, but the user's own environment may raise anything.
        fail_unforeseen(error)
    raise SystemExit(code if isinstance(code, int) else 0)
