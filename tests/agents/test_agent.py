"""What all agents have in common: predicting, seeding, budgets, callbacks, saving and loading, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rltool import load_agent
from rltool.agents import A2C, PPO, REINFORCE, Agent, OnPolicyAgent, PPOConfig
from rltool.envs import make_vector_env
from rltool.errors import TrainingError, UserError
from rltool.training.checkpoint import State, save_state

SMALL: dict[type[OnPolicyAgent], dict[str, Any]] = {
    REINFORCE: {"num_envs": 2},
    A2C: {"num_envs": 2},
    PPO: {"num_envs": 2, "num_steps": 16, "batch_size": 16, "num_epochs": 2},
}
AGENTS = [pytest.param(cls, id=cls.method) for cls in SMALL]
ENVS = ["CartPole-v1", "Pendulum-v1"]


def small(cls: type[OnPolicyAgent], env: Any = "CartPole-v1", **options: Any) -> Any:
    given = dict(SMALL[cls])
    if not isinstance(env, str):
        del given["num_envs"]
    return cls(env, **(given | options))


def weights(agent: Agent) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in agent.policy.state_dict().values()])


def observations(agent: Agent, count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, *agent.observation_space.shape)).astype(np.float32)


# Predicting


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("cls", AGENTS)
def test_predict_single_and_batch(cls: type[OnPolicyAgent], env: str) -> None:
    agent = small(cls, env, normalize_observations=True)
    agent.learn(200)
    batch = observations(agent, 7)
    actions, state = agent.predict(batch, deterministic=True)
    assert state is None
    assert actions.shape == (7, *agent.action_space.shape)
    assert actions.dtype == agent.action_space.dtype
    for one, action in zip(batch, actions, strict=True):
        single, _ = agent.predict(one, deterministic=True)
        assert agent.action_space.contains(single)
        np.testing.assert_allclose(single, action, rtol=1e-5)
    with torch.no_grad():
        mode = agent.policy(torch.from_numpy(batch))[0].mode().numpy()
    bounds = (-2, 2) if env == "Pendulum-v1" else (0, 1)
    np.testing.assert_allclose(actions, mode.clip(*bounds), rtol=1e-4, atol=1e-5)


def test_predict_is_random_unless_deterministic() -> None:
    agent = small(A2C)
    one = observations(agent, 1)[0]
    assert len({int(agent.predict(one)[0]) for _ in range(40)}) == 2
    assert len({int(agent.predict(one, deterministic=True)[0]) for _ in range(40)}) == 1
    frequency = np.mean(agent.predict(np.repeat(one[None], 4_000, 0))[0])
    with torch.no_grad():
        probability = agent.policy(torch.from_numpy(one[None]))[0].log_probs.exp()[0, 1].item()
    assert frequency == pytest.approx(probability, abs=0.04)


def test_actions_are_clipped_to_the_bounds() -> None:
    agent = small(A2C, "Pendulum-v1", log_std_init=3.0)
    actions, _ = agent.predict(observations(agent, 200))
    assert (np.abs(actions) <= 2).all()
    assert (np.abs(actions) == 2).mean() > 0.5
    assert agent.collector.collect(agent.policy.actor(agent.rng), 50).actions.max() > 2  # The policy's own are not.


def test_action_shape_of_a_box_with_axes() -> None:
    class Matrix(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2, 3), np.float64)
        action_space = gym.spaces.Box(-1, 1, (3, 2), np.float64)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros((2, 3)), {}

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return np.zeros((2, 3)), float(action.sum()), False, True, {}

    agent = small(A2C, Matrix())
    agent.learn(20)
    assert agent.predict(np.zeros((2, 3)))[0].shape == (3, 2)
    assert agent.predict(np.zeros((5, 2, 3)))[0].shape == (5, 3, 2)
    assert agent.action_space.contains(agent.predict(np.zeros((2, 3)))[0])


def test_discrete_actions_that_do_not_start_at_0(identity_envs: Callable) -> None:
    agent = small(A2C, identity_envs("discrete", start=-5))
    actions, _ = agent.predict(np.eye(3, dtype=np.float32).repeat(50, 0))
    assert set(actions.tolist()) == {-5, -4, -3}
    agent.learn(100)  # The environment insists on them.
    rollout = agent.collector.collect(agent.policy.actor(agent.rng), 20)
    assert set(np.unique(rollout.actions)) <= {0, 1, 2}


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 3), (1, 2, 4), ()])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    agent = small(A2C)
    with pytest.raises(ValueError, match=r"expected an observation of shape \(4,\) or a batch of them, not"):
        agent.predict(np.zeros(shape))


# Seeds


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("cls", AGENTS)
def test_the_seed_decides_everything(cls: type[OnPolicyAgent], env: str, tmp_path: Path) -> None:
    agents = []
    for k, seed in enumerate((3, 3, 4)):
        torch.manual_seed(k)  # of no influence
        np.random.seed(k)  # noqa: NPY002
        agents.append(small(cls, env, seed=seed).learn(600))
        agents[-1].save(tmp_path / f"{k}.safetensors")
    files = [(tmp_path / f"{k}.safetensors").read_bytes() for k in range(3)]
    assert files[0] == files[1]
    assert not torch.equal(weights(agents[0]), weights(agents[2]))
    assert agents[0].metrics() == agents[1].metrics()
    batch = observations(agents[0], 20)
    np.testing.assert_array_equal(agents[0].predict(batch)[0], agents[1].predict(batch)[0])


def test_weights_before_training_follow_the_seed() -> None:
    assert torch.equal(weights(small(A2C, seed=1)), weights(small(PPO, seed=1)))
    assert not torch.equal(weights(small(A2C, seed=1)), weights(small(A2C, seed=2)))


@pytest.mark.parametrize("cls", AGENTS)
def test_the_random_state_of_others_is_left_alone(cls: type[OnPolicyAgent]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    small(cls, dropout=0.1).learn(200)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


# Budget and callbacks


@pytest.mark.parametrize(
    ("num_envs", "budget", "expected"), [(1, 333, 333), (4, 400, 400), (8, 1000, 1000), (3, 100, 102)]
)
@pytest.mark.parametrize("cls", AGENTS)
def test_budget(cls: type[OnPolicyAgent], num_envs: int, budget: int, expected: int) -> None:
    agent = small(cls, num_envs=num_envs)
    assert agent.learn(budget) is agent
    assert agent.timesteps == expected
    agent.learn(budget)  # counts anew
    assert agent.timesteps == expected
    agent.learn(expected + num_envs, resume=True)
    assert agent.timesteps == expected + num_envs


@pytest.mark.parametrize("cls", AGENTS)
def test_every_timestep_is_a_step_of_the_environment(cls: type[OnPolicyAgent], counting_envs: Callable) -> None:
    envs = counting_envs(AutoresetMode.NEXT_STEP)
    steps, step = [], envs.step
    envs.step = lambda actions: (steps.append(1), step(actions))[1]
    small(cls, envs).learn(99)
    assert len(steps) == 33


@pytest.mark.parametrize("cls", AGENTS)
def test_callback_ends_training(cls: type[OnPolicyAgent]) -> None:
    seen: list[int] = []

    def callback(agent: OnPolicyAgent, metrics: dict[str, Any]) -> bool:
        seen.append(agent.timesteps)
        assert agent.updates == len(seen)
        return len(seen) < 3

    others: list[int] = []
    agent = small(cls).learn(5_000, [callback, lambda agent, metrics: others.append(agent.timesteps)])
    assert len(seen) == 3
    assert seen == sorted(set(seen)) == others  # Both are called, also in the end; None does not stop.
    assert agent.timesteps == seen[-1] < 5_000


@pytest.mark.parametrize("cls", AGENTS)
def test_metrics(cls: type[OnPolicyAgent]) -> None:
    rows: list[dict[str, Any]] = []
    agent = small(cls, "Pendulum-v1", num_envs=4, log_std_init=-1.0)
    agent.learn(1_600, lambda agent, metrics: rows.append(metrics))
    rows = [row for row in rows if row]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert {"entropy_loss", "grad_norm"} <= set(rows[0])
    metrics = agent.metrics()
    assert metrics["rollout/ep_len_mean"] == 200
    assert -2_000 < metrics["rollout/ep_rew_mean"] < -300
    assert metrics["train/std"] == pytest.approx(np.exp(-1), rel=0.1)
    assert metrics["train/n_updates"] == agent.updates


# Saving and loading


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("cls", AGENTS)
def test_save_and_load(cls: type[OnPolicyAgent], env: str, tmp_path: Path) -> None:
    agent = small(cls, env, normalize_observations=True, hidden_sizes=(16, 8), activation="relu")
    agent.learn(500)
    file = tmp_path / "agent.safetensors"
    agent.save(file)
    batch = observations(agent, 50)
    expected = agent.predict(batch, deterministic=True)[0]
    for loaded in (cls.load(file), load_agent(file)):
        assert type(loaded) is cls
        assert loaded.config == agent.config
        assert (loaded.observation_space, loaded.action_space) == (agent.observation_space, agent.action_space)
        np.testing.assert_array_equal(loaded.predict(batch, deterministic=True)[0], expected)
        assert torch.equal(weights(loaded), weights(agent))
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    before = weights(loaded)
    loaded.learn(500)
    assert not torch.equal(before, weights(loaded))  # The loaded weights are those that training moves.
    np.testing.assert_array_equal(agent.predict(batch, deterministic=True)[0], expected)


def test_an_agent_of_an_environment_object_predicts_after_loading(identity_envs: Callable, tmp_path: Path) -> None:
    agent = small(PPO, identity_envs("box"))
    agent.learn(200)
    agent.save(tmp_path / "agent.safetensors")
    loaded = PPO.load(tmp_path / "agent.safetensors")
    batch = observations(agent, 9)
    np.testing.assert_array_equal(
        loaded.predict(batch, deterministic=True)[0], agent.predict(batch, deterministic=True)[0]
    )
    with pytest.raises(UserError, match=r"trained in an environment object; .* load it with env="):
        loaded.learn(100)
    with pytest.raises(UserError, match=r"evaluated with rltool.evaluate"):
        loaded.evaluate(1, seed=0)
    PPO.load(tmp_path / "agent.safetensors", env=identity_envs("box")).learn(100)


def test_environment_arguments_travel_along(tmp_path: Path) -> None:
    agent = A2C("Pendulum-v1", env_kwargs={"g": 3.0})
    agent.save(tmp_path / "agent.safetensors")
    assert A2C.load(tmp_path / "agent.safetensors").env.g == 3.0  # type: ignore[attr-defined]


def test_errors_of_loading(tmp_path: Path) -> None:
    small(A2C).save(tmp_path / "agent.safetensors")
    save_state(tmp_path / "other.safetensors", State())
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "agent.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="holds a2c agent, not ppo; load it with"):
        PPO.load(tmp_path / "agent.safetensors")
    with pytest.raises(UserError, match="holds no agent"):
        load_agent(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        A2C.load(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="there is no file"):
        A2C.load(tmp_path / "missing.safetensors")


# Mistakes


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("cls", AGENTS)
def test_any_kind_of_environment(cls: type[OnPolicyAgent], env: str) -> None:
    for each in (gym.make(env), SyncVectorEnv([lambda: gym.make(env)] * 2), make_vector_env(env, 3)):
        agent = small(cls, each)
        agent.learn(60)
        assert agent.timesteps == 60
        assert agent.config.num_envs == agent.env.num_envs == getattr(each, "num_envs", 1)


def test_the_number_of_environments_is_that_of_the_object() -> None:
    envs = make_vector_env("CartPole-v1", 4)
    assert PPO(envs, num_steps=16, batch_size=64).config.num_envs == 4
    with pytest.raises(UserError, match="num-envs is 3, but the environment given has 4"):
        A2C(envs, num_envs=3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rat": 1}, "no option 'learning_rat'; did you mean 'learning_rate'?"),
        ({"gamma": 1.5}, "gamma 1.5 will not do: .* less than or equal to 1"),
        ({"num_steps": 0}, "num-steps 0 will not do"),
        (
            {"num_steps": 8, "batch_size": 64},
            "a minibatch of 64 is larger than the rollout of 1 environments x 8 steps",
        ),
        ({"device": "abacus"}, "no device 'abacus' on this machine; take --device cpu"),
        ({"config": PPOConfig(), "gamma": 0.9}, "either a config or options"),
        ({"backbone": "cnn"}, "the cnn backbone reads images"),
        ({"learning_rate": float("nan")}, "learning-rate nan will not do"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        PPO("CartPole-v1", **options)
    assert "\n" not in str(error.value)


def test_wrong_environments(identity_envs: Callable) -> None:
    with pytest.raises(UserError, match="no environment 'CartPole-v9'"):
        A2C("CartPole-v9")
    envs = identity_envs("discrete")
    envs.single_action_space = gym.spaces.Text(3)
    with pytest.raises(UserError, match="policies act in Discrete, MultiDiscrete and MultiBinary spaces"):
        A2C(envs)
    envs = identity_envs("discrete")
    envs.single_observation_space = gym.spaces.Discrete(3)
    with pytest.raises(UserError, match="can be normalized in a Box of numbers only"):
        A2C(envs, normalize_observations=True)
    with pytest.raises(UserError, match="total-timesteps must be at least 1, not 0"):
        A2C("CartPole-v1").learn(0)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise", r"the environment failed in step\(\): RuntimeError: the simulator has crashed"),
        ("observation", "the environment returned an observation that is not a finite number"),
        ("reward", "the environment returned a reward that is not a finite number"),
    ],
)
@pytest.mark.parametrize("cls", AGENTS)
def test_a_faulty_environment(cls: type[OnPolicyAgent], faulty_env: Callable, fault: str, sentence: str) -> None:
    agent = small(cls, faulty_env(fault))
    with pytest.raises(TrainingError, match=sentence) as error:
        agent.learn(100)
    assert "\n" not in str(error.value)
    assert weights(agent).isfinite().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cls", AGENTS)
def test_a_loss_that_overflows(cls: type[OnPolicyAgent]) -> None:
    agent = small(cls, learning_rate=1e30, max_grad_norm=1e30, activation="relu")
    with pytest.raises(TrainingError, match="the gradient stopped being a finite number before timestep"):
        agent.learn(5_000)
