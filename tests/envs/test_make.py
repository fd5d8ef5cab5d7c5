"""Making environments: the form that is chosen, seeding, and one sentence for every mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from rltool.envs import (
    AcrobotVectorEnv,
    MountainCarContinuousVectorEnv,
    MountainCarVectorEnv,
    ParallelVectorEnv,
    PendulumVectorEnv,
    Replay,
    check_vector_env,
    environment_ids,
    make,
    make_env,
    make_vector_env,
)
from rltool.errors import UserError

BATCHED = {
    "CartPole-v1": CartPoleVectorEnv,
    "Acrobot-v1": AcrobotVectorEnv,
    "MountainCar-v0": MountainCarVectorEnv,
    "MountainCarContinuous-v0": MountainCarContinuousVectorEnv,
    "Pendulum-v1": PendulumVectorEnv,
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Registrations of the test are undone after it."""
    kept = dict(gym.registry)
    yield gym.registry
    gym.registry.clear()
    gym.registry.update(kept)


@pytest.mark.parametrize("env_id", BATCHED)
def test_batched_forms_are_preferred(env_id: str) -> None:
    env = make_vector_env(env_id, 3)
    assert type(env) is BATCHED[env_id]
    assert env.num_envs == 3
    assert env.max_episode_steps == gym.spec(env_id).max_episode_steps  # type: ignore[attr-defined]
    assert env.spec is not None
    assert env.spec.id == env_id
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_num_envs_is_8_and_no_statistics_are_added() -> None:
    env = make_vector_env("CartPole-v1")
    assert env.num_envs == 8
    assert env is env.unwrapped


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_every_autoreset_mode_is_had_and_in_the_metadata(env_id: str, mode: AutoresetMode) -> None:
    for given in (mode, mode.value):
        env = make_vector_env(env_id, 2, autoreset_mode=given)
        assert env.metadata["autoreset_mode"] is mode
    assert type(env) is not CartPoleVectorEnv or mode is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1", "FrozenLake-v1"])
def test_made_environments_conform(env_id: str) -> None:
    # CartPole has a batched form for one of the modes only, which starts its episodes differently.
    how = "sync" if env_id == "CartPole-v1" else "auto"
    check_vector_env(
        lambda mode: make_vector_env(env_id, 3, vectorization=how, autoreset_mode=mode, max_episode_steps=12)
    )


def test_async_conforms() -> None:
    check_vector_env(
        lambda mode: make_vector_env("CartPole-v1", 2, vectorization="async", autoreset_mode=mode, max_episode_steps=9),
        max_steps=30,
    )


def test_options_reach_the_environment() -> None:
    batched: Any = make_vector_env("Pendulum-v1", 2, g=5.0, max_episode_steps=7)
    assert (batched.g, batched.max_episode_steps) == (5.0, 7)
    sync: Any = make_vector_env("Pendulum-v1", 2, vectorization="sync", g=5.0)
    assert sync.envs[0].unwrapped.g == 5.0
    single: Any = make_env("Pendulum-v1", g=5.0, render_mode="rgb_array")
    assert single.unwrapped.g == 5.0
    assert single.render_mode == "rgb_array"
    assert make_env("Pendulum-v1", max_episode_steps=None).spec.max_episode_steps == 200  # type: ignore[union-attr]


def test_what_a_batched_form_cannot_do_is_done_otherwise() -> None:
    for env in (
        make_vector_env("Pendulum-v1", 2, wrappers=[gym.wrappers.ClipAction]),
        make_vector_env("Pendulum-v1", 2, disable_env_checker=True),
        make_vector_env("Pendulum-v1", 2, max_episode_steps=-1),
        make_vector_env("Pendulum-v1", 2, vectorization="sync"),
        make_vector_env("CartPole-v1", 2, autoreset_mode="SameStep"),
    ):
        assert type(env) is ParallelVectorEnv


def test_wrappers_are_applied_in_order() -> None:
    wrappers = [gym.wrappers.FlattenObservation, lambda env: gym.wrappers.TimeLimit(env, 3)]
    env: Any = make_vector_env("CartPole-v1", 1, wrappers=wrappers)
    assert type(env.envs[0]) is Replay
    assert type(env.envs[0].env) is gym.wrappers.TimeLimit
    assert type(env.envs[0].env.env) is gym.wrappers.FlattenObservation


def test_a_changed_registration_gets_no_batched_form(registry: dict[str, Any]) -> None:
    gym.register("Mine-v0", "gymnasium.envs.classic_control.pendulum:PendulumEnv", kwargs={"g": 3.0})
    same_entry_point: Any = make_vector_env("Mine-v0", 2)
    assert type(same_entry_point) is PendulumVectorEnv
    assert same_entry_point.g == 3.0
    registry.pop("Pendulum-v1")
    gym.register("Pendulum-v1", "gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    assert type(make_vector_env("Pendulum-v1", 2)) is ParallelVectorEnv


def test_the_number_of_processes_follows_the_measured_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gym.spec("FrozenLake-v1")
    monkeypatch.setattr(make, "_step_seconds", lambda *_: seconds)
    monkeypatch.setattr(make, "_free_cores", lambda: cores)
    for cores, num_envs, seconds, infos, expected in (
        (2, 8, 1e-6, True, 1),
        (2, 8, 25e-6, True, 1),
        (2, 8, 25e-6, False, 2),
        (2, 8, 1e-3, True, 2),
        (16, 8, 1e-3, True, 8),
        (16, 8, 200e-6, False, 8),
        (5, 8, 200e-6, True, 4),
        (16, 1, 1.0, False, 1),
        (1, 8, 1.0, False, 1),
    ):
        assert make._processes(spec, num_envs, (), {}, infos) == expected
    cores, seconds = 8, 1.0
    assert make._processes(spec, 8, (), {"render_mode": "human"}, False) == 1


def test_busy_cores_are_not_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(make, "_usable_cores", lambda: 4)
    monkeypatch.setattr(make.os, "cpu_count", lambda: 8)
    assert make._free_cores() == 4  # a system that does not tell
    for running, free in ((1, 4), (5, 4), (7, 2), (8, 1), (30, 1)):
        (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/100 12345\n")
        assert make._free_cores() == free


def test_the_probe_is_short() -> None:
    seconds = make._step_seconds(gym.spec("FrozenLake-v1"), (gym.wrappers.FlattenObservation,), {})
    assert 0 < seconds < 0.1


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1"])
def test_sync_and_async_give_identical_trajectories(env_id: str) -> None:
    sync, parallel = (make_vector_env(env_id, 3, 7, vectorization=how) for how in ("sync", "async"))
    assert type(sync) is ParallelVectorEnv
    assert type(parallel) is ParallelVectorEnv
    assert (len(sync.envs), len(parallel.envs)) == (3, 1)
    np.testing.assert_array_equal(sync.reset()[0], parallel.reset()[0])
    for _ in range(60):
        actions = sync.action_space.sample()
        np.testing.assert_array_equal(actions, parallel.action_space.sample())
        for one, other in zip(sync.step(actions)[:4], parallel.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    parallel.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "FrozenLake-v1"])
def test_the_seed_decides_later_resets_too(env_id: str) -> None:
    first, again, other = (make_vector_env(env_id, 4, seed) for seed in (3, 3, 4))
    for _ in range(2):
        np.testing.assert_array_equal(first.reset()[0], again.reset()[0])
        np.testing.assert_array_equal(first.action_space.sample(), again.action_space.sample())
    if env_id != "FrozenLake-v1":
        assert (first.reset()[0] != other.reset()[0]).any()


def test_seeded_environments_can_be_stepped_at_once() -> None:
    for vectorization in ("auto", "sync"):
        env = make_vector_env("CartPole-v1", 2, seed=0, vectorization=vectorization)
        env.step(env.action_space.sample())


def test_a_version_may_be_left_out() -> None:
    assert make_env("CartPole").spec.id == "CartPole-v1"  # type: ignore[union-attr]


def test_environment_ids() -> None:
    ids = environment_ids()
    assert ids == sorted(ids)
    assert {"CartPole-v1", "Ant-v5", "LunarLander-v3"} <= set(ids)
    assert "Ant-v2" not in ids
    assert "GymV21Environment-v0" not in ids


MODULE = """
import gymnasium
gymnasium.register("Local-v0", "gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=11)
"""


def test_a_module_is_imported_first_and_cannot_shadow_others(
    registry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local_envs.py").write_text(MODULE)
    (tmp_path / "colorsys.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    env: Any = make_vector_env("local_envs:Local-v0", 2)
    assert type(env) is PendulumVectorEnv
    assert env.max_episode_steps == 11
    assert make_env("colorsys:Local-v0").spec.id == "Local-v0"  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"^no environment 'Locl-v0'; did you mean 'Local-v0'\?$"):
        make_env("local_envs:Locl-v0")


def test_mistakes_in_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import surely_not_installed")
    (tmp_path / "fails.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for env_id, sentence in {
        "nowhere:X-v0": (
            "no module 'nowhere' to import for 'nowhere:X-v0'; install it, or run in the folder that has it"
        ),
        "needs_more:X-v0": (
            "importing 'needs_more' for 'needs_more:X-v0' failed, No module named 'surely_not_installed';"
            " install that first"
        ),
        "fails:X-v0": "importing 'fails' for 'fails:X-v0' failed, ZeroDivisionError: division by zero",
    }.items():
        with pytest.raises(UserError) as caught:
            make_env(env_id)
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("env_id", "sentence"),
    [
        ("CartPole-v9", "no environment 'CartPole-v9'; did you mean 'CartPole-v1'?"),
        ("cartpole-v1", "no environment 'cartpole-v1'; did you mean 'CartPole-v1'?"),
        ("Pendulum-v0", "no environment 'Pendulum-v0'; did you mean 'Pendulum-v1'?"),
        ("CratPole-v1", "no environment 'CratPole-v1'; did you mean 'CartPole-v1'?"),
        ("LunarLander-v2", "no environment 'LunarLander-v2'; did you mean 'LunarLander-v3'?"),
        ("Ant-v2", "environment 'Ant-v2' is no longer part of Gymnasium; did you mean 'Ant-v5'?"),
        ("not an id", "'not an id' is no environment id; ids look like 'CartPole-v1'"),
        (
            "space/Quux-v3",
            "no environment 'space/Quux-v3'; if a module of yours registers it, name the module first, as in"
            " 'module:space/Quux-v3'",
        ),
    ],
)
def test_unknown_environments(env_id: str, sentence: str) -> None:
    for function in (make_env, make_vector_env):
        with pytest.raises(UserError) as caught:
            function(env_id)
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("env_id", "package", "install"),
    [
        ("LunarLander-v3", "Box2D", "rltool[box2d]"),
        ("Ant-v5", "mujoco", "rltool[mujoco]"),
        ("HalfCheetah-v4", "mujoco", "rltool[mujoco]"),
        ("phys2d/CartPole-v1", "jax", "gymnasium[jax]"),
        ("tabular/Blackjack-v0", "jax", "gymnasium[jax]"),
    ],
)
def test_missing_packages(env_id: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError) as caught:
        make_vector_env(env_id, 2)
    assert (
        str(caught.value) == f"environment '{env_id}' needs a package that is not installed: pip install \"{install}\""
    )


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "PongNoFrameskip-v4", "Breakout-ram-v4"])
def test_missing_atari(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_has_atari", lambda: False)
    monkeypatch.delitem(gym.registry, env_id, raising=False)
    with pytest.raises(UserError) as caught:
        make_vector_env(env_id)
    assert str(caught.value) == f"no environment '{env_id}'; Atari games need pip install \"rltool[atari]\""


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"seed": -1}, "the seed is -1; it must be at least 0"),
        ({"vectorization": "gpu"}, "no vectorization 'gpu'; choose one of auto, vector, sync, async"),
        ({"autoreset_mode": "x"}, "no autoreset mode 'x'; choose one of NextStep, SameStep, Disabled"),
        ({"gg": 1, "x": 2}, "environment 'Pendulum-v1' has no option 'gg', 'x'; its options are g"),
        (
            {"render_mode": "ansi"},
            "environment 'Pendulum-v1' cannot render as 'ansi'; choose one of human, rgb_array",
        ),
        (
            {"vectorization": "vector", "wrappers": [gym.wrappers.ClipAction]},
            "environment 'Pendulum-v1' has no batched form for these arguments; use the vectorization 'auto',"
            " 'sync' or 'async'",
        ),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_vector_env("Pendulum-v1", **kwargs)
    assert str(caught.value) == sentence


def flexible(**kwargs: Any) -> gym.Env:
    return gym.make("CartPole-v1", **kwargs).unwrapped


class Demanding(gym.Env):
    def __init__(self, size: int) -> None:
        pass


def test_wrong_options_found_only_by_trying(registry: dict[str, Any]) -> None:
    gym.register("Flexible-v0", flexible)
    gym.register("Demanding-v0", Demanding)
    gym.register("VectorOnly-v0", vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv")
    assert make_env("Flexible-v0", sutton_barto_reward=True)
    with pytest.raises(UserError, match=r"^environment 'Flexible-v0' has no option 'gg'$"):
        make_env("Flexible-v0", gg=1)
    with pytest.raises(UserError, match=r"^environment 'Demanding-v0' cannot be made without its option 'size'$"):
        make_env("Demanding-v0")
    assert type(make_vector_env("VectorOnly-v0", 2)) is CartPoleVectorEnv
    with pytest.raises(UserError, match=r"^environment 'VectorOnly-v0' cannot be made: "):
        make_env("VectorOnly-v0")


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for function in (make_env, make_vector_env):
        with pytest.raises(UserError, match="needs a display, and there is none"):
            function("CartPole-v1", render_mode="human")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert make_env("CartPole-v1", render_mode="human").render_mode == "human"
    assert type(make_vector_env("Pendulum-v1", 2, render_mode="human")) is ParallelVectorEnv


def test_batched_rendering() -> None:
    env = make_vector_env("Acrobot-v1", 2, seed=0, render_mode="rgb_array")
    assert type(env) is AcrobotVectorEnv
    frames = env.render()
    assert frames is not None
    assert len(frames) == 2
    assert frames[0].shape == (500, 500, 3)
