"""Backbones with memory: a sequence at once equals one step after another, and what they remember."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks import Backbone, BackboneConfig, build_backbone
from rltool.networks.memory import GRUCore, JordanCore
from rltool.networks.observations import empty_batch, stack_observations
from rltool.networks.transformer import Attention, sinusoidal_positions
from rltool.trees import map_tree

VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)
TOKENS = gym.spaces.Box(-1, 1, (5, 3), np.float32)
IMAGE = gym.spaces.Box(0, 255, (36, 40, 3), np.uint8)
KINDS: dict[str, dict[str, Any]] = {
    "elman": {"backbone": "rnn"},
    "jordan": {"backbone": "rnn", "rnn": "jordan"},
    "lstm": {"backbone": "lstm"},
    "gru": {"backbone": "gru"},
    "shortcut": {"backbone": "gru", "shortcut": True},
    "transformer": {"backbone": "transformer", "window": 4},
    "additive": {"backbone": "transformer", "window": 4, "attention": "additive"},
    "learned": {"backbone": "transformer", "window": 4, "position": "learned"},
}


def make(kind: str, space: gym.Space = VECTOR, **options: Any) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(**{"model_size": 8, **KINDS[kind], **options}), space)
    for parameter in backbone.parameters():  # Zero biases would hide mistakes.
        nn.init.normal_(parameter, std=0.5)
    return backbone


def sequences(space: gym.Space, length: int, count: int) -> Any:
    """Random observations `(L, S, ...)`, as arrays."""
    space.seed(0)
    storage = empty_batch(space, length, count)
    for t in range(length):
        row = stack_observations(space, [space.sample() for _ in range(count)])
        map_tree(lambda to, leaf, t=t: to.__setitem__(t, leaf), storage, row)
    return storage


def as_torch(tree: Any) -> Any:
    return map_tree(torch.from_numpy, tree)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    "space", [VECTOR, gym.spaces.Discrete(3, start=2), gym.spaces.Dict(a=VECTOR, b=IMAGE)], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_equals_a_whole_sequence(kind: str, space: gym.Space, num_layers: int) -> None:
    if isinstance(space, gym.spaces.Dict) and kind not in ("lstm", "shortcut", "transformer"):
        pytest.skip("the encoder is the same for all")
    backbone = make(kind, space, num_layers=num_layers, sequence="time")
    # Pixels make large sums, whose float32 rounding differs with how a processor adds.
    close = {"rtol": 1e-3, "atol": 3e-3 if isinstance(space, gym.spaces.Dict) else 3e-4}
    observations, state = sequences(space, 7, 2), backbone.initial_state(2)
    assert all(not leaf.any() for leaf in (state.values() if isinstance(state, dict) else ()))
    whole = backbone.sequence(as_torch(observations), state)
    assert whole.shape == (7, 2, backbone.out_features)
    step, memory = backbone.step_as_numpy(), map_tree(lambda leaf: leaf.numpy(), state)
    for t in range(7):
        features, memory = step(map_tree(lambda leaf, t=t: leaf[t], observations), memory)
        np.testing.assert_allclose(features, whole[t].detach(), **close)
        if t == 2:  # From its state on, the rest is the same.
            rest = backbone.sequence(as_torch(map_tree(lambda leaf: leaf[3:], observations)), as_torch(memory))
            torch.testing.assert_close(rest, whole[3:], **close)


@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("kind", ["jordan", "gru", "transformer"])
def test_spectral_norm_comes_once_and_steps_know_it(kind: str, space: gym.Space) -> None:
    options = {"sequence": "time", "spectral_norm": True}
    backbone = make(kind, space, **options).eval()
    for layer in backbone.modules():
        assert len(getattr(layer, "parametrizations", {"weight": [None]})["weight"]) == 1
    seen, state = sequences(space, 6, 2), backbone.initial_state(2)
    at_once = backbone.sequence(as_torch(seen), state).detach().numpy()
    step, state = backbone.step_as_numpy(), map_tree(lambda leaf: leaf.numpy(), state)
    for t in range(6):
        features, state = step(seen[t], state)
        np.testing.assert_allclose(features, at_once[t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_the_first_observation(kind: str) -> None:
    backbone = make(kind)
    observations = torch.from_numpy(sequences(VECTOR, 4, 2)).requires_grad_()
    backbone.sequence(observations, backbone.initial_state(2))[-1].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    silent = [name for name, p in backbone.named_parameters() if not p.grad.any()]
    assert all("key.bias" in name for name in silent)  # A softmax does not see what is added to all its scores.
    assert observations.grad[0].any(1).all()


@pytest.mark.parametrize("kind", ["lstm", "gru", "elman", "jordan"])
def test_a_shortcut_hands_on_what_was_seen(kind: str) -> None:
    plain, with_shortcut = make(kind), make(kind, shortcut=True)
    assert (plain.out_features, with_shortcut.out_features) == (8, 8 + 3)
    observations = torch.from_numpy(sequences(VECTOR, 4, 2))
    features = with_shortcut.sequence(observations, with_shortcut.initial_state(2))
    torch.testing.assert_close(
        features, torch.cat((plain.sequence(observations, plain.initial_state(2)), observations), 2)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_depends_on_what_comes_later(kind: str) -> None:
    backbone, observations = make(kind), torch.from_numpy(sequences(VECTOR, 6, 2))
    before = backbone.sequence(observations, backbone.initial_state(2))
    observations[4:] += 1
    after = backbone.sequence(observations, backbone.initial_state(2))
    torch.testing.assert_close(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:])


def test_the_transformer_forgets_what_left_its_window() -> None:
    backbone, observations = make("transformer"), torch.from_numpy(sequences(VECTOR, 8, 1))
    before = backbone.sequence(observations, backbone.initial_state(1))
    observations[0] += 1
    after = backbone.sequence(observations, backbone.initial_state(1))
    assert not torch.allclose(before[3], after[3])
    torch.testing.assert_close(before[4:], after[4:])


def test_positions_decide_order() -> None:
    one, two = torch.randn(2, 1, 1, 3)
    last = torch.randn(1, 1, 3)
    for position, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        backbone = make("transformer", position=position)
        orders = [torch.cat((one, two, last)), torch.cat((two, one, last))]
        a, b = (backbone.sequence(order, backbone.initial_state(1))[-1] for order in orders)
        assert torch.allclose(a, b, atol=1e-6) is same


def test_sinusoidal_positions_by_hand() -> None:
    table = sinusoidal_positions(3, 4)
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-5)


def test_dot_product_attention_is_pytorchs() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, additive=False), torch.randn(3, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    heads = [layer(x).view(3, 5, 2, 4).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)]
    expected = nn.functional.scaled_dot_product_attention(*heads, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x, x, mask.expand(3, 5, 5)), attention.output(expected))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_fast_gru_is_pytorchs(layers: int) -> None:
    torch.manual_seed(0)
    ours, theirs = GRUCore(3, 5, layers), nn.GRU(3, 5, layers)
    theirs.load_state_dict(ours.state_dict())
    x, h, weight = (
        torch.randn(7, 4, 3, requires_grad=True),
        torch.randn(layers, 4, 5, requires_grad=True),
        torch.rand(5),
    )
    results = []
    for gru in (ours, theirs):
        y, last = gru(x, h)
        gradients = torch.autograd.grad((y * weight).square().sum() + last.sum(), [x, h, *gru.parameters()])
        results.append([y, last, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_jordan_by_hand() -> None:
    """One unit, h = tanh(x + y), y = tanh(2 h): it reads back its output, not its hidden layer."""
    core = JordanCore(1, 1, 1, 0.0, False)
    for layer, weight in ((core.inputs[0], 1.0), (core.feedback[0], 1.0), (core.outputs[0], 2.0)):
        nn.init.constant_(layer.weight, weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    y, last = core(torch.tensor([0.5, -1.0]).view(2, 1, 1))
    first = np.tanh(2 * np.tanh(0.5))
    np.testing.assert_allclose(y.detach().flatten(), [first, np.tanh(2 * np.tanh(first - 1))], rtol=1e-6)
    assert last.item() == y[-1].item()


@pytest.mark.parametrize(
    ("kind", "space", "options", "features"),
    [
        ("lstm", TOKENS, {}, 8),
        ("lstm", TOKENS, {"bidirectional": True, "num_layers": 2}, 16),
        ("gru", TOKENS, {"bidirectional": True}, 16),
        ("elman", TOKENS, {"bidirectional": True}, 16),
        ("jordan", TOKENS, {}, 8),
        ("transformer", TOKENS, {}, 8),
        ("transformer", IMAGE, {"patch_size": 12}, 8),
    ],
)
def test_over_tokens(kind: str, space: gym.Space, options: dict[str, Any], features: int) -> None:
    backbone = make(kind, space, **options)
    assert not backbone.has_memory
    assert backbone.initial_state(3) is None
    batch = sequences(space, 1, 3)[0]
    out = backbone(torch.from_numpy(batch))
    assert out.shape == (3, features)
    np.testing.assert_allclose(backbone.as_numpy()(batch), out.detach(), atol=1e-5)
    changed = batch.copy()  # The last thing an observation holds makes a difference, and so does the first.
    changed[0, 0], changed[1, -1] = changed[0, 0] // 2 + 1, changed[1, -1] // 2 + 1
    assert (backbone.as_numpy()(changed)[:2] != out[:2].detach().numpy()).any(1).all()


def test_recurrent_reading_of_images_is_over_time() -> None:
    assert make("lstm", IMAGE).has_memory
    assert make("transformer", IMAGE, sequence="time").has_memory


@pytest.mark.parametrize(
    ("kind", "space", "options", "words"),
    [
        ("lstm", VECTOR, {"bidirectional": True}, "leave out --bidirectional"),
        ("lstm", VECTOR, {"sequence": "tokens"}, "take --sequence time"),
        ("jordan", TOKENS, {"bidirectional": True}, "take --rnn elman"),
        ("transformer", VECTOR, {"model_size": 6}, "no multiple of num-heads 4"),
        ("transformer", IMAGE, {"patch_size": 50}, "lower --patch-size"),
    ],
)
def test_mistakes(kind: str, space: gym.Space, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(kind, space, **options)


@pytest.mark.parametrize("kind", ["elman", "lstm", "gru", "transformer"])
def test_parity_of_a_sequence_is_learned(kind: str) -> None:
    """Whether an even number of the two last inputs was positive: impossible from the last one alone."""
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(**{"model_size": 16, **KINDS[kind]}), gym.spaces.Box(-1, 1, (1,), np.float32)
    )
    head = nn.Linear(backbone.out_features, 1)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 0.01)
    for _ in range(250):
        x = torch.randint(2, (6, 32, 1)).float()
        y = (x[1:] != x[:-1]).float()
        logits = head(backbone.sequence(2 * x - 1, backbone.initial_state(32)))[1:]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
