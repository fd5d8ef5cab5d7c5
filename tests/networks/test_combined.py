"""Dict and Tuple spaces of images, graphs and vectors: who reads what, and that all of it counts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rltool.errors import UserError
from rltool.networks import Backbone, BackboneConfig, Combined, build_backbone
from rltool.networks.observations import as_tensors, empty_batch
from rltool.trees import map_tree

LARGE = gym.spaces.Box(0, 255, (40, 36, 3), np.uint8)
SMALL = gym.spaces.Box(0, 255, (1, 12, 9), np.uint8)
FLOATING = gym.spaces.Box(0, 1, (36, 36, 1), np.float32)
GRAPH = gym.spaces.Graph(gym.spaces.Box(-1, 1, (2,)), None)
VECTOR = gym.spaces.Box(-1, 1, (5,))
NESTED = gym.spaces.Dict(
    {
        "large": LARGE,
        "rest": gym.spaces.Tuple([SMALL, gym.spaces.Dict({"graph": GRAPH, "choice": gym.spaces.Discrete(3)}), VECTOR]),
    }
)


def make(space: gym.Space, name: str = "auto", **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(backbone=name, **options), space)


def readers(backbone: Backbone) -> list[str]:
    assert isinstance(backbone, Combined)
    return [type(part).__name__ for part in backbone.parts]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", ["CNN", "IMPALA", "GNN"]),
        ("combined", ["CNN", "IMPALA", "GNN"]),
        ("gnn", ["CNN", "IMPALA", "GNN"]),
        ("resnet", ["ResNet", "ResNet", "GNN"]),
        ("impala", ["IMPALA", "IMPALA", "GNN"]),
    ],
)
def test_who_reads_what(name: str, expected: list[str]) -> None:
    backbone = make(NESTED, name, hidden_sizes=())
    assert readers(backbone) == expected
    assert backbone.flatten.out_features == 3 + 5
    assert backbone.out_features == sum(part.out_features for part in backbone.parts) + 8
    assert make(NESTED, name, hidden_sizes=(32, 7)).out_features == 7


def test_floating_images_are_read_where_a_backbone_is_named() -> None:
    space = gym.spaces.Dict({"see": FLOATING, "feel": VECTOR})
    assert readers(make(space, "cnn")) == ["CNN"]
    assert type(make(space)).__name__ == "MLP"


def test_mlp_flattens_images_too() -> None:
    space = gym.spaces.Tuple([SMALL, VECTOR])
    backbone = make(space, "mlp")
    assert type(backbone).__name__ == "MLP"
    assert backbone.linears[0].in_features == 12 * 9 + 5


def test_every_part_counts() -> None:
    NESTED.seed(0)
    backbone, batch = make(NESTED), empty_batch(NESTED, 2)
    for i in range(2):
        map_tree(lambda rows, row, i=i: rows.__setitem__(i, row), batch, NESTED.sample())
    batch["rest"][1]["choice"][:] = 0, 2
    infer = backbone.as_numpy()
    features = infer(batch)
    seen = []

    def swap(leaf: np.ndarray) -> None:
        kept = leaf.copy()
        leaf[:] = leaf[::-1].copy()
        seen.append(np.abs(infer(batch) - features).max())
        leaf[:] = kept

    map_tree(swap, batch)
    assert len(seen) == 5
    assert min(seen) > 1e-4
    np.testing.assert_array_equal(infer(batch), features)
    np.testing.assert_allclose(backbone.eval()(as_tensors(batch)).detach(), features, rtol=1e-4, atol=1e-5)


def test_parts_keep_the_options() -> None:
    backbone = make(NESTED, "resnet", resnet_channels=(4, 6), gnn_size=9, spectral_norm=True)
    assert [part.out_features for part in backbone.parts] == [6, 6, 9]
    assert sum("original" in name for name, _ in backbone.named_parameters()) == sum(
        "_u" in name for name, _ in backbone.named_buffers()
    )  # each weight is normalized once


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        ("cnn", gym.spaces.Dict({"a": VECTOR}), "take --backbone mlp"),
        ("cnn", gym.spaces.Dict({"a": GRAPH}), "take --backbone combined"),
        ("gnn", gym.spaces.Dict({"a": LARGE}), "take --backbone combined"),
        ("auto", gym.spaces.Dict({"a": LARGE, "b": gym.spaces.Text(3)}), "Text spaces at b cannot be read"),
    ],
)
def test_mistakes(name: str, space: gym.Space, words: str) -> None:
    with pytest.raises(UserError) as error:
        make(space, name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
