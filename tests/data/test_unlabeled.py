"""Data without labels, and images that are stacked."""

import numpy as np
import pytest
from PIL import Image

from rltool.data import load_dataset
from rltool.errors import UserError
from rltool.supervised import ClassifierLearner


def save(folder, count, size=(6, 5)):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("L", size, 10 * k).save(folder / f"{k}.png")


def test_a_folder_of_images_alone(tmp_path):
    save(tmp_path / "images", 12)
    data = load_dataset(str(tmp_path / "images"), labeled=False)
    assert (len(data.train), len(data.test), data.classes) == (10, 2, ())
    assert data.train.x.shape[1:] == (1, 5, 6)
    save(tmp_path / "parted" / "train", 12)
    save(tmp_path / "parted" / "test", 5)
    parted = load_dataset(str(tmp_path / "parted"), labeled=False)
    assert (len(parted.train), len(parted.test)) == (12, 5)
    with pytest.raises(UserError, match="a classifier needs two"):
        load_dataset(str(tmp_path / "images"))


def test_labels_are_kept_where_there_are_some(tmp_path):
    save(tmp_path / "a", 8)
    save(tmp_path / "b", 8)
    assert load_dataset(str(tmp_path), labeled=False).classes == ("a", "b")
    x = np.random.default_rng(0).random((20, 4, 4), np.float32)
    np.savez(tmp_path / "labeled.npz", x=x, y=np.arange(20) % 2)
    assert load_dataset(str(tmp_path / "labeled.npz"), labeled=False).classes == ("0", "1")


def test_a_file_of_examples_alone(tmp_path):
    x = np.random.default_rng(0).random((20, 4, 4), np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    data = load_dataset(str(tmp_path / "x.npz"), labeled=False)
    assert (len(data.train), len(data.test), data.classes) == (16, 4, ())
    np.savez(tmp_path / "both.npz", x_train=x, x_test=x[:3])
    assert len(load_dataset(str(tmp_path / "both.npz"), labeled=False).test) == 3
    with pytest.raises(UserError, match="it needs x_train y_train"):
        ClassifierLearner(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((1, 4, 4))}, "a single example, too few to learn a distribution"),
        ({"x": np.full((20, 4, 4), np.nan)}, "not finite"),
        ({"x": np.full((20, 4, 4), 300.0)}, r"pixels from 300 to 300; give bytes, or numbers in \[0, 1\]"),
        ({"images": np.zeros((20, 4, 4))}, "it needs x_train x_test, or x"),
        ({"x": np.zeros((0, 4, 4))}, "above 0"),
    ],
)
def test_files_that_will_not_do(tmp_path, arrays, sentence):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        load_dataset(str(tmp_path / "bad.npz"), labeled=False)


def test_folders_that_will_not_do(tmp_path):
    save(tmp_path / "one", 1)
    with pytest.raises(UserError, match="has a single example"):
        load_dataset(str(tmp_path / "one"), labeled=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        load_dataset(str(tmp_path / "empty"), labeled=False)


def test_images_of_different_sizes_are_refused_until_a_size_is_given(tmp_path):
    save(tmp_path / "mixed", 12)
    Image.new("L", (30, 40), 255).save(tmp_path / "mixed" / "99.png")
    with pytest.raises(UserError, match=r"has 6 x 5 pixels and .*99\.png 30 x 40; give"):
        load_dataset(str(tmp_path / "mixed"), labeled=False)
    assert load_dataset(f"{tmp_path / 'mixed'}@6x5px", labeled=False).train.x.shape[1:] == (1, 5, 6)


def test_stacked_digits_are_digits_in_each_channel():
    data, digits = load_dataset("stacked-digits"), load_dataset("digits")
    assert data.train.x.shape == (20_000, 3, 8, 8)
    assert len(np.unique(data.train.y)) == len(data.classes) == 1_000
    assert data.channels is not None
    assert data.classes[407] == "4 0 7"
    known = {image.tobytes(): label for image, label in zip(digits.train.x[:, 0], digits.train.y, strict=True)}
    for image, label in zip(data.train.x[:50], data.train.y[:50], strict=True):
        assert [known[channel.tobytes()] for channel in image] == [label // 100, label // 10 % 10, label % 10]
    assert not {image.tobytes() for image in data.test.x[:200, 0]} <= known.keys()
    again = load_dataset("stacked:digits")
    assert np.array_equal(again.train.x[:100], data.train.x[:100])


def test_what_is_not_stacked(tmp_path):
    np.savez(tmp_path / "colors.npz", x=np.zeros((20, 6, 6, 3)), y=np.arange(20) % 2)
    with pytest.raises(UserError, match="gray images"):
        load_dataset(f"stacked:{tmp_path / 'colors.npz'}")
    with pytest.raises(UserError, match="gray images"):
        load_dataset("stacked:ring8")
