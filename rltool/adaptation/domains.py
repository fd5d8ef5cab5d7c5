"""The domains of an adaptation: one source or several, whose labels are learned from, and a target without any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rltool.adaptation.verdict import UNKNOWN
from rltool.data.datasets import SOURCES, load_dataset
from rltool.data.examples import Dataset, Part
from rltool.data.pairs import fit_images, make_pair
from rltool.errors import UserError


@dataclass(frozen=True)
class Domains:
    """Data sets whose examples have one shape.

    Attributes:
        sources: Where labels are learned from.
        target: What is adapted to; its labels, where there are some, only measure. They are numbered as the sources'
            are, by name; what the sources lack is one more class, `UNKNOWN`.
    """

    sources: tuple[Dataset, ...]
    target: Dataset

    @cached_property
    def source(self) -> Dataset:
        """All sources together, one after the other."""
        if len(self.sources) == 1:
            return self.sources[0]
        train, test = (
            Part(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
            for parts in ([each.train for each in self.sources], [each.test for each in self.sources])
        )
        return Dataset("+".join(each.name for each in self.sources), train, test, self.sources[0].classes)

    @property
    def labeled(self) -> bool:
        """Whether the target has labels to measure by."""
        return len(self.target.classes) > 1

    @property
    def open(self) -> bool:
        """Whether the target is known to have classes that the sources lack."""
        return self.target.classes[-1:] == (UNKNOWN,)


def split_name(name: str) -> tuple[list[str], str]:
    """The ids of the sources and of the target in `source[+source...]:target`.

    Raises:
        UserError: It is none.
    """
    parts = name.split(":")
    joined: list[str] = []
    while parts:  # `stacked:digits` is one id.
        part = parts.pop(0)
        while part.rpartition("+")[2].rpartition(":")[2] in SOURCES.names() and parts:
            part += ":" + parts.pop(0)
        joined.append(part)
    if len(joined) != 2 or not all(joined):
        raise UserError(
            f"'{name}' is no pair of domains; give a source and a target with a colon, as moons:moons@40deg, or "
            "--source FILE --target FILE"
        )
    return [joined[0]] if Path(joined[0]).exists() else joined[0].split("+"), joined[1]


def load_domains(name: str) -> Domains:
    """Load `source:target`, or several sources with `+` between; images get the size of the first source's.

    Args:
        name: Ids, files or folders as `load_dataset` takes them.

    Raises:
        UserError: It is no pair, a data set does not load, or their shapes or classes are not the same.

    Example:
        >>> domains = load_domains("digits+digits~rotated:digits~inverted")
        >>> len(domains.source.train), domains.target.train.x.shape
        (2876, (1438, 1, 8, 8))
    """
    names, target_name = split_name(name)
    sources = [load_dataset(each) for each in names]
    target = load_dataset(target_name, labeled=False)
    for other in sources[1:]:
        if other.classes != sources[0].classes:
            raise UserError(
                f"{sources[0].name} has {len(sources[0].classes)} classes and {other.name} {len(other.classes)}, or "
                "others; sources need the same classes"
            )
    target = rename_classes(target, sources[0])
    pairs = [make_pair(sources[0], other) for other in [*sources[1:], target]]
    shape = max((pair.source.train.x.shape[1:] for pair in pairs), key=lambda each: each[0])
    return Domains(
        tuple(_fitted(each, shape) for each in [pairs[0].source, *(pair.target for pair in pairs[:-1])]),
        _fitted(pairs[-1].target, shape),
    )


def rename_classes(target: Dataset, source: Dataset) -> Dataset:
    """The target with its labels numbered as the source's, by name; the class `UNKNOWN` for what the source lacks.

    Raises:
        UserError: No class of the target is one of the source's.
    """
    if len(target.classes) < 2 or target.classes == source.classes:
        return target
    known = {name: number for number, name in enumerate(source.classes)}
    if not known.keys() & set(target.classes):
        raise UserError(
            f"{source.name} has the classes {_listed(source.classes)} and {target.name} {_listed(target.classes)}; "
            "adapting needs classes in common"
        )
    numbers = np.array([known.get(name, len(known)) for name in target.classes])
    train, test = (Part(part.x, numbers[part.y]) for part in (target.train, target.test))
    lacking = (UNKNOWN,) if numbers.max() == len(known) else ()
    return Dataset(target.name, train, test, (*source.classes, *lacking))


def _listed(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def _fitted(data: Dataset, shape: tuple[int, ...]) -> Dataset:
    if len(shape) == 1:
        return data
    train, test = (Part(fit_images(part.x, shape), part.y) for part in (data.train, data.test))
    return Dataset(data.name, train, test, data.classes)
