import numpy as np
import pytest
import torch

from rltool.errors import UserError
from rltool.gan.augmentation import color
from rltool.gan.config import GANConfig
from rltool.gan.learner import GAN
from rltool.gan.pictures import enlarge, film_frames, interpolate, interpolations, paint_points, save_samples, tile


def test_tiles_lie_where_they_should():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1).repeat(2, 2).repeat(3, 3) / 5
    sheet = tile(images, columns=2)
    assert sheet.shape == (3 * 3 - 1, 2 * 4 - 1, 3)
    assert [int(sheet[3 * row, 4 * column, 0]) for row in range(3) for column in range(2)] == [
        0,
        51,
        102,
        153,
        204,
        255,
    ]
    assert (sheet[2] == 255).all()
    color = np.zeros((1, 3, 2, 2), np.float32)
    color[0, 1] = 1
    assert (tile(color) == (0, 255, 0)).all()
    assert (tile(np.full((1, 4, 2, 2), 0.2, np.float32)) == 51).all()  # A stack of frames: their mean.
    assert enlarge(sheet).shape[:2] == (8 * 68, 7 * 68)


def test_noise_between_two_vectors_keeps_its_length_and_turns_evenly():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    path = interpolate(start, end, 5)[0]
    assert torch.allclose(path[[0, -1]], torch.cat([start, end]), atol=1e-6)
    assert path.norm(dim=1).tolist() == pytest.approx([2, 2.5, 3, 3.5, 4])
    angles = torch.atan2(path[:, 1], path[:, 0])
    assert angles.diff().tolist() == pytest.approx([np.pi / 8] * 4, rel=1e-4)
    same = torch.tensor([[1.0, 1.0]])
    assert torch.allclose(interpolate(same, same, 3)[0], same.expand(3, 2), atol=1e-3)


def test_strips_begin_and_end_with_different_samples():
    gan = GAN("ring8", GANConfig(hidden_sizes=(8,), noise_size=4))
    strips = interpolations(gan, 3, seed=1)
    assert strips.shape == (3, 10, 2)
    assert np.array_equal(strips, interpolations(gan, 3, seed=1))
    assert (np.abs(np.diff(strips, axis=1)).max((1, 2)) < np.abs(strips[:, 0] - strips[:, -1]).max(1) + 1).all()


def test_points_are_painted_above_the_level_sets():
    window = np.array([[0.0, 0.0], [1.0, 1.0]])
    levels = np.linspace(0, 1, 9, dtype=np.float32)[None].repeat(9, 0)  # Rising to the right.
    picture = paint_points(np.array([[0.25, 0.75]]), levels, window)
    side = len(picture)
    assert picture[side - 1 - round(0.75 * side), round(0.25 * side)].tolist() == [0, 109, 44]  # Upwards is up.
    assert picture[5, 0].tolist() == [253, 208, 162]
    assert picture[5, -1].tolist() == [188, 189, 220]
    outside = paint_points(np.array([[7.0, 0.5], [np.nan, 0.5]]), levels, window)
    assert not (outside == (0, 109, 44)).all(-1).any()


def test_a_training_is_filmed_from_always_the_same_noise():
    gan = GAN("digits", GANConfig(backbone="mlp", hidden_sizes=(8,), batch_size=8)).learn(80)
    assert len(gan.film["samples"]) == 40
    assert gan.film["samples"][0].shape == (36, 1, 8, 8)
    last = gan.sample(36, seed=0)
    assert np.abs(gan.film["samples"][-1].numpy() / 255 - last).max() < 0.003
    assert film_frames(gan.film, None)[0].ndim == 3
    gan.learn(3)
    assert len(gan.film["samples"]) == 3  # Another training, another film.


def test_what_cannot_be_drawn(tmp_path):
    np.savez(tmp_path / "points.npz", x=np.random.default_rng(0).normal(size=(50, 3)))
    gan = GAN(str(tmp_path / "points.npz"), GANConfig(hidden_sizes=(8,))).learn(2)
    assert gan.film == {}
    with pytest.raises(UserError, match="points of 3 coordinates"):
        save_samples(gan, gan.sample(5), tmp_path / "a.png")
    save_samples(gan, gan.sample(5), tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["x"].shape == (5, 3)


def test_colors_change_each_image_by_itself_and_gradients_pass():
    torch.manual_seed(0)
    x = torch.rand(4, 3, 5, 5).requires_grad_()
    changed = color(x)
    changed.sum().backward()
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()
    gray = torch.full((4, 3, 5, 5), 0.4)  # Without colors and contrasts, only brightness is left to change.
    shifted = color(gray)
    assert torch.allclose(shifted.flatten(1).std(1), torch.zeros(4), atol=1e-6)
    means = shifted.mean((1, 2, 3))
    assert len(means.unique()) == 4
    assert (means - 0.4).abs().max() <= 0.5
