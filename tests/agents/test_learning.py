"""Every agent learns tiny environments, in a second or two, well past what its untrained policy is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from rltool import evaluate
from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent

COMMON = {"learning_rate": 0.01, "hidden_sizes": (16,), "gamma": 0.5}
SMALL_PPO = {"num_steps": 32, "batch_size": 64, "num_epochs": 4}


def learns(
    cls: type[OnPolicyAgent], envs: Callable, kind: str, options: dict[str, Any], steps: int, least: float
) -> None:
    """Episodes are worth 10 at most, and 3.3 (discrete) or 6.5 (box) without knowing anything."""
    agent = cls(envs(kind), seed=1, **(COMMON | options))
    before = evaluate(agent, envs(kind), episodes=40).mean_return
    agent.learn(steps)
    after = evaluate(agent, envs(kind), episodes=40).mean_return
    assert before < 7.1
    assert after > least, f"{before} -> {after}"
    assert agent.metrics()["rollout/ep_rew_mean"] > before  # it was seen while training, too


@pytest.mark.parametrize(
    ("credit", "kind", "least"),
    [
        ("immediate", "discrete", 9.5),
        ("reward_to_go", "discrete", 9.5),
        ("discounted", "discrete", 9.5),
        ("baseline", "discrete", 9.5),
        ("value_baseline", "discrete", 9.5),
        ("baseline", "box", 9.5),
        ("value_baseline", "box", 9.5),
    ],
)
def test_reinforce(identity_envs: Callable, credit: str, kind: str, least: float) -> None:
    learns(REINFORCE, identity_envs, kind, {"credit": credit}, 20_000, least)


@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.parametrize(
    "options",
    [
        {"advantage": "td"},
        {"advantage": "gae", "gae_lambda": 0.9, "shared": True, "optimizer": "adam"},
        {"advantage": "mc", "normalize_advantages": True, "optimizer": "adam"},
        {"advantage": "td", "shared": True, "ent_coef": 0.001},
    ],
    ids=str,
)
def test_a2c(identity_envs: Callable, options: dict[str, Any], kind: str) -> None:
    learns(A2C, identity_envs, kind, {"num_steps": 8, **options}, 8_000, 9.2)


@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_kl": 0.05},
        {"clip_range_vf": 0.5, "activation": "relu", "layer_norm": True},
        {"learning_rate_schedule": "linear", "clip_range_schedule": "linear"},
        {"shared": True, "optimizer": "rmsprop", "ent_coef": 0.001},
        {"normalize_observations": True, "normalize_returns": True},
    ],
    ids=str,
)
def test_ppo(identity_envs: Callable, options: dict[str, Any], kind: str) -> None:
    learns(PPO, identity_envs, kind, {**SMALL_PPO, **options}, 6_000, 9.2)


@pytest.mark.parametrize(
    "options", [{"action_std": "dependent"}, {"action_std": "gsde", "sde_sample_freq": 4}], ids=str
)
def test_ppo_with_other_deviations(identity_envs: Callable, options: dict[str, Any]) -> None:
    learns(PPO, identity_envs, "box", {**SMALL_PPO, **options}, 6_000, 9.2)


def test_actions_that_do_not_start_at_0(identity_envs: Callable) -> None:
    def envs(kind: str) -> Any:
        return identity_envs(kind, start=-1)

    learns(PPO, envs, "discrete", SMALL_PPO, 4_000, 9.5)


class ShownEnv(gym.Env):
    """One-step episodes: name the number that is shown, as an image with one bright band or as it is."""

    action_space = gym.spaces.Discrete(3)

    def __init__(self, image: bool) -> None:
        self.image = image
        self.observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8) if image else gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(3))
        if not self.image:
            return self.number, {}
        frame = np.zeros((36, 36, 1), np.uint8)
        frame[12 * self.number : 12 * (self.number + 1)] = 255
        return frame, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        right = float(action == self.number)
        return self.reset()[0], right, True, False, {}


@pytest.mark.parametrize("image", [True, False], ids=["images", "discrete observations"])
def test_other_observations(image: bool) -> None:
    envs = SyncVectorEnv([lambda: ShownEnv(image)] * 4, autoreset_mode="SameStep")
    agent = PPO(envs, learning_rate=1e-3 if image else 0.01, num_steps=32, batch_size=64, num_epochs=2, shared=True)
    agent.learn(1_500)
    assert evaluate(agent, envs, episodes=60).mean_return > 0.95


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (A2C, {"num_steps": 8, "gae_lambda": 0.95, "activation": "relu", "normalize_advantages": True}),
        (PPO, {"num_steps": 64, "batch_size": 64, "num_epochs": 4}),
    ],
    ids=["a2c", "ppo"],
)
def test_cartpole_improves(cls: type[OnPolicyAgent], options: dict[str, Any]) -> None:
    agent = cls("CartPole-v1", num_envs=16, learning_rate=3e-3, seed=2, **options)
    before = evaluate(agent, "CartPole-v1", episodes=20).mean_return
    assert before < 40
    agent.learn(20_000)
    assert evaluate(agent, "CartPole-v1", episodes=20).mean_return > 80  # seen: 290 and 500
