import numpy as np
import pytest

from rltool.adaptation.pictures import neighbor_embedding, principal_axes


def test_principal_axes_are_those_of_most_variance():
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 10, 3] + 5
    flat = principal_axes(x)
    assert np.abs(np.corrcoef(flat[:, 0], x[:, 1])[0, 1]) > 0.99
    assert np.abs(np.corrcoef(flat[:, 1], x[:, 2])[0, 1]) > 0.99
    assert principal_axes(x[:, :1]).shape == (200, 2)


def test_neighbors_stay_neighbors_where_two_axes_do_not_tell_them_apart():
    """Six clusters along six axes; each point's nearest in the picture is of its own."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 20)
    x = 10 * np.eye(40)[y] + rng.normal(size=(120, 40))
    flat = neighbor_embedding(x)
    assert (flat == neighbor_embedding(x)).all()
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 1e9 * np.eye(120)
    assert (y[distance.argmin(1)] == y).mean() > 0.95


@pytest.mark.parametrize("x", [np.zeros((50, 8)), np.random.default_rng(0).normal(size=(4, 2))])
def test_few_points_and_equal_ones(x):
    assert np.isfinite(neighbor_embedding(x)).all()
    assert np.isfinite(principal_axes(x)).all()
