"""The flat optimizers take the steps of `torch.optim`, and parameters stay views of the one vector."""

from __future__ import annotations

import copy

import gymnasium as gym
import pytest
import torch
from torch import nn

from rltool.networks import BackboneConfig, build_backbone
from rltool.training.optimizers import OPTIMIZERS, Adam, Optimizer, RMSprop


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def loss_of(module: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 4, generator=generator), torch.randn(16, 3, generator=generator)
    return (10.0 if step % 5 == 0 else 0.3) * (module(x) - y).square().mean()


@pytest.mark.parametrize("max_grad_norm", [0.5, float("inf")])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam, lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-5)),
        (Adam, lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-5, fused=True)),
        (RMSprop, lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=1e-5)),
    ],
    ids=["adam", "fused adam", "rmsprop"],
)
def test_steps_are_those_of_torch(ours: type[Optimizer], theirs, max_grad_norm: float) -> None:
    mine, reference = network(), network()
    optimizer, torch_optimizer = ours(mine, 1e-2, max_grad_norm), theirs(reference.parameters())
    clipped = 0
    for step in range(200):
        if step == 100:
            optimizer.learning_rate = 3e-3
            torch_optimizer.param_groups[0]["lr"] = 3e-3
        norm = optimizer.step(loss_of(mine, step))
        torch_optimizer.zero_grad()
        loss_of(reference, step).backward()
        torch_norm = nn.utils.clip_grad_norm_(reference.parameters(), max_grad_norm)
        torch_optimizer.step()
        clipped += int(torch_norm > 0.5)
        assert norm == pytest.approx(torch_norm.item(), rel=1e-3, abs=1e-4)
    assert 20 < clipped < 200
    for one, other in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    moved = [(one - first).abs().max() for one, first in zip(mine.parameters(), network().parameters(), strict=True)]
    assert min(moved) > 0.01


def test_adam_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    optimizer = Adam(module, 0.1, epsilon=0.0)
    optimizer.step(3 * module.weight.sum())  # The first step is the learning rate, whatever the gradient.
    assert module.weight.item() == pytest.approx(0.9)
    optimizer.step(-3 * module.weight.sum())
    # Moments .9*.3-.3=-.03 over 1-.81, and 9 after correction: .9 + .1 * (.03/.19)/3
    assert module.weight.item() == pytest.approx(0.9 + 0.1 * (0.03 / 0.19) / 3, rel=1e-4)


def test_clipping_by_hand() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = RMSprop(module, 0.0, max_grad_norm=0.5)
    norm = optimizer.step((module.weight * torch.tensor([3.0, 4.0])).sum())
    assert norm == 5.0
    torch.testing.assert_close(optimizer.gradient, torch.tensor([0.3, 0.4]))
    norm = optimizer.step((module.weight * torch.tensor([0.03, 0.04])).sum())
    assert norm == pytest.approx(0.05)
    torch.testing.assert_close(optimizer.gradient, torch.tensor([0.03, 0.04]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_gradients_are_views(name: str) -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = OPTIMIZERS[name](module, 1e-2)
    assert all(torch.equal(p, kept) for p, kept in zip(module.parameters(), before, strict=True))
    assert len(optimizer.parameters) == sum(p.numel() for p in module.parameters())

    def check_views() -> None:
        start = 0
        for p in module.parameters():
            assert p.data_ptr() == optimizer.parameters[start:].data_ptr()
            assert p.grad is not None
            assert p.grad.data_ptr() == optimizer.gradient[start:].data_ptr()
            start += p.numel()

    check_views()
    optimizer.step(loss_of(module, 0))
    check_views()
    module.load_state_dict(network().state_dict())
    check_views()
    assert all(torch.equal(p, kept) for p, kept in zip(module.parameters(), before, strict=True))
    optimizer.step(loss_of(module, 1))
    assert not any(torch.equal(p, kept) for p, kept in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numpy_functions_of_a_network_follow_the_optimizer(name: str) -> None:
    """The views that a rollout takes of the weights are views of the flat vector, too."""
    space = gym.spaces.Box(-1, 1, (4,))
    backbone = build_backbone(BackboneConfig(hidden_sizes=(8,)), space)
    optimizer = OPTIMIZERS[name](backbone, 1e-2)
    infer, x = backbone.as_numpy(), torch.ones(1, 4)
    before = infer(x.numpy())
    optimizer.step(backbone(x).sum())
    after = infer(x.numpy())
    assert (after != before).any()
    torch.testing.assert_close(torch.from_numpy(after), backbone(x).detach())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_without_gradients_are_left_alone(name: str) -> None:
    module = network()
    module[0].requires_grad_(False)
    kept = module[0].weight.clone()
    optimizer = OPTIMIZERS[name](module, 1e-2)
    optimizer.step(loss_of(module, 0))
    assert torch.equal(module[0].weight, kept)
    assert module[0].weight.grad is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_does_not_move_what_is_frozen_later(name: str) -> None:
    module = network()
    optimizer = OPTIMIZERS[name](module, 1e-2)
    optimizer.step(loss_of(module, 0))
    frozen, trained = [[p.detach().clone() for p in layer.parameters()] for layer in (module[0], module[2])]
    optimizer.freeze([module[0]])
    optimizer.step(loss_of(module, 1))
    assert all(torch.equal(p, q) for p, q in zip(module[0].parameters(), frozen, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(module[2].parameters(), trained, strict=True))
    optimizer.freeze([])
    optimizer.step(loss_of(module, 2))
    assert not any(torch.equal(p, q) for p, q in zip(module[0].parameters(), frozen, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_round_trip(name: str) -> None:
    one = network()
    first = OPTIMIZERS[name](one, 1e-2, 0.5)
    for step in range(10):
        first.step(loss_of(one, step))
    two = network()
    two.load_state_dict(one.state_dict())
    second = OPTIMIZERS[name](two, 1e-2, 0.5)
    second.load_state(copy.deepcopy(first.state()), first.steps)
    for step in range(10, 20):
        first.step(loss_of(one, step))
        second.step(loss_of(two, step))
    assert first.steps == second.steps == 20
    assert torch.equal(first.parameters, second.parameters)
    fresh = network()
    fresh.load_state_dict(one.state_dict())
    third = OPTIMIZERS[name](fresh, 1e-2, 0.5)
    first.step(loss_of(one, 20))
    third.step(loss_of(fresh, 20))
    assert not torch.equal(first.parameters, third.parameters)  # The state does matter.


def test_the_base_has_no_rule() -> None:
    module = network()
    with pytest.raises(TypeError, match="Optimizer lacks an update rule"):
        Optimizer(module, 1e-2).step(loss_of(module, 0))
