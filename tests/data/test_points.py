import numpy as np
import pytest

from rltool.data import load_dataset
from rltool.data.points import POINTS


@pytest.mark.parametrize("name", POINTS)
def test_they_are_always_the_same_and_the_test_part_is_another(name):
    one, two = load_dataset(name), load_dataset(name)
    assert np.array_equal(one.train.x, two.train.x)
    assert one.train.x.dtype == np.float32
    assert one.train.y.dtype == np.int64
    assert not np.isin(one.test.x[:, 0], one.train.x[:, 0]).all()
    assert set(one.train.y) == set(one.test.y) == set(range(len(one.classes)))


@pytest.mark.parametrize(("name", "count", "std"), [("ring8", 8, 0.01), ("grid25", 25, 0.05)])
def test_mixtures(name, count, std):
    data = load_dataset(name)
    centers = data.modes.centers
    assert centers.shape == (count, 2)
    assert data.modes.std == std
    away = data.train.x - centers[data.train.y]
    assert away.std(0) == pytest.approx([std, std], rel=0.02)
    assert np.bincount(data.train.y) / len(data.train) == pytest.approx([1 / count] * count, rel=0.1)
    # Within three deviations of the center lie 1 - exp(-4.5) of a round Gaussian in the plane.
    assert (np.linalg.norm(away, axis=1) < 3 * std).mean() == pytest.approx(1 - np.exp(-4.5), abs=0.002)
    if name == "ring8":
        assert np.linalg.norm(centers, axis=1) == pytest.approx([1] * 8)
    else:
        assert sorted(set(centers.ravel())) == [-4, -2, 0, 2, 4]


def test_moons_and_roll_are_where_they_should_be():
    moons, roll = load_dataset("moons").train, load_dataset("swiss-roll").train
    assert len(moons) == 1_000
    assert np.bincount(moons.y).tolist() == [500, 500]
    centers = np.array([[0, 0], [1, 0.5]])
    radius = np.linalg.norm(moons.x - centers[moons.y], axis=1)
    assert radius.mean() == pytest.approx(1, abs=0.02)
    assert radius.std() == pytest.approx(0.1, rel=0.1)
    radius = np.linalg.norm(roll.x, axis=1)
    assert radius.max() < 1.1
    assert [radius[roll.y == k].mean() for k in range(4)] == sorted(radius[roll.y == k].mean() for k in range(4))
