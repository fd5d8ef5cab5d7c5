"""Detectors of attacked inputs, and attacks that know them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rltool.attacks import FGSM, PGD, DeepFool, Victim
from rltool.attacks.defenses import FeatureSqueezing, Mahalanobis, detect_classifier, make_detector
from rltool.attacks.defenses.detection import Detected, auc
from rltool.errors import UserError
from rltool.supervised import ClassifierConfig, ClassifierLearner


@pytest.fixture(scope="module")
def learner() -> ClassifierLearner:
    return ClassifierLearner("digits", ClassifierConfig(backbone="mlp")).learn(15_000)


@pytest.mark.parametrize("name", ["squeezing", "mahalanobis"])
def test_it_sees_attacks_that_do_not_know_it_and_misses_one_that_does(learner: ClassifierLearner, name: str) -> None:
    detector = make_detector(name, learner, false_positives=0.1)
    attack = FGSM(epsilon=0.15)
    report = detect_classifier(learner, detector, attack, examples=150)
    assert report.false_positives < 0.25
    assert report.auc > 0.6
    assert report.undetected_adaptive > report.undetected_static + 0.1


def test_distances_are_those_of_the_shared_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2_000) % 2
    x = torch.randn((2_000, 2), generator=generator) * torch.tensor([1.0, 3.0]) + y[:, None] * torch.tensor([10.0, 0.0])
    detector = Mahalanobis(nn.Identity(), x, y, shrinkage=0.0)
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 6.0], [12.0, 0.0]])
    assert torch.allclose(detector.scores(points), torch.tensor([0.0, 2.0, 2.0, 2.0]), atol=0.15)


def test_the_threshold_lets_through_the_share_that_was_asked_for(learner: ClassifierLearner) -> None:
    x = learner.examples[1][0]
    detector = FeatureSqueezing(learner.model).calibrate(x, 0.1)
    assert float(detector.detects(x).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_refused_is_the_class_exactly_where_the_detector_says_so(learner: ClassifierLearner) -> None:
    detector = make_detector("mahalanobis", learner, 0.3)
    x = learner.examples[1][0]
    outputs = Victim(Detected(learner.model, detector), (0, 1)).logits(x)
    assert torch.equal(outputs.argmax(1) == 10, detector.detects(x))
    assert torch.equal(outputs[:, :10], learner.model(x))


def test_auc() -> None:
    clean = torch.tensor([0.0, 1.0])
    assert auc(clean, torch.tensor([2.0, 3.0])) == 1
    assert auc(clean, clean) == 0.5
    assert auc(clean, torch.tensor([0.5])) == 0.5
    assert auc(clean, torch.tensor([])) != auc(clean, torch.tensor([]))


def test_mistakes(learner: ClassifierLearner) -> None:
    with pytest.raises(UserError, match="no threshold"):
        detect_classifier(learner, FeatureSqueezing(learner.model), PGD())
    with pytest.raises(UserError, match="between 0 and 1"):
        make_detector("squeezing", learner, false_positives=0)
    with pytest.raises(UserError, match="no detector"):
        make_detector("eyes", learner)
    with pytest.raises(UserError, match="DeepFool has no epsilon"):
        detect_classifier(learner, make_detector("squeezing", learner), DeepFool())
