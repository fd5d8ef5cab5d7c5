"""Command-line options out of typed configs: the field is the flag, its description the help."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer.core import TyperCommand

from rltool.errors import UserError

SHORT_FLAGS = {"total_timesteps": "-n"}


class OptionsCommand(TyperCommand):
    """A command whose help leaves `--no-x` to the text, so that the names of flags fit into 80 columns."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:  # Help ends the command: nothing is parsed after this.
            parameter.secondary_opts = []
        super().format_help(ctx, formatter)


def option_parameters(
    config: type[BaseModel], panel: str, skip: frozenset[str] = frozenset()
) -> Iterator[inspect.Parameter]:
    """A keyword parameter with a `typer.Option` for each field of a config.

    Every default is None, so that an option that was given can be told from one that was not; help shows the real one.
    Fields stand in the panel that the class which declares them names in its `panel`, else in the given one.
    """
    for name, field in config.model_fields.items():
        if name not in skip:
            owner = next(c for c in reversed(config.__mro__) if name in getattr(c, "model_fields", {}))
            yield _parameter(name, field, vars(owner).get("panel", panel))


def _parameter(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    numbers = _takes_numbers(field.annotation)
    kind = Any if numbers else _command_line_type(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    flags = [f"{flag}/--no-{name.replace('_', '-')}"] if kind is bool else [flag]
    if name in SHORT_FLAGS:
        flags.append(SHORT_FLAGS[name])
    is_choice = get_origin(kind) is Literal
    listed = "NAME,NAME,..." if _lists_names(field) else "N,N,..."
    metavar = listed if get_origin(field.annotation) is tuple else "CHOICE" if is_choice else None
    values = _values(field.default, kind) + (f"; --no-{flag[2:]}" if kind is bool else "")
    text = f"{escape(field.description or '')} [dim]{escape(f'[{values}]')}[/]"
    if numbers:
        metavar = "N or N,N,..."
    parser = parse_numbers if numbers else None
    option = typer.Option(*flags, help=text, show_default=False, rich_help_panel=panel, metavar=metavar, parser=parser)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def dataclass_parameters(
    kind: type[Any], panel: str, skip: frozenset[str] = frozenset()
) -> Iterator[inspect.Parameter]:
    """The same for each field of a dataclass that is a number, a switch, a text, or a choice.

    Its docstring's `Attributes`, and those of the classes it comes from, are the help.
    """
    hints, texts = get_type_hints(kind), documented_attributes(kind)
    norms = getattr(kind, "norms", None)
    for field in dataclasses.fields(kind):
        annotation: Any = Literal[norms] if field.name == "norm" and norms else hints[field.name]
        if field.init and field.name not in skip and _is_simple(annotation):
            default = None if field.default is dataclasses.MISSING else field.default
            described = FieldInfo(annotation=annotation, default=default, description=texts.get(field.name, ""))
            yield _parameter(field.name, described, panel)


def documented_attributes(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those it comes from say of its attributes, by name."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        section = re.search(r"^ *Attributes:\n(.*?)(?:\n\n|\Z)", vars(owner).get("__doc__") or "", re.M | re.S)
        for name, text in re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", section[1] if section else "", re.M):
            texts[name] = " ".join(text.split()).replace("`", "")
    return texts


def parse_numbers(text: str) -> float | tuple[float, ...]:
    """A number, or several with commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a number nor several with commas, as 0.1,0.2") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _takes_numbers(annotation: Any) -> bool:
    """Whether a field is a number or several, as `float | tuple[float, ...]`."""
    return any(get_origin(kind) is tuple and get_args(kind)[0] is float for kind in get_args(annotation))


def _is_simple(annotation: Any) -> bool:
    if _takes_numbers(annotation):
        return True
    if get_origin(annotation) in (Union, types.UnionType):
        return _is_simple(next(a for a in get_args(annotation) if a is not type(None)))
    return get_origin(annotation) is Literal or annotation in (bool, int, float, str)


def panel_of(parameter: inspect.Parameter) -> str:
    """The panel of help that an option stands in."""
    return str(get_args(parameter.annotation)[1].rich_help_panel)


def _command_line_type(annotation: Any) -> Any:
    """The type that the parser converts to; the config itself checks ranges."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _command_line_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _command_line_type(next(a for a in get_args(annotation) if a is not type(None)))
    if origin is Literal or annotation in (bool, int, float, str):
        return annotation
    return str


def _lists_names(field: FieldInfo) -> bool:
    """Whether a field is a tuple of names to choose from."""
    return get_origin(field.annotation) is tuple and get_origin(get_args(field.annotation)[0]) is Literal


def _values(default: Any, kind: Any) -> str:
    choices = f"{', '.join(get_args(kind))}; " if get_origin(kind) is Literal else ""
    return f"{choices}default: {_shown(default, kind)}"


def _shown(default: Any, kind: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    if kind is bool:
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def given_options(config: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """The options of a config that were given, converted where the parser left a string.

    Raises:
        UserError: A list of sizes is not one.
    """
    options = {name: values[name] for name in config.model_fields if values.get(name) is not None}
    for name, value in options.items():
        if _lists_names(config.model_fields[name]):
            options[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        elif get_origin(config.model_fields[name].annotation) is tuple:
            try:
                options[name] = tuple(int(size) for size in value.split(",") if size.strip())
            except ValueError:
                raise UserError(
                    f"--{name.replace('_', '-')} takes whole numbers with commas, as 64,64; not '{value}'"
                ) from None
    return options


def parse_assignments(pairs: list[str], flag: str = "--env-arg", example: str = "g=9.81") -> dict[str, Any]:
    """`key=value` pairs as arguments; values are numbers, true, false or null where they read as such, else text.

    Raises:
        UserError: A pair has no `=`.
    """
    import json

    arguments = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"{flag} takes name=value, as {flag} {example}; not '{pair}'")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments
