"""Modules and functions of the user's, imported by name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from rltool.errors import UserError, unknown


def import_user_module(module: str, purpose: str) -> ModuleType:
    """Import an installed module or one in the current folder.

    Args:
        module: its name.
        purpose: what it is for, as the sentence about a mistake says it.

    Raises:
        UserError: if there is no such module, or if it cannot be imported.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # last, so that nothing in it hides an installed module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"no module '{error.name}' to import for '{purpose}'; install it, or run in the folder that has it"
            ) from error
        raise UserError(f"importing '{module}' for '{purpose}' failed, {error}; install that first") from error
    except Exception as error:
        raise UserError(f"importing '{module}' for '{purpose}' failed, {type(error).__name__}: {error}") from error


def load_function(name: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """A function of the user's.

    Args:
        name: "module:function"; the module is installed or in the current folder.
        arguments: the arguments that the function will be called with, by position.

    Raises:
        UserError: if there is no such function, or if it cannot be called with that many arguments.

    Example:
        >>> load_function("math:hypot", ["x", "y"])(3, 4)
        5.0
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute.isidentifier():
        raise UserError(f"'{name}' names no function; write module:function")
    loaded = import_user_module(module, name)
    if not hasattr(loaded, attribute):
        raise unknown(f"function in '{module}'", attribute, [each for each in vars(loaded) if not each.startswith("_")])
    function = getattr(loaded, attribute)
    if not callable(function):
        raise UserError(f"'{name}' is a {type(function).__name__}, not a function")
    check_arguments(function, name, arguments)
    return function


def check_arguments(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> None:
    """Check that a function can be called with these arguments, by position.

    Raises:
        UserError: if it cannot.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise UserError(
            f"'{name}' is called with {len(arguments)} arguments, ({', '.join(arguments)}), but takes {signature}"
        ) from None
