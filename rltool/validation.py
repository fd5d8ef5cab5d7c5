"""From loose options to a typed config, with one clear sentence for whatever is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rltool.errors import UserError, unknown

Config = TypeVar("Config", bound=BaseModel)


def validate(config_class: type[Config], options: Mapping[str, Any]) -> Config:
    """Build a config from options.

    Raises:
        UserError: An option is unknown (the message names the nearest) or its value is out of range.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"options are a table of names and values, not {options!r}")
    for name in options:
        if name not in config_class.model_fields:
            raise unknown("option", name, config_class.model_fields)
    try:
        return config_class(**options)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UserError(message) from None
        name = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"{name} {first['input']!r} will not do: {message[0].lower()}{message[1:]}") from None
