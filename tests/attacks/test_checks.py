"""Red flags of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rltool.agents import PPO
from rltool.attacks import IFGSM, PGD, Victim
from rltool.attacks.broken import DEFECTS, spoiled
from rltool.attacks.checks import (
    Flag,
    Suspect,
    examine,
    examine_returns,
    more_epsilon,
    range_of,
    small_steps,
    training_mode,
)
from rltool.attacks.policy_value import watch_transitions
from rltool.attacks.robustness import Cell
from rltool.errors import UserError
from tests.attacks.conftest import Digits


def _raised(flags: list[Flag]) -> set[str]:
    return {flag.name for flag in flags if flag.raised}


def test_nothing_is_wrong_with_a_sound_victim(digits: Digits) -> None:
    assert _raised(examine(*digits)) == set()


def test_no_attack_is_made_twice(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[float, int, int]] = []
    run = PGD.run

    def counted(attack: PGD, problem: Any) -> torch.Tensor:
        made.append((float(torch.as_tensor(attack.epsilon).max()), attack.steps, len(problem.x)))
        return run(attack, problem)

    monkeypatch.setattr(PGD, "run", counted)
    examine(*digits)
    assert len(made) == len(set(made)) > 5


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_raises_its_flag(name: str, digits: Digits) -> None:
    victim, x, y = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert DEFECTS[name].flag in _raised(examine(spoiled(victim, name), x, y))


def test_a_sound_policy_of_continuous_actions() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))
        x = torch.randn(64, 3)
    assert _raised(examine(Victim(policy, tolerance=torch.tensor([0.1])), x)) == set()


def test_policies_with_memory_are_looked_at_with_it() -> None:
    agent = PPO("CartPole-v1", backbone="gru", model_size=8, num_envs=2, seed=0)
    seen = watch_transitions(agent, "CartPole-v1", 640, with_state=True)
    assert seen.state is not None
    victim = Victim.from_agent(agent)
    victim.remember(seen.state)
    x = victim.clip(seen.observations)
    assert "neighbors" not in _raised(examine(victim, x))
    assert "randomized" in _raised(examine(spoiled(victim, "noise"), x))
    everything = examine(spoiled(victim, "softmax"), x)
    assert _raised(everything) == {"probabilities"}
    assert len(everything) == 11


def test_modules_come_out_in_the_mode_they_came_in(digits: Digits) -> None:
    net = nn.Sequential(digits[0].module, nn.Dropout(0.5))  # type: ignore[arg-type]
    net[1].train()
    net[0].eval()
    victim = Victim(net, (0, 1))
    assert training_mode(victim).raised
    examine(victim, *digits[1:])
    assert net[1].training
    assert not net[0].training


class Well(nn.Module):
    """Says 1 in a narrow ring around 0, and 0 elsewhere, with gradients that lead far away from it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = 0.05 - (x[:, 0].abs() - 0.1).abs()
        return torch.stack([torch.zeros_like(inside), torch.where(inside > 0, inside, -1 + 0.01 * x[:, 0].abs())], 1)


def test_a_larger_ball_in_which_less_is_found() -> None:
    x = torch.zeros(32, 1)
    suspect = Suspect(Victim(Well(), (-100, 100)), x, None, torch.ones(1), 16.0)
    assert not more_epsilon(Suspect(suspect.victim, x, None, torch.ones(1), 0.06)).raised
    small = PGD(epsilon=0.2, steps=20, loss="margin")(suspect.victim, x).success.float().mean()
    assert small > 0.5
    assert more_epsilon(Suspect(suspect.victim, x, None, torch.ones(1), 0.8)).raised


def test_steps_that_do_not_cross_the_ball() -> None:
    assert small_steps(PGD(epsilon=0.1, steps=10, step_size=0.001)).raised
    assert not small_steps(PGD(epsilon=0.1, steps=10)).raised
    assert not small_steps(IFGSM(epsilon=0.1, steps=10, step_size=0.03)).raised


def test_the_range_of_inputs() -> None:
    victim = Victim(nn.Linear(2, 2), (torch.tensor([0.0, -torch.inf]), torch.tensor([4.0, torch.inf])))
    assert range_of(victim, torch.tensor([[1.0, 5.0], [2.0, 7.0]])).tolist() == [4.0, 2.0]


class Returns:
    """An agent whose returns under MAD are made up."""

    metric = "return"

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def clean(self) -> Cell:
        return Cell("clean", 0.0, [100.0] * 10)

    def chance(self) -> float:
        return 0.0

    def parts(self, attack: Any) -> dict[str, Any]:
        return {}

    def attacked(self, name: str, epsilon: float, attack: Any) -> Cell:
        return Cell(name, epsilon, [self.scores.pop(0) if name == "mad" else 100.0] * 10)


def test_returns_that_rise_and_returns_that_nothing_breaks() -> None:
    scale = torch.ones(3)
    assert _raised(examine_returns(Returns(90, 80, 50, 10, 2, 0), scale)) == set()  # type: ignore[arg-type]
    assert _raised(examine_returns(Returns(90, 20, 80, 10, 2, 0), scale)) == {"rising-returns"}  # type: ignore[arg-type]
    assert _raised(examine_returns(Returns(99, 98, 97, 90, 80, 70), scale)) == {"unbroken-returns"}  # type: ignore[arg-type]


def test_an_unknown_defect(digits: Digits) -> None:
    with pytest.raises(UserError, match="did you mean 'noise'"):
        spoiled(digits[0], "nose")
