import gymnasium as gym
import numpy as np
import pytest
import torch

from rltool.errors import UserError
from rltool.networks.translator import Translator


def build(shape, **options):
    return Translator(gym.spaces.Box(0, 1, shape, np.float32), **options)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (3, 28, 28)])
@pytest.mark.parametrize("skip_connections", [True, False])
def test_images_come_out_in_the_shape_they_came_in(shape, skip_connections):
    translator = build(shape, channels=(4, 6, 8), blocks=1, skip_connections=skip_connections)
    made = translator(torch.rand(3, *shape))
    assert made.shape == (3, *shape)
    assert 0 <= made.min() <= made.max() <= 1
    made.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in translator.parameters())


def test_a_single_stage_does_not_halve():
    assert len(build((1, 8, 8), channels=(4,), blocks=0).decoder) == 0
    assert build((1, 8, 8), channels=(4,), blocks=0)(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_a_pixel_passes_the_narrow_middle_through_the_skip_connection():
    """Two stages of stride 2 and no blocks: without a skip connection, detail can only come through the middle."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 8, 8, requires_grad=True)
    for skip, seen in ((True, True), (False, False)):
        translator = build((1, 8, 8), channels=(4, 4), blocks=0, skip_connections=skip, norm="none")
        with torch.no_grad():
            for p in translator.encoder[1].parameters():
                p.zero_()  # Nothing passes the middle.
        (gradient,) = torch.autograd.grad(translator(x)[0, 0, 4, 4], x)
        assert bool(gradient.abs().sum() > 0) == seen


def test_points_are_refused():
    with pytest.raises(UserError, match="translators map images to images"):
        build((2,))
