"""The residual network: its parts by definition, sizes, options."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.networks import BackboneConfig, ResNet, build_backbone
from rltool.networks.resnet import BasicBlock, build_norm, build_pool


def make(height: int = 20, width: int = 17, **options: Any) -> ResNet:
    torch.manual_seed(0)
    space = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
    backbone = build_backbone(BackboneConfig(backbone="resnet", **options), space)
    assert isinstance(backbone, ResNet)
    return backbone


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("size", [(8, 8), (9, 23), (84, 84), (1, 5)])
def test_any_size(size: tuple[int, int], norm: str, pool: str) -> None:
    backbone = make(*size, resnet_norm=norm, resnet_pool=pool, resnet_blocks=1)
    features = backbone(torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8))
    assert features.shape == (2, backbone.out_features) == (2, 64)
    assert features.isfinite().all()


def test_depth_and_widths() -> None:
    backbone = make(resnet_channels=(4, 8), resnet_blocks=3)
    blocks = [module for module in backbone.modules() if isinstance(module, BasicBlock)]
    assert [block.layers[0].out_channels for block in blocks] == [4, 4, 4, 8, 8, 8]
    assert [type(block.shortcut).__name__ for block in blocks] == ["Identity"] * 3 + ["Conv2d"] + ["Identity"] * 2
    assert backbone.out_features == 8
    shapes = []
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: shapes.append(tuple(output.shape[2:])))
    backbone(torch.zeros(1, 20, 17, 3))
    assert shapes == [(10, 9)] * 3 + [(5, 5)] * 3


def test_a_block_whose_branch_is_zero_is_its_shortcut() -> None:
    block, x = BasicBlock(4, 4, "layer"), torch.randn(2, 4, 5, 5)
    nn.init.zeros_(block.layers[-1].weight)
    torch.testing.assert_close(block(x), x.relu())


def test_pools_by_hand() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert build_pool("max")(image).flatten().tolist() == [4, 5, 7, 8]
    assert build_pool("average")(image).flatten().tolist() == [2, 3, 5, 6]  # the border is no zero


def test_layer_norm_is_of_each_image_alone() -> None:
    x = torch.randn(3, 4, 5, 6)
    expected = nn.functional.layer_norm(x, (4, 5, 6))
    torch.testing.assert_close(build_norm("layer", 4)(x), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_acts_by_running_statistics() -> None:
    backbone = make(resnet_norm="batch")
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 17, 3), dtype=np.uint8)
    infer = backbone.as_numpy()
    np.testing.assert_allclose(infer(images)[:1], infer(images[:1]), rtol=1e-3, atol=1e-4)
    before = infer(images)
    backbone.train()(torch.from_numpy(images))
    assert np.abs(infer(images) - before).max() > 1e-3  # The statistics have moved.


def test_features_are_averages_over_the_image() -> None:
    """Two copies of an image side by side differ from one at the seam alone."""
    one, two = make(64, 64, resnet_norm="none"), make(64, 128, resnet_norm="none")
    image = torch.rand(1, 64, 1, 3).expand(1, 64, 64, 3) * 255  # Columns are all the same: there is no seam.
    image = torch.cat([image, image], 2)
    a, b = one(image[:, :, :64]), two(image)
    assert torch.nn.functional.cosine_similarity(a, b).item() > 0.95
