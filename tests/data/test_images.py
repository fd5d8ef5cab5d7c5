import numpy as np
import pytest
from PIL import Image

from rltool.data import load_dataset
from rltool.errors import UserError

COLORS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def paint(file, color, size=(6, 5), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(file)


@pytest.fixture
def folder(tmp_path):
    for name, color in COLORS.items():
        for k in range(10):
            paint(tmp_path / "colors" / name / f"{k}.png", color)
    return tmp_path / "colors"


def test_a_folder_for_each_class(folder):
    (folder / ".hidden").mkdir()
    (folder / "red" / "notes.txt").write_text("passed over")
    data = load_dataset(str(folder))
    assert (data.name, data.classes) == ("colors", ("blue", "red"))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.train.x.shape[1:] == (3, 5, 6)
    assert data.train.x.dtype == np.float32
    red = data.train.x[data.train.y == 1]
    assert (red[:, 0] == 1).all()
    assert (red[:, 1:] == 0).all()


def test_train_and_test_folders(tmp_path, folder):
    folder.rename(tmp_path / "train")
    paint(tmp_path / "test" / "red" / "0.jpg", COLORS["red"])
    data = load_dataset(str(tmp_path))
    assert (len(data.train), data.test.y.tolist()) == (20, [1])


def test_one_size_or_one_that_is_asked_for(folder):
    paint(folder / "red" / "large.png", COLORS["red"], (60, 50))
    with pytest.raises(
        UserError, match=r"0\.png has 6 x 5 pixels and .*large\.png 60 x 50; give .* as .*colors@6px"
    ) as error:
        load_dataset(str(folder))
    assert "\n" not in str(error.value)
    data = load_dataset(f"{folder}@4px")
    assert (data.name, data.train.x.shape[1:], len(data.train)) == ("colors@4px", (3, 4, 4), 17)
    assert load_dataset(f"{folder}@8x3px").train.x.shape[1:] == (3, 3, 8)
    inverted = load_dataset(f"{folder}@4px~inverted")
    assert inverted.name == "colors@4px~inverted"
    assert np.array_equal(inverted.train.x, 1 - data.train.x)
    with pytest.raises(UserError, match="no angle"):
        load_dataset("digits@4px")


def test_gray_where_all_are(tmp_path):
    for k in range(10):
        paint(tmp_path / "a" / f"{k}.png", 255, mode="L")
        paint(tmp_path / "b" / f"{k}.png", 0, mode="1")
    data = load_dataset(str(tmp_path))
    assert data.train.x.shape[1:] == (1, 5, 6)
    assert (data.train.x[data.train.y == 0] == 1).all()
    paint(tmp_path / "b" / "color.png", COLORS["red"])
    assert load_dataset(str(tmp_path)).train.x.shape[1:] == (3, 5, 6)


def test_turned_photographs_are_turned_back(tmp_path):
    for name in ("a", "b"):
        image = Image.new("L", (6, 4))
        exif = image.getexif()
        exif[0x0112] = 6  # Turned by a quarter.
        (tmp_path / name).mkdir()
        for k in range(10):
            image.save(tmp_path / name / f"{k}.jpg", exif=exif)
    assert load_dataset(str(tmp_path)).train.x.shape[1:] == (1, 6, 4)


def test_what_will_not_do(tmp_path, folder):
    def refused(sentence):
        with pytest.raises(UserError, match=sentence) as error:
            load_dataset(str(folder))
        assert "\n" not in str(error.value)

    (folder / "green").mkdir()
    refused("green has no images")
    (folder / "green").rmdir()
    (folder / "red" / "bad.png").write_text("no image")
    refused(r"bad\.png cannot be read")
    paint(folder / "red" / "bad.png", 1, mode="I;16")
    refused(r"bad\.png has pixels of the kind I;16")
    (folder / "red" / "bad.png").write_bytes((folder / "red" / "0.png").read_bytes()[:-30])
    refused(r"bad\.png cannot be read")
    (folder / "red" / "bad.png").unlink()
    paint(folder / "blue" / "0.png", 1, size=(9_000, 9_000), mode="1")
    refused("do not fit into memory")
    (folder / "red").rename(tmp_path / "elsewhere")
    refused("1 folders of images")


def test_a_class_that_is_only_tested(tmp_path, folder):
    folder.rename(tmp_path / "train")
    paint(tmp_path / "test" / "green" / "0.png", 1)
    with pytest.raises(UserError, match="none of it to learn from"):
        load_dataset(str(tmp_path))
