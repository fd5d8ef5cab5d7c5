"""Heads and distributions: against `torch.distributions`, against Stable-Baselines3, and against what they draw."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import nn

from rltool.errors import TrainingError, UserError
from rltool.networks import (
    ActionHead,
    BernoulliHead,
    Categorical,
    CategoricalHead,
    DiagonalGaussian,
    GaussianHead,
    GSDEHead,
    MultiCategoricalHead,
    SquashedHead,
    ValueHead,
    build_action_head,
)

FEATURES = 6
CONTINUOUS = ("independent", "dependent", "gsde")
HEADS: dict[str, Any] = {
    "categorical": lambda: CategoricalHead(FEATURES, 3),
    "multi": lambda: MultiCategoricalHead(FEATURES, [3, 1, 2, 4]),
    "multi-even": lambda: MultiCategoricalHead(FEATURES, [3, 3]),
    "bits": lambda: BernoulliHead(FEATURES, 4),
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
    if kind == "bits":
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=mean), 1)
    if kind.startswith("multi"):
        blocks = mean.split((3, 3) if kind == "multi-even" else (3, 1, 2, 4), dim=1)
        widest = max(block.shape[1] for block in blocks)
        padded = [nn.functional.pad(block, (0, widest - block.shape[1]), value=-math.inf) for block in blocks]
        return torch.distributions.Independent(torch.distributions.Categorical(logits=torch.stack(padded, 1)), 1)
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
    if kind not in CONTINUOUS:
        # Every combination as often as its probability says: choices are independent of each other, too.
        for row in range(2):
            combinations, observed = np.unique(actions[:, row], axis=0, return_counts=True)
            given = torch.from_numpy(combinations).to(torch.int64 if kind != "bits" else torch.float32)
            given = given[:, 0] if kind == "categorical" else given
            distribution = reference(kind, head, features[row : row + 1].expand(len(given), -1))
            expected = count * distribution.log_prob(given).exp().detach().double().numpy()
            assert expected.sum() == pytest.approx(count, rel=1e-3)  # None is missing.
            assert chisquare(observed, expected * count / expected.sum()).pvalue > 1e-3
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
    assert draw[0].dtype == (np.float32 if kind in CONTINUOUS else np.int8 if kind == "bits" else np.int64)


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


# Masks

MASKABLE = ("categorical", "multi", "multi-even", "bits")
SIZES = {"categorical": [3], "multi": [3, 1, 2, 4], "multi-even": [3, 3]}


def masks(kind: str, rows: int) -> st.SearchStrategy[np.ndarray]:
    """Masks that leave each choice at least one action."""
    if kind == "bits":
        row = st.lists(st.integers(0, 1), min_size=4, max_size=4)
    else:
        choices = [st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(any) for n in SIZES[kind]]
        row = st.tuples(*choices).map(lambda parts: [allowed for part in parts for allowed in part])
    return st.lists(row, min_size=rows, max_size=rows).map(lambda rows: np.array(rows, np.int8))


def allows(kind: str, mask: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Whether each row's action is allowed, `(B,)`."""
    if kind == "bits":
        return (actions <= mask).all(1)
    starts = np.cumsum(SIZES[kind]) - SIZES[kind]
    return np.take_along_axis(mask, actions.reshape(len(mask), -1) + starts, 1).all(1)


def every_action(kind: str) -> torch.Tensor:
    ranges = [torch.arange(n) for n in SIZES.get(kind, [2] * 4)]
    return torch.arange(3) if kind == "categorical" else torch.cartesian_prod(*ranges)


@pytest.mark.parametrize("kind", MASKABLE)
def test_masked_heads(kind: str) -> None:
    head = head_of(kind)

    @settings(max_examples=40, deadline=None)
    @given(masks(kind, 8), st.sampled_from([np.int8, bool]), st.sampled_from([1.0, 1e3]), st.integers(0, 99))
    def check(mask: np.ndarray, dtype: type, scale: float, seed: int) -> None:
        mask, features = mask.astype(dtype), scale * features_of(8, seed)
        distribution = head(features, torch.from_numpy(mask))
        actions = every_action(kind)
        log_prob = torch.stack([distribution.log_prob(action.expand(8, *action.shape)) for action in actions], 1)
        allowed = np.stack([allows(kind, mask.astype(int), np.stack([action] * 8)) for action in actions.numpy()], 1)
        probabilities = log_prob.double().exp()
        assert (probabilities[torch.from_numpy(~allowed)] == 0).all()
        # Among the allowed, in proportion to what they would be without the mask.
        free = head(features)
        weights = torch.stack([free.log_prob(action.expand(8, *action.shape)) for action in actions], 1).double()
        expected = weights.masked_fill(torch.from_numpy(~allowed), -math.inf).log_softmax(1)
        torch.testing.assert_close(probabilities, expected.exp(), atol=1e-4, rtol=1e-3)
        entropy = -(expected.exp() * expected.clamp(min=-1e9)).sum(1)
        torch.testing.assert_close(distribution.entropy().double(), entropy, atol=1e-3, rtol=1e-3)

        best = head.as_numpy()(features.numpy(), mask)
        np.testing.assert_array_equal(best, distribution.mode())
        drawn = head.sampler(np.random.default_rng(seed))(features.numpy(), mask)
        assert drawn.shape == best.shape
        assert drawn.dtype == best.dtype
        assert allows(kind, mask.astype(int), best).all()
        assert allows(kind, mask.astype(int), drawn).all()

        loss = (distribution.log_prob(torch.from_numpy(drawn)) + distribution.entropy()).sum()
        for gradient in torch.autograd.grad(loss, list(head.parameters())):
            assert gradient.isfinite().all()

    check()


@pytest.mark.parametrize("kind", MASKABLE)
def test_a_mask_of_ones_changes_nothing(kind: str) -> None:
    head, features = head_of(kind), features_of(30)
    ones = np.ones((30, head.linear.out_features), np.int8)
    free, masked = head(features), head(features, torch.from_numpy(ones))
    assert torch.equal(free.entropy(), masked.entropy())
    draws = [head.sampler(np.random.default_rng(0))(features.numpy(), mask) for mask in (None, ones)]
    np.testing.assert_array_equal(*draws)
    assert torch.equal(*(distribution.log_prob(torch.from_numpy(draws[0])) for distribution in (free, masked)))


@pytest.mark.parametrize("kind", ["categorical", "multi", "multi-even"])
def test_a_mask_that_allows_nothing(kind: str) -> None:
    head, features = head_of(kind), features_of(5).numpy()
    mask = np.ones((5, head.linear.out_features), np.int8)
    mask[3, :3] = 0
    for act in (head.as_numpy(), head.sampler(np.random.default_rng(0))):
        with pytest.raises(TrainingError, match="the action mask forbids every action; the environment must"):
            act(features, mask)
    assert not head_of("bits").as_numpy()(features, np.zeros((5, 4), np.int8)).any()  # No bit set is an action, too.


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_densities_leave_masks_alone(kind: str) -> None:
    head, features = head_of(kind), features_of(5).numpy()
    mask = np.zeros((5, 2), np.int8)
    np.testing.assert_array_equal(head.as_numpy()(features, mask), head.as_numpy()(features))
    draws = [head.sampler(np.random.default_rng(0))(features, m) for m in (None, mask)]
    np.testing.assert_array_equal(*draws)


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
        (gym.spaces.MultiDiscrete([[2, 1], [1, 1]], start=[[1, 0], [0, 3]]), {"squash": True}, MultiCategoricalHead),
        (gym.spaces.MultiDiscrete([5], np.int8), {}, MultiCategoricalHead),
        (gym.spaces.MultiBinary((1, 5)), {}, BernoulliHead),
    ],
)
def test_build_action_head(space: gym.Space, options: dict[str, Any], kind: type[ActionHead]) -> None:
    head = build_action_head(space, FEATURES, log_std_init=-1.5, **options)
    assert type(head) is kind
    n = 3 if isinstance(space, gym.spaces.Box) else 5
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
        gym.spaces.Text(3),
        gym.spaces.Tuple([gym.spaces.Discrete(2)]),
        gym.spaces.Box(0, 5, (2,), np.int64),
        gym.spaces.Dict({"a": gym.spaces.Discrete(2)}),
    ],
)
def test_action_spaces_without_a_head(space: gym.Space) -> None:
    with pytest.raises(UserError, match=r"policies act in Discrete, .* and in Boxes of floats; this") as error:
        build_action_head(space, FEATURES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("std", CONTINUOUS)
def test_build_a_squashed_head(std: str) -> None:
    head: Any = build_action_head(gym.spaces.Box(-2, 1, (3,)), FEATURES, std=std, log_std_init=-1.5, squash=True)
    assert type(head) is SquashedHead
    assert type(head.inner) is (GSDEHead if std == "gsde" else GaussianHead)
    assert head.log_std is head.inner.log_std
    assert (head.log_std == -1.5).all()


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1), (0, np.inf), (2, 2)])
def test_squashing_needs_bounds(low: float, high: float) -> None:
    space = gym.spaces.Box(np.array([-1, low], np.float32), np.array([1, high], np.float32))
    with pytest.raises(UserError, match=r"cannot be squashed onto the bounds of .*; leave squash off") as error:
        build_action_head(space, FEATURES, squash=True)
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
