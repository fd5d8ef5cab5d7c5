import numpy as np
import pytest

from rltool.data import load_dataset, load_pair, shift_examples
from rltool.data.pairs import fit_images, make_pair
from rltool.data.shifts import SHIFTS, rotate, split_shifts
from rltool.errors import UserError

ALL = [*(f"~{name}" for name in SHIFTS), "@40deg"]
COLORFUL = ("~coloured", "~recoloured", "~blended")


@pytest.mark.parametrize("shift", ALL)
def test_shifted_digits_are_other_images_with_the_same_labels(shift):
    plain, shifted = load_dataset("digits"), load_dataset(f"digits{shift}")
    assert shifted.name == f"digits{shift}"
    for one, two in ((plain.train, shifted.train), (plain.test, shifted.test)):
        assert (one.y == two.y).all()
        assert two.x.dtype == np.float32
        assert two.x.shape == (len(one), 3 if shift in COLORFUL else 1, 8, 8)
        assert 0 <= two.x.min() < two.x.max() <= 1
        assert np.abs(two.x.mean(1) - one.x[:, 0]).mean((1, 2)).min() > 0.005  # Every single image has changed.


@pytest.mark.parametrize("shift", ALL)
def test_a_seed_decides(shift):
    x = load_dataset("digits").test.x
    assert (shift_examples(x, shift, 1) == shift_examples(x, shift, 1)).all()
    drawn = (shift_examples(x, shift, 1) != shift_examples(x, shift, 2)).any()
    assert drawn == (shift in ("~coloured", "~noisy", "~textured", "~blended", "~random-conv"))


def test_shifts_in_a_row_and_twice():
    plain, twice = load_dataset("digits").test.x, load_dataset("digits~inverted~inverted").test.x
    assert np.abs(plain - twice).max() < 1e-6
    noise = [load_dataset("digits" + k * "~noisy").test.x - 0.5 for k in (1, 2)]
    assert 1.2 < (noise[1] - plain).std() / (noise[0] - plain).std() < 1.5  # Independent noise: sqrt(2), less clipping.
    assert load_dataset("digits~coloured~inverted").test.x.shape[1] == 3


def test_quarter_turns_are_exact():
    x = load_dataset("digits").test.x
    assert np.abs(rotate(x, 90) - np.rot90(x, axes=(2, 3))).max() < 1e-5
    assert np.abs(rotate(x, -180) - x[:, :, ::-1, ::-1]).max() < 1e-5


def test_points_turn_about_their_mean():
    points = np.array([[1.0, 1], [3, 1], [2, 1]], np.float32)
    assert np.abs(rotate(points, 90) - [[2, 0], [2, 2], [2, 1]]).max() < 1e-6
    cloud = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert np.abs(rotate(rotate(cloud, 40), -40) - cloud).max() < 1e-5


def test_moved_images_keep_what_fits():
    x = load_dataset("digits").test.x
    moved = shift_examples(x, "~shifted")
    assert (moved[:, :, 1:, 1:] == x[:, :, :-1, :-1]).all()
    assert (moved[:, :, 0, 1:] == x[:, :, 0, :-1]).all()


def test_colors():
    black, white = np.zeros((200, 1, 2, 2), np.float32), np.ones((200, 1, 2, 2), np.float32)
    dark, bright = (shift_examples(x, "~colored") for x in (black, white))
    assert bright.max((1, 2, 3)).min() == 1  # A saturated color has a channel at 1 and one at 0.
    assert bright.min((1, 2, 3)).max() == 0
    assert dark.max() <= 0.4 + 1e-6
    assert len(np.unique(bright[:, :, 0, 0].argmax(1))) == 3


def test_other_colors_are_the_same_for_all_and_lose_nothing():
    rng = np.random.default_rng(0)
    gray, colored = rng.random((50, 1, 2, 2), np.float32), rng.random((50, 3, 2, 2), np.float32)
    for x in (gray, colored):
        made = shift_examples(x, "~recolored")
        dark, bright = (shift_examples(np.full_like(x, value), "~recoloured") for value in (0, 1))
        assert np.allclose((made - dark) / (bright - dark), np.broadcast_to(x, made.shape)[:, [2, 0, 1]], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits~invertd", "no shift 'invertd'; did you mean 'inverted'?"),
        ("digits@40", "'@40' is no angle; turn a data set by 40 degrees with @40deg"),
        ("digit~inverted", "no data set 'digit'; did you mean 'digits'?"),
    ],
)
def test_mistakes(name, sentence):
    with pytest.raises(UserError) as error:
        load_dataset(name)
    assert str(error.value) == sentence


def test_points_take_no_shift_of_images():
    points = np.zeros((5, 3), np.float32)
    with pytest.raises(UserError, match="~inverted is for images, and these are points; points take ~rotated, ~noisy"):
        shift_examples(points, "~inverted")
    with pytest.raises(UserError, match="points of 3 numbers cannot be turned"):
        shift_examples(points, "@40deg")


def test_a_file_may_bear_the_signs(tmp_path):
    file = tmp_path / "mine~2@home.npz"
    np.savez(file, x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
    assert len(load_dataset(str(file)).train) == 8
    assert split_shifts(f"{file}~noisy")[1] == ("~2", "@home.npz", "~noisy")  # The whole name is what must exist.
    (tmp_path / "~x").mkdir()
    assert split_shifts(str(tmp_path / "~x" / "digits~noisy")) == (str(tmp_path / "~x" / "digits"), ("~noisy",))


# Pairs


def test_a_shift_of_the_same_data_is_paired():
    pair = load_pair("digits:digits~inverted")
    assert pair.name == "digits:digits~inverted"
    assert pair.paired
    assert np.abs(pair.source.train.x + pair.target.train.x - 1).max() < 1e-6


def test_unpaired_halves_share_nothing():
    pair = load_pair("digits:digits~inverted").unpaired()
    assert not pair.paired
    assert abs(len(pair.source.train) - len(pair.target.train)) <= 1
    seen = {row.tobytes() for row in pair.source.train.x}
    both = sum((1 - row).astype(np.float32).tobytes() in seen for row in pair.target.train.x)
    assert both < 5  # Digits hold a few duplicates.
    assert np.array_equal(pair.source.test.y, pair.target.test.y)
    assert pair.unpaired() is pair


def test_channels_and_sizes_follow_the_source(tmp_path):
    pair = load_pair("digits:digits~coloured")
    assert pair.source.train.x.shape == pair.target.train.x.shape == (1438, 3, 8, 8)
    assert pair.paired
    file = tmp_path / "big.npz"
    x = np.zeros((40, 32, 20), np.uint8)
    x[:, :16] = 255
    np.savez(file, x=x, y=np.arange(40) % 10)
    pair = load_pair(f"digits:{file}")
    assert pair.target.train.x.shape == (32, 1, 8, 8)
    assert not pair.paired
    assert np.allclose(pair.target.train.x[0, 0, :, 0], [1, 1, 1, 1, 0, 0, 0, 0], atol=0.2)
    assert 0 <= pair.target.train.x.min() <= pair.target.train.x.max() <= 1


def test_images_are_averaged_when_they_shrink():
    board = np.indices((8, 8)).sum(0)[None, None].astype(np.float32) % 2
    assert np.allclose(fit_images(board, (1, 2, 2)), 0.5, atol=0.05)


@pytest.mark.parametrize("name", ["digits", "digits:", ":digits", "a:b:c"])
def test_no_pair(name):
    with pytest.raises(UserError, match="is no pair of domains; give two data sets with a colon"):
        load_pair(name)


def test_points_and_images_are_no_pair(tmp_path):
    file = tmp_path / "points.npz"
    np.savez(file, x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
    with pytest.raises(UserError, match="digits holds images and points points of 2 numbers"):
        load_pair(f"digits:{file}")
    points = load_dataset(str(file))
    assert make_pair(points, points).paired


def test_data_that_are_made_of_others_in_a_pair():
    pair = load_pair("stacked:digits:stacked:digits~inverted")
    assert pair.target.name.endswith("digits~inverted")
    assert pair.source.train.x.shape[1:] == (3, 8, 8)
