"""The two numbers of a defense, and what they are said to mean."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from rltool.attacks import APGD, MIFGSM, PGD, DeepFool, Transfer, Universal, Victim
from rltool.attacks.defenses import DefenseReport, Noise, Smoothing, defend_classifier
from rltool.attacks.defenses.report import adaptive_attacks
from rltool.supervised import ClassifierConfig, ClassifierLearner


@pytest.fixture(scope="module")
def learner() -> ClassifierLearner:
    return ClassifierLearner("digits", ClassifierConfig(backbone="mlp")).learn(6_000)


def test_a_filter_falls_once_it_is_known(learner: ClassifierLearner) -> None:
    report = defend_classifier(learner, Smoothing(), PGD(epsilon=0.12, steps=10), examples=100, steps=20)
    assert report.attacked < 0.5 * report.clean
    assert report.defended_adaptive < 0.5 * report.defended_static < report.defended_clean
    assert report.examples == 100
    assert learner.model.training  # As it was.


def test_a_random_filter_is_attacked_over_its_draws(learner: ClassifierLearner) -> None:
    attack = PGD(epsilon=0.12, steps=10)
    alone, together = (
        defend_classifier(learner, Noise(sigma=0.15), attack, examples=100, steps=15, eot=eot) for eot in (1, 8)
    )
    assert together.random
    assert together.defended_adaptive < together.defended_static
    assert together.defended_adaptive <= alone.defended_adaptive + 0.03


def test_the_attacks_through_a_defense_have_the_ball_of_the_one_that_was_named() -> None:
    attacks = adaptive_attacks(PGD(norm="l2", epsilon=0.7), steps=9)
    assert [type(each) for each in attacks] == [PGD, PGD, APGD]
    assert all((each.norm, each.epsilon) == ("l2", 0.7) for each in attacks)
    assert [type(each) for each in adaptive_attacks(PGD(norm="l1"), 9)] == [PGD, PGD]
    assert adaptive_attacks(DeepFool(), 9) == [DeepFool()]
    made = adaptive_attacks(Transfer(attack=MIFGSM(epsilon=0.3)), 9)
    assert [type(each) for each in made] == [Transfer, PGD, APGD]
    assert made[1].epsilon == made[2].epsilon == 0.3  # type: ignore[attr-defined]


def test_what_an_attack_learns_it_learns_from_training_examples(learner: ClassifierLearner) -> None:
    class Watched(Universal):
        seen: ClassVar[list[tuple[Victim, int]]] = []

        def fit(self, victim: Victim, x: torch.Tensor, *labels: Any) -> Any:
            Watched.seen.append((victim, len(x)))
            return super().fit(victim, x, *labels)

    report = defend_classifier(learner, Smoothing(), Watched(epsilon=0.2, steps=40), examples=60, steps=5)
    (plain, count), (through, same) = Watched.seen
    assert plain.module is learner.model
    assert through.module is not learner.model  # The one through the defense learns through it.
    assert count == same == len(learner.examples[0][0])
    assert report.attacked < report.clean


@pytest.mark.parametrize(
    ("static", "adaptive", "words"),
    [
        (0.05, 0.05, "does not even help"),
        (0.60, 0.05, "only from attackers who do not know"),
        (0.60, 0.30, "Most of what it seems"),
        (0.60, 0.55, "Some of it is real"),
    ],
)
def test_what_the_numbers_mean(static: float, adaptive: float, words: str) -> None:
    report = DefenseReport(0.98, 0.04, 0.96, static, adaptive, True, False, 100, 1.0)
    assert words in report.meaning
