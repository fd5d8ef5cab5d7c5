"""The ends of a Hessian's spectrum, against the dense Hessian and against known surfaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rltool.training.curvature import hessian_extremes


def dense_eigenvalues(loss, model):
    """All eigenvalues, from the whole matrix."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]

    def of_flat(flat):
        parts = [part.view(p.shape) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        return loss(torch.func.functional_call(model, dict(zip(names, parts, strict=True)), INPUTS))

    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    return np.linalg.eigvalsh(torch.autograd.functional.hessian(of_flat, flat).numpy())


INPUTS = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loss", [lambda y: y.square().mean(), lambda y: torch.log_softmax(y, 1)[:, 0].sin().mean()])
def test_both_ends_are_those_of_the_dense_hessian(loss, seed):
    with torch.random.fork_rng():
        model = network(seed)
    expected = dense_eigenvalues(loss, model)
    smallest, largest = hessian_extremes(lambda: loss(model(INPUTS)), model.parameters(), seed=seed)
    assert smallest == pytest.approx(expected[0], rel=1e-3)
    assert largest == pytest.approx(expected[-1], rel=1e-3)
    assert expected[0] < 0 < expected[-1]  # There is something to be told apart.


def test_few_steps_stay_inside_the_spectrum():
    with torch.random.fork_rng():
        model = network(3)
    expected = dense_eigenvalues(lambda y: y.square().mean(), model)
    for steps in (1, 2, 5):
        low, high = hessian_extremes(lambda: model(INPUTS).square().mean(), model.parameters(), steps=steps)
        assert expected[0] - 1e-9 <= low <= high <= expected[-1] + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curvatures", [(2.0, -6.0, 1.0), (1e3, 1.0, 1e-3), (-1.0, -2.0), (4.0, 4.0, 4.0)])
def test_known_quadratics(curvatures, dtype):
    """A saddle, a badly conditioned minimum, a maximum, a sphere."""
    x = torch.ones(len(curvatures), dtype=dtype, requires_grad=True)
    weights = torch.tensor(curvatures, dtype=dtype) / 2
    smallest, largest = hessian_extremes(lambda: (weights * x.square()).sum(), [x])
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    assert smallest == pytest.approx(min(curvatures), abs=tolerance * max(map(abs, curvatures)))
    assert largest == pytest.approx(max(curvatures), rel=tolerance)


def test_a_plane_and_parameters_that_do_not_count():
    x, y = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert hessian_extremes(lambda: 3 * x.sum(), [x]) == (0.0, 0.0)
    assert hessian_extremes(lambda: x.square().sum(), [x, y]) == pytest.approx((0.0, 2.0), abs=1e-5)
    assert hessian_extremes(lambda: x.square().sum(), [x, torch.ones(2)]) == pytest.approx((2.0, 2.0))


def test_the_same_seed_is_the_same_result_and_the_global_generator_is_left_alone():
    with torch.random.fork_rng():
        model = network(4)
    before = torch.get_rng_state()
    one, two = (hessian_extremes(lambda: model(INPUTS).square().mean(), model.parameters(), seed=5) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
