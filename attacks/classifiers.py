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
        flip_rate: Share of what was right that the attack made wrong.
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


def fit_attack(classifier: Any, attack: Attack) -> Attack:
    """The attack that knows what it can learn from the training examples of a classifier."""
    part = classifier.dataset.train
    x, y = (torch.from_numpy(array).to(classifier.device) for array in (part.x, part.y))
    return attack.fit(victim_of(classifier), x, y)


def attack_classifier(classifier: Any, attack: Attack, examples: int = 1_000) -> AttackedAccuracy:
    """Attack test examples of a classifier's data, after the attack has learned from training examples what it can.

    Args:
        classifier: A `ClassifierLearner`, as `rltool.load(run).agent` is for a classifier's run.
        attack: The attack.
        examples: How many of the test examples, the first ones.

    Raises:
        UserError: The classifier cannot be attacked this way.
    """
    victim = victim_of(classifier)
    attack = fit_attack(classifier, attack)
    part = classifier.dataset.test
    x, y = (torch.from_numpy(array[:examples]).to(classifier.device) for array in (part.x, part.y))
    right = classifier.logits(x).argmax(1) == y
    start = time.perf_counter()
    results = [attack(victim, *batch) for batch in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    seconds = time.perf_counter() - start
    success = torch.cat([result.success for result in results])
    distance = torch.cat([result.distance for result in results])[success & right]
    return AttackedAccuracy(
        float(right.float().mean()),
        float((right & ~success).float().mean()),
        len(distance) / max(int(right.sum()), 1),
        float(distance.median()) if len(distance) else float("nan"),
        float(torch.cat([result.n_queries for result in results]).float().mean()),
        len(x),
        round(seconds, 3),
        right & ~success,
    )
