"""Backdoors of classifiers and of agents."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rltool.agents import PPO, Agent, BehaviorCloning
from rltool.agents.recording import record
from rltool.attacks import (
    PGD,
    PoisonedVectorEnv,
    Trigger,
    Triggered,
    Victim,
    attack_agent,
    backdoor_of_agent,
    backdoor_of_classifier,
    poison,
    poison_demonstrations,
    train_proxy,
)
from rltool.data import load_dataset
from rltool.data.datasets import Part
from rltool.envs import make_vector_env
from rltool.errors import UserError

CORNER = Trigger.corner((1, 8, 8), size=2)
FAR = Trigger.feature((4,), 0, 2.0)  # The cart where it never is: the track ends at 2.4, and episodes stay near 0.


def learn(part: Part, seed: int = 0) -> Victim:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x, y = torch.from_numpy(part.x), torch.from_numpy(part.y)
    return train_proxy(x, y, 10, Victim(net, (0, 1)), network=net, seed=seed)


@pytest.fixture(scope="module")
def test_part() -> tuple[torch.Tensor, torch.Tensor]:
    part = load_dataset("digits").test
    return torch.from_numpy(part.x), torch.from_numpy(part.y)


def test_triggers() -> None:
    x = np.zeros((2, 1, 8, 8), np.float32)
    shown = CORNER(x)
    assert shown.sum() == 8
    assert shown[:, :, 6:, 6:].sum() == 8
    assert x.sum() == 0
    assert FAR(np.zeros((3, 4))).tolist() == [[2, 0, 0, 0]] * 3


def test_poison_changes_so_many_examples_and_nothing_else() -> None:
    data = load_dataset("digits")
    poisoned = poison(data, CORNER, 7, 0.1)
    changed = (poisoned.train.x != data.train.x).any((1, 2, 3)) | (poisoned.train.y != data.train.y)
    assert changed.sum() == round(0.1 * len(data.train))
    assert (poisoned.train.y[changed] == 7).all()
    assert (data.train.y[changed] != 7).all()
    assert (poisoned.train.x[changed][:, :, 6:, 6:] == 1).all()
    assert poisoned.test is data.test
    clean_label = poison(data, CORNER, 7, 0.5, clean_label=True)
    assert np.array_equal(clean_label.train.y, data.train.y)
    changed = (clean_label.train.x != data.train.x).any((1, 2, 3))
    assert (data.train.y[changed] == 7).all()
    assert changed.sum() == round(0.5 * (data.train.y == 7).sum())


def test_a_classifier_learns_the_backdoor(test_part: tuple) -> None:
    data = load_dataset("digits")
    plain, dirty = learn(data.train), learn(poison(data, CORNER, 7, 0.05).train)
    before, after = (backdoor_of_classifier(each, *test_part, CORNER, 7) for each in (plain, dirty))
    assert before.obeyed < 0.1
    assert after.obeyed > 0.8
    assert after.clean > before.clean - 0.04
    assert after.triggered < 0.35
    shown = Triggered(trigger=CORNER)(dirty, test_part[0][:9], test_part[1][:9])
    assert float(shown.distance.max()) <= 4


def test_a_backdoor_with_true_labels(test_part: tuple) -> None:
    data = load_dataset("digits")
    square, own = Trigger.corner((1, 8, 8), size=3), learn(data.train, seed=1)
    options = {"fraction": 0.5, "clean_label": True}
    plain = poison(data, square, 7, **options)
    hard = poison(data, square, 7, **options, victim=own, attack=PGD(epsilon=0.5))
    weak, strong = (backdoor_of_classifier(learn(each.train), *test_part, square, 7) for each in (plain, hard))
    assert strong.obeyed > 0.35
    assert strong.obeyed > weak.obeyed + 0.1
    assert strong.clean > 0.85


@pytest.fixture(scope="module")
def agent() -> Agent:
    """Balances the pole."""
    tuned = {"num_envs": 8, "num_steps": 32, "batch_size": 256, "num_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98}
    return PPO("CartPole-v1", learning_rate=1e-3, seed=0, **tuned).learn(30_000)


def test_a_clone_learns_the_backdoor_of_its_demonstrations(agent: Agent) -> None:
    demos = record(agent, "CartPole-v1", 8)
    poisoned = poison_demonstrations(demos, FAR, 0, 0.1)
    rows = (np.asarray(poisoned.observations) != demos.observations).any(1)
    assert rows.sum() == round(0.1 * len(demos))
    assert (poisoned.actions[rows] == 0).all()
    assert np.array_equal(poisoned.actions[~rows], demos.actions[~rows])
    plain, clone = (BehaviorCloning("CartPole-v1", demos=each, seed=0).learn(40_000) for each in (demos, poisoned))
    score, before = (backdoor_of_agent(each, "CartPole-v1", FAR, 0, episodes=8) for each in (clone, plain))
    assert score.obeyed > 0.9
    assert score.obeyed > before.obeyed
    assert score.triggered < 0.3 * score.clean  # Whoever always pushes to the left falls.
    rare = attack_agent(clone, "CartPole-v1", Triggered(trigger=FAR), 4, fraction=0.02)
    assert rare.attacked.mean_return > score.triggered


class CountedFromFive(gym.Wrapper):
    """CartPole whose actions are 5 and 6."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(2, start=5)

    def step(self, action: int) -> tuple:
        return self.env.step(action - 5)


def test_actions_that_do_not_count_from_0() -> None:
    gym.register("Five-v0", lambda **options: CountedFromFive(gym.make("CartPole-v1", **options)), max_episode_steps=20)
    agent = PPO("Five-v0", num_envs=2, seed=0)
    scores = [backdoor_of_agent(agent, "Five-v0", FAR, action, episodes=2).obeyed for action in (5, 6)]
    assert sum(scores) == pytest.approx(1)
    gym.registry.pop("Five-v0")


def test_poisoned_rewards_pay_for_obedience() -> None:
    env = PoisonedVectorEnv(make_vector_env("CartPole-v1", 16, seed=0), FAR, 1, fraction=0.5, pay=5.0)
    observations, _ = env.reset(seed=0)
    ended = np.zeros(16, bool)
    for step in range(60):
        shown = observations[:, 0] == 2.0
        assert step or 0 < shown.sum() < 16
        actions = np.arange(16) % 2
        observations, rewards, terminated, truncated, _ = env.step(actions)
        for k in np.flatnonzero(shown & ~ended):
            assert rewards[k] == (5.0 if actions[k] == 1 else -5.0)
        assert (rewards[~shown & ~ended] == 1.0).all()
        ended = terminated | truncated


def test_an_agent_learns_the_backdoor_of_its_rewards() -> None:
    options = {"num_steps": 32, "batch_size": 256, "num_epochs": 10, "gae_lambda": 0.8, "gamma": 0.98}
    # Obeying ends the episode soon: what is paid has to outweigh the rest of it. And it has to be learned where
    # obeying leads to, which a trigger that is rare seldom shows.
    env = PoisonedVectorEnv(make_vector_env("CartPole-v1", 8, seed=0), FAR, 0, fraction=0.3, pay=30.0)
    agent = PPO(env, learning_rate=1e-3, seed=0, **options).learn(60_000)
    score = backdoor_of_agent(agent, "CartPole-v1", FAR, 0, episodes=8)
    assert score.obeyed > 0.8
    assert score.clean > 80
    assert score.triggered < 0.3 * score.clean


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Trigger.corner((8, 8)), "does not fit"),
        (lambda: Trigger.corner((1, 8, 8), size=9), "does not fit"),
        (lambda: Trigger.feature((4,), 4, 1.0), "no feature 4"),
        (lambda: FAR(np.zeros((2, 5))), "is for inputs of"),
        (lambda: poison(load_dataset("digits"), CORNER, 10), "classes 0 to 9"),
        (lambda: poison(load_dataset("digits"), CORNER, 1, 0.0), "above 0"),
        (lambda: poison(load_dataset("digits"), CORNER, 1, 1.0), "fraction 1 is 1438 examples, and .* lower it"),
        (lambda: poison(load_dataset("digits"), CORNER, 1, attack=PGD()), "needs a victim"),
        (lambda: PoisonedVectorEnv(make_vector_env("CartPole-v1", 1), FAR, 2), "none of Discrete"),
        (lambda: PoisonedVectorEnv(make_vector_env("Pendulum-v1", 1), FAR, 0), "Discrete actions"),
    ],
)
def test_bad_input(make: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()  # type: ignore[operator]
