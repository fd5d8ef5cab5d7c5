"""Decoders: exact shapes, ranges, and autoencoders that reconstruct."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks import BackboneConfig, Decoder, build_backbone, build_decoder
from rltool.networks.observations import image_size
from rltool.training.optimizers import Adam


def make(space: gym.Space, in_features: int = 6, **options: Any) -> Decoder:
    torch.manual_seed(0)
    return build_decoder(BackboneConfig(**options), in_features, space)


@pytest.mark.parametrize("name", ["auto", "mlp", "cnn", "resnet"])
@pytest.mark.parametrize("size", [(84, 84), (36, 50), (9, 7), (2, 1), (1, 13)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_images(name: str, size: tuple[int, int], channels: int) -> None:
    for shape in ((*size, channels), (channels, *size)):
        decoder = make(gym.spaces.Box(0, 255, shape, np.uint8), backbone=name)
        images = decoder(100 * torch.randn(2, 6))
        assert images.shape == (2, *shape)
        assert images.min() >= 0
        assert images.max() <= 1
        assert type(decoder).__name__ == ("VectorDecoder" if name == "mlp" else "ImageDecoder")


@pytest.mark.parametrize("shape", [(5,), (3, 4), (), (2, 3, 4)])
def test_shapes_of_vectors(shape: tuple[int, ...]) -> None:
    decoder = make(gym.spaces.Box(-np.inf, np.inf, shape))
    out = decoder(1000 * torch.ones(4, 6))
    assert out.shape == (4, *shape)
    assert (
        out.abs().max() > 1
        or make(gym.spaces.Box(-1, 1, shape), hidden_sizes=())(1000 * torch.ones(4, 6)).abs().max() > 1
    )


def test_layouts_are_the_same_image() -> None:
    first, last = (make(gym.spaces.Box(0, 255, shape, np.uint8)) for shape in ((3, 10, 12), (10, 12, 3)))
    features = torch.randn(2, 6)
    torch.testing.assert_close(first(features), last(features).permute(0, 3, 1, 2))


def test_the_mlp_is_mirrored() -> None:
    decoder = make(gym.spaces.Box(-1, 1, (4,)), hidden_sizes=(32, 16), spectral_norm=True)
    sizes = [tuple(p.shape) for name, p in decoder.named_parameters() if "original" in name]
    assert sizes == [(16, 6), (32, 16), (4, 32)]


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (gym.spaces.Box(-2, 2, (5,)), {}),
        (gym.spaces.Box(0, 1, (2, 3)), {"activation": "relu", "hidden_sizes": (64,)}),
        (gym.spaces.Box(0, 255, (36, 40, 1), np.uint8), {}),
        (gym.spaces.Box(0, 255, (3, 9, 11), np.uint8), {}),
        (gym.spaces.Box(0, 255, (6, 6, 1), np.uint8), {"backbone": "mlp"}),
    ],
    ids=str,
)
def test_autoencoders_reconstruct(space: gym.spaces.Box, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config, bytes_ = BackboneConfig(**options), space.dtype == np.uint8
    x = torch.randn(4, *space.shape)
    if bytes_:  # Pictures of 3 x 3 squares: noise at every pixel has no structure to learn.
        channels, height, width = image_size(space)
        x = nn.functional.interpolate(torch.rand(4, channels, 3, 3), (height, width))
        x = (255 * (x if channels == 3 else x.permute(0, 2, 3, 1))).to(torch.uint8)
    target = x / 255 if bytes_ else x
    backbone = build_backbone(config, space)
    model = nn.Sequential(backbone, build_decoder(config, backbone.out_features, space))
    optimizer = Adam(model, 2e-3, 0.5)
    for _ in range(80):
        optimizer.step((model(x) - target).square().mean())
    error = (model(x) - target).square().mean() / (target - target.mean(0)).square().mean()
    assert error.item() < 0.05  # of the variance between the images


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        ("auto", gym.spaces.Discrete(3), "decoders make vectors and images, in Box spaces, not Discrete(3)"),
        ("cnn", gym.spaces.Box(-1, 1, (5,)), "the cnn backbone has no mirror"),
        ("gnn", gym.spaces.Box(-1, 1, (5,)), "take --backbone mlp"),
        ("ccn", gym.spaces.Box(-1, 1, (5,)), "did you mean 'cnn'"),
    ],
)
def test_mistakes(name: str, space: gym.Space, words: str) -> None:
    with pytest.raises(UserError) as error:
        make(space, backbone=name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
