import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rltool.adaptation.checks import gradient_into_features, proxy_a_distance, refuse_inert
from rltool.adaptation.losses import (
    binary_entropy,
    coral,
    discrepancy,
    distance_to,
    divergence,
    domain_cross_entropy,
    entropy,
    hardest_negative,
    marginal_entropy,
    mmd,
    one_vs_all,
    outer,
    virtual_adversarial,
)
from rltool.adaptation.networks import DomainClassifier
from rltool.errors import TrainingError


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_entropy_of_known_predictions():
    even, sure = torch.zeros(3, 4), torch.eye(4) * 1_000
    assert float(entropy(even)) == pytest.approx(math.log(4))
    assert float(entropy(sure)) == 0
    assert float(marginal_entropy(sure)) == pytest.approx(math.log(4), rel=1e-5)  # All classes alike often.
    assert float(marginal_entropy(sure[:1].expand(8, 4))) == pytest.approx(0, abs=1e-6)


def test_coral_is_the_papers():
    source, target = torch.randn(40, 5), 2 * torch.randn(30, 5) + 3
    difference = np.cov(source.numpy().T) - np.cov(target.numpy().T)
    assert float(coral(source, target)) == pytest.approx((difference**2).sum() / (4 * 25), rel=1e-4)
    assert float(coral(source, source + 7)) == pytest.approx(0, abs=1e-8)  # Means do not count.


def test_mmd_is_zero_for_the_same_points_and_sees_what_coral_does_not():
    source, target = torch.randn(64, 3), torch.randn(64, 3)
    assert float(mmd(source, source)) == pytest.approx(0, abs=1e-6)
    near, far = float(mmd(source, target)), float(mmd(source, target + 2))
    assert 0 <= near < far / 5


def test_mmd_of_one_kernel_is_the_closed_form():
    """Of unit Gaussians d apart under exp(-|x - y|^2 / w): 2 (w / (w + 4))^(1/2) (1 - exp(-d^2 / (w + 4)))."""
    n, d = 3_000, 1.5
    source, target = torch.randn(n, 1), torch.randn(n, 1) + d
    both = torch.cat([source, target])
    width = float(torch.cdist(both, both).square().sum() / (2 * n * (2 * n - 1)))
    expected = 2 * math.sqrt(width / (width + 4)) * (1 - math.exp(-(d**2) / (width + 4)))
    assert float(mmd(source, target, scales=(1.0,))) == pytest.approx(expected, rel=0.1)


def test_the_domain_loss_is_log_two_where_nothing_is_known_and_never_overflows():
    assert float(domain_cross_entropy(torch.zeros(5), torch.zeros(3))) == pytest.approx(math.log(2))
    assert float(domain_cross_entropy(torch.full((5,), 100.0), torch.full((3,), -100.0))) == pytest.approx(0)
    assert float(domain_cross_entropy(torch.full((5,), -100.0), torch.full((3,), 100.0))) == pytest.approx(100)
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0])
    weighted = domain_cross_entropy(torch.tensor([0.0, 9.0]), torch.zeros(2), weights)
    assert float(weighted) == pytest.approx(math.log(2))


def test_discrepancy_and_divergence():
    one, two = torch.eye(2) * 1_000, torch.eye(2).flip(0) * 1_000
    assert float(discrepancy(one, one)) == 0
    assert float(discrepancy(one, two)) == 1
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    ).mean()
    assert float(divergence(a, b)) == pytest.approx(float(expected), rel=1e-5)


def test_outer_products_keep_both_factors():
    features, probabilities = torch.randn(4, 3), torch.rand(4, 2)
    product = outer(features, probabilities).view(4, 3, 2)
    assert torch.allclose(product[1, 2, 0], features[1, 2] * probabilities[1, 0])


def test_the_worst_direction_is_worse_than_a_random_one_and_gradients_stay():
    layer = torch.nn.Linear(8, 3)
    x = torch.randn(32, 8)
    layer(x).sum().backward()
    before = layer.weight.grad.clone()
    logits = layer(x)
    worst = virtual_adversarial(layer, x, logits, radius=0.1)
    assert torch.equal(layer.weight.grad, before)
    noise = F.normalize(torch.randn(32, 8)) * 0.1 * 8**0.5
    assert worst.item() > 1.5 * divergence(logits, layer(x + noise)).item()


def test_one_against_all_others():
    logits, y = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), torch.tensor([0, 2])
    own = -torch.tensor([2.0, -2.0]).sigmoid().log()
    hardest = -(1 - torch.tensor([0.5, 3.0]).sigmoid()).log()
    assert torch.allclose(one_vs_all(logits, y), own + hardest, atol=1e-6)
    assert torch.allclose(hardest_negative(logits), -(1 - torch.tensor([2.0, 3.0]).sigmoid()).log(), atol=1e-6)
    expected = torch.distributions.Bernoulli(logits=logits).entropy().mean()
    assert float(binary_entropy(logits)) == pytest.approx(float(expected), rel=1e-5)
    large = torch.tensor([[100.0, -100.0]], requires_grad=True)
    binary_entropy(large).backward()
    assert large.grad.isfinite().all()


def test_l2_sp():
    start, now = [torch.zeros(2), torch.ones(3)], [torch.tensor([3.0, 4.0]), torch.ones(3)]
    assert float(distance_to(start, now)) == 12.5


def test_reversed_gradients_are_those_of_the_loss_times_minus_the_strength():
    domain, features = DomainClassifier(4, (8,)), torch.randn(10, 4, requires_grad=True)

    def gradient(logits):
        (found,) = torch.autograd.grad(domain_cross_entropy(logits[:6], logits[6:]), features)
        return found

    assert torch.allclose(gradient(domain.fooled(features, 0.3)), -0.3 * gradient(domain(features)))


def test_a_domain_classifier_that_ends_in_a_softmax_is_refused():
    """Over a single column it is constant 1, so nothing is learned."""
    source, target = torch.randn(20, 4), torch.randn(20, 4)
    domain = DomainClassifier(4, (8,))

    def softmaxed(source, target):
        return domain_cross_entropy(domain(source)[:, None].softmax(1)[:, 0], domain(target)[:, None].softmax(1)[:, 0])

    inert = gradient_into_features(softmaxed, source, target)
    with pytest.raises(TrainingError, match="does nothing"):
        refuse_inert(inert, 0.5)
    alive = gradient_into_features(lambda one, two: domain_cross_entropy(domain(one), domain(two)), source, target)
    assert alive > 1e-3
    refuse_inert(alive, 0.5)


def test_proxy_a_distance():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(400, 3))
    assert proxy_a_distance(source, rng.normal(size=(400, 3))) < 0.3
    assert proxy_a_distance(source, rng.normal(size=(100, 3)) + 8) > 1.9
