"""Masks, stacked frames, Atari's preprocessing and shaped rewards."""

from __future__ import annotations

import functools
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from rltool.envs import (
    ActionMaskObservation,
    FunctionShaping,
    ParallelVectorEnv,
    PotentialShaping,
    check_vector_env,
    get_env_state,
    load_function,
    make_env,
    make_vector_env,
    offers_action_mask,
    set_env_state,
)
from rltool.envs.wrappers import stack_frames
from rltool.errors import TrainingError, UserError

needs_atari = pytest.mark.skipif(
    importlib.util.find_spec("ale_py") is None or importlib.util.find_spec("cv2") is None,
    reason="the extra 'atari' is not installed",
)


class Counter(gym.Env):
    """Counts its steps and terminates at the fifth; the action mask is whatever the class says."""

    observation_space: gym.Space = gym.spaces.Box(0, 100, (2,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(3)
    mask: Any = np.array([1, 0, 1])
    final_mask: Any = np.zeros(3)

    def __init__(self, shape: tuple[int, ...] = (2,), dtype: Any = np.float32) -> None:
        self.observation_space = gym.spaces.Box(0, 100, shape, dtype)
        self.t = 0

    def info(self) -> dict[str, Any]:
        mask = self.final_mask if self.t == 5 else self.mask
        return {} if mask is None else {"action_mask": np.array(mask)}

    def observation(self) -> np.ndarray:
        return np.full(self.observation_space.shape, self.t, self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.observation(), self.info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observation(), 1.0, self.t == 5, False, self.info()


class TestActionMasks:
    def test_the_mask_is_observed(self) -> None:
        env = ActionMaskObservation(Counter())
        space: Any = env.observation_space
        assert space["action_mask"] == gym.spaces.MultiBinary(3)
        observation, _ = env.reset()
        assert observation["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(observation["action_mask"], [1, 0, 1])
        for t in range(1, 6):
            observation, _, terminated, _, _ = env.step(0)
            assert observation in env.observation_space
            np.testing.assert_array_equal(observation["observation"], [t, t])
        assert terminated
        np.testing.assert_array_equal(observation["action_mask"], [1, 1, 1])  # no action follows

    @pytest.mark.parametrize(
        ("mask", "sentence"),
        [
            (np.zeros(3), "the environment's action mask forbids every action although the episode goes on"),
            (np.ones(4), r"the environment's action mask has the shape \(4,\), but there are 3 actions"),
        ],
    )
    def test_wrong_masks(self, mask: np.ndarray, sentence: str) -> None:
        counter = Counter()
        env = ActionMaskObservation(counter)
        env.reset()
        counter.mask = mask
        with pytest.raises(TrainingError, match=f"^{sentence}$"):
            env.step(0)

    def test_without_a_mask_everything_is_allowed(self) -> None:
        counter = Counter()
        counter.mask = None
        np.testing.assert_array_equal(ActionMaskObservation(counter).reset()[0]["action_mask"], [1, 1, 1])

    def test_actions_must_be_discrete(self) -> None:
        with pytest.raises(UserError, match=r"^action masks need a discrete action space, not Box"):
            ActionMaskObservation(gym.make("Pendulum-v1"))

    def test_only_where_offered(self) -> None:
        assert offers_action_mask("Taxi-v4")
        assert not offers_action_mask("CartPole-v1")
        assert not offers_action_mask("Pendulum-v1")
        assert type(make_vector_env("CartPole-v1", 2, action_masks=True)) is CartPoleVectorEnv
        assert isinstance(make_env("Taxi-v4", action_masks=True), ActionMaskObservation)
        with pytest.raises(UserError, match="no environment 'Taxy-v4'"):
            offers_action_mask("Taxy-v4")

    def test_the_environment_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        offers_action_mask("Taxi-v4", is_rainy=True)
        monkeypatch.setattr(gym, "make", None)
        assert offers_action_mask("Taxi-v4", is_rainy=True)

    def test_taxi(self) -> None:
        check_vector_env(
            lambda mode: make_vector_env(
                "Taxi-v4", 2, action_masks=True, vectorization="sync", autoreset_mode=mode, max_episode_steps=9
            )
        )
        env = make_vector_env("Taxi-v4", 2, seed=0, action_masks=True)
        observations, infos = env.reset()
        np.testing.assert_array_equal(observations["action_mask"], infos["action_mask"])
        fresh = make_vector_env("Taxi-v4", 2, action_masks=True)
        for _ in range(3):
            env.step(env.action_space.sample())
        state = get_env_state(env)
        assert state is not None
        assert set_env_state(fresh, state)


class TestFrameStack:
    @pytest.mark.parametrize(
        ("shape", "stacked", "last"),
        [
            ((2,), (4, 2), np.s_[3]),
            ((8, 9), (4, 8, 9), np.s_[3]),
            ((8, 9, 1), (8, 9, 4), np.s_[..., 3:]),
            ((8, 9, 3), (8, 9, 12), np.s_[..., 9:]),
            ((3, 8, 9), (12, 8, 9), np.s_[9:]),
        ],
    )
    def test_shapes(self, shape: tuple[int, ...], stacked: tuple[int, ...], last: Any) -> None:
        env = stack_frames(Counter(shape, np.uint8), 4)
        assert env.observation_space.shape == stacked
        assert env.observation_space.dtype == np.uint8
        assert (env.reset()[0] == 0).all()
        for t in (1, 2):
            observation = env.step(0)[0]
            assert observation in env.observation_space
            assert observation.dtype == np.uint8
            assert (observation[last] == t).all()
        assert sorted(np.unique(observation)) == [0, 1, 2]
        assert (env.reset()[0] == 0).all()

    def test_made(self) -> None:
        env = make_vector_env("CartPole-v1", 2, frame_stack=3)
        assert env.single_observation_space.shape == (3, 4)
        assert make_env("CartPole-v1", frame_stack=3).observation_space.shape == (3, 4)
        assert type(make_vector_env("CartPole-v1", 2, frame_stack=1)) is CartPoleVectorEnv
        check_vector_env(
            lambda mode: make_vector_env(
                "CartPole-v1", 2, frame_stack=3, vectorization="sync", autoreset_mode=mode, max_episode_steps=12
            )
        )

    def test_with_a_mask(self) -> None:
        space: Any = make_env("Taxi-v4", frame_stack=2, action_masks=True).observation_space
        assert space["observation"] == gym.spaces.MultiDiscrete([500, 500])

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match=r"^frame-stack is 0; it must be at least 1$"):
            make_env("CartPole-v1", frame_stack=0)
        with pytest.raises(UserError, match=r"^frames can be stacked of observations that are arrays, not of Dict"):
            stack_frames(ActionMaskObservation(Counter()), 2)


@needs_atari
class TestAtari:
    @pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "BreakoutNoFrameskip-v4", "Breakout-v4"])
    def test_shapes_and_frames(self, env_id: str) -> None:
        env = make_env(env_id, atari_preprocessing=True, frame_stack=4)
        assert env.observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        _, info = env.reset(seed=0)
        for _ in range(3):
            _, _, _, _, info_after = env.step(0)
        assert info_after["frame_number"] - info["frame_number"] == 12  # four frames a step, not sixteen
        assert make_env(env_id, atari_preprocessing=True).observation_space.shape == (84, 84, 1)

    def test_rewards_and_lives(self) -> None:
        def ends(**kwargs: Any) -> tuple[int, set[float]]:
            env = make_env("ALE/MsPacman-v5", atari_preprocessing=True, **kwargs)
            env.reset(seed=0)
            env.action_space.seed(0)
            rewards: set[float] = set()
            while True:
                _, reward, terminated, _, info = env.step(env.action_space.sample())
                rewards.add(float(reward))
                if terminated:
                    return info["lives"], rewards

        lives, rewards = ends()
        assert lives == 0
        assert max(rewards) >= 10
        lives, rewards = ends(terminal_on_life_loss=True, clip_rewards=True)
        assert lives > 0
        assert rewards == {0.0, 1.0}

    def test_without_it_many_are_the_same_as_one(self) -> None:
        """The games' own batched form prepares images and rewards whether asked to or not."""
        many, one = make_vector_env("ALE/Pong-v5", 2), make_env("ALE/Pong-v5")
        assert many.single_observation_space == one.observation_space
        many.close()

    def test_the_state_is_kept(self) -> None:
        env, fresh = (
            make_vector_env("ALE/Breakout-v5", 1, seed=0, atari_preprocessing=True, frame_stack=2, max_episode_steps=20)
            for _ in range(2)
        )
        for _ in range(50):
            env.step(env.action_space.sample())
        state = get_env_state(env)
        assert state is not None
        assert set_env_state(fresh, state)
        for _ in range(30):
            action = env.action_space.sample()
            np.testing.assert_array_equal(env.step(action)[0], fresh.step(action)[0])

    def test_what_it_decides_cannot_be_given(self) -> None:
        with pytest.raises(UserError, match=r"^Atari's preprocessing decides about 'frameskip'; leave that option out"):
            make_env("ALE/Pong-v5", atari_preprocessing=True, frameskip=2)

    def test_the_ball_is_in_play_whatever_the_agent_does(self) -> None:
        """Without fire, an agent that stands still in Breakout never loses a life."""
        env = make_env("ALE/Breakout-v5", atari_preprocessing=True)
        env.reset(seed=0)
        lives, terminated = [], False
        while not terminated and len(lives) < 1000:
            _, _, terminated, _, info = env.step(0)
            lives.append(info["lives"])
        assert terminated
        assert len(lives) > 50
        assert sorted(set(lives)) == [0, 1, 2, 3, 4, 5]


def test_atari_preprocessing_is_for_atari() -> None:
    with pytest.raises(UserError, match=r"^Atari's preprocessing is for games such as ALE/Pong-v5; 'CartPole-v1' is"):
        make_vector_env("CartPole-v1", atari_preprocessing=True)
    with pytest.raises(UserError, match=r"^terminal-on-life-loss and clip-rewards are parts of Atari's preprocessing"):
        make_vector_env("CartPole-v1", clip_rewards=True)


BLOCKED = """
import sys
sys.modules[sys.argv[1]] = None
import rltool.envs
try:
    rltool.envs.make_env(sys.argv[2], **({"atari_preprocessing": True} if sys.argv[1] == "cv2" else {}))
except rltool.UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "env_id", "extra"),
    [
        ("Box2D", "LunarLander-v3", "box2d"),
        ("Box2D", "BipedalWalker-v3", "box2d"),
        ("mujoco", "Ant-v5", "mujoco"),
        pytest.param("cv2", "ALE/Pong-v5", "atari", marks=needs_atari),
        ("ale_py", "ALE/Pong-v5", "atari"),
    ],
)
def test_missing_packages_are_named_in_a_fresh_process(package: str, env_id: str, extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, package, env_id], capture_output=True, text=True, check=True, timeout=60
    )
    sentence = f"environment '{env_id}' needs a package that is not installed:"
    if package == "ale_py":  # then not even the names of the games are known
        sentence = f"no environment '{env_id}'; Atari games need"
    assert done.stdout == f'{sentence} pip install "rltool[{extra}]"\n'


def position(observation: np.ndarray) -> float:
    return float(observation[0])


class TestPotentialShaping:
    @pytest.mark.parametrize("gamma", [1.0, 0.9])
    @pytest.mark.parametrize("limit", [7, 500])
    def test_the_return_changes_only_by_the_first_potential(self, gamma: float, limit: int) -> None:
        """Where an episode is truncated, its future still counts, and that has the potential of its last state."""

        def potential(observation: np.ndarray) -> float:
            return math.sin(3 * observation[0]) + float(observation[2]) ** 2 + 1

        ends = set()
        for seed in range(20):
            plain = make_env("CartPole-v1", max_episode_steps=limit)
            shaped = PotentialShaping(make_env("CartPole-v1", max_episode_steps=limit), potential, gamma)
            first, _ = plain.reset(seed=seed)
            shaped.reset(seed=seed)
            plain.action_space.seed(seed)
            difference, discount, done = 0.0, 1.0, False
            while not done:
                action = plain.action_space.sample()
                observation, reward, terminated, truncated, _ = plain.step(action)
                difference += discount * (float(shaped.step(action)[1]) - float(reward))
                discount *= gamma
                done = terminated or truncated
            last = 0.0 if terminated else potential(observation)
            assert difference == pytest.approx(discount * last - potential(first))
            ends.add(terminated)
        assert (False in ends) == (limit == 7)

    def test_made(self) -> None:
        shaping = functools.partial(PotentialShaping, potential=position, gamma=0.5)
        env = make_vector_env("MountainCar-v0", 2, shaping=shaping)
        assert type(env) is ParallelVectorEnv
        first, _ = env.reset(seed=0)
        second, rewards, *_ = env.step(np.array([0, 2]))
        np.testing.assert_allclose(rewards, -1 + 0.5 * second[:, 0] - first[:, 0], rtol=1e-6)

    def test_the_potential_sees_the_environments_own_observation(self) -> None:
        shaping = functools.partial(PotentialShaping, potential=position, gamma=0.5)
        env = make_env("MountainCar-v0", shaping=shaping, frame_stack=2)
        first, _ = env.reset(seed=0)
        second, reward, *_ = env.step(1)
        assert reward == pytest.approx(-1 + 0.5 * second[1, 0] - first[1, 0])


def bonus(observation: Any, action: Any, reward: float, next_observation: Any, terminated: bool) -> float:
    return 100.0 * terminated + 10 * float(next_observation[0]) + float(observation[0]) + reward + action / 10


class TestFunctionShaping:
    def test_the_reward_is_what_the_function_says(self) -> None:
        env = FunctionShaping(Counter(), bonus)
        env.reset()
        assert [env.step(2)[1] for _ in range(5)] == pytest.approx([11.2, 22.2, 33.2, 44.2, 155.2])

    def test_in_worker_processes(self) -> None:
        env = make_vector_env(
            "CartPole-v1", 2, vectorization="async", shaping=functools.partial(FunctionShaping, function=bonus)
        )
        first, _ = env.reset(seed=0)
        second, rewards, *_ = env.step(np.array([0, 1]))
        np.testing.assert_allclose(rewards, 10 * second[:, 0] + first[:, 0] + 1 + [0, 0.1], rtol=1e-6)
        env.close()

    @pytest.mark.filterwarnings("ignore:.*ERROR")
    def test_a_failure_in_a_worker_process_is_the_same_error(self) -> None:
        shaping = functools.partial(PotentialShaping, potential=lambda _: math.nan, gamma=0.9)
        env = make_vector_env("CartPole-v1", 2, vectorization="async", shaping=shaping)
        with pytest.raises(TrainingError, match=r"gave nan; it must give a finite number$"):
            env.reset(seed=0)

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (math.nan, "gave nan; it must give a finite number"),
            (np.float32("inf"), "gave inf; it must give a finite number"),
            (None, "gave None; it must give a number"),
            ([1, 2], r"gave \[1, 2\]; it must give a number"),
            (ZeroDivisionError("x"), "failed with ZeroDivisionError: x"),
        ],
    )
    def test_what_is_no_number(self, value: Any, sentence: str) -> None:
        def reward(*_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        env = FunctionShaping(Counter(), reward)
        env.reset()
        with pytest.raises(TrainingError, match=rf"^'\S*reward' {sentence}$"):
            env.step(0)
        with pytest.raises(TrainingError, match=rf"^'\S*reward' {sentence}$"):
            PotentialShaping(Counter(), reward, 0.9).reset()

    def test_wrong_arguments(self) -> None:
        with pytest.raises(UserError, match=r"position' is called with 5 arguments, \(observation, action, reward, "):
            FunctionShaping(Counter(), position)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"bonus' is called with 1 arguments, \(observation\), but takes "):
            PotentialShaping(Counter(), bonus, 0.9)  # type: ignore[arg-type]


class TestLoadFunction:
    def test_from_the_current_folder_or_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_rewards.py").write_text("def potential(observation):\n    return 4\nvalue = 3\n")
        (tmp_path / "math.py").write_text("raise RuntimeError")  # hides nothing
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        assert load_function("my_rewards:potential", ["observation"])(0) == 4
        assert load_function("math:hypot", ["x", "y"])(3, 4) == 5
        for name, sentence in {
            "my_rewards": "'my_rewards' names no function; write module:function",
            "my_rewards:a.b": "'my_rewards:a.b' names no function; write module:function",
            "nowhere:f": "no module 'nowhere' to import for 'nowhere:f'; install it, or run in the folder that has it",
            "my_rewards:potentail": "no function in 'my_rewards' 'potentail'; did you mean 'potential'?",
            "my_rewards:value": "'my_rewards:value' is a int, not a function",
        }.items():
            with pytest.raises(UserError) as caught:
                load_function(name, ["observation"])
            assert str(caught.value) == sentence
        with pytest.raises(UserError) as caught:
            load_function("my_rewards:potential", ["observation", "action"])
        assert str(caught.value) == (
            "'my_rewards:potential' is called with 2 arguments, (observation, action), but takes (observation)"
        )
