"""What an attack leaves of a classifier's accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from rltool.attacks import FGSM, PGD, attack_classifier
from rltool.attacks.attack import Attack, Problem
from rltool.supervised import ClassifierConfig, ClassifierLearner


@pytest.fixture(scope="module")
def learner() -> ClassifierLearner:
    """Reads most of the digits."""
    return ClassifierLearner("digits", ClassifierConfig(backbone="mlp")).learn(6_000)


def test_figures(learner: ClassifierLearner) -> None:
    weak, strong = (attack_classifier(learner, attack) for attack in (FGSM(epsilon=0.02), PGD(epsilon=0.2)))
    assert weak.clean == strong.clean == pytest.approx(learner.test()["accuracy"])
    assert strong.attacked < weak.attacked < weak.clean
    for figures in (weak, strong):
        assert figures.examples == 359
        assert figures.flip_rate == pytest.approx(1 - figures.attacked / figures.clean)
    assert weak.median_distance == pytest.approx(0.02, rel=1e-4)
    assert attack_classifier(learner, FGSM(epsilon=0.0)).attacked == weak.clean


@dataclass(frozen=True, kw_only=True)
class Repair(Attack):
    """Shows another example of the right class, whatever was shown before."""

    def run(self, problem: Problem) -> torch.Tensor:
        reads = problem.victim.logits(problem.x).argmax(1) == problem.y
        right = {int(label): problem.x[reads & (problem.y == label)][0] for label in problem.y.unique()}
        return torch.stack([right[int(label)] for label in problem.y])


def test_what_was_wrong_stays_wrong(learner: ClassifierLearner) -> None:
    figures = attack_classifier(learner, Repair())
    assert figures.clean < 1
    assert figures.attacked == figures.clean
    assert figures.flip_rate == 0
