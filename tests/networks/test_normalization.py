"""Running statistics: against NumPy on everything at once, and only where they are asked to change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rltool.networks import RunningNorm


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    shape=st.sampled_from([(), (3,), (2, 2)]),
    shift=st.floats(-1e4, 1e4),
    scale=st.floats(1e-2, 1e3),
    seed=st.integers(0, 2**16),
)
def test_moments_of_batches_are_those_of_everything(
    sizes: list[int], shape: tuple[int, ...], shift: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(shift, scale, (size, *shape)) for size in sizes]
    norm = RunningNorm(shape)
    for batch in batches:
        norm.update(batch)
    everything = np.concatenate(batches)
    assert norm.count.item() == len(everything)
    if len(everything):
        tolerance = 1e-9 * (1 + shift**2 + scale**2)
        np.testing.assert_allclose(norm.mean.numpy(), everything.mean(0), rtol=1e-9, atol=1e-9 * (abs(shift) + scale))
        np.testing.assert_allclose(norm.var.numpy(), everything.var(0), rtol=1e-7, atol=tolerance)
    else:
        assert not norm.mean.any()
        assert (norm.var == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_any_numbers_will_do(dtype: type) -> None:
    batch = np.random.default_rng(0).integers(0, 200, (10, 3)).astype(dtype)
    norm = RunningNorm((3,))
    norm.update(batch)
    norm.update(batch[::-1])
    np.testing.assert_allclose(norm.mean.numpy(), batch.mean(0))
    np.testing.assert_allclose(norm.var.numpy(), batch.var(0))
    np.testing.assert_allclose(norm.as_numpy()(batch), norm(torch.from_numpy(batch)).numpy(), rtol=1e-5, atol=1e-5)


def test_forward_and_as_numpy_are_the_definition() -> None:
    rng = np.random.default_rng(0)
    norm = RunningNorm((4,), clip=2.0)
    norm.update(rng.normal([0, 10, -5, 1], [1, 3, 0.1, 1], (500, 4)))
    x = rng.normal([0, 10, -5, 1], [3, 3, 0.1, 10], (50, 4)).astype(np.float32)
    kept = x.copy()
    expected = np.clip((x - norm.mean.numpy()) / np.sqrt(norm.var.numpy() + 1e-8), -2, 2)
    assert (np.abs(expected) == 2).any()
    for result in (norm(torch.from_numpy(x)).numpy(), norm.as_numpy()(x)):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
        assert result.dtype == np.float32
    np.testing.assert_array_equal(x, kept)


def test_a_fresh_norm_only_clips() -> None:
    norm = RunningNorm((2,))
    assert norm(torch.tensor([[3.0, -40.0]])).tolist() == [[3.0, -10.0]]


def test_constant_inputs_give_zeros() -> None:
    norm = RunningNorm((1,))
    norm.update(np.full((20, 1), 7.0))
    assert norm.as_numpy()(np.full((3, 1), 7.0, np.float32)).tolist() == [[0.0]] * 3


def test_statistics_change_in_update_alone() -> None:
    norm = RunningNorm((3,))
    norm.update(np.random.default_rng(0).normal(size=(20, 3)))
    kept = {name: value.clone() for name, value in norm.state_dict().items()}
    infer = norm.as_numpy()
    for training in (True, False):
        norm.train(training)
        norm(torch.randn(5, 3))
        infer(np.ones((5, 3), np.float32))
    assert all(torch.equal(value, kept[name]) for name, value in norm.state_dict().items())
    x = np.ones((1, 3), np.float32)
    before = infer(x)
    norm.update(np.random.default_rng(1).normal(5, 3, (20, 3)))
    np.testing.assert_array_equal(infer(x), before)  # as they were when it was taken
    assert (norm.as_numpy()(x) != before).all()


def test_statistics_travel_with_the_weights() -> None:
    one, two = RunningNorm((3,)), RunningNorm((3,))
    one.update(np.random.default_rng(0).normal(5, 2, (20, 3)))
    assert list(one.parameters()) == []
    two.load_state_dict(one.state_dict())
    batches = np.random.default_rng(1).normal(1, 2, (20, 3))
    one.update(batches)
    two.update(batches)
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.var, two.var)
