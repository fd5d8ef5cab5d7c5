import numpy as np
import pytest

from rltool.data import datasets as data_sets
from rltool.data import load_dataset, shift_examples
from rltool.errors import UserError


def test_imbalanced_classes_are_rarer_one_after_the_other():
    plain, shifted = load_dataset("digits"), load_dataset("digits~imbalanced")
    before, after = (np.bincount(each.train.y) for each in (plain, shifted))
    assert np.allclose(after / before, 0.1 ** (np.arange(10) / 9), atol=0.01)
    assert np.bincount(shifted.test.y)[9] == np.ceil(0.1 * np.bincount(plain.test.y)[9])
    known = {x.tobytes(): y for x, y in zip(plain.train.x, plain.train.y, strict=True)}
    assert all(known[x.tobytes()] == y for x, y in zip(shifted.train.x, shifted.train.y, strict=True))
    assert np.bincount(load_dataset("moons~imbalanced").train.y).tolist() == [500, 50]


def test_relabelled_examples_are_the_same_under_other_names():
    plain, shifted = load_dataset("digits"), load_dataset("digits~relabelled")
    assert (shifted.test.x == plain.test.x).all()
    assert (shifted.test.y == (plain.test.y + 1) % 10).all()
    assert (load_dataset("moons~relabeled").train.y == 1 - load_dataset("moons").train.y).all()


@pytest.mark.parametrize(("some", "classes"), [("4-9", "456789"), ("0,3,7-8", "0378"), ("2-3,1", "123")])
def test_some_classes_keep_their_names_and_are_counted_anew(some, classes):
    plain, chosen = load_dataset("digits"), load_dataset(f"digits~{some}~inverted")
    assert chosen.name == f"digits~{some}~inverted"
    assert chosen.classes == tuple(classes)
    rows = np.isin(plain.test.y, [int(name) for name in classes])
    assert [int(chosen.classes[y]) for y in chosen.test.y] == plain.test.y[rows].tolist()
    assert np.abs(1 - chosen.test.x - plain.test.x[rows]).max() < 1e-6


def test_shifts_of_labels_and_looks_in_a_row():
    one, two = load_dataset("digits~imbalanced~inverted"), load_dataset("digits~inverted~imbalanced")
    assert one.train.y.shape == two.train.y.shape
    assert one.train.x.mean() > 0.5


def test_what_does_not_fit(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 2)))
    with pytest.raises(UserError, match="x has no labels, which this shift changes"):
        load_dataset(f"{tmp_path / 'x.npz'}~relabelled", labeled=False)
    for wrong in ("9-4", "0-12", "10"):
        with pytest.raises(UserError, match=f"~{wrong} is no choice of classes of digits; take numbers of 0 to 9"):
            load_dataset(f"digits~{wrong}")
    with pytest.raises(UserError, match="did you mean 'imbalanced'"):
        load_dataset("digits~imbalancd")
    with pytest.raises(UserError, match="~relabelled is about labels"):
        shift_examples(np.zeros((3, 2), np.float32), "~relabelled")


def test_mnist_m_is_mnist_under_textures_in_colors(monkeypatch):
    monkeypatch.setattr(data_sets, "load_published", lambda name: load_dataset("digits"))
    plain, blended = load_dataset("digits"), load_dataset("mnist-m")
    assert blended.name == "mnist-m"
    assert blended.train.x.shape == (1438, 3, 8, 8)
    assert (blended.test.y == plain.test.y).all()
    black, white = (np.full((400, 1, 12, 12), value, np.float32) for value in (0, 1))
    dark, bright = (shift_examples(x, "~blended") for x in (black, white))
    assert np.allclose(dark + bright, 1, atol=1e-6)  # |0 - t| and |1 - t|.
    colors = dark.mean((2, 3))
    assert 0.4 < colors.mean() < 0.6
    assert (colors.max(1) - colors.min(1)).mean() > 0.3  # Colors, not grays,
    assert dark.std((2, 3)).mean() > 0.03  # with a pattern in them.
