"""Policies with memory: sequences are cut and masked rightly, and what needs a memory is learned with one alone."""

from __future__ import annotations

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
from rltool.agents.evaluation import watch
from rltool.agents.ppo import Minibatch
from rltool.agents.sequences import Cuts, SequenceTable
from rltool.errors import UserError
from rltool.trees import map_tree

MEMORIES = ["lstm", "gru", "transformer"]
SMALL = {"model_size": 8, "window": 5, "sequence_length": 4, "num_steps": 16}


class RecallEnv(gym.Env):
    """Shows a sign at first, then nothing; at each of the next three steps the action that fits it is worth 1."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.sign, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.sign - 1], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        reward = float(action == self.sign) if self.t > 1 else 0.0
        return np.zeros(1, np.float32), reward, self.t == 4, False, {}


def recall_envs(num_envs: int = 8) -> SyncVectorEnv:
    return SyncVectorEnv([RecallEnv] * num_envs)


@pytest.mark.parametrize("backbone", [*MEMORIES, "rnn", "mlp"])
def test_memory_is_learned_by_ppo(backbone: str) -> None:
    options = {"num_steps": 32, "batch_size": 64, "num_epochs": 4, "learning_rate": 0.01, "model_size": 16}
    agent = PPO(recall_envs(), backbone=backbone, seed=0, **options).learn(10_000)
    score = evaluate(agent, recall_envs(), episodes=200).mean_return
    assert score < 2 if backbone == "mlp" else score > 2.7


@pytest.mark.parametrize("cls", [A2C, REINFORCE])
def test_memory_is_learned(cls: type[OnPolicyAgent]) -> None:
    options = {"num_steps": 8, "learning_rate": 0.02, "optimizer": "adam", "model_size": 16, "backbone": "gru"}
    agent = cls(recall_envs(), seed=0, gamma=0.9, **options).learn(20_000)
    assert evaluate(agent, recall_envs(), episodes=200).mean_return > 2.7


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("backbone", MEMORIES)
def test_an_update_sees_what_the_actor_saw(
    counting_envs: Callable, backbone: str, shared: bool, mode: AutoresetMode
) -> None:
    """Log-probabilities and values of a rollout, cut into sequences, are those of acting step by step."""
    agent = PPO(counting_envs(mode), backbone=backbone, shared=shared, batch_size=8, **SMALL)
    for parameter in agent.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    agent.collect(3)  # The rollout looked at begins in the middle of episodes.
    state, starts = agent.collector.state, agent.collector.starts.copy()
    rollout = agent.collect(16)
    table, (observations, sequences) = rollout.sequence_table, agent.inputs(rollout)
    assert table is not None
    with torch.no_grad():
        distribution, values = agent.policy(observations, sequences)

    critic, act = agent.policy.critic(), agent.policy.actor(None)
    expected, finals = [], {}
    for t in range(16):
        state = map_tree(lambda leaf: np.where(starts.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), state)
        expected.append(critic(rollout.observations[t], state))
        _, state = act(rollout.observations[t], state)
        for k in np.flatnonzero(rollout.final_index[0] == t):
            n = int(rollout.final_index[1][k])
            one = map_tree(lambda leaf, n=n: leaf[n : n + 1], state)
            finals[int(k)] = critic(rollout.final_observations[k : k + 1], one)[0]
        done = rollout.done[t]
        starts = ~rollout.valid[t] if mode is AutoresetMode.NEXT_STEP else done
    np.testing.assert_allclose(values.view(16, 3), expected, atol=1e-4)
    state = map_tree(lambda leaf: np.where(starts.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), state)
    last = critic(rollout.observations[16], state)
    bootstrap = agent.policy.critic()(rollout.bootstrap_observations, rollout.bootstrap_state)
    np.testing.assert_allclose(bootstrap, [*last, *(finals[k] for k in range(len(finals)))], atol=1e-4)
    if mode is not AutoresetMode.NEXT_STEP:
        assert len(finals) > 3

    # Every valid step is in one minibatch of an epoch, and its probability is still the same there.
    agent.config = agent.config.model_copy(update={"num_epochs": 1})
    log_prob, seen = distribution.log_prob(agent.tensor(rollout.actions)), []
    rows = torch.arange(48)
    data = Minibatch(observations, agent.tensor(rollout.actions), log_prob, values, rows, values)
    for batch in agent.sequence_minibatches(data, table, rollout.valid.ravel()):
        new, new_values = agent.policy(batch.observations, batch.sequences)
        torch.testing.assert_close(new.log_prob(batch.actions), batch.old_log_prob, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(new_values, batch.old_values, atol=1e-4, rtol=1e-4)
        seen += batch.advantages.tolist()
    assert sorted(seen) == np.flatnonzero(rollout.valid).tolist()


def test_cuts_by_hand() -> None:
    """Two environments, five steps, sequences of at most 3; the second environment begins an episode at step 1."""
    cuts = Cuts(np.array([0, 0, 1, 3, 4]), np.array([0, 1, 1, 0, 1]), {"policy": np.arange(5.0)})
    table = SequenceTable(cuts, (5, 2))
    assert table.rows.T[table.mask.T].tolist() == [0, 2, 4, 1, 3, 5, 7, 6, 8, 9]
    index, sequences = table.take(np.array([2, 3]))
    assert index.tolist() == [3, 5, 6, 7, 8]
    assert sequences.state["policy"].tolist() == [2, 3]
    assert index[sequences.rows.numpy()][sequences.mask.numpy()].tolist() == [3, 6, 5, 8, 7]
    groups = table.batches(5, np.ones(10, bool), np.random.default_rng(0))
    assert sorted(np.concatenate(groups).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backbone", MEMORIES)
def test_predict_carries_the_state(backbone: str) -> None:
    agent = A2C(recall_envs(2), backbone=backbone, **SMALL)
    for parameter in agent.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    observations = np.random.default_rng(0).normal(size=(6, 2, 1)).astype(np.float32)

    def features(observation: np.ndarray, state: Any, start: np.ndarray | None) -> Any:
        return agent.predict(observation, state, start, deterministic=True)[1]

    state = features(observations[0], None, None)
    for t in range(1, 4):
        state = features(observations[t], state, np.array([False, t == 3]))
    alone = features(observations[3][1:], None, None)  # The second began anew at t = 3.
    both = [map_tree(lambda leaf: leaf[1], state), map_tree(lambda leaf: leaf[0], alone)]
    map_tree(np.testing.assert_array_equal, *both)
    single, state = agent.predict(observations[0, 0], deterministic=True)
    assert np.shape(single) == ()
    assert np.shape(agent.predict(observations[1, 0], state)[0]) == ()
    with pytest.raises(ValueError, match="the state is of 1 observations, not 2"):  # NumPy would have copied it.
        agent.predict(observations[1], state)


def test_evaluating_and_watching_carry_the_state() -> None:
    agent = PPO(recall_envs(), backbone="lstm", seed=0, num_steps=32, learning_rate=0.01, model_size=16)
    agent.learn(10_000)
    env = RecallEnv()
    env.render = lambda: np.zeros((2, 2, 3), np.uint8)  # type: ignore[method-assign]
    assert watch(agent, env, episodes=20).mean_return > 2.7


@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
def test_training_with_memory_goes_on_bit_for_bit(cls: type[OnPolicyAgent], tmp_path: Path) -> None:
    small_batch = {"batch_size": 32, "num_epochs": 2} if cls is PPO else {}
    options = {**SMALL, "num_envs": 3, "backbone": "gru", **small_batch}
    straight = cls("CartPole-v1", **options).learn(600)
    first = cls("CartPole-v1", **options)
    first.learn(600, callback=lambda agent, metrics: agent.timesteps < 200)
    second = cls("CartPole-v1", **options)
    second.restore(first.checkpoint())
    second.learn(600, resume=True)
    for name, weight in straight.policy.state_dict().items():
        assert torch.equal(weight, second.policy.state_dict()[name]), name
    straight.save(tmp_path / "agent.safetensors")
    loaded = cls.load(tmp_path / "agent.safetensors")
    one, other = (evaluate(agent, "CartPole-v1", episodes=5).returns for agent in (straight, loaded))
    assert one == other


def test_a_minibatch_smaller_than_a_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="a minibatch of 8 timesteps is smaller than one sequence of 16"):
        PPO("CartPole-v1", backbone="lstm", batch_size=8, num_steps=64)
