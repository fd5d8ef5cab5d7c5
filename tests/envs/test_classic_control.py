"""The batched classic control tasks do exactly what Gymnasium's single environments do."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from rltool.envs import (
    AcrobotVectorEnv,
    MountainCarContinuousVectorEnv,
    MountainCarVectorEnv,
    PendulumVectorEnv,
    check_vector_env,
    get_env_state,
    set_env_state,
)

TASKS: dict[str, Any] = {
    "Acrobot-v1": AcrobotVectorEnv,
    "MountainCar-v0": MountainCarVectorEnv,
    "MountainCarContinuous-v0": MountainCarContinuousVectorEnv,
    "Pendulum-v1": PendulumVectorEnv,
}
# Bounds of the states that the property tests place; some lie beyond what an episode can reach.
STATE_BOUNDS = {
    "Acrobot-v1": [3.2, 3.2, 12.6, 28.3],
    "MountainCar-v0": [1.3, 0.08],
    "MountainCarContinuous-v0": [1.3, 0.08],
    "Pendulum-v1": [20.0, 8.0],
}
every_task = pytest.mark.parametrize("env_id", TASKS)


def random_states(env_id: str, rng: np.random.Generator, count: int) -> np.ndarray:
    high = np.array(STATE_BOUNDS[env_id])[:, None]
    states = rng.uniform(-high, high, (len(high), count))
    if env_id.startswith("MountainCar"):
        states[0, : count // 4] = rng.uniform(-1.2, -1.15, count // 4)  # at the wall
        states[0, -count // 4 :] = rng.uniform(0.4, 0.5, count // 4)  # at the goal
    return states.astype(np.float32) if env_id == "MountainCarContinuous-v0" else states


def random_actions(env: gym.vector.VectorEnv, rng: np.random.Generator) -> np.ndarray:
    if isinstance(env.single_action_space, gym.spaces.Discrete):
        return rng.integers(0, env.single_action_space.n, env.num_envs)
    return rng.uniform(-3, 3, (env.num_envs, 1)).astype(np.float32)


def assert_close(batched: Any, single: Any) -> None:
    np.testing.assert_allclose(batched, single, rtol=0, atol=1e-6)


@every_task
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_one_step_from_any_state(env_id: str, seed: int) -> None:
    rng, count = np.random.default_rng(seed), 16
    env = TASKS[env_id](count)
    single = gym.make(env_id).unwrapped
    env.reset(seed=0)
    single.reset(seed=0)
    env.state = random_states(env_id, rng, count)
    actions, states = random_actions(env, rng), env.state.copy()
    observations, rewards, terminated, truncated, infos = env.step(actions)
    assert infos == {}
    assert not truncated.any()
    for index in range(count):
        single.state = states[:, index].copy()
        observation, reward, end, _, _ = single.step(actions[index])
        assert_close(observations[index], observation)
        assert_close(rewards[index], reward)
        assert terminated[index] == end
        assert_close(env.state[:, index], single.state)


@every_task
@pytest.mark.parametrize("kwargs", [{}, {"max_episode_steps": 37}], ids=["spec", "short"])
def test_whole_episodes_from_the_same_states(env_id: str, kwargs: dict[str, Any]) -> None:
    """Everything until the last end of an episode, the time limit's truncation included."""
    env = TASKS[env_id](4, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)
    assert env.max_episode_steps == kwargs.get("max_episode_steps", gym.spec(env_id).max_episode_steps)
    singles = [gym.make(env_id, **kwargs) for _ in range(4)]
    env.reset(seed=5)
    env.action_space.seed(5)
    for index, single in enumerate(singles):
        single.reset(seed=0)
        single.unwrapped.state = env.state[:, index].copy()
    running = set(range(4))
    while running:
        actions = env.action_space.sample()
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for index in sorted(running):
            observation, reward, end, cut, _ = singles[index].step(actions[index])
            assert (terminated[index], truncated[index]) == (end, cut)
            assert_close(rewards[index], reward)
            if end or cut:
                running.remove(index)
                assert infos["_final_obs"][index]
            # Acrobot is chaotic: the last bit of a sum grows to 1e-5 within an episode of 500 steps.
            tolerance = 1e-4 if env_id == "Acrobot-v1" else 1e-6
            found = infos["final_obs"][index] if end or cut else observations[index]
            np.testing.assert_allclose(found, observation, rtol=0, atol=tolerance)


@every_task
@pytest.mark.parametrize("mode", AutoresetMode)
def test_autoreset_infos_and_dtypes_are_those_of_sync_vector_env(env_id: str, mode: AutoresetMode) -> None:
    batched = TASKS[env_id](3, max_episode_steps=4, autoreset_mode=mode)
    sync = SyncVectorEnv([lambda: gym.make(env_id, max_episode_steps=4)] * 3, autoreset_mode=mode)
    assert batched.observation_space == sync.observation_space
    assert batched.action_space == sync.action_space
    for env in (batched, sync):
        env.reset(seed=1)
    for _ in range(4 if mode is AutoresetMode.DISABLED else 11):
        actions = sync.action_space.sample()
        ours, theirs = batched.step(actions), sync.step(actions)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(ours[3], theirs[3])
        assert set(ours[4]) == set(theirs[4])
        if "final_obs" in ours[4]:
            assert ours[4]["final_obs"].dtype == object
            assert ours[4]["final_obs"][0].dtype == theirs[4]["final_obs"][0].dtype
            assert ours[4]["final_info"] == theirs[4]["final_info"] == {}
            np.testing.assert_array_equal(ours[4]["_final_obs"], theirs[4]["_final_obs"])
            np.testing.assert_array_equal(ours[4]["_final_info"], theirs[4]["_final_info"])


@every_task
def test_conforms_in_every_autoreset_mode(env_id: str) -> None:
    check_vector_env(lambda mode: TASKS[env_id](3, max_episode_steps=25, autoreset_mode=mode))


def test_conforms_where_episodes_end_at_different_times() -> None:
    def make(mode: AutoresetMode) -> MountainCarVectorEnv:
        env = MountainCarVectorEnv(4, max_episode_steps=50, autoreset_mode=mode)
        sample = env._sample
        env._sample = lambda count, options: sample(count, {"low": -0.5, "high": 0.55} | options)  # type: ignore
        env.goal_velocity = -1.0
        return env

    check_vector_env(make)


@every_task
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("stop", [0, 9, 10, 11])
def test_continuing_from_a_saved_state_is_bit_identical(env_id: str, mode: AutoresetMode, stop: int) -> None:
    """Saved in the middle of episodes, and just before, at and after their end."""
    env, other = (TASKS[env_id](3, max_episode_steps=10, autoreset_mode=mode) for _ in range(2))
    env.reset(seed=1)
    other.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(stop):
        env.step(random_actions(env, rng))
    state = get_env_state(env)
    assert state is not None
    state["np_random"] = json.loads(json.dumps(state["np_random"]))
    set_env_state(other, state)
    for _ in range(25):
        actions = random_actions(env, rng)
        for one, two in zip(env.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_saved_state_is_a_copy_and_may_be_taken_before_the_first_reset() -> None:
    env = PendulumVectorEnv(2)
    assert env.get_state()["state"] is None
    env.set_state(env.get_state())
    env.reset(seed=0)
    state = env.get_state()
    kept = state["state"].copy()
    env.step(np.ones((2, 1), np.float32))
    np.testing.assert_array_equal(state["state"], kept)
    with pytest.raises(ValueError, match="of 2 environments, but there are 3 here"):
        PendulumVectorEnv(3).set_state(state)


def test_state_of_gymnasiums_cartpole_continues_bit_identically() -> None:
    env, other = CartPoleVectorEnv(4, max_episode_steps=12), CartPoleVectorEnv(4, max_episode_steps=12)
    env.reset(seed=1, options={"low": -0.01, "high": 0.02})
    other.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        env.step(random_actions(env, rng))
    state = get_env_state(env)
    assert state is not None
    set_env_state(other, state)
    for _ in range(40):
        actions = random_actions(env, rng)
        for one, two in zip(env.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="of 4 environments, but there are 2 here"):
        set_env_state(CartPoleVectorEnv(2), state)


def test_state_that_cannot_be_had_is_none() -> None:
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")])
    assert get_env_state(env) is None
    with pytest.raises(ValueError, match="SyncVectorEnv cannot be put into a saved state"):
        set_env_state(env, {})


@every_task
def test_the_state_is_reached_through_wrappers(env_id: str) -> None:
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(TASKS[env_id](2))
    wrapped.reset(seed=0)
    state = get_env_state(wrapped)
    assert state is not None
    set_env_state(wrapped, state)


@every_task
def test_reset_bounds_are_those_of_the_single_environment(env_id: str) -> None:
    env = TASKS[env_id](500)
    if env_id == "Pendulum-v1":
        env.reset(seed=0, options={"x_init": 0.5, "y_init": 0.1})
        bounds = np.abs(env.state).max(axis=1)
        np.testing.assert_allclose(bounds, [0.5, 0.1], rtol=0.05)
        with pytest.raises(ValueError, match="could not be converted"):
            env.reset(options={"x_init": "far"})
        return
    env.reset(seed=0, options={"low": 0.2, "high": 0.3})
    drawn = env.state if env_id == "Acrobot-v1" else env.state[:1]
    assert drawn.min() >= 0.2 - 1e-7
    assert drawn.max() <= 0.3 + 1e-7
    assert drawn.min() < 0.21
    assert drawn.max() > 0.29
    with pytest.raises(ValueError, match="must be lower"):
        env.reset(options={"low": 1, "high": 0})


@every_task
def test_reset_mask(env_id: str) -> None:
    env = TASKS[env_id](3, max_episode_steps=5, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.reset(options={"reset_mask": np.ones(3, bool)})
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        before, _, _, truncated, _ = env.step(random_actions(env, rng))
    assert truncated.all()
    with pytest.raises(ResetNeeded, match=r"environments \[0, 1, 2\] have ended and autoreset is disabled"):
        env.step(random_actions(env, rng))
    options = {"reset_mask": np.array([True, False, True])}
    after, infos = env.reset(options=options)
    assert infos == {}
    assert "reset_mask" in options, "the caller's options must stay as they are"
    np.testing.assert_array_equal(after[1], before[1])
    assert (after[[0, 2]] != before[[0, 2]]).any(axis=1).all()
    with pytest.raises(ResetNeeded, match=r"environments \[1\]"):
        env.step(random_actions(env, rng))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    assert not env.step(random_actions(env, rng))[3].any()


@pytest.mark.parametrize("mask", [np.zeros(3, bool), np.ones(2, bool), np.ones(3), [1, 0, 1]])
def test_wrong_reset_masks(mask: Any) -> None:
    env = PendulumVectorEnv(3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"bool array of shape \(3,\) with at least one True"):
        env.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("cls", [AcrobotVectorEnv, MountainCarVectorEnv])
def test_wrong_discrete_actions(cls: Any) -> None:
    env = cls(3)
    env.reset(seed=0)
    for actions in (np.zeros(2, int), np.zeros((3, 1), int), 0, np.zeros(3), np.zeros(3, bool)):
        with pytest.raises(ValueError, match=r"actions must be integers of shape \(3,\)"):
            env.step(actions)
    for actions in ([0, 1, 3], [0, -1, 2]):
        with pytest.raises(ValueError, match=r"actions must lie in 0\.\.2, not in"):
            env.step(actions)
    for dtype in (np.int64, np.int32, np.uint8):
        env.step(np.array([0, 1, 2], dtype))
    env.step([0, 1, 2])


@pytest.mark.parametrize("cls", [MountainCarContinuousVectorEnv, PendulumVectorEnv])
def test_wrong_continuous_actions(cls: Any) -> None:
    env = cls(3)
    env.reset(seed=0)
    for actions in (np.zeros(3), np.zeros((2, 1)), 0.0, np.array([["a"]] * 3)):
        with pytest.raises(ValueError, match=r"actions must be floats of shape \(3, 1\)"):
            env.step(actions)
    with pytest.raises(ValueError, match="some are NaN"):
        env.step(np.array([[0.0], [np.nan], [1.0]]))
    for dtype in (np.float32, np.float64, np.int64):
        env.step(np.ones((3, 1), dtype))


@every_task
def test_stepping_before_reset(env_id: str) -> None:
    env = TASKS[env_id](1)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(env.action_space.sample())


def test_wrong_constructor_arguments() -> None:
    with pytest.raises(ValueError, match="num_envs is 0"):
        AcrobotVectorEnv(0)
    with pytest.raises(ValueError, match="'rgb_array' only"):
        AcrobotVectorEnv(1, render_mode="human")
    with pytest.raises(ValueError, match="AutoresetMode"):
        AcrobotVectorEnv(1, autoreset_mode="sometimes")  # type: ignore[arg-type]


def test_options_of_the_single_environments() -> None:
    """Weaker gravity gives another trajectory; a car that must be fast at the goal goes on."""
    strong, weak = PendulumVectorEnv(1), PendulumVectorEnv(1, g=1.0)
    single = gym.make("Pendulum-v1", g=1.0).unwrapped
    for env in (strong, weak, single):
        env.reset(seed=0)
    single.state = weak.state[:, 0].copy()
    action = np.array([[0.5]], np.float32)
    assert_close(weak.step(action)[0][0], single.step(action[0])[0])
    strong.step(action)
    assert abs(weak.state - strong.state).max() > 1e-3

    for cls, goal, push in (
        (MountainCarVectorEnv, 0.49, np.array([2])),
        (MountainCarContinuousVectorEnv, 0.44, np.ones((1, 1))),
    ):
        for goal_velocity, terminates in ((0, True), (0.06, False)):
            car = cls(1, goal_velocity=goal_velocity)
            car.reset(seed=0)
            car.state = np.array([[goal], [0.03]])
            assert car.step(push)[2][0] == terminates


def test_no_time_limit() -> None:
    env = PendulumVectorEnv(1, max_episode_steps=None)
    env.reset(seed=0)
    assert not any(env.step(np.zeros((1, 1)))[3][0] for _ in range(300))


def test_metadata_belongs_to_the_instance() -> None:
    same, disabled = (
        AcrobotVectorEnv(1, autoreset_mode=mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    )
    assert same.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert disabled.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert "autoreset_mode" not in AcrobotVectorEnv.metadata


@every_task
def test_frames_are_those_of_the_single_environment(env_id: str) -> None:
    env = TASKS[env_id](2, render_mode="rgb_array")
    env.reset(seed=0)
    single = gym.make(env_id, render_mode="rgb_array").unwrapped
    single.reset(seed=0)
    env.state[0] = [-0.5, 0.3]
    single.state = env.state[:, 1].copy()
    frames = env.render()
    assert len(frames) == 2
    assert frames[0].shape == frames[1].shape
    assert frames[0].ndim == 3
    assert frames[0].dtype == np.uint8
    assert (frames[0] != frames[1]).any()
    np.testing.assert_array_equal(frames[1], single.render())
    actions = random_actions(env, np.random.default_rng(0))
    env.step(actions)
    single.step(actions[1])
    np.testing.assert_array_equal(env.render()[1], single.render())
    env.close()


def test_rendering_without_a_mode_warns() -> None:
    env = PendulumVectorEnv(1)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert env.render() is None
