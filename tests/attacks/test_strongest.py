"""The cascade of attacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rltool.agents import PPO
from rltool.attacks import APGD, Square, Strongest, Victim, attack_agent
from rltool.attacks import strongest as module
from rltool.attacks.making import make_policy_attack
from rltool.errors import UserError
from tests.attacks.conftest import Digits


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cascade that takes a moment."""
    monkeypatch.setattr(module, "STEPS", 10)
    monkeypatch.setattr(module, "QUERIES", 100)


def test_it_is_never_weaker_than_its_parts(digits: Digits) -> None:
    victim, x, y = digits
    whole = Strongest(epsilon=0.1)(victim, x, y)
    first = APGD(epsilon=0.1, steps=10)(victim, x, y)
    last = Square(epsilon=0.1, queries=100)(victim, x, y)
    assert not bool((first.success & ~whole.success).any())
    assert not bool((last.success & ~whole.success).any())
    assert 0 < int(first.success.sum()) < len(x)
    assert bool((whole.distance <= 0.1 + 1e-6).all())
    assert torch.equal(victim.logits(whole.x_adv).argmax(1) != y, whole.success)
    # What the first part has broken is left alone by the others.
    assert torch.equal(whole.x_adv[first.success], first.x_adv[first.success])
    assert bool((whole.n_queries[first.success] < 15).all())
    assert bool((whole.n_queries[~whole.success] > 200).all())


class Decoy(nn.Module):
    """Away from class 0 the gradient of the best other class leads nowhere; that of class 2 leads out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(x[:, 0])
        return torch.stack([zero + 1, zero + 0.9 - x[:, 0].abs(), zero + 2 * x[:, 1]], 1)


def test_targets_break_what_the_margin_does_not() -> None:
    victim, x = Victim(Decoy(), (-1, 1)), torch.zeros(4, 2)
    assert not bool(APGD(epsilon=0.6, steps=10, loss="margin")(Victim(Decoy(), (-1, 1)), x).success.all())
    assert bool(Strongest(epsilon=0.6)(victim, x).success.all())


def test_continuous_actions_and_targets(digits: Digits) -> None:
    linear = Victim(nn.Linear(3, 2), tolerance=torch.tensor([0.05, 0.05]))
    assert bool(Strongest(epsilon=0.5)(linear, torch.randn(4, 3)).success.all())
    victim, x, y = digits
    target = (y + 1) % 10
    result = Strongest(epsilon=0.3)(victim, x, y, target)
    assert bool(result.success.any())
    assert torch.equal(victim.logits(result.x_adv).argmax(1) == target, result.success)


def test_a_norm_that_it_lacks() -> None:
    with pytest.raises(UserError, match="Strongest has no norm 'l1'; choose linf or l2"):
        Strongest(norm="l1")


def test_on_an_agent_the_worst_of_a_suite_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = PPO("CartPole-v1", num_envs=8, num_steps=64).learn(4_096)
    parts = ("random", "mad")
    monkeypatch.setattr(module, "POLICY_SUITE", parts)
    whole = attack_agent(agent, "CartPole-v1", Strongest(epsilon=0.5), episodes=4)
    alone = {
        name: attack_agent(agent, "CartPole-v1", make_policy_attack(name, epsilon=0.5), episodes=4) for name in parts
    }
    assert whole.attacked.mean_return == min(each.attacked.mean_return for each in alone.values())
    assert whole.as_dict()["by"] == min(parts, key=lambda name: alone[name].attacked.mean_return)


def test_the_suite_is_what_it_says() -> None:
    agent = PPO("CartPole-v1", num_envs=2, num_steps=16, batch_size=32)
    assert "learned" not in Strongest(norm="l2").suite(agent)
    suite = Strongest(epsilon=0.1, seed=3).suite(agent)
    assert list(suite) == ["random", "pgd", "mad", "sarsa", "learned"]
    assert all(each.epsilon == 0.1 and each.seed == 3 for each in suite.values())  # type: ignore[attr-defined]
