"""Statistics over seeds against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rltool.training.statistics import bootstrap_interval, iqm


@pytest.mark.parametrize("n", [4, 8, 12, 100])
def test_iqm_is_the_trimmed_mean_where_sizes_divide(n):
    values = np.random.default_rng(n).normal(size=n)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_of_few_values_weighs_the_edges():
    assert iqm(np.array([5.0])) == 5.0
    assert iqm(np.array([1.0, 3.0])) == 2.0
    assert iqm(np.array([0.0, 1.0, 5.0])) == pytest.approx((0 * 1 / 12 + 1 * 1 / 3 + 5 * 1 / 12) / (1 / 2))
    assert iqm([3, 1, 2, 100]) == 2.5  # Unordered whole numbers in a list.


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_iqm_is_robust_and_equivariant(values):
    array = np.array(values)
    result = iqm(array)
    assert array.min() - 1e-6 <= result <= array.max() + 1e-6
    assert iqm(array[::-1]) == pytest.approx(result, abs=1e-6)
    assert iqm(2 * array + 3) == pytest.approx(2 * result + 3, abs=1e-5)
    # Each value three times over is the same distribution.
    assert iqm(np.repeat(array, 3)) == pytest.approx(result, abs=1e-5)


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(3, 2, size=20)
    low, high = bootstrap_interval(values, samples=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.05)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=30), level=0.9, samples=400)
        hits += low <= 0 <= high
    assert 0.82 < hits / 300 < 0.95


def test_the_interval_of_one_seed_is_a_point():
    assert bootstrap_interval(np.array([2.0])) == (2.0, 2.0)


def test_the_interval_of_the_iqm_ignores_an_outlier():
    values = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 50.0])
    assert bootstrap_interval(values, iqm)[1] < bootstrap_interval(values)[1]
