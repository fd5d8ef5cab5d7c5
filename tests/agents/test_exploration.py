"""Curiosity and noise in the weights: by definition, bit for bit over checkpoints, and where rewards are rare."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rltool import evaluate
from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent
from rltool.agents.curiosity import ICM, RND, Transitions
from rltool.agents.parameter_noise import GROWTH
from rltool.agents.rollout import Rollout, RolloutCollector
from rltool.errors import TrainingError, UserError
from rltool.networks import Flatten, NoisyLinear
from rltool.training.checkpoint import load_state, save_state

MakeEnvs = Callable[..., SyncVectorEnv]
SMALL_PPO = {"num_steps": 32, "batch_size": 64, "num_epochs": 2}
SMALL = {REINFORCE: {"num_steps": 30}, A2C: {"num_steps": 8}, PPO: SMALL_PPO}
ALL = {
    "rnd": {"rnd": True},
    "icm": {"icm": True},
    "parameter noise": {"parameter_noise": 0.1},
    "noisy layers": {"noisy": True},
    "all at once": {"rnd": True, "icm": True, "parameter_noise": 0.1, "noisy": True},
}


def collect(agent: OnPolicyAgent, steps: int) -> Rollout:
    agent.total_timesteps = 10**6
    if agent.collector.observation is None:
        agent.collector.reset(seed=0)
    return agent.collect(steps)


# Successors


def test_successors_by_hand(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    """Whatever the mode, a valid step that saw count k is followed by count k + 1, also at the end of an episode."""
    collector = RolloutCollector(counting_envs(mode), lambda actions: actions)
    collector.reset(seed=0)
    ends = 0
    for steps in (1, 4, 13):
        rollout = collector.collect(lambda observations: observations[:, 0].astype(int) % 2, steps)
        kept = rollout.observations.copy()
        after = rollout.successors().reshape(steps, 3, 1)
        assert np.array_equal(after[rollout.valid], kept[:-1][rollout.valid] + 1)
        assert (after[~rollout.valid] == 0).all()  # Those only reset.
        assert np.array_equal(rollout.observations, kept)
        ends += int(rollout.done.sum())
    assert ends > 5


def test_successors_of_whole_episodes(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    agent = REINFORCE(counting_envs(mode), num_steps=7)
    rollout = collect(agent, 100)
    after = rollout.successors().reshape(*rollout.rewards.shape, 1)
    assert rollout.valid.any()
    assert np.array_equal(after[rollout.valid], rollout.observations[:-1][rollout.valid] + 1)


# Curiosity


def steps_into(observations: np.ndarray) -> Transitions:
    x = torch.from_numpy(observations)
    return Transitions(x, x, torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x), 2))


def test_rnd_errors_fall_for_what_is_seen_alone() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(256, 4)).astype(np.float32)
    unseen = seen + np.float32(4)
    rnd = RND(PPO("CartPole-v1", rnd=True))
    rnd.predictor.normalizer.update(rng.normal(size=(1000, 4)) * 3)
    weights = {name: x.clone() for name, x in rnd.predictor.target.named_parameters()}

    def error(observations: np.ndarray) -> float:
        return rnd.predictor.errors(steps_into(observations)).mean().item()

    before = error(seen), error(unseen)
    for _ in range(300):
        rnd.optimizer.step(rnd.predictor.loss(steps_into(seen))["loss"])
    after = error(seen), error(unseen)
    assert after[0] < 0.05 * before[0]
    assert after[1] > 20 * after[0]
    for name, x in rnd.predictor.target.named_parameters():
        assert torch.equal(x, weights[name])  # What is to be foretold never changes.


def test_icm_learns_to_recognize_actions_and_to_foresee() -> None:
    """Actions move a point in one of four directions; a second point moves at random."""
    rng = np.random.default_rng(0)
    before = rng.uniform(-1, 1, (2048, 4)).astype(np.float32)
    actions = rng.integers(4, size=2048)
    moves = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], np.float32)
    after = np.concatenate((before[:, :2] + moves[actions], rng.uniform(-1, 1, (2048, 2))), axis=1).astype(np.float32)
    icm = ICM(PPO(None, icm=True, spaces=(gym.spaces.Box(-2, 2, (4,), np.float32), gym.spaces.Discrete(4))))
    icm.predictor.normalizer.update(before)
    data = Transitions(
        torch.from_numpy(before),
        torch.from_numpy(after),
        torch.from_numpy(actions),
        torch.from_numpy(Flatten(gym.spaces.Discrete(4)).as_numpy()(actions)),
    )
    first = icm.predictor.loss(data)
    assert first["inverse_loss"].item() == pytest.approx(math.log(4), abs=0.01)
    for _ in range(60):
        for rows in torch.randperm(2048, generator=torch.Generator().manual_seed(0)).numpy().reshape(8, 256):
            icm.optimizer.step(icm.predictor.loss(data.rows(rows))["loss"])
    last = icm.predictor.loss(data)
    assert last["inverse_loss"].item() < 0.3
    assert last["forward_loss"].item() < 0.2 * first["forward_loss"].item()
    expected = 0.8 * last["inverse_loss"] + 0.2 * last["forward_loss"]
    torch.testing.assert_close(last["loss"], expected)


@pytest.mark.parametrize("name", ["rnd", "icm"])
def test_rewards_of_curiosity_are_scaled_errors(counting_envs: MakeEnvs, mode: AutoresetMode, name: str) -> None:
    agent = PPO(counting_envs(mode), gamma=0.5, **{name: True, f"{name}_coef": 3.0})
    extension: Any = agent.extensions[name]
    rollout = collect(agent, 12)
    rewards = extension.reward(rollout)
    with torch.no_grad():
        errors = extension.predictor.errors(extension._tensors(extension._transitions(rollout))).numpy()
    table = np.zeros(rollout.rewards.shape)
    table[rollout.valid] = errors
    returns, running = np.zeros_like(table), np.zeros(3)
    for t in range(12):
        running = 0.5 * running + table[t]
        returns[t] = running
    expected = 3.0 * np.clip(table / np.sqrt(returns[rollout.valid].var() + 1e-8), -10, 10)
    np.testing.assert_allclose(rewards, expected, rtol=1e-4)
    assert (rewards[~rollout.valid] == 0).all()
    assert (rewards[rollout.valid] > 0).all()
    if name == "rnd":  # The same as of the successors, one by one.
        after = torch.from_numpy(rollout.successors()[rollout.valid.ravel()])
        np.testing.assert_allclose(extension.predictor.errors(steps_into(after.numpy())).detach(), errors, rtol=1e-5)


@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
def test_the_environments_own_reward_is_what_is_reported(cls: type[OnPolicyAgent], counting_envs: MakeEnvs) -> None:
    means = []
    for options in ({}, {"rnd": True, "rnd_coef": 100.0}):
        agent = cls(counting_envs(AutoresetMode.NEXT_STEP, [(3,)] * 4), **SMALL[cls], **options)
        rows: list[Any] = []
        agent.learn(400, lambda _, metrics, rows=rows: rows.append(metrics))
        means.append(agent.metrics()["rollout/ep_rew_mean"])
    assert means == [6.0, 6.0]
    assert rows[-1]["rnd_reward"] > 0
    assert float(rows[-1]["rnd_loss"]) < float(rows[0]["rnd_loss"])


class Anything(gym.Env):
    """Random observations of any space, in episodes of five steps."""

    def __init__(self, observations: gym.Space, actions: gym.Space) -> None:
        self.observation_space, self.action_space = observations, actions
        self.observation_space.seed(0)

    def _observe(self) -> Any:
        observation = self.observation_space.sample()
        if isinstance(observation, dict) and "action_mask" in observation:
            observation["action_mask"][0] = 1
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.count += 1
        return self._observe(), 1.0, self.count == 5, False, {}


BOX, IMAGE = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)
GRAPH = gym.spaces.Graph(gym.spaces.Box(-1, 1, (2,), np.float32), None)
MASKED = gym.spaces.Dict(observation=BOX, action_mask=gym.spaces.MultiBinary(3))
OBSERVATIONS = {
    "image": IMAGE,
    "graph": GRAPH,
    "discrete": gym.spaces.Discrete(4, start=1),
    "nested": gym.spaces.Dict(image=IMAGE, vector=BOX),
    "masked": MASKED,
}
ACTIONS = {
    "started discrete": gym.spaces.Discrete(3, start=-1),
    "choices": gym.spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "bits": gym.spaces.MultiBinary(4),
    "box": gym.spaces.Box(-2, 2, (2,), np.float32),
}


@pytest.mark.parametrize(
    ("observations", "actions", "options"),
    [
        *((space, gym.spaces.Discrete(3), {}) for space in OBSERVATIONS.values()),
        *((BOX, space, {}) for space in ACTIONS.values()),
        (BOX, ACTIONS["box"], {"squash": True}),
        (BOX, ACTIONS["box"], {"backbone": "gru", "sequence_length": 4, "model_size": 8}),
    ],
    ids=[*OBSERVATIONS, *ACTIONS, "squashed", "memory"],
)
@pytest.mark.parametrize("cls", [REINFORCE, A2C])
def test_any_spaces(
    cls: type[OnPolicyAgent], observations: gym.Space, actions: gym.Space, options: dict, mode: AutoresetMode
) -> None:
    envs = SyncVectorEnv([lambda: Anything(observations, actions)] * 2, autoreset_mode=mode)
    agent = cls(envs, num_steps=8, **ALL["all at once"], **options)
    rows: list[Any] = []
    agent.learn(48, lambda _, metrics: rows.append(metrics))
    for name in ("rnd_reward", "rnd_loss", "icm_reward", "icm_forward_loss", "icm_inverse_loss", "parameter_noise"):
        assert math.isfinite(float(rows[0][name]))
    assert float(rows[0]["rnd_reward"]) > 0


# Noise in the weights


def test_noise_is_there_for_rollout_and_update_and_gone_afterwards() -> None:
    agent = PPO("CartPole-v1", num_envs=4, parameter_noise=0.3, learning_rate=1e-12, **SMALL_PPO)
    clean = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    seen = []

    def note(rollout: Rollout, update: Any = agent.update) -> Any:
        seen.append({name: p.detach().clone() for name, p in agent.policy.named_parameters()})
        return update(rollout)

    agent.update = note  # type: ignore[method-assign]
    agent.learn(128)
    (noisy,) = seen
    actor, critic = [], []
    for name, p in agent.policy.named_parameters():
        part = actor if name.startswith(("backbone", "action_head")) else critic
        part.append((noisy[name] - clean[name]).flatten())
        torch.testing.assert_close(p, clean[name], rtol=0, atol=1e-8)  # The update was far smaller still.
    assert torch.cat(actor).std().item() == pytest.approx(0.3, rel=0.05)
    assert not torch.cat(critic).any()


def test_what_was_learned_under_noise_is_kept() -> None:
    agent = A2C("CartPole-v1", num_envs=4, parameter_noise=0.3, num_steps=16)
    clean = agent.optimizer.parameters.clone()
    noise: Any = agent.extensions["parameter_noise"]
    changes = []

    def note(rollout: Rollout, update: Any = agent.update) -> Any:
        before = agent.optimizer.parameters.clone()
        metrics = update(rollout)
        changes.append(agent.optimizer.parameters - before)
        return metrics

    agent.update = note  # type: ignore[method-assign]
    agent.learn(64)
    assert changes[0].abs().max() > 0
    assert torch.equal(agent.optimizer.parameters, clean + changes[0])
    assert noise.noise.any()


@pytest.mark.parametrize("options", [ALL["parameter noise"], ALL["noisy layers"]], ids=str)
def test_noise_is_gone_after_a_failure(faulty_env: Callable, options: dict[str, Any]) -> None:
    agent = A2C(faulty_env("raise"), num_steps=5, **options)
    agent.learn(5)
    kept = agent.optimizer.parameters.clone()
    with pytest.raises(TrainingError):
        agent.learn(20, resume=True)
    assert torch.equal(agent.optimizer.parameters, kept)
    assert not any(layer.exploring for layer in agent.policy.modules() if isinstance(layer, NoisyLinear))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("options", [ALL["parameter noise"], ALL["noisy layers"]], ids=str)
def test_ratios_are_1_before_the_first_step(env: str, options: dict[str, Any]) -> None:
    """The probabilities are those of the weights that acted."""
    agent = PPO(env, num_envs=4, num_steps=32, batch_size=128, num_epochs=2, **options)
    ratios: list[torch.Tensor] = []

    def note(batch: Any, clip_range: float, loss: Any = agent.loss) -> Any:
        result = loss(batch, clip_range)
        ratios.append(result[2].exp())
        return result

    agent.loss = note  # type: ignore[method-assign]
    agent.learn(128)
    assert (ratios[0] - 1).abs().max() < 1e-6  # Sums in another order, at most.
    assert (ratios[1] - 1).abs().max() > 1e-4


def test_noisy_layers_act_as_they_are_updated_and_are_evaluated_by_their_means() -> None:
    agent = PPO("CartPole-v1", num_envs=4, noisy=True, **SMALL_PPO)
    layers = [layer for layer in agent.policy.backbone.modules() if isinstance(layer, NoisyLinear)]
    noises: list[torch.Tensor] = []
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

    def read() -> np.ndarray:
        return agent.policy.backbone.as_numpy()(x)

    def note(rollout: Rollout, update: Any = agent.update) -> Any:
        noises.append(layers[0].noise_in.clone())
        with torch.no_grad():
            expected = agent.policy.backbone(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(read(), expected, rtol=1e-4, atol=1e-5)
        return update(rollout)

    agent.update = note  # type: ignore[method-assign]
    agent.learn(256)
    assert len(noises) == 2
    assert not torch.equal(*noises)  # New for each rollout.
    agent.policy.eval()
    with torch.no_grad():
        means = agent.policy.backbone(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(read(), means, rtol=1e-4, atol=1e-5)
    agent.policy.train()
    with torch.no_grad():
        noisy = agent.policy.backbone(torch.from_numpy(x)).numpy()
    assert np.abs(noisy - means).max() > 0.01


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_noise_is_adapted_to_a_distance(env: str) -> None:
    """From far too much and far too little to about as much as was asked for."""
    for sigma in (0.4, 0.03):
        agent = A2C(
            env, num_envs=8, num_steps=16, parameter_noise=sigma, parameter_noise_target=0.05, learning_rate=1e-9
        )
        distances: list[float] = []
        agent.learn(250 * 128, lambda _, metrics, found=distances: found.append(metrics["parameter_noise_distance"]))
        early, late = np.mean(distances[:10]), np.mean(distances[-30:])
        assert (early > 0.2) if sigma == 0.4 else (early < 0.02)
        assert 0.02 < late < 0.12


def test_distance_is_the_divergence() -> None:
    agent = A2C("CartPole-v1", num_envs=64, num_steps=64, parameter_noise=0.1)
    noise: Any = agent.extensions["parameter_noise"]
    torch.manual_seed(0)
    with noise.around():
        rollout = collect(agent, 64)
        noise.reward(rollout)
        with torch.no_grad():
            x = torch.from_numpy(rollout.seen(rollout.valid))
            acting = agent.policy(x)[0].log_probs
    with torch.no_grad():
        clean = agent.policy(x)[0].log_probs
    exact = (acting.exp() * (acting - clean)).sum(1).mean().item()
    assert exact > 0.01
    assert noise.distance == pytest.approx(exact, rel=0.2)
    metrics = noise.after_update(rollout)
    assert metrics["parameter_noise"] == 0.1
    assert noise.sigma == 0.1 * (GROWTH if noise.distance < 0.05 else 1 / GROWTH)


# Checkpoints and options


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
def test_training_goes_on_bit_for_bit(cls: type[OnPolicyAgent], name: str, tmp_path: Path) -> None:
    options = {"num_envs": 4, "normalize_observations": True, **SMALL[cls], **ALL[name]}
    straight = cls("CartPole-v1", seed=7, **options).learn(1_200)
    first = cls("CartPole-v1", seed=7, **options).learn(1_200, lambda agent, metrics: agent.timesteps < 600)
    save_state(tmp_path / "state.safetensors", first.checkpoint())
    second = cls("CartPole-v1", seed=8, **options).learn(100)
    second.restore(load_state(tmp_path / "state.safetensors"))
    second.learn(1_200, resume=True)
    one, other = straight.checkpoint(), second.checkpoint()
    assert one.tensors.keys() == other.tensors.keys()
    for key in one.tensors:
        assert torch.equal(one.tensors[key], other.tensors[key]), key
    for extension in straight.extensions:
        if extension != "noisy":  # Its noise is a part of the policy.
            assert any(key.startswith(f"extension.{extension}.") for key in one.tensors)


@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
def test_agents_with_extensions_are_saved_and_loaded(cls: type[OnPolicyAgent], tmp_path: Path) -> None:
    agent = cls("CartPole-v1", num_envs=4, **SMALL[cls], **ALL["all at once"]).learn(300)
    agent.save(tmp_path / "agent.safetensors")
    loaded = cls.load(tmp_path / "agent.safetensors")
    assert loaded.config == agent.config
    batch = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    actions, loaded_actions = (each.predict(batch, deterministic=True)[0] for each in (agent, loaded))
    np.testing.assert_array_equal(actions, loaded_actions)


@pytest.mark.parametrize(
    ("option", "value", "switch"),
    [
        ("rnd_coef", 2.0, "--rnd"),
        ("icm_beta", 0.5, "--icm"),
        ("icm_learning_rate", 0.1, "--icm"),
        ("parameter_noise_target", 0.1, "--parameter-noise"),
    ],
)
def test_idle_options_are_refused(option: str, value: float, switch: str) -> None:
    with pytest.raises(UserError, match=f"^{option.replace('_', '-')} does nothing without {switch}$"):
        PPO("CartPole-v1", **{option: value})


# Where rewards are rare


class Chain(gym.Env):
    """The only reward is in the last of the cells. In each, one of four actions leads on, the others to the first.

    Acting at random reaches the end in one of some 8,000 episodes.
    """

    length = 9
    observation_space = gym.spaces.Box(0, 1, (length,), np.float32)
    action_space = gym.spaces.Discrete(4)
    right = (2, 0, 3, 1, 1, 3, 0, 2)

    def _observe(self) -> np.ndarray:
        return np.eye(self.length, dtype=np.float32)[self.cell]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cell, self.count = 0, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        self.cell = self.cell + 1 if action == self.right[self.cell] else 0
        end = self.cell == self.length - 1
        return self._observe(), float(end), end, self.count == 18, {}


CHAIN = {
    A2C: {"num_steps": 16, "gae_lambda": 0.95, "normalize_advantages": True, "optimizer": "adam"},
    PPO: {"num_steps": 64, "batch_size": 128, "num_epochs": 4},
}


def at_the_end_of_the_chain(cls: type[OnPolicyAgent], seed: int, **options: Any) -> float:
    def envs() -> SyncVectorEnv:
        return SyncVectorEnv([Chain] * 8, autoreset_mode=AutoresetMode.SAME_STEP)

    agent = cls(envs(), seed=seed, learning_rate=3e-3, normalize_returns=True, **CHAIN[cls], **options)
    agent.learn(30_000)
    return evaluate(agent, envs(), episodes=8).mean_return


@pytest.mark.parametrize("cls", [A2C, PPO])
@pytest.mark.parametrize("way", ["rnd", "icm"])
def test_curiosity_finds_what_chance_does_not(cls: type[OnPolicyAgent], way: str) -> None:
    assert at_the_end_of_the_chain(cls, 1, **{way: True}) == 1.0


@pytest.mark.parametrize("cls", [A2C, PPO])
def test_without_curiosity_the_reward_is_never_found(cls: type[OnPolicyAgent]) -> None:
    assert at_the_end_of_the_chain(cls, 1) == 0.0
