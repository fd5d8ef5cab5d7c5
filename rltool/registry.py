"""Names that the command line knows, and the objects they stand for, loaded when first used.

Backbones, methods and whatever else a user picks by name are kept in a `Registry`; listing names and their one-line
summaries imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from rltool.errors import UserError, unknown


@dataclass(frozen=True)
class Entry:
    """A registered name: what it stands for (an object, or `module:attribute` to import) and one line about it."""

    name: str
    target: Any
    summary: str

    def load(self) -> Any:
        """The object itself.

        Raises:
            UserError: Its module cannot be imported, or lacks it.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"'{self.name}' ({self.summary}) cannot be loaded: {error}") from error


class Registry:
    """A table of entries by name.

    Args:
        kind: What the entries are, for messages: "method", "backbone".
        group: Entry-point group through which installed packages add theirs.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, target: Any, summary: str = "") -> None:
        """Register `target` under `name`; a later entry of the same name replaces the earlier one."""
        self._entries[name] = Entry(name, target, summary)

    def register(self, name: str, summary: str = "") -> Callable[[type], type]:
        """Class decorator that registers the class; its docstring's first line is the summary by default."""

        def decorate(cls: type) -> type:
            self.add(name, cls, summary or (cls.__doc__ or "").strip().split("\n")[0])
            return cls

        return decorate

    def __iter__(self) -> Iterator[Entry]:
        yield from self._all().values()

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._all())

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: There is none; the message names the nearest.
        """
        entries = self._all()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        return entries[name]

    def _all(self) -> dict[str, Entry]:
        if self.group is not None:
            group, self.group = self.group, None
            for point in entry_points(group=group):
                if point.name in self._entries:
                    raise UserError(f"two packages register the {self.kind} '{point.name}'; uninstall one of them")
                self.add(point.name, point.value, f"from {point.dist.name}" if point.dist else "")
        return self._entries
