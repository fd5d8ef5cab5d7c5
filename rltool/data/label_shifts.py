"""Shifts of what the labels say rather than of how examples look: other shares of classes, other names, fewer classes.

They follow the id of a data set as those of looks do: `digits~imbalanced`, `digits~relabelled`, `digits~0-5`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rltool.data.examples import Dataset, Part
from rltool.errors import UserError

RAREST = 0.1  # Share of the rarest class that `~imbalanced` leaves, of what there was.
SOME = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class LabelShift:
    """One way in which a domain's labels may differ.

    Attributes:
        summary: What it does.
        change: From a labeled data set to the shifted one.
    """

    summary: str
    change: Callable[[Dataset, np.random.Generator], Dataset]


def imbalance(data: Dataset, rng: np.random.Generator) -> Dataset:
    """Label shift: class after class rarer, evenly on a log scale down to `RAREST` of what there was."""
    shares = RAREST ** np.linspace(0, 1, len(data.classes))

    def thin(part: Part) -> Part:
        kept = []
        for label, share in enumerate(shares):
            rows = np.flatnonzero(part.y == label)
            kept.append(rng.permutation(rows)[: int(np.ceil(share * len(rows)))])
        return part.select(np.sort(np.concatenate(kept)))

    return Dataset(data.name, thin(data.train), thin(data.test), data.classes)


def relabel(data: Dataset, rng: np.random.Generator) -> Dataset:
    """Concept shift: the same examples, each labeled as the class after its own, the last as the first."""
    count = len(data.classes)
    train, test = (Part(part.x, (part.y + 1) % count) for part in (data.train, data.test))
    return Dataset(data.name, train, test, data.classes)


def choose_classes(data: Dataset, some: str) -> Dataset:
    """The examples of some classes, which keep their names and are counted from 0 again.

    Args:
        data: A labeled data set.
        some: Numbers of classes and ranges of them, as `0-5` or `0,3,7-9`.

    Raises:
        UserError: There are no such classes.
    """
    ends = [[int(end) for end in each.split("-")] for each in some.split(",")]
    chosen = sorted({label for each in ends for label in range(each[0], each[-1] + 1)})
    if not chosen or chosen[-1] >= len(data.classes):
        raise UserError(
            f"~{some} is no choice of classes of {data.name}; take numbers of 0 to {len(data.classes) - 1}, as ~0-1"
        )
    number = np.full(len(data.classes), -1)
    number[chosen] = np.arange(len(chosen))

    def choose(part: Part) -> Part:
        some_rows = part.select(np.flatnonzero(number[part.y] >= 0))
        return Part(some_rows.x, number[some_rows.y])

    return Dataset(data.name, choose(data.train), choose(data.test), tuple(data.classes[k] for k in chosen))


LABEL_SHIFTS = {
    "imbalanced": LabelShift("class after class rarer, the last a tenth as frequent (label shift)", imbalance),
    "relabelled": LabelShift("every class called as the next one (concept shift)", relabel),
}


def find_label_shift(name: str) -> LabelShift | None:
    """The shift of labels of a name without its `~`, or None."""
    if SOME.fullmatch(name):
        return LabelShift(f"classes {name} alone", lambda data, _: choose_classes(data, name))
    return LABEL_SHIFTS.get(name)


def shift_labels(data: Dataset, shift: LabelShift, rng: np.random.Generator) -> Dataset:
    """Apply a shift of labels.

    Raises:
        UserError: There are no labels.
    """
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has no labels, which this shift changes")
    return shift.change(data, rng)
