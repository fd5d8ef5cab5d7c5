"""Attacks on what a policy sees while it plays."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from rltool.agents import PPO, Agent
from rltool.attacks import MAD, PGD, PerturbedVectorEnv, RandomNoise, attack_agent
from rltool.envs import make_vector_env
from rltool.errors import UserError


@pytest.fixture(scope="module")
def agent() -> Agent:
    """Balances the pole."""
    tuned = {"num_envs": 8, "num_steps": 32, "batch_size": 256, "num_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98}
    return PPO("CartPole-v1", learning_rate=1e-3, seed=0, **tuned).learn(30_000)


def test_the_simulator_is_left_alone(agent: Agent) -> None:
    plain, attacked = (make_vector_env("CartPole-v1", 4, seed=3) for _ in range(2))
    wrapped = PerturbedVectorEnv(attacked, agent, RandomNoise(epsilon=0.05))
    seen, clean = wrapped.reset(seed=3)[0], plain.reset(seed=3)[0]
    actions = np.array([0, 1, 0, 1])
    seeds = set()
    for _ in range(12):
        assert np.array_equal(wrapped.observations, clean)
        noise = seen - clean
        assert 0 < np.abs(noise).max() <= 0.05 + 1e-6
        seeds.add(float(noise[0, 0]))
        seen, rewards, terminated, _, _ = wrapped.step(actions)
        clean, true_rewards, true_terminated, _, _ = plain.step(actions)
        assert np.array_equal(rewards, true_rewards)
        assert np.array_equal(terminated, true_terminated)
    assert len(seeds) == 12  # Fresh noise in every step.


def test_stronger_attacks_do_more(agent: Agent) -> None:
    scores: dict[str, list[float]] = {"random": [], "mad": []}
    for epsilon in (0.1, 0.3):  # A policy's weak spot differs from one processor's rounding to another's.
        noise = attack_agent(agent, "CartPole-v1", RandomNoise(epsilon=epsilon), episodes=16)
        mad = attack_agent(agent, "CartPole-v1", MAD(epsilon=epsilon), episodes=16)
        assert noise.clean.returns == mad.clean.returns
        assert mad.play.flip_rate > noise.play.flip_rate
        assert mad.play.queries_per_step > noise.play.queries_per_step
        scores["random"].append(noise.normalized)
        scores["mad"].append(mad.normalized)
    assert np.mean(scores["mad"]) < np.mean(scores["random"]) - 0.1
    assert scores["mad"][-1] < 0.5
    again = attack_agent(agent, "CartPole-v1", MAD(epsilon=0.3), episodes=16)
    assert again.attacked.returns == mad.attacked.returns


def test_nothing_happens_without_a_perturbation(agent: Agent) -> None:
    result = attack_agent(agent, "CartPole-v1", PGD(epsilon=0.0, steps=2), episodes=4)
    assert result.attacked.returns == result.clean.returns
    assert result.play.flip_rate == 0
    assert result.normalized == 1


def test_a_fraction_of_the_timesteps(agent: Agent) -> None:
    envs = make_vector_env("CartPole-v1", 8, seed=0)
    wrapped = PerturbedVectorEnv(envs, agent, RandomNoise(), fraction=0.25)
    wrapped.reset(seed=0)
    for _ in range(50):
        wrapped.step(np.zeros(8, dtype=np.int64))
    assert 0.15 < wrapped.attacked / (51 * 8) < 0.35


def test_continuous_actions_and_normalized_observations() -> None:
    agent = PPO("Pendulum-v1", normalize_observations=True, num_envs=4, num_steps=64).learn(512)
    result = attack_agent(agent, "Pendulum-v1", MAD(epsilon=0.5, unit="std", steps=3), episodes=2)
    assert np.isfinite(result.attacked.returns).all()
    assert result.attacked.returns != result.clean.returns


class Dots(gym.Env):
    """Images of bytes."""

    observation_space = gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t >= 5, False, {}


def test_images_stay_bytes() -> None:
    agent = PPO(Dots(), num_steps=8, batch_size=8)
    envs = gym.vector.SyncVectorEnv([Dots, Dots])
    wrapped = PerturbedVectorEnv(envs, agent, PGD(epsilon=3.0, steps=2))
    seen = wrapped.reset(seed=0)[0]
    assert seen.dtype == np.uint8
    difference = np.abs(seen.astype(int) - wrapped.observations)
    assert 0 < difference.max() <= 3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda agent: attack_agent(agent, "CartPole-v1", PGD(), episodes=0), "at least 1"),
        (lambda agent: attack_agent(agent, "CartPole-v1", PGD(), fraction=0.0), "above 0"),
        (lambda agent: attack_agent(agent, "CartPole-v1", PGD(unit="std")), "knows no standard deviations"),
        (lambda agent: attack_agent(PPO("FrozenLake-v1"), "FrozenLake-v1", PGD()), "only observations in a Box"),
    ],
)
def test_bad_input(make: object, sentence: str, agent: Agent) -> None:
    with pytest.raises(UserError, match=sentence):
        make(agent)  # type: ignore[operator]


def test_the_agent_is_left_as_it_was(agent: Agent) -> None:
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in agent.policy.parameters() if parameter.grad is not None]
    attack_agent(agent, "CartPole-v1", PGD(steps=2), episodes=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())
    after = [parameter.grad for parameter in agent.policy.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, two) for one, two in zip(gradients, after, strict=True))
