"""What an attack leaves of a classifier's accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from rltool.attacks import FGSM, PGD, HopSkipJump, attack_classifier
from rltool.attacks.attack import Attack, Problem
from rltool.attacks.classifiers import fit_attack, victim_of
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


def test_a_target(learner: ClassifierLearner) -> None:
    figures = attack_classifier(learner, PGD(epsilon=0.15, loss="margin"), 200, target=3)
    part = learner.dataset.test
    x, y = (torch.from_numpy(array[part.y != 3][:200]) for array in (part.x, part.y))
    right = learner.logits(x).argmax(1) == y
    assert figures.examples == 200
    assert figures.clean == pytest.approx(float(right.float().mean()))
    victim = victim_of(learner)
    became = PGD(epsilon=0.15, loss="margin")(victim, x, y, torch.full_like(y, 3)).x_adv
    said = learner.logits(became).argmax(1)
    assert figures.flip_rate == pytest.approx(float(((said == 3) & right).sum() / right.sum()))
    assert figures.attacked == pytest.approx(float(((said == y) & right).float().mean()))
    assert figures.flip_rate < 1 - figures.attacked / figures.clean  # Some became another class than both.


def test_jumps_towards_a_target_start_from_training_examples_of_it(learner: ClassifierLearner) -> None:
    fitted = fit_attack(learner, HopSkipJump(queries=200), target=3)
    assert isinstance(fitted, HopSkipJump)
    assert fitted.starts is not None
    assert 0 < len(fitted.starts) <= 20
    figures = attack_classifier(learner, fitted, 30, target=3)
    assert figures.flip_rate == 1
