"""Certificates of randomized smoothing."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm
from torch import nn

from rltool.attacks import APGD, PGD, CarliniWagner, DeepFool, Victim
from rltool.attacks.attack import Attack
from rltool.attacks.defenses import Noise, defended
from rltool.attacks.defenses.certified import ABSTAIN, SmoothedClassifier, certify_classifier
from rltool.attacks.defenses.training import RobustClassifierLearner
from rltool.attacks.defenses.training_config import RobustClassifierConfig
from rltool.errors import UserError

SIGMA = 0.25


@pytest.fixture(scope="module")
def noisy() -> RobustClassifierLearner:
    """Reads digits in noise."""
    config = RobustClassifierConfig(backbone="mlp", robust="noise", epsilon=SIGMA)
    return RobustClassifierLearner("digits", config).learn(20_000)


def halfspace(distance: float) -> nn.Module:
    """Class 1 where x is beyond a plane that is so far from the origin."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.0, 0.0], [3.0, -4.0]]) / 5
    layer.bias.data = torch.tensor([0.0, -distance])
    return layer


@pytest.mark.parametrize("distance", [0.1, 0.3])
def test_the_radius_of_a_half_space_tends_to_the_distance(distance: float) -> None:
    radii = [
        float(SmoothedClassifier(halfspace(distance), sigma=0.3).certify(torch.zeros(1, 2), n).radius)
        for n in (300, 10_000, 200_000)
    ]
    assert radii == sorted(radii)
    assert all(radius <= distance for radius in radii)
    assert radii[-1] == pytest.approx(distance, rel=0.04)


def test_agreement_of_all_draws_bounds_the_radius() -> None:
    certificate = SmoothedClassifier(halfspace(100.0), sigma=0.5, alpha=0.001).certify(torch.zeros(1, 2), n=1_000)
    assert certificate.label.tolist() == [0]
    assert float(certificate.radius) == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1_000)), rel=1e-5)


def test_it_abstains_where_two_classes_are_alike() -> None:
    smoothed = SmoothedClassifier(halfspace(0.0), sigma=0.5)
    assert smoothed.predict(torch.zeros(1, 2)).tolist() == [ABSTAIN]
    certificate = smoothed.certify(torch.zeros(1, 2), n=1_000)
    assert (certificate.label.tolist(), certificate.radius.tolist()) == ([ABSTAIN], [0.0])


def test_an_answer_does_not_depend_on_its_neighbours(noisy: RobustClassifierLearner) -> None:
    smoothed = SmoothedClassifier(noisy.logits, SIGMA)
    x = noisy.examples[1][0][:6]
    together, alone = smoothed.certify(x, 500), [smoothed.certify(each[None], 500) for each in x]
    assert torch.equal(together.label, torch.cat([each.label for each in alone]))
    assert torch.equal(together.radius, torch.cat([each.radius for each in alone]))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(norm="l2", steps=20, loss="margin", skip_broken=False),
        APGD(norm="l2", steps=20),
        CarliniWagner(steps=40, searches=3),
        DeepFool(steps=10),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_no_attack_contradicts_a_certificate(noisy: RobustClassifierLearner, attack: Attack) -> None:
    smoothed = SmoothedClassifier(noisy.logits, SIGMA)
    part = noisy.dataset.test
    x, y = torch.from_numpy(part.x[:40]), torch.from_numpy(part.y[:40])
    certificate = smoothed.certify(x, n=1_000)
    kept = (certificate.label == y) & (certificate.radius > 0.05)
    assert int(kept.sum()) > 20
    x, y, radius = x[kept], y[kept], certificate.radius[kept]
    through = defended(Victim(noisy.model, (0, 1)), Noise(SIGMA), eot=8)
    if hasattr(attack, "epsilon"):  # Each sample has its own ball: attacked in the unit of its radius, one by one.
        found = [
            type(attack)(**(vars(attack) | {"epsilon": float(r)}))(through, a[None], b[None])
            for a, b, r in zip(x, y, radius, strict=True)
        ]
        x_adv = torch.cat([each.x_adv for each in found])
    else:
        delta = attack(through, x, y).x_adv - x
        length = delta.flatten(1).norm(dim=1).clamp_min(1e-9)
        x_adv = x + delta * (radius / length).clamp_max(1).view(-1, 1, 1, 1)
    distance = (x_adv - x).flatten(1).norm(dim=1)
    assert bool((distance <= radius * 1.0001).all())
    assert float((distance / radius).max()) > 0.9
    answer = smoothed.predict(x_adv, n=1_000)
    assert bool(((answer == y) | (answer == ABSTAIN)).all())
    # They are attacks, not nothing: four times as far, some answers do change.
    further = (x + (x_adv - x) * 4).clamp(0, 1)
    assert bool((smoothed.predict(further, n=200) != y).any())


def test_noise_in_training_is_what_makes_it_work(noisy: RobustClassifierLearner) -> None:
    plain = RobustClassifierLearner("digits", RobustClassifierConfig(backbone="mlp")).learn(20_000)
    trained, untrained = (certify_classifier(each, SIGMA, examples=60, n=300) for each in (noisy, plain))
    assert trained.mean_radius > untrained.mean_radius
    assert trained.smoothed > 0.8
    assert trained.certified_accuracy == sorted(trained.certified_accuracy, reverse=True)
    assert trained.certified_accuracy[0] <= trained.smoothed + 0.05
    assert trained.radii[-1] == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 300)), abs=1e-4)


def test_mistakes() -> None:
    for options in ({"sigma": 0.0}, {"sigma": 0.1, "alpha": 0.0}):
        with pytest.raises(UserError):
            SmoothedClassifier(halfspace(1.0), **options)
    with pytest.raises(UserError, match="n must be above 0"):
        SmoothedClassifier(halfspace(1.0), 0.1).predict(torch.zeros(1, 2), n=0)
