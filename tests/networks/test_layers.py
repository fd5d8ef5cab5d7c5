"""Gradient reversal, noisy layers and spectral normalization by their definitions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.networks import (
    Backbone,
    BackboneConfig,
    GradientReversal,
    NoisyLinear,
    add_spectral_norm,
    build_backbone,
    resample_noise,
)
from rltool.training.optimizers import Adam

VECTOR = gym.spaces.Box(-1, 1, (5,))
IMAGE = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)


def make(space: gym.Space = VECTOR, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(**options), space)


# Gradient reversal


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_gradient_is_reversed(strength: float) -> None:
    layer, x = GradientReversal(strength), torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(3, 4)
    y = layer(x)
    assert torch.equal(y, x)
    (y * weight).sum().backward()
    assert torch.equal(x.grad, -strength * weight)


def test_strength_can_be_set() -> None:
    layer, x = GradientReversal(), torch.ones(2, requires_grad=True)
    layer.strength = 3.0
    layer(x).sum().backward()
    assert x.grad.tolist() == [-3, -3]


# Noisy layers


def test_noisy_layer_is_its_definition() -> None:
    layer, x = NoisyLinear(3, 2), torch.randn(4, 3)
    noise = torch.outer(layer.noise_out, layer.noise_in)
    weight = layer.weight + layer.weight_sigma * noise
    bias = layer.bias + layer.bias_sigma * layer.noise_out
    torch.testing.assert_close(layer(x), x @ weight.T + bias)
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight.T + layer.bias)
    assert layer.weight_sigma.unique().item() == pytest.approx(0.5 / 3**0.5)


def test_noise_is_held_until_resampled() -> None:
    layer, x = NoisyLinear(3, 2), torch.randn(4, 3)
    first = layer(x)
    assert torch.equal(layer(x), first)
    layer.resample(torch.Generator().manual_seed(1))
    second = layer(x)
    assert (second != first).all()
    layer.resample()
    assert (layer(x) != second).all()
    layer.resample(torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), second)
    state = torch.random.get_rng_state()
    layer.resample(torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_moments_of_noise() -> None:
    layer = NoisyLinear(200_000, 1)
    # f(e)^2 = |e|, whose mean is sqrt(2 / pi); f(e)^4 = e^2, whose mean is 1.
    assert layer.noise_in.mean().item() == pytest.approx(0, abs=0.01)
    assert layer.noise_in.square().mean().item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.01)
    assert layer.noise_in.pow(4).mean().item() == pytest.approx(1, abs=0.02)


def test_noisy_backbone() -> None:
    backbone, x = make(noisy=True, hidden_sizes=(8, 4)), torch.randn(3, 5)
    assert [type(layer) for layer in backbone.linears] == [NoisyLinear, NoisyLinear]
    before = backbone(x)
    resample_noise(backbone, torch.Generator().manual_seed(0))
    assert (backbone(x) != before).all()
    acting = backbone.as_numpy()(x.numpy())
    resample_noise(backbone)
    np.testing.assert_array_equal(backbone.as_numpy()(x.numpy()), acting)  # Acting is without noise.


# Spectral normalization


def largest_singular_values(module: nn.Module) -> list[float]:
    return [
        torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (VECTOR, {"init": "default", "hidden_sizes": (32, 16)}),
        (IMAGE, {"init": "default"}),
        (IMAGE, {"backbone": "resnet"}),
    ],
    ids=str,
)
def test_largest_singular_value_becomes_one(space: gym.Space, options: dict[str, Any]) -> None:
    plain, backbone = make(space, **options), make(space, spectral_norm=True, **options)
    assert max(abs(value - 1) for value in largest_singular_values(plain)) > 0.2
    observation = torch.zeros(1, *space.shape)
    with torch.no_grad():
        for _ in range(50):
            backbone.train()(observation)
    values = largest_singular_values(backbone.eval())
    assert len(values) == len(largest_singular_values(plain))
    assert values == pytest.approx([1] * len(values), abs=0.02)


def test_numpy_path_follows_normalized_weights() -> None:
    """Their memory is new at each call: a view of it would be of weights that are no more."""
    backbone, x = make(spectral_norm=True), torch.randn(6, 5)
    optimizer = Adam(backbone, 1e-2)
    for _ in range(3):
        optimizer.step(backbone(x).square().sum())
        expected = backbone.eval()(x).detach()
        backbone.train()
        np.testing.assert_allclose(backbone.as_numpy()(x.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_a_normalized_mlp_cannot_stretch() -> None:
    backbone = add_spectral_norm(make(init="default", hidden_sizes=(32, 32)))
    with torch.no_grad():
        for _ in range(100):
            backbone(torch.zeros(1, 5))
    x, y = torch.randn(2, 500, 5)
    assert ((backbone(x) - backbone(y)).norm(dim=1) <= 1.01 * (x - y).norm(dim=1)).all()


# Norms of hidden layers


def test_batch_norm_is_its_definition() -> None:
    backbone, x = make(batch_norm=True, hidden_sizes=(8,), activation="relu"), torch.randn(16, 5)
    hidden = x @ backbone.linears[0].weight.T
    expected = ((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(backbone.train()(x), expected, rtol=1e-4, atol=1e-5)
    alone = backbone.as_numpy()(x[:1].numpy())
    np.testing.assert_allclose(alone, backbone.as_numpy()(x.numpy())[:1], rtol=1e-5, atol=1e-6)


def test_batch_norm_of_a_single_row_is_by_running_averages() -> None:
    backbone, x = make(batch_norm=True), torch.randn(16, 5)
    backbone.train()(x)
    kept = {name: value.clone() for name, value in backbone.state_dict().items()}
    alone = backbone(x[:1])
    assert all(torch.equal(value, kept[name]) for name, value in backbone.state_dict().items())
    torch.testing.assert_close(alone, backbone.eval()(x[:1]))
