"""Batched MuJoCo: bit for bit what Gymnasium's environments do, in any mode, with any number of threads."""

from __future__ import annotations

import importlib
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rltool.envs import ParallelVectorEnv, check_vector_env, get_env_state, make_vector_env, set_env_state
from rltool.errors import UserError

pytest.importorskip("mujoco")
mujoco = importlib.import_module("rltool.envs.mujoco")

ENV_IDS = [
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "Ant-v5",
        {"include_cfrc_ext_in_observation": False, "main_body": "front_left_leg"},
    ),
    ("Ant-v5", {"exclude_current_positions_from_observation": False, "contact_force_range": (-9.0, 9.0)}),
    ("HalfCheetah-v5", {"frame_skip": 2, "forward_reward_weight": 3, "reset_noise_scale": 0.5}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 2.0), "healthy_reward": 0.3, "ctrl_cost_weight": np.float64(0.1)}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 1}),
    ("Reacher-v5", {"reward_dist_weight": 3.0, "reward_control_weight": 0.1}),
    ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
    ("Walker2d-v5", {"healthy_angle_range": (-0.1, 0.1), "xml_file": "walker2d.xml"}),
]


def batched(env_id: str, **options: Any) -> Any:
    return make_vector_env(env_id, 3, vectorization="vector", **options)


def gymnasiums(env_id: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **options: Any) -> VectorEnv:
    return SyncVectorEnv([lambda: gym.make(env_id, **options)] * 3, autoreset_mode=mode)


def assert_same(one: VectorEnv, other: VectorEnv, steps: int, seed: int = 0, dtype: Any = np.float32) -> int:
    """Take random steps in both, some of them beyond the bounds; returns how many episodes ended."""
    random, ends = np.random.default_rng(seed), 0
    for _ in range(steps):
        actions = random.uniform(-1.3, 1.3, one.action_space.shape).astype(dtype)
        step, same = one.step(actions), other.step(actions)
        assert data_equivalence(step, same, exact=True)
        done = step[2] | step[3]
        ends += int(done.sum())
        if one.metadata["autoreset_mode"] is AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            assert data_equivalence(one.reset(options=dict(options)), other.reset(options=dict(options)), exact=True)
    return ends


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_trajectories_are_gymnasiums(env_id: str, mode: AutoresetMode) -> None:
    ours = batched(env_id, autoreset_mode=mode, max_episode_steps=60)
    theirs = gymnasiums(env_id, mode, max_episode_steps=60)
    assert type(ours) is mujoco.MujocoVectorEnv
    assert (ours.metadata, ours.spec.id) == (theirs.metadata, env_id)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert data_equivalence(ours.reset(seed=4), theirs.reset(seed=4), exact=True)
    assert assert_same(ours, theirs, 200) >= 9


@pytest.mark.parametrize(("env_id", "options"), OPTIONS)
def test_options_mean_what_they_mean_there(env_id: str, options: dict[str, Any]) -> None:
    ours, theirs = (make(env_id, max_episode_steps=30, **options) for make in (batched, gymnasiums))
    assert ours.observation_space == theirs.observation_space
    assert data_equivalence(ours.reset(seed=0), theirs.reset(seed=0), exact=True)
    assert_same(ours, theirs, 70, dtype=np.float64)


def test_seeds_are_gymnasiums() -> None:
    ours, theirs = batched("Hopper-v5"), gymnasiums("Hopper-v5")
    for seed in (7, [3, None, 1], None):
        assert data_equivalence(ours.reset(seed=seed), theirs.reset(seed=seed), exact=True)
        assert ours.np_random_seed == theirs.np_random_seed
    mask = np.array([True, False, True])
    resets = [each.reset(seed=[1, 2, 3], options={"reset_mask": mask.copy()}) for each in (ours, theirs)]
    assert data_equivalence(*resets, exact=True)
    assert_same(ours, theirs, 40)
    for wrong in ([1], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="seeds for 3 environments"):
            ours.reset(seed=wrong)


@pytest.mark.parametrize("make", [mujoco.ant, mujoco.half_cheetah, mujoco.inverted_pendulum])
def test_the_number_of_threads_changes_nothing(make: Any) -> None:
    one, four = (make(num_envs=7, threads=threads, max_episode_steps=25) for threads in (1, 4))
    assert data_equivalence(one.reset(seed=0), four.reset(seed=0), exact=True)
    assert_same(one, four, 60)


def test_conformance() -> None:
    for env_id in ("Hopper-v5", "InvertedPendulum-v5"):
        check_vector_env(lambda mode, i=env_id: batched(i, autoreset_mode=mode, max_episode_steps=15), max_steps=60)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ["Ant-v5", "Hopper-v5", "InvertedDoublePendulum-v5"])
def test_a_saved_state_has_the_same_future(env_id: str, mode: AutoresetMode) -> None:
    env, fresh = (batched(env_id, autoreset_mode=mode, max_episode_steps=25) for _ in range(2))
    env.reset(seed=3)
    assert_same(env, env_twin(env_id, mode), 45)
    state = get_env_state(env)
    assert state is not None
    kept = {k: v.copy() if isinstance(v, np.ndarray) else json.loads(json.dumps(v)) for k, v in state.items()}
    fresh.reset(seed=9)
    fresh.step(fresh.action_space.sample())
    assert set_env_state(fresh, kept)
    assert data_equivalence(get_env_state(fresh), state, exact=True)
    assert_same(env, fresh, 60, seed=1)


def env_twin(env_id: str, mode: AutoresetMode) -> Any:
    twin = batched(env_id, autoreset_mode=mode, max_episode_steps=25)
    twin.reset(seed=3)
    return twin


def test_states_that_do_not_fit() -> None:
    env = batched("Hopper-v5")
    singles = make_vector_env("Hopper-v5", 3, seed=0, vectorization="sync")
    assert not set_env_state(env, get_env_state(singles) or {})
    with pytest.raises(ValueError, match="of 3 environments, but there are 2 here"):
        make_vector_env("Hopper-v5", 2).set_state(env.get_state())  # type: ignore[attr-defined]
    env.reset()
    env.set_state(batched("Hopper-v5").get_state())
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())


def test_wrong_use() -> None:
    env = batched("Hopper-v5")
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.ones(3, bool)})
    env.reset()
    for wrong in (np.zeros((3, 2), np.float32), np.zeros((3, 3), object), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="actions must be"):
            env.step(wrong)
    with pytest.raises(UserError, match="environment 'Hopper-v5' has no option 'gravity'"):
        batched("Hopper-v5", gravity=3)


def test_where_it_cannot_be_used_gymnasiums_is() -> None:
    options: list[dict[str, Any]] = [
        {"render_mode": "rgb_array"},
        {"wrappers": [gym.wrappers.ClipAction]},
        {"max_episode_steps": -1},
        {"disable_env_checker": True},
        {"vectorization": "sync"},
    ]
    for env_id, each in [("Hopper-v4", {}), *(("Hopper-v5", each) for each in options)]:
        env = make_vector_env(env_id, 2, **each)
        assert type(env) is ParallelVectorEnv
        env.close()


def test_infos_can_be_left_out() -> None:
    with_infos, without = batched("Hopper-v5"), batched("Hopper-v5", infos=False, autoreset_mode="SameStep")
    assert "x_position" in with_infos.reset(seed=0)[1]
    assert without.reset(seed=0)[1] == {}
    for _ in range(60):
        *_, terminated, _, infos = without.step(np.ones((3, 3), np.float32))
        assert set(infos) - {"final_info", "_final_info"} == (
            {"final_obs", "_final_obs"} if terminated.any() else set()
        )
