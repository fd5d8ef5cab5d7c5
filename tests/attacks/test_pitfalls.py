"""What makes an attack look stronger, or a victim more robust, than it is: each once went unnoticed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rltool.agents import PPO, REINFORCE
from rltool.attacks import (
    APGD,
    FGSM,
    MAD,
    MIFGSM,
    PGD,
    CarliniWagner,
    Critic,
    DeepFool,
    HopSkipJump,
    LearnedAdversary,
    OnePixel,
    Square,
    Strongest,
    Victim,
    adversary,
    attack_agent,
)
from rltool.attacks.classifiers import fit_attack
from rltool.attacks.defenses.certified import certify_classifier
from rltool.cli.robustness import _statistics
from rltool.envs import make_vector_env
from rltool.errors import UserError
from tests.attacks.conftest import Digits


@pytest.fixture(scope="module")
def catcher() -> PPO:
    """An agent of images whose channels are their last axis, 10 by 10 by 3 bytes."""
    return PPO("rltool/Catch-v0", num_envs=4, num_steps=16, batch_size=32).learn(64)


@pytest.mark.parametrize("attack", [kind(norm="l2", epsilon=0.0) for kind in (FGSM, MIFGSM, PGD, APGD, Strongest)])
def test_a_ball_without_room_leaves_everything_as_it_was(digits: Digits, attack: Any) -> None:
    victim, x, y = digits
    result = attack(victim, x, y)
    assert torch.equal(result.x_adv, x)
    assert not result.success.any()


def test_what_is_not_a_number_breaks_nothing(digits: Digits) -> None:
    class Broken(nn.Module):
        """Right outputs, but no gradient that is a number."""

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return victim.module(given) + 0 * (given - given.detach()).abs().sqrt().flatten(1).sum(1, keepdim=True)

    victim, x, y = digits
    for attack in (FGSM(norm="l2", epsilon=0.5), DeepFool(), PGD(norm="l2", epsilon=0.5, steps=3)):
        result = attack(Victim(Broken(), (0, 1)), x, y)
        assert bool(result.x_adv.isfinite().all())
        assert torch.equal(result.success, victim.logits(result.x_adv).argmax(1) != y)


@pytest.mark.parametrize(
    "make",
    [lambda: DeepFool(overshoot=math.nan), lambda: MIFGSM(decay=-1.0), lambda: CarliniWagner(confidence=math.inf)],
)
def test_hyperparameters_are_numbers(make: Any) -> None:
    with pytest.raises(UserError, match="must be a number of at least 0"):
        make()


def test_an_epsilon_too_small_for_whole_numbers_is_refused(catcher: PPO) -> None:
    for attack in (PGD(epsilon=0.5), MAD(epsilon=0.1), Square(epsilon=0.9)):
        with pytest.raises(UserError, match="observations are whole numbers, 0 to 255"):
            attack_agent(catcher, "rltool/Catch-v0", attack, episodes=1)
    with pytest.raises(UserError, match="observations are whole numbers"):
        PPO("rltool/Catch-v0", robust="pgd", epsilon=0.1).learn(64)
    assert attack_agent(catcher, "rltool/Catch-v0", PGD(epsilon=8.0, steps=1), episodes=1).play.attacked_share > 0
    PPO("rltool/Catch-v0", robust="pgd", epsilon=8, num_envs=4, num_steps=16, batch_size=32).learn(128)


def test_pixels_are_pixels_where_channels_come_last(catcher: PPO) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (8, *catcher.observation_space.shape)).astype(np.float32))
    victim = Victim.from_agent(catcher)
    moved = (OnePixel(pixels=1, queries=120)(victim, x).x_adv != x).any(-1)
    assert moved.shape == (8, 10, 10)
    assert int(moved.flatten(1).sum(1).max()) == 1
    first = Square(epsilon=20.0, queries=1)(victim, x, target=1 - victim.logits(x).argmax(1).clamp_max(1)).x_adv - x
    columns = first.sign()  # Stripes: of one sign, or not moved, along each column of each channel.
    assert bool(((columns.amax(1) - columns.amin(1)) < 2).all())
    around = victim.around(victim.module)
    assert around.channels_last


def test_hopskipjump_has_a_start_for_a_target_although_nothing_is_misread(digits: Digits) -> None:
    victim, x, y = digits
    data = SimpleNamespace(train=SimpleNamespace(x=x.numpy(), y=y.numpy()))
    space = SimpleNamespace(low=0.0, high=1.0)
    module: Any = victim.module
    module.input_space = space
    learned: Any = SimpleNamespace(dataset=data, device="cpu", model=module, logits=victim.logits)
    target = int(y[0])
    attack = fit_attack(learned, HopSkipJump(queries=100), target)
    assert attack.starts is not None  # type: ignore[attr-defined]
    assert bool((victim.logits(attack.starts).argmax(1) == target).all())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="nothing to start from"):
        HopSkipJump().fit(victim, x[y != target], y[y != target], torch.full_like(y[y != target], target))


def test_the_strongest_attack_knows_policies_with_memory() -> None:
    agent = PPO("CartPole-v1", backbone="gru", num_envs=2, num_steps=16, batch_size=32).learn(32)
    assert "learned" in Strongest(epsilon=0.1).suite(agent)
    assert "learned" not in Strongest(norm="l2", epsilon=0.1).suite(agent)


def test_an_adversary_does_not_learn_in_the_episodes_it_is_tested_in(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    make = adversary.make_vector_env

    def noted(*args: Any, **kwargs: Any) -> Any:
        seeds.append(kwargs["seed"])
        return make(*args, **kwargs)

    monkeypatch.setattr(adversary, "make_vector_env", noted)
    agent = PPO("CartPole-v1", num_envs=2, num_steps=16, batch_size=32)
    attack_agent(agent, "CartPole-v1", LearnedAdversary(epsilon=0.1, total_timesteps=64), episodes=2, seed=5)
    assert seeds
    assert all(seed > 1_000_000 for seed in seeds)


def test_an_adversary_learns_to_change_the_newest_frame_alone() -> None:
    agent = PPO("CartPole-v1", env_kwargs={"frame_stack": 3}, num_envs=2, num_steps=16, batch_size=32)
    envs = make_vector_env("CartPole-v1", 2, frame_stack=3)
    watched = adversary.AdversaryVectorEnv(envs, agent, LearnedAdversary(epsilon=0.01), frame_stack=3)
    before, _ = watched.reset(seed=0)
    assert before.shape == (2, 3, 4)
    rng = np.random.default_rng(0)
    for _ in range(6):
        actions = rng.choice([-1.0, 1.0], size=before.shape).astype(np.float32)
        after, _, terminated, _, _ = watched.step(actions)
        assert not terminated.any()
        moved = np.abs(watched.seen - before)
        assert np.allclose(moved[:, -1], 0.01, atol=1e-5)
        assert not moved[:, :-1].any()
        assert np.array_equal(after[:, :-1], watched.seen[:, 1:])  # They move back as they were shown.
        before = after
    kept = watched.get_state()
    assert kept is not None
    again = [watched.step(actions)[0]]
    watched.set_state(kept)
    assert np.array_equal(watched.step(actions)[0], again[0])


def test_a_critic_that_has_not_learned_attacks_nothing() -> None:
    agent = REINFORCE("CartPole-v1", num_steps=32).learn(64)
    assert not agent.has_critic
    with pytest.raises(UserError, match="has learned none"):
        attack_agent(agent, "CartPole-v1", Critic(epsilon=0.1), episodes=1)


def test_other_statistics_are_another_victim() -> None:
    agent = PPO("CartPole-v1", normalize_observations=True, num_envs=2, num_steps=16, batch_size=32)
    before = _statistics(agent)
    assert before == _statistics(agent)
    agent.learn(64)
    assert before != _statistics(agent)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_the_largest_radius_can_be_certified(sigma: float) -> None:
    test = SimpleNamespace(x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int64))
    sure: Any = SimpleNamespace(
        logits=lambda x: torch.stack((torch.ones(len(x)), torch.zeros(len(x))), 1),
        dataset=SimpleNamespace(test=test),
        device="cpu",
    )
    assert certify_classifier(sure, sigma, n=200).certified_accuracy[-1] == 1.0
