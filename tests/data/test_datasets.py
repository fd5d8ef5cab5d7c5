import numpy as np
import pytest

from rltool.data import load_dataset
from rltool.data.examples import folds, split
from rltool.errors import UserError


def test_digits():
    data = load_dataset("digits")
    assert (len(data.train), len(data.test), len(data.classes)) == (1438, 359, 10)
    assert data.train.x.dtype == np.float32
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert abs(np.bincount(data.test.y) / np.bincount(data.train.y) - 0.25).max() < 0.02


def test_split_takes_the_same_share_of_every_class():
    y = np.repeat([0, 1, 2], 10)
    kept, out = split(y, 0.2)
    assert np.bincount(y[out]).tolist() == [2, 2, 2]
    assert sorted([*kept, *out]) == list(range(30))


def test_folds_are_even_in_size_and_in_every_class():
    y = np.repeat([0, 1, 2], [10, 11, 13])
    part = folds(y, 4, seed=1)
    assert sorted(np.bincount(part).tolist()) == [8, 8, 9, 9]
    for label in range(3):
        counts = np.bincount(part[y == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert (part == folds(y, 4, seed=1)).all()
    assert (part != folds(y, 4, seed=2)).any()


def test_npz_of_bytes_with_channels_last(tmp_path):
    file = tmp_path / "a.npz"
    x = np.full((10, 6, 5, 3), 255, np.uint8)
    np.savez(file, x=x, y=np.arange(10) % 2)
    data = load_dataset(str(file))
    assert data.train.x.shape[1:] == (3, 6, 5)
    assert data.train.x.max() == 1


X, Y = np.zeros((4, 5, 5), np.float32), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X * np.nan, "y": Y}, "finite"),
        ({"x": X + 2, "y": Y}, "pixels"),
        ({"x": X, "y": Y * 0.5}, "whole numbers"),
        ({"x": X, "y": Y - 1}, "count from 0"),
        ({"x": X, "y": Y * 0}, "single class"),
        ({"x": X, "y": Y * 2}, "not all classes"),
        ({"x": X, "y": Y[:3]}, "both need the same"),
        ({"x": X[:0], "y": Y[:0]}, "above 0"),
        ({"x": X}, "needs"),
        ({"x": np.array([object()] * 4), "y": Y}, "objects"),
    ],
)
def test_what_will_not_do(tmp_path, arrays, sentence):
    file = tmp_path / "bad.npz"
    np.savez(file, **arrays)
    with pytest.raises(UserError, match=sentence):
        load_dataset(str(file))


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no file"):
        load_dataset(str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match="digits"):
        load_dataset("digitz")
