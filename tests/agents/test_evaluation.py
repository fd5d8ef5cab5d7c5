"""Evaluation: exact returns, episodes fixed in advance, and one protocol with Stable-Baselines3, in both directions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy

from rltool import evaluate
from rltool.agents import A2C, PPO, REINFORCE
from rltool.agents.evaluation import Evaluation, check_spaces, watch
from rltool.envs import make_env, make_vector_env
from rltool.errors import TrainingError, UserError


class Recorder:
    """An agent that acts by a rule, counts what it acts on in its state, and keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, Any, np.ndarray, bool]] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        self.calls.append((np.array(observation), state, np.array(episode_start), deterministic))
        return np.zeros(len(observation), int), len(self.calls)


def test_returns_are_exact_and_episodes_fixed_in_advance(counting_envs: Callable, mode: AutoresetMode) -> None:
    """The environments' episodes have 3 4 2 .., 5 5 .. and 1 1 6 3 .. steps; one of L steps returns 1 + .. + L."""
    result = evaluate(Recorder(), counting_envs(mode), episodes=8)
    # Three, three and two episodes; those that end first would be 1 1 3 ..
    assert result.lengths == [3, 4, 2, 5, 5, 5, 1, 1]
    assert result.returns == [6, 10, 3, 15, 15, 15, 1, 1]
    assert evaluate(Recorder(), counting_envs(mode), episodes=2).lengths == [3, 5]
    assert evaluate(Recorder(), counting_envs(mode), episodes=12).lengths == [3, 4, 2, 3, 5, 5, 5, 5, 1, 1, 6, 3]


def test_figures() -> None:
    result = Evaluation([1.0, 2.0, 6.0], [1, 2, 3])
    assert (result.mean_return, result.mean_length) == (3.0, 2.0)
    assert result.std_return == pytest.approx(np.std([1, 2, 6]))
    assert result.as_dict() == {
        "mean_return": 3.0,
        "std_return": result.std_return,
        "min_return": 1.0,
        "max_return": 6.0,
        "mean_length": 2.0,
        "episodes": 3,
    }


@pytest.mark.parametrize("deterministic", [True, False])
def test_recurrent_agents_are_told_where_episodes_start(
    counting_envs: Callable, mode: AutoresetMode, deterministic: bool
) -> None:
    agent = Recorder()
    evaluate(agent, counting_envs(mode), episodes=9, deterministic=deterministic)
    assert [state for _, state, _, _ in agent.calls] == [None, *range(1, len(agent.calls))]
    for observation, _, start, flag in agent.calls:
        assert flag == deterministic
        assert start[observation[:, 0] == 0].all()  # A first observation is never taken for a later one.
        if mode is not AutoresetMode.NEXT_STEP:  # There, the last observation of an episode comes with it, too.
            assert not start[observation[:, 0] > 0].any()


def test_an_evaluation_is_reproducible_and_leaves_training_alone() -> None:
    agent = A2C("CartPole-v1", num_envs=2, seed=1).learn(200)
    twin = A2C("CartPole-v1", num_envs=2, seed=1).learn(200)
    first = evaluate(agent, "CartPole-v1", episodes=8, seed=5, deterministic=False)
    assert evaluate(agent, "CartPole-v1", episodes=8, seed=5, deterministic=False) == first
    assert evaluate(agent, "CartPole-v1", episodes=8, seed=6, deterministic=False) != first
    evaluate(agent, "CartPole-v1", episodes=3)
    agent.learn(400, resume=True)
    twin.learn(400, resume=True)
    assert (agent.optimizer.parameters == twin.optimizer.parameters).all()


@pytest.mark.parametrize("num_envs", [1, 3, 7, 20])
def test_episodes_are_spread_over_environments(num_envs: int) -> None:
    result = evaluate(A2C("CartPole-v1"), "CartPole-v1", episodes=7, num_envs=num_envs)
    assert len(result.returns) == 7
    assert result.returns == [float(length) for length in result.lengths]
    assert min(result.lengths) >= 8


def test_time_limits_and_environment_arguments() -> None:
    agent = A2C("Pendulum-v1")
    assert set(evaluate(agent, "Pendulum-v1", episodes=3).lengths) == {200}
    assert set(evaluate(agent, "Pendulum-v1", episodes=3, env_kwargs={"max_episode_steps": 17}).lengths) == {17}


def test_agents_evaluate_themselves() -> None:
    agent = A2C("CartPole-v1", env_kwargs={"max_episode_steps": 5})
    metrics = agent.evaluate(4, seed=0)
    assert metrics == {"mean_return": 5.0, "std_return": 0.0, "mean_length": 5.0, "score": 5.0}


def test_watching_is_evaluating_one_environment() -> None:
    agent = A2C("CartPole-v1", seed=2)
    frames: list[int] = []

    def on_frame(frame: np.ndarray, episode: int) -> None:
        assert frame.ndim == 3
        frames.append(episode)

    options: dict[str, Any] = {"env_kwargs": {"max_episode_steps": 12}}
    result = watch(agent, "CartPole-v1", episodes=2, seed=4, render_mode="rgb_array", on_frame=on_frame, **options)
    assert [frames.count(episode) - 1 for episode in (0, 1)] == result.lengths  # first and last frame are both there
    for k in range(2):
        # A single environment, seeded alike.
        envs = make_vector_env("CartPole-v1", 1, vectorization="sync", **options["env_kwargs"])
        assert evaluate(agent, envs, episodes=1, seed=4 + k).lengths == [result.lengths[k]]


def test_how_environments_are_stepped_together_is_nothing_to_a_single_one() -> None:
    options = {"env_kwargs": {"max_episode_steps": 7, "vectorization": "sync", "autoreset_mode": "SameStep"}}
    agent = A2C("CartPole-v1", **options)
    check_spaces(agent, "CartPole-v1", **options)
    assert watch(agent, "CartPole-v1", render_mode="rgb_array", **options).lengths == [7]
    assert evaluate(agent, "CartPole-v1", episodes=2, **options).lengths == [7, 7]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise", r"the environment failed in step\(\): RuntimeError: the simulator has crashed"),
        ("reward", "a reward that is not a finite number"),
    ],
)
def test_a_faulty_environment(faulty_env: Callable, fault: str, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        evaluate(Recorder(), SyncVectorEnv([lambda: faulty_env(fault)]), episodes=3)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="episodes must be at least 1, not 0"):
        evaluate(Recorder(), "CartPole-v1", episodes=0)
    with pytest.raises(UserError, match="no environment 'CartPole-v9'"):
        evaluate(Recorder(), "CartPole-v9")
    check_spaces(A2C("CartPole-v1"), "CartPole-v0")
    with pytest.raises(UserError, match="Pendulum-v1 does not fit this agent: its observation space is"):
        check_spaces(A2C("CartPole-v1"), "Pendulum-v1")
    with pytest.raises(UserError, match="Acrobot-v1 does not fit this agent"):
        check_spaces(A2C("CartPole-v1"), "Acrobot-v1")


# Stable-Baselines3


@pytest.mark.parametrize("cls", [REINFORCE, A2C, PPO])
def test_sb3_evaluates_our_agents(cls: type, counting_env: Callable) -> None:
    agent = cls(counting_env([3, -4, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It asks for a Monitor wrapper.
        theirs = evaluate_policy(agent, counting_env([3, -4, 2]), n_eval_episodes=6, return_episode_rewards=True)
    envs = SyncVectorEnv([lambda: counting_env([3, -4, 2])])
    ours = evaluate(agent, envs, episodes=6)
    assert theirs[0] in ([10, 3, 6, 10, 3, 6], [6, 10, 3, 6, 10, 3])  # it may begin with any
    assert sorted(theirs[0]) == sorted(ours.returns)
    assert sorted(theirs[1]) == sorted(ours.lengths)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_sb3_and_we_agree_on_our_agents(env_id: str) -> None:
    agent = A2C(env_id, num_envs=4).learn(1_000)
    env = make_env(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, std = evaluate_policy(agent, env, n_eval_episodes=60)
    ours = evaluate(agent, env_id, episodes=60)
    error = np.hypot(std, ours.std_return) / np.sqrt(60)
    assert abs(mean - ours.mean_return) < 4 * error + 1e-6


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_we_evaluate_sb3_models(env_id: str) -> None:
    model = sb3.PPO("MlpPolicy", env_id, n_steps=64, batch_size=64, seed=0, device="cpu")
    result = evaluate(model, env_id, episodes=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, std = evaluate_policy(model, make_env(env_id), n_eval_episodes=30)
    assert len(result.returns) == 30
    error = np.hypot(std, result.std_return) / np.sqrt(30)
    assert abs(mean - result.mean_return) < 4 * error + 1e-6


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
)
def test_sb3_accepts_our_environments(env_id: str) -> None:
    env = make_env(env_id)
    assert isinstance(env, gym.Env)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on normalized actions
        check_env(env, skip_render_check=True)
