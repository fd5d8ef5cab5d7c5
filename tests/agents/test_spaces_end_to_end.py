"""Every space: an agent trains in it, plays, is saved and loaded, and goes on from a checkpoint bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rltool import evaluate
from rltool.agents import A2C, PPO, REINFORCE, OnPolicyAgent
from rltool.agents.loading import load_agent
from rltool.envs import make_vector_env
from rltool.errors import TrainingError, UserError

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (12, 12, 1), np.uint8)
GRAPH = spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))
OBSERVATIONS = {
    "box": VECTOR,
    "float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "discrete": spaces.Discrete(4, start=-1),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "multi-binary": spaces.MultiBinary((2, 3)),
    "image": IMAGE,
    "channels first": spaces.Box(0, 255, (3, 40, 40), np.uint8),
    "dict": spaces.Dict(camera=IMAGE, state=spaces.Dict(speed=VECTOR, gear=spaces.Discrete(3))),
    "tuple": spaces.Tuple((spaces.Discrete(3), VECTOR, spaces.Tuple((spaces.MultiBinary(2),)))),
    "graph": GRAPH,
    "graph of discrete nodes": spaces.Graph(spaces.Discrete(3), None),
    "dict with a graph": spaces.Dict(graph=GRAPH, speed=VECTOR),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=1),
    "box": spaces.Box(-2, 1, (2,), np.float32),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 2]),
    "multi-discrete, two axes": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "multi-binary": spaces.MultiBinary(4),
}


class SampleEnv(gym.Env):
    """Shows random elements of a space, and takes any action of another; the first entry of an action is the reward."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self._observe(), float(np.ravel(action)[0]), self.t == 5, False, {}

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))  # All randomness comes from the generator.
        return self.observation_space.sample()


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> Any:
    gym.register("Sample-v0", SampleEnv)
    yield
    del gym.registry["Sample-v0"]


def goes_on_bit_for_bit(cls: type[OnPolicyAgent], options: dict[str, Any], env_kwargs: dict[str, Any]) -> OnPolicyAgent:
    small = {"num_envs": 3, "num_steps": 8, "hidden_sizes": (16,), **options}
    straight = cls("Sample-v0", env_kwargs=env_kwargs, **small).learn(96)
    first = cls("Sample-v0", env_kwargs=env_kwargs, **small)
    first.learn(96, callback=lambda agent, metrics: agent.timesteps < 48)
    second = cls("Sample-v0", env_kwargs=env_kwargs, **small)
    assert second.restore(first.checkpoint())
    second.learn(96, resume=True)
    for name, weight in straight.policy.state_dict().items():
        assert torch.equal(weight, second.policy.state_dict()[name]), name
    return straight


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(name: str, tmp_path: Path) -> None:
    env_kwargs = {"observation_space": OBSERVATIONS[name], "action_space": spaces.Discrete(2)}
    agent = goes_on_bit_for_bit(A2C, {}, env_kwargs)
    result = evaluate(agent, "Sample-v0", episodes=5, env_kwargs=env_kwargs)
    assert result.lengths == [5] * 5
    agent.env_kwargs = {}  # Spaces are no JSON values.
    agent.save(tmp_path / "agent.safetensors")
    loaded = load_agent(tmp_path / "agent.safetensors")
    assert loaded.observation_space == OBSERVATIONS[name]
    assert evaluate(loaded, "Sample-v0", episodes=5, env_kwargs=env_kwargs).returns == result.returns


@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions(name: str, cls: type[OnPolicyAgent]) -> None:
    env_kwargs = {"observation_space": VECTOR, "action_space": ACTIONS[name]}
    options = {"batch_size": 12, "num_epochs": 2} if cls is PPO else {}
    agent = goes_on_bit_for_bit(cls, options, env_kwargs)
    assert len(evaluate(agent, "Sample-v0", episodes=4, env_kwargs=env_kwargs).returns) == 4


@pytest.mark.parametrize("std", ["independent", "dependent", "gsde"])
def test_squashed_actions(std: str) -> None:
    env_kwargs = {"observation_space": VECTOR, "action_space": ACTIONS["box"]}
    options = {"squash": True, "action_std": std, "batch_size": 12, "num_epochs": 2}
    agent = goes_on_bit_for_bit(PPO, options, env_kwargs)
    actions = agent.collect(8).actions
    assert (actions >= [-2, -2]).all()
    assert (actions <= [1, 1]).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", ["dict", "graph", "tuple"])
def test_trees_in_every_autoreset_mode(name: str, mode: AutoresetMode) -> None:
    env = SyncVectorEnv(
        [lambda: SampleEnv(OBSERVATIONS[name], spaces.Discrete(2))] * 2, autoreset_mode=mode, copy=False
    )
    agent = PPO(env, num_steps=12, batch_size=8, num_epochs=1, hidden_sizes=(16,)).learn(48)
    assert agent.metrics()["rollout/ep_len_mean"] == 5
    rollout = agent.collect(12)
    assert len(rollout.final_index[0]) == (0 if mode is AutoresetMode.NEXT_STEP else 6)


@pytest.mark.parametrize("name", ["graph", "dict"])
def test_trees_from_worker_processes(name: str) -> None:
    spaces_of_it = {"observation_space": OBSERVATIONS[name], "action_space": spaces.Discrete(2)}
    goes_on_bit_for_bit(A2C, {"num_envs": 2}, {"vectorization": "async", **spaces_of_it})


def test_parts_of_a_dict_are_normalized() -> None:
    env_kwargs = {"observation_space": OBSERVATIONS["dict"], "action_space": spaces.Discrete(2)}
    agent = A2C("Sample-v0", env_kwargs=env_kwargs, normalize_observations=True, num_envs=4).learn(200)
    assert agent.policy.normalizer is not None
    (norm,) = agent.policy.normalizer.norms
    assert abs(norm.mean).max() < 0.3
    env_kwargs = {"observation_space": spaces.Discrete(2), "action_space": spaces.Discrete(2)}
    with pytest.raises(UserError, match="can be normalized in a Box of numbers only"):
        A2C("Sample-v0", env_kwargs=env_kwargs, normalize_observations=True)


def test_bytes_that_were_normalized_are_no_bytes_any_more() -> None:
    bytes_and_gear = spaces.Dict(gear=spaces.Discrete(3), memory=spaces.Box(0, 255, (4,), np.uint8))
    env_kwargs = {"observation_space": bytes_and_gear, "action_space": spaces.Discrete(2)}
    agent = A2C("Sample-v0", env_kwargs=env_kwargs, normalize_observations=True, num_envs=4).learn(2_000)
    seen = agent.collect(100).seen()
    inputs = agent.policy.backbone.flatten.as_numpy()(agent.policy.normalizer.as_numpy()(seen))
    np.testing.assert_allclose(inputs[:, 3:].std(0), 1, atol=0.2)
    assert set(np.unique(inputs[:, :3])) == {0, 1}


# Action masks


class MaskedEnv(gym.Env):
    """Forbids all actions but one, chosen anew each step, and at the end of an episode all of them."""

    action_space = spaces.Discrete(4)
    observation_space = spaces.Dict(observation=spaces.Box(0, 1, (1,)), action_mask=spaces.MultiBinary(4))

    def __init__(self, forbid_all: bool = False) -> None:
        self.forbid_all = forbid_all

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert action == self.allowed
        self.t += 1
        return self._observe(), 1.0, self.t == 5, False, {}

    def _observe(self) -> Any:
        self.allowed = int(self.np_random.integers(4))
        mask = np.eye(4, dtype=np.int8)[self.allowed] * (self.t < 5) * (not self.forbid_all)
        return {"observation": np.ones(1, np.float32), "action_mask": mask}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("options", [{}, {"backbone": "lstm", "sequence_length": 4}], ids=str)
def test_masks_in_observations(mode: AutoresetMode, options: dict[str, Any]) -> None:
    def envs() -> SyncVectorEnv:
        return SyncVectorEnv([MaskedEnv] * 3, autoreset_mode=mode)

    agent = PPO(envs(), num_steps=16, batch_size=8, num_epochs=2, normalize_observations=True, **options).learn(100)
    assert evaluate(agent, envs(), episodes=6).returns == [5] * 6
    assert evaluate(agent, envs(), episodes=6, deterministic=False).returns == [5] * 6


def test_masks_from_infos_make_taxi_easier() -> None:
    agent = A2C("Taxi-v4", num_envs=2).learn(40)
    assert agent.env.single_observation_space["action_mask"] == spaces.MultiBinary(6)
    rollout = agent.collector.collect(agent.policy.actor(agent.rng), 50)
    masks = rollout.observations["action_mask"][:-1]
    assert np.take_along_axis(masks, rollout.actions[..., None], 2).all()
    assert (masks.sum(2) < 6).any()
    plain = make_vector_env("Taxi-v4", 2)
    assert plain.single_observation_space == spaces.Discrete(500)
    assert len(evaluate(agent, "Taxi-v4", episodes=2).returns) == 2


def test_a_mask_that_forbids_everything_is_named() -> None:
    env = SyncVectorEnv([lambda: MaskedEnv(forbid_all=True)])
    with pytest.raises(TrainingError, match="mask forbids every action"):
        PPO(env, num_steps=16, batch_size=8).learn(16)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    space = spaces.Dict(a=VECTOR, action_mask=spaces.MultiBinary(3))
    for action_space in (spaces.Discrete(4), ACTIONS["box"]):
        with pytest.raises(UserError, match="action mask"):
            A2C("Sample-v0", env_kwargs={"observation_space": space, "action_space": action_space})


def test_a_cnn_refuses_a_graph() -> None:
    env_kwargs = {"observation_space": GRAPH, "action_space": spaces.Discrete(2)}
    with pytest.raises(UserError, match="cnn"):
        A2C("Sample-v0", env_kwargs=env_kwargs, backbone="cnn")


# Backbones of other agents


def test_a_backbone_starts_another_agent_and_stays_frozen() -> None:
    source = PPO("CartPole-v1", seed=1, normalize_observations=True, batch_size=8, num_steps=16).learn(64)
    agent = A2C("CartPole-v1", num_envs=2, normalize_observations=True)
    agent.init_backbone(source)
    agent.freeze_backbone(50)
    weights = {name: weight.clone() for name, weight in source.policy.backbone.state_dict().items()}
    heads = agent.policy.action_head.linear.weight.clone()
    agent.learn(50)
    assert all(torch.equal(weight, agent.policy.backbone.state_dict()[name]) for name, weight in weights.items())
    assert agent.policy.normalizer.count == source.policy.normalizer.count
    assert not torch.equal(heads, agent.policy.action_head.linear.weight)
    agent.learn(100, resume=True)
    assert not torch.equal(weights["layers.0.weight"], agent.policy.backbone.state_dict()["layers.0.weight"])
    with pytest.raises(UserError, match=r"does not fit: layers\.0\.weight is"):
        A2C("CartPole-v1", hidden_sizes=(32,), normalize_observations=True).init_backbone(source)
    with pytest.raises(UserError, match="one of the two reads normalized observations"):
        A2C("CartPole-v1").init_backbone(source)
    with pytest.raises(UserError, match="no policy"):
        agent.init_backbone(object())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("norm", ["batch_norm", "spectral_norm"])
def test_a_backbone_that_is_frozen_late_stays_as_it_is(norm: str, optimizer: str) -> None:
    agent = PPO("CartPole-v1", optimizer=optimizer, batch_size=8, num_steps=16, **{norm: True}).learn(64)
    kept = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.freeze_backbone(128)
    agent.learn(128, resume=True)
    moved = {name for name, value in agent.policy.state_dict().items() if not torch.equal(value, kept[name])}
    assert moved == {f"{head}.linear.{part}" for head in ("action_head", "value_head") for part in ("weight", "bias")}
