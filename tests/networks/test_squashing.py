"""Squashed actions: the density of what was drawn, to the very bounds."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from rltool.networks import DiagonalGaussian, SquashedGaussian, SquashedHead, build_action_head

FEATURES = 6
BOX = gym.spaces.Box(np.array([-1, -2.5], np.float32), np.array([3, 0.1], np.float32))
STDS = ("independent", "dependent", "gsde")


def head_of(std: str, center: tuple[float, float] = (0, 0)) -> Any:
    torch.manual_seed(1)
    head: Any = build_action_head(BOX, FEATURES, std=std, log_std_init=-0.5, squash=True)
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    head.inner.linear.bias.data += torch.tensor(center)
    return head


def features_of(count: int) -> torch.Tensor:
    return torch.randn((count, FEATURES), generator=torch.Generator().manual_seed(0))


def on_the_line(mean: float, std: float, low: float = -1, high: float = 1) -> SquashedGaussian:
    bounds = (torch.tensor([bound], dtype=torch.float64) for bound in (low, high))
    return SquashedGaussian(torch.tensor([[float(mean)]]), torch.tensor([math.log(std)]), *bounds)


def unsquashed(head: Any, features: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """What `head.sampler` draws before tanh, cut off where it cuts."""
    raw = head.inner.sampler(np.random.default_rng(seed))(features.numpy())
    return torch.from_numpy(raw).clamp(-10, 10)


def log_density(gaussian: DiagonalGaussian, raw: torch.Tensor) -> torch.Tensor:
    """By the change of variables, in 64 bits, from what was drawn before tanh."""
    mean, std, raw = gaussian.mean.double(), gaussian.log_std.double().exp(), raw.double()
    half = torch.from_numpy(BOX.high.astype(float) - BOX.low) / 2
    return (Normal(mean, std).log_prob(raw) + 2 * torch.cosh(raw).log() - half.log()).sum(1)


@pytest.mark.parametrize("std", STDS)
def test_density_is_torchs(std: str) -> None:
    head, features = head_of(std), features_of(60)
    gaussian, ours = head.inner(features), head(features)
    low, half = head.low, (head.high - head.low) / 2
    normal = Normal(gaussian.mean.double(), gaussian.log_std.double().exp())
    squashing = [TanhTransform(), AffineTransform(low + half, half)]
    theirs = Independent(TransformedDistribution(normal, squashing), 1)
    actions = theirs.sample()
    expected = theirs.log_prob(actions)
    torch.testing.assert_close(ours.log_prob(actions).double(), expected, rtol=1e-4, atol=1e-4)
    parameters = list(head.parameters())
    gradients = torch.autograd.grad(ours.log_prob(actions).sum(), parameters)
    for one, other in zip(gradients, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (0.3, 0.1), (-1, 3), (5, 0.5), (-7, 0.3)])
def test_density_integrates_to_one(mean: float, std: float) -> None:
    distribution = on_the_line(mean, std, low=2, high=5)
    actions = 2 + 1.5 * (np.tanh(np.linspace(-9.99, 9.99, 20_000)) + 1)  # Closer together toward the bounds.
    density = distribution.log_prob(torch.from_numpy(actions)[:, None]).double().exp()
    assert trapezoid(density.numpy(), actions) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("center", [(0, 0), (7, -6), (-9, 30)])
def test_the_density_of_draws_is_exact_at_the_bounds(std: str, center: tuple[float, float]) -> None:
    """Most of these draws are bounds in 32 bits; the ratio of new to old densities must be right all the same."""
    head, features = head_of(std, center), features_of(500)
    actions = torch.from_numpy(head.sampler(np.random.default_rng(0))(features.numpy()))
    raw = unsquashed(head, features)
    with torch.no_grad():
        old, old_exact = head(features), log_density(head.inner(features), raw)
        torch.testing.assert_close(old.log_prob(actions).double(), old_exact, rtol=1e-5, atol=2e-5)
        ratio = (head(features).log_prob(actions) - old.log_prob(actions)).exp()
        torch.testing.assert_close(ratio, torch.ones(500), rtol=0, atol=1e-5)
        head.inner.linear.bias += torch.tensor([0.1, -0.1])
        new, new_exact = head(features), log_density(head.inner(features), raw)
        log_ratio = (new.log_prob(actions) - old.log_prob(actions)).double()
        torch.testing.assert_close(log_ratio, new_exact - old_exact, rtol=1e-4, atol=1e-4)
    assert log_ratio.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_on_the_bounds(dtype: torch.dtype) -> None:
    head = head_of("independent")
    actions = torch.tensor(np.stack([BOX.low, BOX.high, [-1, 0.1]]), dtype=dtype)
    distribution = head(features_of(3))
    log_prob = distribution.log_prob(actions)
    for gradient in torch.autograd.grad(log_prob.sum() + distribution.entropy().sum(), list(head.parameters())):
        assert gradient.isfinite().all()
    torch.testing.assert_close(log_prob.exp(), torch.zeros(3))
    raw = torch.tensor([[-10.0, -10.0], [10.0, 10.0], [-10.0, 10.0]])
    torch.testing.assert_close(log_prob.double(), log_density(head.inner(features_of(3)), raw), rtol=1e-3, atol=0)


@pytest.mark.parametrize("std", STDS)
def test_numpy_and_torch_agree(std: str) -> None:
    head, features = head_of(std), features_of(40)
    np.testing.assert_allclose(head.as_numpy()(features.numpy()), head(features).mode().detach(), rtol=1e-5, atol=1e-6)
    draws = [head.sampler(np.random.default_rng(seed))(features.numpy()) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    raw = unsquashed(head, features).double()
    expected = head.low + (head.high - head.low) / (1 + torch.exp(-2 * raw))
    np.testing.assert_allclose(draws[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_actions_lie_in_the_box(scale: float) -> None:
    head, features = head_of("independent"), scale * features_of(500).numpy()
    for act in (head.as_numpy(), head.sampler(np.random.default_rng(0))):
        actions = act(features)
        assert (actions > BOX.low).all()
        assert (actions < BOX.high).all()
        assert all(BOX.contains(action) for action in actions.astype(np.float32))


@pytest.mark.parametrize(("mean", "std"), [(0, 0.1), (0, 1), (1, 0.5), (3, 2), (8, 1), (0, 2)])
def test_entropy(mean: float, std: float) -> None:
    distribution = on_the_line(mean, std, low=2, high=5)
    raw = np.linspace(mean - 9 * std, mean + 9 * std, 50_001)
    density = np.exp(-0.5 * ((raw - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    log_cosh = np.logaddexp(raw, -raw) - math.log(2)
    entropy = -trapezoid(density * (np.log(density) + 2 * log_cosh - math.log(1.5)), raw)
    assert distribution.entropy().item() == pytest.approx(entropy, abs=0.04)


def test_entropy_knows_that_a_wide_gaussian_gathers_at_the_bounds() -> None:
    log_std = torch.tensor([-1.0, 1.0], requires_grad=True)
    bounds = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    SquashedGaussian(torch.zeros(1, 2), log_std, *bounds).entropy().sum().backward()
    assert log_std.grad is not None
    assert log_std.grad[0] > 0 > log_std.grad[1]


def test_a_clipped_mean() -> None:
    head = head_of("independent", (4, -9))
    clipped, features = SquashedHead(head.inner, BOX, clip_mean=2.0), features_of(2_000)
    assert clipped(features).mean.abs().max() == 2
    np.testing.assert_allclose(clipped.as_numpy()(features.numpy()), clipped(features).mode().detach(), rtol=1e-5)
    noise = head.inner.sampler(np.random.default_rng(0))(features.numpy()) - head.inner.as_numpy()(features.numpy())
    drawn = clipped.sampler(np.random.default_rng(0))(features.numpy())
    raw = (clipped(features).mean.detach() + torch.from_numpy(noise)).double()
    np.testing.assert_allclose(drawn, head.low + (head.high - head.low) / (1 + torch.exp(-2 * raw)), atol=1e-5)
