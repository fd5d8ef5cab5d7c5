"""Every fault that diagnosis knows, made on purpose; and healthy trainings, in which nothing must be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import A2C, PPO
from rltool.agents import diagnosis as module
from rltool.agents.diagnosis import Diagnosis, diagnose, loss_curvature, play
from rltool.agents.symptoms import (
    unused_units,
)
from rltool.training.checkpoint import load_state, save_state


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., rltool.Run]:
    def go(method: str, env: str, **options: Any) -> rltool.Run:
        small = {"preset": "none", "num_envs": 8, "log_freq": 500, "eval_freq": 0, "total_timesteps": 6_000}
        return rltool.train(method, env, **{"run_dir": str(tmp_path), **small, **options})

    return go


def found(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnosis.findings}


@pytest.mark.parametrize("method", ["reinforce", "a2c", "ppo"])
def test_nothing_serious_is_found_in_the_presets(method: str, tmp_path: Path) -> None:
    run = rltool.train(method, "CartPole-v1", run_dir=str(tmp_path))
    result = diagnose(run.path)
    assert result.healthy, result.findings
    assert found(result) == {"time-limit-cuts": "note"}
    assert len(result.returns) == 5
    assert result.returns == result.lengths
    assert result.surface.startswith("Hessian eigenvalues from -")
    again = diagnose(run.path)
    assert again.as_dict() == result.as_dict()


@pytest.mark.parametrize(
    ("method", "learning_rate", "names"),
    [
        ("a2c", 1.0, {"entropy-collapsed", "never-learned"}),
        ("ppo", 1.0, {"entropy-collapsed", "never-learned"}),
        ("ppo", 0.03, {"steps-too-far"}),
    ],
)
def test_a_learning_rate_far_too_high(
    train: Callable[..., rltool.Run], method: str, learning_rate: float, names: set[str]
) -> None:
    options = {"num_steps": 64, "batch_size": 64} if method == "ppo" else {}
    result = diagnose(train(method, "CartPole-v1", learning_rate=learning_rate, **options).path, curvature=False)
    assert names <= {name for name, severity in found(result).items() if severity == "serious"}, found(result)
    assert not result.healthy
    assert result.curvature is None


def test_a_goal_that_is_never_reached(train: Callable[..., rltool.Run]) -> None:
    result = diagnose(train("a2c", "MountainCar-v0", num_envs=16, total_timesteps=16_000).path, curvature=False)
    assert found(result)["never-learned"] == "serious"


def test_a_critic_that_does_not_learn(train: Callable[..., rltool.Run]) -> None:
    result = diagnose(train("ppo", "CartPole-v1", num_steps=64, vf_coef=0.0).path, curvature=False)
    assert "critic-useless" in found(result)
    result = diagnose(train("ppo", "CartPole-v1", num_steps=64).path, curvature=False)
    assert "critic-useless" not in found(result)


def test_returns_that_are_large(train: Callable[..., rltool.Run]) -> None:
    options = {"total_timesteps": 8_000, "num_steps": 50}
    assert "values-too-large" in found(diagnose(train("a2c", "Pendulum-v1", **options).path))
    assert "values-too-large" not in found(
        diagnose(train("a2c", "Pendulum-v1", **options, normalize_returns=True).path)
    )


class Scaled(gym.ObservationWrapper):
    """CartPole in micrometers."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gym.make("CartPole-v1").unwrapped)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation * np.float32(1e6)


class Fixed(gym.Env):
    """Twelve steps, then it terminates; without a limit it never does."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, limit: int | None = 12, render_mode: str | None = None) -> None:
        self.limit = limit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.t == self.limit, False, {}


@pytest.fixture
def environments() -> Any:
    gym.register("TestScaled-v0", Scaled, max_episode_steps=500)
    gym.register("TestFixed-v0", Fixed)
    yield
    del gym.registry["TestScaled-v0"], gym.registry["TestFixed-v0"]


@pytest.mark.usefixtures("environments")
def test_observations_in_micrometers(train: Callable[..., rltool.Run]) -> None:
    assert found(diagnose(train("a2c", "TestScaled-v0").path))["observations-unscaled"] == "serious"
    normalized = train("a2c", "TestScaled-v0", normalize_observations=True)
    names = found(diagnose(normalized.path))
    assert "observations-unscaled" not in names
    assert "units-saturated" not in names


@pytest.mark.usefixtures("environments")
def test_saturated_units(train: Callable[..., rltool.Run]) -> None:
    assert "units-saturated" in found(diagnose(train("a2c", "TestScaled-v0", learning_rate=1e-6).path))


@pytest.mark.usefixtures("environments")
def test_episodes_that_all_end_alike_or_never(
    train: Callable[..., rltool.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(diagnose(train("a2c", "TestFixed-v0").path))["time-limit-as-end"] == "warning"
    monkeypatch.setattr(module, "MOST_STEPS", 200)
    result = diagnose(train("a2c", "TestFixed-v0", env_kwargs={"limit": None}).path, episodes=3)
    assert found(result)["episodes-endless"] == "warning"
    assert found(result)["too-little"] == "warning"
    assert result.lengths == [200] * 3


def test_dead_units(train: Callable[..., rltool.Run]) -> None:
    run = train("a2c", "CartPole-v1", activation="relu", total_timesteps=2_000)
    assert "units-dead" not in found(diagnose(run.path))
    newest = run.checkpoints()[-1]
    state = load_state(newest)
    state.tensors["policy.backbone.layers.0.bias"][:60] = -1e3
    save_state(newest, state)
    result = diagnose(run.path)
    (finding,) = [finding for finding in result.findings if finding.name == "units-dead"]
    assert finding.severity == "serious"
    assert finding.evidence.startswith("94% of backbone.layers.1 over ")


def test_which_units_are_unused() -> None:
    policy = A2C("CartPole-v1", activation="relu", hidden_sizes=(4,)).policy
    layer = policy.backbone.layers[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1.0, -1.0, 0.0, -0.5]))
    observations = torch.zeros(10, 4)
    assert unused_units(policy, observations)[0] == ("backbone.layers.1", "relu", 0.75)
    tanh = A2C("CartPole-v1", hidden_sizes=(4,)).policy
    with torch.no_grad():
        tanh.backbone.layers[0].weight.zero_()
        tanh.backbone.layers[0].bias.copy_(torch.tensor([9.0, -9.0, 0.0, 0.5]))
    assert unused_units(tanh, observations)[0] == ("backbone.layers.1", "tanh", 0.5)
    assert not any(part._forward_hooks for part in tanh.modules())


class Seen(gym.Env):
    """Everything at once: numbers out of scale, a picture, and a mask that forbids the last action."""

    observation_space = gym.spaces.Dict(
        position=gym.spaces.Box(-500, 500, (2,), np.float32),
        picture=gym.spaces.Box(0, 255, (16, 16, 3), np.uint8),
        action_mask=gym.spaces.Box(0, 1, (3,), np.int8),
    )
    action_space = gym.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        self.t += 1
        return self._observe(), float(action == 1), self.np_random.random() < 0.1, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            "position": self.np_random.uniform(-500, 500, 2).astype(np.float32),
            "picture": self.np_random.integers(0, 256, (16, 16, 3)).astype(np.uint8),
            "action_mask": np.array([1, 1, 0], np.int8),
        }


def test_observations_of_several_kinds(train: Callable[..., rltool.Run]) -> None:
    gym.register("TestSeen-v0", Seen)
    try:
        run = train("ppo", "TestSeen-v0", total_timesteps=2_000, num_steps=32)
        result = diagnose(run.path, curvature=True)
    finally:
        del gym.registry["TestSeen-v0"]
    (finding,) = [finding for finding in result.findings if finding.name == "observations-unscaled"]
    assert finding.severity == "serious"
    assert finding.evidence.startswith("2 of 2 features")
    assert result.curvature is not None


@pytest.mark.parametrize("backbone", ["gru", "transformer"])
def test_policies_with_memory(train: Callable[..., rltool.Run], backbone: str) -> None:
    result = diagnose(train("a2c", "CartPole-v1", backbone=backbone, total_timesteps=2_000, num_steps=16).path)
    assert result.returns == result.lengths
    assert result.curvature is None
    if backbone == "gru":
        assert diagnose(result.run.path, curvature=True).curvature is not None


def test_a_memory_sees_what_it_saw_when_it_played() -> None:
    """Values in one pass over the sequences are those step by step."""
    agent = A2C("CartPole-v1", backbone="gru", sequence_length=4)
    result, _ = play(agent, "CartPole-v1", 1, seed=3)
    state, critic = agent.policy.initial_state(1), agent.policy.critic()
    step = {"policy": agent.policy.backbone, "value": agent.policy.value_backbone}
    expected = []
    for observation in result.observations:
        expected.append(critic(observation[None], state)[0])
        state = {name: step[name].step_as_numpy()(observation[None], state[name])[1] for name in state}
    np.testing.assert_allclose(result.values, expected, atol=1e-5)


# What is played, and the curvature


def test_episodes_are_whole_and_valued_as_training_values_them() -> None:
    agent = A2C("CartPole-v1", seed=1, gamma=0.9)
    result, threshold = play(agent, "CartPole-v1", 4, seed=3)
    assert threshold == 475
    assert len(result.lengths) == result.terminated == 4
    assert result.episode_returns == result.lengths
    assert len(result.observations) == len(result.values) == sum(result.lengths)
    # All episodes terminated, with reward 1: from k steps before the end, 1 + 0.9 + ... of k terms.
    expected = np.sort(np.concatenate([(1 - 0.9 ** np.arange(1, n + 1)) / 0.1 for n in result.lengths]))
    np.testing.assert_allclose(np.sort(result.returns), expected, rtol=1e-4)
    with torch.no_grad():
        values = agent.policy.values(torch.from_numpy(result.observations)).numpy()
    np.testing.assert_allclose(result.values, values, atol=1e-5)


def test_a_cut_episode_is_worth_what_the_critic_says() -> None:
    agent = A2C("Pendulum-v1", seed=1)
    result, _ = play(agent, "Pendulum-v1", 2, reward_scale=0.01, env_kwargs={"max_episode_steps": 7})
    assert result.lengths == [7, 7]
    assert result.terminated == 0
    assert result.values_at_truncation.shape == (2,)
    collected = result.returns[:2] - 0.99**7 * result.values_at_truncation  # By both in their first timestep.
    assert (collected < 0).all()
    assert (collected > -17 * 0.01 * 7).all()  # No step costs more than 17.


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_curvature_leaves_the_agent_alone(env: str) -> None:
    agent = PPO(env, seed=2, num_steps=64, ent_coef=0.01)
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    gradient = agent.optimizer.gradient.clone()
    result, _ = play(agent, env, 3)
    low, high = loss_curvature(agent, result, steps=20)
    assert low < 0 < high
    assert loss_curvature(agent, result, steps=20) == (low, high)
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())
    assert torch.equal(agent.optimizer.gradient, gradient)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((-2.0, 3.0), "from -2 to 3: a saddle"),
        ((1e-3, 3.0), "from 0.001 to 3: minimum-like"),
        ((-1e-6, 3.0), "from -1e-06 to 3: minimum-like"),
        ((-2.0, -1.0), "from -2 to -1: no minimum"),
    ],
)
def test_the_surface_in_words(ends: tuple[float, float], words: str) -> None:
    assert words in Diagnosis(None, [], [1.0], [1], ends).surface  # type: ignore[arg-type]


def test_a_damaged_last_checkpoint_is_passed_over(train: Callable[..., rltool.Run]) -> None:
    run = train("a2c", "CartPole-v1", save_freq=2_000)
    run.checkpoints()[-1].write_bytes(b"half")
    assert len(diagnose(run.path).returns) == 5


def test_mistakes(train: Callable[..., rltool.Run], tmp_path: Path) -> None:
    with pytest.raises(rltool.UserError, match="episodes must be at least 1"):
        diagnose(tmp_path, episodes=0)
    run = train("a2c", "CartPole-v1", total_timesteps=100)
    (run.path / "model.safetensors").unlink()
    with pytest.raises(rltool.UserError, match=r"there is no file .*model\.safetensors"):
        diagnose(run.path)
