"""Attacks on what a classifier is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from rltool.attacks.attack import Attack
from rltool.attacks.victim import Victim

BATCH = 250  # Examples that are attacked together.


@dataclass(frozen=True)
class AttackedAccuracy:
    """What an attack does to a classifier.

    Attributes:
        clean: Accuracy without it.
        attacked: Accuracy with it; what is wrong without counts as wrong, also where the attack puts it right.
        flip_rate: Share of what was right that the attack made wrong; with a target, that it made this class.
        median_distance: Median size of the perturbations that succeeded on what was right; nan if none did.
        queries: Mean number of times that the classifier was shown an example.
        examples: How many were attacked.
        seconds: Duration of the attack.
        left: Which examples are right with and without the attack, `(examples,)`.
    """

    clean: float
    attacked: float
    flip_rate: float
    median_distance: float
    queries: float
    examples: int
    seconds: float
    left: torch.Tensor = field(repr=False)

    def as_dict(self) -> dict[str, float]:
        """The figures that `rltool attack --json` prints."""
        return {name: value for name, value in vars(self).items() if name != "left"}


def victim_of(classifier: Any) -> Victim:
    """A `ClassifierLearner`'s network, within the bounds of its inputs."""
    space = classifier.model.input_space
    return Victim(classifier.model, (space.low, space.high))


def examples_of(
    classifier: Any, part: str, target: int | None = None, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What an attack on a classifier is given.

    Args:
        classifier: A `ClassifierLearner`.
        part: `train` or `test`.
        target: A class to lead to; examples of it are left out.
        most: How many examples at most, the first ones.

    Returns:
        Inputs `(n, ...)`, labels `(n,)` and, where there is one, the target of each, `(n,)`.
    """
    both = getattr(classifier.dataset, part)
    x, y = (torch.from_numpy(array).to(classifier.device) for array in (both.x, both.y))
    if target is None:
        return x[:most], y[:most], None
    rows = torch.nonzero(y != target)[:most, 0]
    return x[rows], y[rows], torch.full_like(rows, target)


def fit_attack(classifier: Any, attack: Attack, target: int | None = None) -> Attack:
    """The attack that knows what it can learn from the training examples of a classifier.

    Raises:
        UserError: The classifier cannot be attacked this way.
    """
    victim = victim_of(classifier)
    if target is None or not attack.learns_of_target:
        return attack.fit(victim, *examples_of(classifier, "train", target))
    x, y, _ = examples_of(classifier, "train")
    return attack.fit(victim, x, y, torch.full_like(y, target))


def attack_classifier(
    classifier: Any, attack: Attack, examples: int = 1_000, target: int | None = None
) -> AttackedAccuracy:
    """Attack test examples of a classifier's data, after the attack has learned from training examples what it can.

    Args:
        classifier: A `ClassifierLearner`, as `rltool.load(run).agent` is for a classifier's run.
        attack: The attack.
        examples: How many of the test examples, the first ones.
        target: The class that the classifier shall give instead; examples of it are left out.

    Raises:
        UserError: The classifier cannot be attacked this way.
    """
    victim = victim_of(classifier)
    attack = fit_attack(classifier, attack, target)
    x, y, targets = examples_of(classifier, "test", target, examples)
    right = classifier.logits(x).argmax(1) == y
    start = time.perf_counter()
    results = [
        attack(victim, x[rows], y[rows], None if targets is None else targets[rows])
        for rows in torch.arange(len(x), device=x.device).split(BATCH)
    ]
    seconds = time.perf_counter() - start
    success = torch.cat([result.success for result in results])
    wrong = success
    if target is not None:  # It may also have become another class than both.
        wrong = classifier.logits(torch.cat([result.x_adv for result in results])).argmax(1) != y
    distance = torch.cat([result.distance for result in results])[success & right]
    return AttackedAccuracy(
        float(right.float().mean()),
        float((right & ~wrong).float().mean()),
        len(distance) / max(int(right.sum()), 1),
        float(distance.median()) if len(distance) else float("nan"),
        float(torch.cat([result.n_queries for result in results]).float().mean()),
        len(x),
        round(seconds, 3),
        right & ~wrong,
    )
