"""Heads and distributions: against `torch.distributions`, against Stable-Baselines3, and against what they draw."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import nn

from rltool.errors import UserError
from rltool.networks import (
    ActionHead,
    Categorical,
    CategoricalHead,
    DiagonalGaussian,
    GaussianHead,
    GSDEHead,
    ValueHead,
    build_action_head,
)

FEATURES = 6
HEADS: dict[str, Any] = {
    "categorical": lambda: CategoricalHead(FEATURES, 3),
    "independent": lambda: GaussianHead(FEATURES, 2, log_std_init=-0.5),
    "dependent": lambda: GaussianHead(FEATURES, 2, log_std_init=-0.5, dependent=True),
    "gsde": lambda: GSDEHead(FEATURES, 2, log_std_init=-0.5),
}


def head_of(kind: str) -> Any:
    """A head whose weights are not the tiny initial ones."""
    torch.manual_seed(1)
    head = HEADS[kind]()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return head


def features_of(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, FEATURES), generator=torch.Generator().manual_seed(seed))


def reference(kind: str, head: Any, features: torch.Tensor) -> torch.distributions.Distribution:
    """The same distribution, by PyTorch."""
    mean = nn.functional.linear(features, head.linear.weight, head.linear.bias)
    if kind == "categorical":
        return torch.distributions.Categorical(logits=mean)
    if kind == "independent":
        std = head.log_std.exp().expand_as(mean)
    elif kind == "dependent":
        std = (head.log_std + head.log_std_linear(features)).exp()
    else:
        # features @ E with E_ij ~ N(0, std_ij) has variance sum_i (features_i std_ij)^2.
        std = torch.stack(
            [((features * head.log_std[:, j].exp()) ** 2).sum(1).add(1e-6).sqrt() for j in range(2)], dim=1
        )
    return torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)


# Distributions


def test_categorical_is_torchs() -> None:
    logits = 5 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    actions = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    assert ours.log_prob(actions).shape == ours.entropy().shape == ours.mode().shape == (7,)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), theirs.probs.argmax(1))


@pytest.mark.parametrize("shape", [(3,), (7, 3)])
def test_diagonal_gaussian_is_torchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, actions = torch.randn(7, 3, generator=generator), torch.randn(7, 3, generator=generator)
    log_std = torch.randn(shape, generator=generator)
    ours = DiagonalGaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().expand(7, 3)), 1)
    assert ours.log_prob(actions).shape == (7,)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy().expand(7), theirs.entropy())
    assert torch.equal(ours.mode(), mean)


def test_densities_by_hand() -> None:
    gaussian = DiagonalGaussian(torch.tensor([[1.0, -1.0]]), torch.tensor([0.0, math.log(2)]))
    # Standard deviations 1 and 2, one deviation off in each: -1/2 - 1/2 - log(2 pi) - log 2.
    log_prob = gaussian.log_prob(torch.tensor([[2.0, 1.0]]))
    assert log_prob.item() == pytest.approx(-1 - math.log(2 * math.pi) - math.log(2))
    assert gaussian.entropy().item() == pytest.approx(math.log(2 * math.pi * math.e) + math.log(2))
    uniform = Categorical(torch.full((1, 4), 3.0))
    assert uniform.log_prob(torch.tensor([2])).item() == pytest.approx(-math.log(4))
    assert uniform.entropy().item() == pytest.approx(math.log(4))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    distribution = Categorical(logits)
    (distribution.log_prob(torch.tensor([1])) + distribution.entropy()).sum().backward()
    assert distribution.entropy().item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# Heads


@pytest.mark.parametrize("kind", HEADS)
def test_density_and_entropy(kind: str) -> None:
    head, features = head_of(kind), features_of(50)
    ours, theirs = head(features), reference(kind, head, features)
    actions = theirs.sample()
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.entropy().expand(50), theirs.entropy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_of_the_density(kind: str) -> None:
    head, features = head_of(kind), features_of(50)
    actions = reference(kind, head, features).sample()
    parameters = list(head.parameters())
    ours = torch.autograd.grad(head(features).log_prob(actions).sum(), parameters)
    theirs = torch.autograd.grad(reference(kind, head, features).log_prob(actions).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", HEADS)
def test_as_numpy_is_the_mode(kind: str) -> None:
    head, features = head_of(kind), features_of(40)
    np.testing.assert_allclose(head.as_numpy()(features.numpy()), head(features).mode().detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_sampler_draws_from_the_density(kind: str) -> None:
    head, features = head_of(kind), features_of(2, seed=3)
    count = 40_000
    actions = head.sampler(np.random.default_rng(0))(features.repeat(count, 1).numpy()).reshape(count, 2, -1)
    theirs = reference(kind, head, features)
    if isinstance(theirs, torch.distributions.Categorical):
        frequencies = np.stack([(actions == action).mean((0, 2)) for action in range(3)], axis=1)
        np.testing.assert_allclose(frequencies, theirs.probs.detach(), atol=0.01)  # four standard errors
    else:
        std = theirs.stddev.detach().numpy()
        np.testing.assert_allclose(actions.mean(0), theirs.mean.detach(), atol=0.025 * std.max())
        np.testing.assert_allclose(actions.std(0), std, rtol=0.02)
        # Dimensions are independent of each other, and so are rows.
        assert abs(np.corrcoef(actions[:, 0].T)[0, 1]) < 0.03
        assert abs(np.corrcoef(actions[:, 0, 0], actions[:, 1, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("kind", HEADS)
def test_samplers_follow_their_generator(kind: str) -> None:
    head, features = head_of(kind), features_of(20).numpy()
    draw = [head.sampler(np.random.default_rng(seed))(features) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()
    assert draw[0].dtype == (np.int64 if kind == "categorical" else np.float32)


def test_sampler_survives_a_draw_of_zero(recwarn: pytest.WarningsRecorder) -> None:
    """The exponential draws of NumPy are exactly 0 once in ten million, and log(0) would warn."""

    class Zeros:
        def standard_exponential(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            return np.zeros(shape, dtype)

    head, features = head_of("categorical"), features_of(5)
    actions = head.sampler(Zeros())(features.numpy())
    np.testing.assert_array_equal(actions, head(features).mode())
    assert not recwarn.list


def test_dependent_deviation_depends_on_the_features_and_is_bounded() -> None:
    head = head_of("dependent")
    log_std = head(features_of(2)).log_std
    assert (log_std[0] != log_std[1]).all()
    huge = head(1e4 * features_of(50)).log_std
    assert huge.min() >= -20
    assert huge.max() <= 2
    actions = head.sampler(np.random.default_rng(0))(1e4 * features_of(50).numpy())
    assert np.isfinite(actions).all()


# gSDE


def test_gsde_has_the_density_of_stable_baselines3() -> None:
    head, features = head_of("gsde"), features_of(30)
    theirs = StateDependentNoiseDistribution(2, full_std=True, use_expln=False, squash_output=False)
    theirs.proba_distribution_net(FEATURES, log_std_init=-0.5)
    theirs.proba_distribution(head.linear(features), head.log_std, features)
    actions = torch.randn(30, 2, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(head(features).log_prob(actions), theirs.log_prob(actions), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head(features).entropy(), theirs.entropy(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head(features).mode(), theirs.mode())


def test_gsde_density_by_hand() -> None:
    head = GSDEHead(2, 1, log_std_init=0.0)
    head.linear.weight.data = torch.tensor([[1.0, 1.0]])
    head.log_std.data = torch.log(torch.tensor([[2.0], [3.0]]))
    distribution = head(torch.tensor([[1.0, -2.0]]))
    # Mean 1 - 2 = -1, variance (1 * 2)^2 + (-2 * 3)^2 = 40.
    expected = torch.distributions.Normal(-1.0, math.sqrt(40)).log_prob(torch.tensor(5.0))
    assert distribution.log_prob(torch.tensor([[5.0]])).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gsde_noise_is_no_path_to_the_features() -> None:
    head, features = head_of("gsde"), features_of(4).requires_grad_()
    head(features).log_std.sum().backward()
    assert features.grad is None
    assert head.log_std.grad is not None


@pytest.mark.parametrize("sample_freq", [0, 1, 4])
def test_gsde_noise_is_held(sample_freq: int) -> None:
    head, features = head_of("gsde"), features_of(3).numpy()
    head.sample_freq = sample_freq
    sample, mean = head.sampler(np.random.default_rng(0)), head.as_numpy()(features)
    noises = [sample(features) - mean for _ in range(12)]
    for step in range(1, 12):
        redrawn = bool(sample_freq) and step % sample_freq == 0
        assert (noises[step] != noises[step - 1]).all() if redrawn else (noises[step] == noises[step - 1]).all(), step
    assert (noises[0][0] != noises[0][1]).all()  # Each environment explores by its own matrix.


def test_gsde_noise_is_linear_in_the_features() -> None:
    head = head_of("gsde")
    head.linear.weight.data.zero_()
    head.linear.bias.data.zero_()
    sample, one, two = head.sampler(np.random.default_rng(0)), features_of(3).numpy(), features_of(3, seed=1).numpy()
    np.testing.assert_allclose(sample(one) + 2 * sample(two), sample(one + 2 * two), rtol=1e-4, atol=1e-5)


# Building


@pytest.mark.parametrize(
    ("space", "options", "kind"),
    [
        (gym.spaces.Discrete(5), {}, CategoricalHead),
        (gym.spaces.Discrete(5, start=3), {"std": "gsde"}, CategoricalHead),
        (gym.spaces.Box(-1, 1, (3,)), {}, GaussianHead),
        (gym.spaces.Box(-1, 1, (3,)), {"std": "dependent"}, GaussianHead),
        (gym.spaces.Box(-1, 1, (3,)), {"std": "gsde", "sde_sample_freq": 8}, GSDEHead),
    ],
)
def test_build_action_head(space: gym.Space, options: dict[str, Any], kind: type[ActionHead]) -> None:
    head = build_action_head(space, FEATURES, log_std_init=-1.5, **options)
    assert type(head) is kind
    n = 5 if isinstance(space, gym.spaces.Discrete) else 3
    assert head.linear.weight.shape == (n, FEATURES)
    # A policy begins nearly uniform, or nearly centered: orthogonal rows of length 0.01, no bias.
    torch.testing.assert_close(head.linear.weight @ head.linear.weight.T, 1e-4 * torch.eye(n), atol=1e-8, rtol=1e-4)
    assert not head.linear.bias.any()
    if isinstance(head, GaussianHead | GSDEHead):
        assert (head.log_std == -1.5).all()
        assert getattr(head, "sample_freq", 8) == 8
        assert (getattr(head, "log_std_linear", None) is not None) == (options.get("std") == "dependent")


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiBinary(3),
        gym.spaces.Box(0, 5, (2,), np.int64),
        gym.spaces.Dict({"a": gym.spaces.Discrete(2)}),
    ],
)
def test_action_spaces_without_a_head(space: gym.Space) -> None:
    with pytest.raises(UserError, match="policies act in Discrete and Box spaces; this") as error:
        build_action_head(space, FEATURES)
    assert "\n" not in str(error.value)


def test_value_head() -> None:
    head = ValueHead(FEATURES)
    features = features_of(4)
    assert head(features).shape == (4,)
    torch.testing.assert_close(head(features), features @ head.linear.weight[0])
    assert head.linear.weight.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert ValueHead(FEATURES, init="default").linear.bias.item() != 0


@pytest.mark.parametrize("method", ["as_numpy", "forward", "sampler"])
def test_an_unfinished_head_says_what_it_lacks(method: str) -> None:
    argument = {"as_numpy": (), "forward": (features_of(),), "sampler": (np.random.default_rng(0),)}[method]
    with pytest.raises(TypeError, match="ActionHead lacks"):
        getattr(ActionHead(), method)(*argument)
