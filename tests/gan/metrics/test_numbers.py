"""Metrics against closed forms, brute force, and other people's formulas."""

import math

import numpy as np
import pytest
import scipy.linalg

from rltool.gan.metrics.frechet import fid, frechet_distance, gaussian, moments
from rltool.gan.metrics.inception import inception_score, prediction_sums
from rltool.gan.metrics.kernel import kernel_distance
from rltool.gan.metrics.modes import (
    high_quality,
    jensen_shannon,
    kl_divergence,
    mode_shares,
    mode_sums,
    modes_found,
    nearest_mode,
)
from rltool.gan.metrics.neighbors import compare_manifolds, memorization, support_size
from rltool.gan.metrics.sums import GroupedSums, estimate, mean_estimate


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sums(ingredients, *arrays, groups=20):
    grouped = GroupedSums(ingredients, groups)
    grouped.update(*arrays)
    return grouped


# Fréchet distance


def test_frechet_distance_of_gaussians_in_one_dimension_and_of_commuting_ones():
    assert frechet_distance(np.array([1.0]), np.eye(1) * 4, np.array([3.0]), np.eye(1) * 9) == pytest.approx(5)
    a, b, m = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 4.0]), np.array([0.0, 2.0, 0.0])
    expected = 4 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(np.zeros(3), np.diag(a), m, np.diag(b)) == pytest.approx(expected)


def test_frechet_distance_is_that_of_the_matrix_square_root(rng):
    x, y = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)), rng.normal(1, 1, size=(300, 12))
    mean1, mean2, cov1, cov2 = x.mean(0), y.mean(0), np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root.real)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-9)
    center = y.mean(0)  # Sums are centered for the sake of rounding; the distance does not change.
    assert fid(moments(x - center), moments(y - center)) == pytest.approx(expected, rel=1e-9)
    assert fid(moments(x), moments(x)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_fewer_examples_than_features(rng):
    x, y = rng.normal(size=(20, 50)), rng.normal(size=(25, 50))
    distance = fid(moments(x), moments(y))
    # The plain product has the same eigenvalues, and many that are 0 but for rounding.
    cov1, cov2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov1 @ cov2).real.clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov1 + cov2) - 2 * roots
    assert distance == pytest.approx(expected, rel=1e-6)
    assert fid(moments(x), moments(x)) == pytest.approx(0, abs=1e-6)


def test_moments_are_those_of_all_batches_together(rng):
    x = rng.normal(5, 2, size=(1_003, 4))
    grouped = GroupedSums(moments, groups=7)
    for part in np.array_split(x, [1, 2, 50, 51, 600]):
        grouped.update(part)
    mean, covariance = gaussian(grouped.totals)
    assert np.allclose(mean, x.mean(0))
    assert np.allclose(covariance, np.cov(x, rowvar=False))
    assert grouped.sums["n"].max() - grouped.sums["n"].min() <= 1


# Intervals


@pytest.mark.parametrize("metric", ["fid", "kid", "memorized"])
def test_intervals_are_as_wide_as_the_metric_varies(metric):
    values, deviations = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(300, 4)), rng.normal(0.1, 1.2, size=(300, 4))
        if metric == "fid":
            found = estimate(fid, sums(moments, x), sums(moments, y))
        elif metric == "kid":
            found = kernel_distance(x, y)
        else:
            found = memorization(x[:200], x[200:], rng.normal(size=(300, 4)))
        values.append(found.value)
        deviations.append((found.high - found.value) / 1.96)
    assert 0.6 < np.mean(deviations) / np.std(values, ddof=1) < 1.8


def test_the_interval_of_a_mean_is_that_of_its_bootstrap(rng):
    x = rng.random(400)
    found = mean_estimate(x)
    drawn = np.std([rng.choice(x, 400).mean() for _ in range(2_000)])
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(drawn, rel=0.1)
    assert mean_estimate(np.ones(3), (0.0, 1.0)).high == 1


def test_the_order_of_examples_does_not_widen_intervals(rng):
    """One of each of ten classes in turn, half of the classes good: the share varies as a coin's does at most."""
    index = np.arange(2_000) % 10
    found = estimate(high_quality, sums(lambda i, good: mode_sums(i, good, 10), index, index < 5))
    assert (found.high - found.value) / 1.96 == pytest.approx(0.5 / math.sqrt(2_000), rel=0.6)


def test_no_interval_without_groups(rng):
    found = estimate(fid, sums(moments, rng.normal(size=(50, 2)), groups=1), sums(moments, rng.normal(size=(50, 2))))
    assert not found.has_interval
    assert found.low == found.value == found.high


# Inception Score


def test_inception_score():
    sure = np.eye(5)[np.arange(100) % 5]
    assert inception_score(sums(prediction_sums, sure).totals) == pytest.approx(5)
    assert inception_score(prediction_sums(np.full((10, 5), 0.2))) == pytest.approx(1)
    assert inception_score(prediction_sums(sure[:1])) == pytest.approx(1)
    p = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert inception_score(sums(prediction_sums, p).totals) == pytest.approx(expected)


# Modes


def test_modes_of_points():
    centers = np.array([[0.0, 0.0], [1.0, 0.0]])
    index, distance = nearest_mode(np.array([[0.1, 0.0], [0.9, 0.2]]), centers)
    assert index.tolist() == [0, 1]
    assert distance == pytest.approx([0.1, math.sqrt(0.05)])


def test_a_mode_takes_twenty_good_samples():
    index = np.repeat([0, 1, 2], [20, 19, 30])
    good = np.ones(69, dtype=bool)
    good[45:] = False
    counted = mode_sums(index, good, 4)
    assert counted["good"].tolist() == [20, 19, 6, 0]
    assert modes_found(counted) == 1
    assert high_quality(counted) == pytest.approx(45 / 69)
    assert mode_shares(mode_sums(index, good & False, 4)).tolist() == [1, 0, 0, 0]


def test_noise_finds_no_modes():
    """Blind noise hits most of 25 modes at least once; that says nothing."""
    steps = np.arange(-4.0, 5, 2)
    centers = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    x = np.random.default_rng(0).normal(0, math.sqrt(8), size=(2_500, 2))
    index, distance = nearest_mode(x, centers)
    counted = mode_sums(index, distance < 0.15, 25)
    assert (counted["good"] >= 1).sum() > 12
    assert modes_found(counted) == 0
    assert high_quality(counted) < 0.03


def test_divergences():
    uniform, single = np.full(8, 1 / 8), np.eye(8)[0]
    assert kl_divergence(single, uniform) == pytest.approx(math.log(8))
    assert kl_divergence(uniform, uniform) == 0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2))
    assert jensen_shannon(single, uniform) == pytest.approx(jensen_shannon(uniform, single))


# Kernel distance


def brute_force_kid(x, y):
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    def within(z):
        pairs = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * np.mean([[kernel(a, b) for b in y] for a in x])


def test_kernel_distance_is_the_unbiased_one(rng):
    x, y = rng.normal(size=(17, 3)), rng.normal(0.5, 1, size=(13, 3))
    assert kernel_distance(x, y).value == pytest.approx(brute_force_kid(x, y))
    values = [kernel_distance(*np.random.default_rng(k).normal(size=(2, 60, 3)), replicates=0).value for k in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60)


def test_kernel_distance_between_a_point_and_another():
    x, y = np.zeros((4, 2)), np.full((6, 2), 2.0)  # k(x, x) = 1, k(y, y) = 5^3, k(x, y) = 1.
    assert kernel_distance(x, y).value == pytest.approx(1 + 125 - 2)


# Neighbors


def brute_force_manifolds(real, fake, k):
    def distance(a, b):
        return float(np.linalg.norm(a - b))

    def radius(z, i):
        return sorted(distance(z[i], other) for other in z)[k]  # The first is the distance to itself.

    real_radii, fake_radii = ([radius(z, i) for i in range(len(z))] for z in (real, fake))
    inside = [[distance(y, x) < r for x, r in zip(real, real_radii, strict=True)] for y in fake]
    recalled = [any(distance(y, x) < r for y, r in zip(fake, fake_radii, strict=True)) for x in real]
    return {
        "precision": np.mean([any(row) for row in inside]),
        "recall": np.mean(recalled),
        "density": np.mean([sum(row) / k for row in inside]),
        "coverage": np.mean([any(row[i] for row in inside) for i in range(len(real))]),
    }


def test_precision_recall_density_coverage(rng):
    real, fake = rng.normal(size=(30, 3)), rng.normal(0.7, 0.8, size=(24, 3))
    found = {name: each.value for name, each in compare_manifolds(real, fake, k=3).items()}
    assert found == pytest.approx(brute_force_manifolds(real, fake, 3))


def test_one_spot_is_precise_and_covers_nothing(rng):
    real = rng.normal(size=(300, 2))
    found = compare_manifolds(real, real[:1] + 1e-4 * rng.normal(size=(300, 2)))
    assert found["precision"].value == 1
    assert found["recall"].value < 0.02
    assert found["coverage"].value < 0.05


def test_copies_are_told_from_fresh_samples(rng):
    train, held_out, fresh = rng.normal(size=(400, 4)), rng.normal(size=(100, 4)), rng.normal(size=(500, 4))
    none = memorization(train, held_out, fresh)
    assert none.low < 0 < none.high
    copies = np.concatenate([fresh[:300], train[rng.integers(400, size=200)]])
    some = memorization(train, held_out, copies)
    assert some.value == pytest.approx(0.4, abs=0.12)
    assert some.low > 0.1
    collapsed = memorization(train, held_out, np.repeat(fresh[:1], 500, 0))
    assert collapsed.low < 0  # All next to one example, of either kind: no sign of copying.


def test_the_birthday_paradox_counts_different_samples(rng):
    real = rng.normal(size=(600, 3))
    few, data = support_size(real, real[rng.integers(20, size=600)])
    assert few == pytest.approx(20, rel=0.2)
    assert data == pytest.approx(600 * 599 / 2 / 10)
    assert support_size(real, rng.normal(size=(600, 3)))[0] > 5_000
