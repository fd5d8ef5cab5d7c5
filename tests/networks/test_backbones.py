"""The contract that every registered backbone keeps, and what is particular to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks import (
    Backbone,
    BackboneConfig,
    build_backbone,
    initialize,
    list_backbones,
    register_backbone,
)
from rltool.networks.config import BACKBONES
from rltool.networks.observations import as_tensors, empty_batch
from rltool.trees import Tree, map_tree
from rltool.validation import validate

VECTOR = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
SPACES: dict[str, gym.Space] = {
    "vector": VECTOR,
    "matrix": gym.spaces.Box(-1, 1, (3, 4), np.float64),
    "integers": gym.spaces.Box(-9, 9, (6,), np.int64),
    "discrete": gym.spaces.Discrete(4),
    "discrete from -2": gym.spaces.Discrete(5, start=-2),
    "image, channels last": gym.spaces.Box(0, 255, (44, 40, 3), np.uint8),
    "image, channels first": gym.spaces.Box(0, 255, (4, 40, 44), np.uint8),
    "floating image": gym.spaces.Box(0, 1, (36, 36, 1), np.float32),
    "graph": gym.spaces.Graph(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,))),
    "graph of choices": gym.spaces.Graph(gym.spaces.Discrete(4, start=3), gym.spaces.Discrete(2)),
    "nested vectors": gym.spaces.Dict({"a": VECTOR, "b": gym.spaces.Tuple([gym.spaces.MultiDiscrete([2, 3]), VECTOR])}),
    "nested vectors and image": gym.spaces.Dict({"see": gym.spaces.Box(0, 255, (36, 40, 3), np.uint8), "feel": VECTOR}),
    "nested graph and small image": gym.spaces.Tuple(
        [
            gym.spaces.Graph(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)),
            gym.spaces.Dict({"see": gym.spaces.Box(0, 255, (3, 9, 8), np.uint8), "on": gym.spaces.MultiBinary(2)}),
        ]
    ),
}
OPTIONS: list[dict[str, Any]] = [
    *({"activation": a} for a in ("tanh", "relu", "elu", "gelu", "silu", "leaky_relu")),
    {"layer_norm": True},
    {"layer_norm": True, "activation": "relu", "dropout": 0.5},
    {"dropout": 0.5},
    {"batch_norm": True},
    {"noisy": True, "activation": "relu"},
    {"spectral_norm": True},
    *({"gnn_message": message} for message in ("dcnn", "mean", "max")),
    {"init": "default"},
    {"hidden_sizes": ()},
    {"hidden_sizes": (7,), "activation": "silu"},
    {"hidden_sizes": (16, 8, 4), "init": "default", "activation": "elu"},
]


def make(name: str, space: gym.Space, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(backbone=name, **options), space)


def batch_of(space: gym.Space, count: int) -> Tree:
    space.seed(0)
    batch = empty_batch(space, count)
    for i in range(count):
        map_tree(lambda rows, row, i=i: rows.__setitem__(i, row), batch, space.sample())
    return batch


def pairs() -> list[Any]:
    """Every registered backbone with every space of ours that it can read."""
    found = []
    for name in list_backbones():
        for space_name, space in SPACES.items():
            try:
                if make(name, space).has_memory:
                    continue
            except UserError:
                continue
            found.append(pytest.param(name, space, id=f"{name}, {space_name}"))
    return found


PAIRS = pairs()


def test_each_backbone_reads_something() -> None:
    assert {"mlp", "cnn", "impala", "resnet", "gnn", "combined"} <= set(list_backbones())
    assert {pair.values[0] for pair in PAIRS} == set(list_backbones())
    images = [name for name in SPACES if "image" in name]
    assert {(p.values[0], p.id.split(", ", 1)[1]) for p in PAIRS} >= {
        *(("mlp", name) for name in SPACES if "graph" not in name),
        *((name, image) for name in ("impala", "resnet") for image in images),
        *(("cnn", image) for image in images if "small" not in image),
        *(("gnn", name) for name in SPACES if "graph" in name),
        *(("combined", name) for name in SPACES),
    }


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_shapes_types_and_attributes(name: str, space: gym.Space) -> None:
    backbone = make(name, space)
    assert backbone.input_space is space
    assert isinstance(backbone.out_features, int)
    for count in (1, 3):
        features = backbone(as_tensors(batch_of(space, count)))
        assert features.shape == (count, backbone.out_features)
        assert features.dtype == torch.float32
        assert features.isfinite().all()
    assert backbone.initial_state(3) is None


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_gradient_reaches_every_parameter(name: str, space: gym.Space) -> None:
    check_gradients(make(name, space, activation="tanh"), space)


@pytest.mark.parametrize(
    ("space", "options"),
    [
        *(("vector", {name: True}) for name in ("layer_norm", "batch_norm", "noisy", "spectral_norm")),
        *(("graph", {"gnn_message": message}) for message in ("dcnn", "mean", "max")),
        *(("floating image", {"name": "resnet", "resnet_norm": norm}) for norm in ("batch", "none")),
        *(("nested vectors and image", {name: True}) for name in ("batch_norm", "noisy", "spectral_norm")),
    ],
    ids=str,
)
def test_gradient_reaches_every_parameter_of_an_option(space: str, options: dict[str, Any]) -> None:
    check_gradients(make(**{"name": "auto", **options}, space=SPACES[space]), SPACES[space])


def check_gradients(backbone: Backbone, space: gym.Space) -> None:
    features = backbone(as_tensors(batch_of(space, 16)))
    (features * torch.randn(features.shape)).sum().backward()  # Squares of normalized features have no gradient.
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_rows_do_not_depend_on_each_other(name: str, space: gym.Space) -> None:
    backbone = make(name, space).eval()
    batch = as_tensors(batch_of(space, 4))
    together = backbone(batch)
    alone = torch.cat([backbone(map_tree(lambda rows, i=i: rows[i : i + 1], batch)) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0  # and they do depend on the observation


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "space"), [pair for pair in PAIRS if "image" not in pair.id])
def test_as_numpy_is_forward_in_evaluation_mode(name: str, space: gym.Space, options: dict[str, Any]) -> None:
    check_as_numpy(make(name, space, **options), space)


@pytest.mark.parametrize(("name", "space"), [pair for pair in PAIRS if "image" in pair.id])
def test_as_numpy_of_images(name: str, space: gym.Space) -> None:
    check_as_numpy(make(name, space, init="default"), space)


def check_as_numpy(backbone: Backbone, space: gym.Space) -> None:
    for parameter in backbone.parameters():  # Biases begin as zeros, which would hide that they are forgotten.
        parameter.data += 0.1 * torch.randn(parameter.shape)
    backbone.train()
    batch = batch_of(space, 6)
    kept = map_tree(np.copy, batch)
    infer = backbone.as_numpy()
    features = infer(batch)
    again = infer(batch)
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    with torch.no_grad():
        expected = backbone.eval()(as_tensors(batch)).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(features, again)
    map_tree(np.testing.assert_array_equal, batch, kept)
    assert features.dtype == np.float32


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_a_new_numpy_function_has_the_new_weights(name: str, space: gym.Space) -> None:
    backbone = make(name, space).eval()
    batch = batch_of(space, 2)
    before = backbone.as_numpy()(batch)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.01)
    after = backbone.as_numpy()(batch)
    assert np.abs(after - before).max() > 0
    np.testing.assert_allclose(after, backbone(as_tensors(batch)).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_same_seed_same_weights(name: str, space: gym.Space) -> None:
    one, two = make(name, space).state_dict(), make(name, space).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"])
def test_activations_do_not_overflow(activation: str, recwarn: pytest.WarningsRecorder) -> None:
    backbone = make("mlp", VECTOR, activation=activation)
    batch = np.array([[1e5] * 5, [-1e5] * 5], np.float32)
    features = backbone.as_numpy()(batch)
    assert not [str(w.message) for w in recwarn.list if issubclass(w.category, RuntimeWarning)]
    np.testing.assert_allclose(features, backbone(as_tensors(batch)).detach(), rtol=1e-4, atol=1e-4)


def test_mlp_is_its_definition() -> None:
    backbone = make("mlp", VECTOR, hidden_sizes=(8, 4), layer_norm=True, activation="relu")
    x = torch.randn(3, 5)
    first, norm1, second, norm2 = (m for m in backbone.modules() if isinstance(m, nn.Linear | nn.LayerNorm))
    hidden = torch.relu(norm1(x @ first.weight.T + first.bias))
    expected = torch.relu(norm2(hidden @ second.weight.T + second.bias))
    torch.testing.assert_close(backbone(x), expected)
    assert backbone.out_features == 4


def test_discrete_observations_are_one_hot() -> None:
    backbone = make("mlp", gym.spaces.Discrete(3, start=7), hidden_sizes=())
    assert backbone(torch.tensor([7, 9, 8])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert backbone(torch.tensor([7, 9], dtype=torch.int32)).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert backbone.as_numpy()(np.array([8])).tolist() == [[0, 1, 0]]


def test_dropout_acts_only_while_training() -> None:
    backbone = make("mlp", VECTOR, dropout=0.5)
    x = torch.ones(1, 5)
    assert not torch.equal(backbone.train()(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))


@pytest.mark.parametrize("name", ["cnn", "impala", "resnet"])
def test_image_layouts_are_the_same_to_the_network(name: str) -> None:
    first = make(name, gym.spaces.Box(0, 255, (3, 40, 44), np.uint8))
    last = make(name, gym.spaces.Box(0, 255, (40, 44, 3), np.uint8))
    scaled = make(name, gym.spaces.Box(0, 1, (3, 40, 44), np.float32))
    batch = torch.randint(0, 256, (2, 3, 40, 44), dtype=torch.uint8)
    torch.testing.assert_close(first(batch), last(batch.permute(0, 2, 3, 1)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first(batch), scaled(batch / 255), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["cnn", "impala", "resnet"])
def test_images_may_be_views(name: str) -> None:
    """A frame turned upside down has negative strides, which PyTorch refuses."""
    space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    infer, batch = make(name, space).as_numpy(), batch_of(space, 2)
    np.testing.assert_array_equal(infer(batch[:, ::-1]), infer(batch[:, ::-1].copy()))


def test_cnn_is_the_network_of_nature_dqn() -> None:
    backbone = make("cnn", gym.spaces.Box(0, 255, (84, 84, 4), np.uint8))
    shapes = [tuple(p.shape) for name, p in backbone.named_parameters() if "weight" in name]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]
    assert sum(p.numel() for p in backbone.parameters()) == 1_684_128


def test_impala_is_the_large_network_of_its_paper() -> None:
    backbone = make("impala", gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 15
    assert backbone.out_features == 256
    assert sum(p.numel() for p in convolutions[0].parameters()) == 3 * 16 * 9 + 16


def test_auto_is_the_backbone_of_the_space() -> None:
    chosen = {name: type(make("auto", space)).__name__ for name, space in SPACES.items()}
    assert {name: kind for name, kind in chosen.items() if kind != "MLP"} == {
        "image, channels last": "CNN",
        "image, channels first": "CNN",
        "graph": "GNN",
        "graph of choices": "GNN",
        "nested vectors and image": "Combined",
        "nested graph and small image": "Combined",
    }
    assert type(make("auto", gym.spaces.Box(0, 255, (35, 60, 3), np.uint8))).__name__ == "IMPALA"


@pytest.mark.parametrize(("name", "space"), PAIRS)
@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "resnet_norm": "batch", "spectral_norm": True}], ids=str)
def test_weights_travel(name: str, space: gym.Space, options: dict[str, Any]) -> None:
    one, two = make(name, space, **options), make(name, space, **options)
    batch = batch_of(space, 4)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        one(as_tensors(batch))  # moves the running statistics
    assert (one.as_numpy()(batch) != two.as_numpy()(batch)).any()
    two.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one.as_numpy()(batch), two.as_numpy()(batch))


# Initialization


def test_orthogonal_weights_have_their_gain() -> None:
    backbone = make("mlp", VECTOR, hidden_sizes=(8, 8))
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            w = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
            torch.testing.assert_close(w @ w.T, 2 * torch.eye(len(w)), atol=1e-5, rtol=1e-5)
            assert not layer.bias.any()
    convolution = initialize(nn.Conv2d(3, 8, 3), "orthogonal", gain=0.5)
    flat = convolution.weight.flatten(1)
    torch.testing.assert_close(flat @ flat.T, 0.25 * torch.eye(8), atol=1e-5, rtol=1e-5)


def test_default_initialization_is_pytorchs() -> None:
    torch.manual_seed(3)
    layer = nn.Linear(4, 4)
    kept = layer.weight.clone(), layer.bias.clone()
    assert initialize(layer, "default") is layer
    assert torch.equal(layer.weight, kept[0])
    assert torch.equal(layer.bias, kept[1])
    assert make("mlp", VECTOR, init="default").layers[0].bias.abs().sum() > 0


# Errors


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 250
    return message


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        ("mlp", gym.spaces.Dict({"a": gym.spaces.Text(3)}), "observations from Text spaces at a cannot be read"),
        ("mlp", gym.spaces.Sequence(VECTOR), "observations from Sequence spaces cannot be read"),
        ("mlp", gym.spaces.Graph(VECTOR, None), "take --backbone gnn"),
        ("cnn", VECTOR, "take --backbone mlp"),
        ("impala", gym.spaces.Discrete(3), "take --backbone mlp"),
        ("cnn", gym.spaces.Graph(VECTOR, None), "take --backbone gnn"),
        ("resnet", SPACES["nested vectors"], "take --backbone mlp"),
        ("gnn", VECTOR, "the gnn backbone reads graphs, not Box"),
        ("gnn", gym.spaces.Box(0, 255, (36, 36, 3), np.uint8), "take --backbone cnn"),
        (
            "auto",
            gym.spaces.Tuple([gym.spaces.Graph(VECTOR, None), gym.spaces.Text(3)]),
            "from Text spaces at 1 cannot",
        ),
        ("mlp", SPACES["nested graph and small image"], "take --backbone gnn (or auto)"),
        ("mpl", VECTOR, "no backbone 'mpl'; did you mean 'mlp'"),
        ("hypernetwork", VECTOR, "choose one of mlp, cnn"),
    ],
)
def test_build_errors(name: str, space: gym.Space, words: str) -> None:
    with pytest.raises(UserError) as error:
        make(name, space)
    assert words in one_sentence(error)


def test_smallest_images() -> None:
    assert make("cnn", gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)).out_features == 512
    assert make("impala", gym.spaces.Box(0, 255, (2, 3, 1), np.uint8)).out_features == 256


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "sigmoid"}, "activation 'sigmoid' will not do"),
        ({"hidden_sizes": (64, 0)}, "hidden-sizes"),
        ({"hidden_sizes": (1,) * 33}, "hidden-sizes"),
        ({"dropout": 1.0}, "dropout 1.0 will not do"),
        ({"resnet_channels": ()}, "resnet-channels"),
        ({"gnn_rounds": 0}, "gnn-rounds"),
        ({"init": "xavier"}, "init 'xavier' will not do"),
        ({"hidden_size": (64,)}, "no option 'hidden_size'; did you mean 'hidden_sizes'?"),
    ],
)
def test_option_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        validate(BackboneConfig, options)
    assert words in one_sentence(error)


# Backbones of others


@pytest.fixture
def last_number() -> Iterator[type[Backbone]]:
    @register_backbone("last-number")
    class LastNumber(Backbone):
        """The last number of the observation, scaled."""

        def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
            if not isinstance(space, gym.spaces.Box):
                raise UserError("the last-number backbone reads Box observations")
            super().__init__(space, out_features=1)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.scale * observations.flatten(1)[:, -1:].float()

    yield LastNumber
    del BACKBONES._entries["last-number"]


def test_a_registered_backbone_serves_like_ours(last_number: type[Backbone]) -> None:
    assert "last-number" in list_backbones()
    assert BACKBONES["last-number"].summary == "The last number of the observation, scaled."
    backbone = make("last-number", VECTOR)
    assert type(backbone) is last_number
    batch = batch_of(VECTOR, 3)
    np.testing.assert_array_equal(backbone.as_numpy()(batch), batch[:, -1:])
    with pytest.raises(UserError, match="reads Box"):
        make("last-number", gym.spaces.Discrete(2))


def test_a_registered_backbone_trains_in_an_agent(last_number: type[Backbone]) -> None:
    from rltool.agents import A2C

    agent = A2C("CartPole-v1", backbone="last-number", shared=True)
    assert type(agent.policy.backbone) is last_number
    before = agent.policy.backbone.scale.item()
    agent.learn(50)
    assert agent.policy.backbone.scale.item() != before


def test_a_backbone_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match="Backbone lacks a forward"):
        Backbone(VECTOR, 3)(torch.zeros(1, 5))
