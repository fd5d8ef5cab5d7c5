"""The losses beside those of pytorch-adapt, where it is installed."""

import pytest
import torch

from rltool.adaptation.losses import coral, discrepancy, entropy, marginal_entropy, mmd
from rltool.adaptation.selection import Validation, nuclear_norm
from rltool.networks.layers import GradientReversal

theirs = pytest.importorskip("pytorch_adapt.layers")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def logits():
    return 3 * torch.randn(50, 7), 3 * torch.randn(50, 7)


def same(one, two):
    assert float(one) == pytest.approx(float(two), rel=1e-4, abs=1e-6)


def test_predictions(logits):
    one, two = logits
    same(entropy(one), theirs.EntropyLoss()(one))
    same(marginal_entropy(one), -theirs.DiversityLoss()(one))
    same(discrepancy(one, two), theirs.MCDLoss()(one, two))
    nothing = torch.empty(0)
    seen = Validation(nothing, nothing, nothing, one, nothing)
    same(nuclear_norm(seen) * (50 * 7) ** 0.5 / 50, -theirs.BNMLoss()(one))


def test_coral():
    source, target = torch.randn(40, 5), 2 * torch.randn(30, 5) + 3
    same(coral(source, target), theirs.CORALLoss()(source, target))


def test_mmd():
    """Theirs is the unbiased estimate, which leaves out that a point is like itself."""
    n, scales = 60, torch.tensor([0.5, 1.0, 2.0])
    source, target = torch.randn(n, 6), torch.randn(n, 6) + 0.5
    both = torch.cat([source, target])
    width = torch.cdist(both, both).square().sum() / (2 * n * (2 * n - 1))
    unbiased = theirs.MMDLoss(kernel_scales=1 / scales, mmd_type="quadratic", bandwidth=width)(source, target)
    across = torch.exp(-torch.cdist(source, target).square()[..., None] / (scales * width)).mean()
    within = (n - 1) / n * (unbiased + 2 * across) + 2 / n
    same(mmd(source, target, tuple(scales.tolist())), within - 2 * across)


def test_gradient_reversal():
    ours, x = GradientReversal(), torch.randn(4, 3, requires_grad=True)
    ours.strength = 0.3
    (mine,) = torch.autograd.grad(ours(x).square().sum(), x)
    (other,) = torch.autograd.grad(theirs.GradientReversal(0.3)(x).square().sum(), x)
    assert torch.allclose(mine, other)
