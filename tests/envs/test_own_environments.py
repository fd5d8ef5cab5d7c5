"""rltool's own environments: found by their ids, batched as they are singly, and as hard as they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rltool.envs import (
    CartPoleNoVelocityVectorEnv,
    GridWorldVectorEnv,
    KeyDoorVectorEnv,
    ParallelVectorEnv,
    PendulumReversedVectorEnv,
    check_vector_env,
    environment_ids,
    get_env_state,
    make_env,
    make_vector_env,
    set_env_state,
    tabular_model,
)
from rltool.envs.grid_world import STAY, VALUES
from rltool.envs.key_door import (
    DOOR_OPEN,
    HEIGHT,
    KEY_HELD,
    KEY_LIES,
    MAX_EPISODE_STEPS,
    MAZE,
    WIDTH,
    KeyDoorEnv,
)
from rltool.errors import UserError

KEY_DOOR, NO_VELOCITY, GRID = "rltool/KeyDoor-v0", "rltool/CartPoleNoVelocity-v1", "rltool/GridWorld-v0"
REVERSED, CATCH = "rltool/PendulumReversed-v1", "rltool/Catch-v0"
UP, RIGHT, DOWN, LEFT = range(4)
OWN = [KEY_DOOR, NO_VELOCITY, GRID, REVERSED, CATCH]
SHIFTED = [f"{CATCH}~noisy~delay2", f"{CATCH}~random-conv", "CartPole-v1~gravityx0.5-2"]
every = pytest.mark.parametrize("env_id", OWN)


def where(name: str) -> list[int]:
    return [cell for cell, what in enumerate("".join(MAZE)) if what == name]


((KEY,), (DOOR,), (GOAL,), STARTS) = map(where, "KDGS")


def test_they_are_registered_without_being_imported() -> None:
    script = """
import sys, json
from rltool.envs import environment_ids, make_vector_env
ids = [id for id in environment_ids() if id.startswith("rltool/")]
imported = [name for name in sys.modules if name in ("torch", "rltool.envs.key_door", "rltool.envs.cartpole")]
print(json.dumps([ids, imported, type(make_vector_env("rltool/KeyDoor-v0", 2)).__name__]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[NO_VELOCITY, CATCH, GRID, KEY_DOOR, REVERSED], [], "KeyDoorVectorEnv"]
    assert {KEY_DOOR, NO_VELOCITY, GRID, REVERSED} <= set(environment_ids())


@every
def test_the_single_form_keeps_gymnasiums_contract(env_id: str) -> None:
    env = make_env(env_id, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    frame: Any = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape[2] == 3
    assert frame.std() > 10  # something is drawn


@pytest.mark.parametrize("env_id", [*OWN, *SHIFTED])
def test_the_saved_state_goes_on(env_id: str) -> None:
    env, fresh = (make_vector_env(env_id, 5, seed=seed, max_episode_steps=30) for seed in (1, 2))
    for _ in range(50):
        env.step(env.action_space.sample())
    state = get_env_state(env)
    assert state is not None
    assert set_env_state(fresh, state)
    for _ in range(80):
        action = env.action_space.sample()
        for one, other in zip(env.step(action)[:4], fresh.step(action)[:4], strict=True):
            np.testing.assert_array_equal(one, other)


class TestCartPoleNoVelocity:
    def test_it_is_cartpole_but_for_the_observations(self) -> None:
        full, partial = (make_vector_env(env_id, 3, seed=0) for env_id in ("CartPole-v1", NO_VELOCITY))
        assert type(partial) is CartPoleNoVelocityVectorEnv
        assert partial.spec is not None
        assert partial.spec.max_episode_steps == partial.max_episode_steps == 500  # type: ignore[attr-defined]
        np.testing.assert_array_equal(full.reset()[0][:, [0, 2]], partial.reset()[0])
        for _ in range(100):
            action = full.action_space.sample()
            expected, found = full.step(action), partial.step(action)
            np.testing.assert_array_equal(expected[0][:, [0, 2]], found[0])
            for one, other in zip(expected[1:4], found[1:4], strict=True):
                np.testing.assert_array_equal(one, other)

    def test_the_single_form_too(self) -> None:
        full, partial = make_env("CartPole-v1"), make_env(NO_VELOCITY)
        np.testing.assert_array_equal(full.reset(seed=4)[0][[0, 2]], partial.reset(seed=4)[0])
        for _ in range(8):
            expected, found = full.step(1), partial.step(1)
            np.testing.assert_array_equal(expected[0][[0, 2]], found[0])
            assert expected[1:] == found[1:]
        batched = make_vector_env(NO_VELOCITY, 2)
        assert batched.single_observation_space == partial.observation_space
        assert batched.single_action_space == partial.action_space

    def test_conforms(self) -> None:
        modes = [AutoresetMode.NEXT_STEP]
        check_vector_env(lambda mode: make_vector_env(NO_VELOCITY, 3, max_episode_steps=15), modes)
        check_vector_env(
            lambda mode: make_vector_env(
                NO_VELOCITY, 3, vectorization="sync", autoreset_mode=mode, max_episode_steps=15
            )
        )


class TestPendulumReversed:
    @pytest.mark.parametrize("form", ["vector", "sync"])
    def test_it_is_pendulum_with_the_opposite_actions(self, form: str) -> None:
        options: dict[str, Any] = {"vectorization": form, "render_mode": "rgb_array", "max_episode_steps": 20}
        plain, other = (make_vector_env(env_id, 3, seed=0, **options) for env_id in ("Pendulum-v1", REVERSED))
        assert (type(other) is PendulumReversedVectorEnv) == (form == "vector")
        np.testing.assert_array_equal(plain.reset(seed=1)[0], other.reset(seed=1)[0])
        for _ in range(30):
            action = plain.action_space.sample()
            expected, found = plain.step(action), other.step(-action)
            for one, two in zip(expected[:4], found[:4], strict=True):
                np.testing.assert_array_equal(one, two)
        expected_frames: Any = plain.render()
        frames: Any = other.render()
        for frame, same in zip(expected_frames, frames, strict=True):  # The arrow is the torque that acts.
            np.testing.assert_array_equal(frame, same)

    def test_conforms(self) -> None:
        check_vector_env(lambda mode: make_vector_env(REVERSED, 3, autoreset_mode=mode, max_episode_steps=15))


class TestKeyDoor:
    def play(self, *moves: int, start: tuple[int, int]) -> tuple[int, int, float, bool]:
        env = KeyDoorEnv()
        env.reset(seed=0)
        env.state = np.array(start)
        for move in moves:
            _, reward, terminated, _, _ = env.step(move)
        return int(env.state[0]), int(env.state[1]), reward, terminated

    @pytest.mark.parametrize(
        ("start", "moves", "end"),
        [
            ((STARTS[0], KEY_LIES), [UP], (STARTS[0], KEY_LIES, 0, False)),
            ((STARTS[0], KEY_LIES), [LEFT], (STARTS[0], KEY_LIES, 0, False)),
            ((STARTS[0], KEY_LIES), [RIGHT, DOWN], (STARTS[0] + 1 + WIDTH, KEY_LIES, 0, False)),
            ((KEY - 1, KEY_LIES), [RIGHT], (KEY, KEY_HELD, 0, False)),
            ((KEY - 1, DOOR_OPEN), [RIGHT], (KEY, DOOR_OPEN, 0, False)),  # there is but one key
            ((DOOR - WIDTH, KEY_LIES), [DOWN], (DOOR - WIDTH, KEY_LIES, 0, False)),
            ((DOOR - WIDTH, KEY_HELD), [DOWN], (DOOR, DOOR_OPEN, 0, False)),
            ((DOOR - WIDTH, KEY_HELD), [DOWN, UP, DOWN, DOWN], (DOOR + WIDTH, DOOR_OPEN, 0, False)),
            ((GOAL - 1, DOOR_OPEN), [RIGHT], (GOAL, DOOR_OPEN, 1, True)),
        ],
    )
    def test_moves(self, start: tuple[int, int], moves: list[int], end: tuple[Any, ...]) -> None:
        assert self.play(*moves, start=start) == end

    def test_observations(self) -> None:
        env = KeyDoorEnv()
        env.reset(seed=0)
        env.state = np.array((STARTS[0], KEY_HELD))
        observation = env.step(DOWN)[0]  # now in the second row and the first column inside the walls
        assert np.flatnonzero(observation).tolist() == [1, HEIGHT - 2, HEIGHT + WIDTH - 4]
        env.state = np.array((STARTS[0], DOOR_OPEN))
        assert env.step(DOWN)[0][-2:].tolist() == [0, 1]

    def after(self, cells: np.ndarray, phases: np.ndarray, action: int) -> tuple[np.ndarray, np.ndarray]:
        env = KeyDoorVectorEnv(len(cells))
        env.reset(seed=0)
        env.state = np.array((cells, phases))
        env.step(np.full(len(cells), action))
        return env.state[0], env.state[1]

    def all_moves(self) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        inside = [cell for cell, what in enumerate("".join(MAZE)) if what != "#"]
        cells, phases = np.repeat(inside, 3), np.tile(range(3), len(inside))
        return cells, phases, [self.after(cells, phases, action) for action in range(4)]

    def test_every_move_is_the_same_in_both_forms(self) -> None:
        cells, phases, after = self.all_moves()
        for action, (new_cells, new_phases) in enumerate(after):
            for *start, cell, phase in zip(cells, phases, new_cells, new_phases, strict=True):
                assert self.play(action, start=tuple(start))[:2] == (cell, phase)

    def test_episodes_are_the_same_in_both_forms(self) -> None:
        batched = make_vector_env(KEY_DOOR, 4, seed=0, max_episode_steps=60, autoreset_mode="SameStep")
        assert type(batched) is KeyDoorVectorEnv
        singles = [make_env(KEY_DOOR, max_episode_steps=60) for _ in range(4)]
        batched.state = np.array(([STARTS[0], KEY - 1, DOOR, GOAL - 3 * WIDTH], [0, 0, 2, 2]))
        for state, single in zip(batched.state.T, singles, strict=True):
            single.reset()
            single.unwrapped.state = state.copy()  # type: ignore[attr-defined]
        running = set(range(4))
        while running:
            actions = batched.action_space.sample()
            observations, rewards, terminated, truncated, infos = batched.step(actions)
            for index in sorted(running):
                observation, *rest = singles[index].step(actions[index])
                assert rest == [rewards[index], terminated[index], truncated[index], {}]
                ended = terminated[index] or truncated[index]
                found = infos["final_obs"][index] if ended else observations[index]
                np.testing.assert_array_equal(observation, found)
                running -= {index} if ended else set()

    def test_random_play_hardly_ever_solves_it_but_the_way_is_short(self) -> None:
        cells, phases, after = self.all_moves()
        moves = {
            state: [(int(c[i]), int(p[i])) for c, p in after]
            for i, state in enumerate(zip(cells.tolist(), phases.tolist(), strict=True))
        }
        lengths = []
        for start in STARTS:
            distance = {(start, KEY_LIES): 0}
            queue = deque(distance)
            while queue:
                state = queue.popleft()
                for following in moves[state]:
                    if following not in distance:
                        distance[following] = distance[state] + 1
                        queue.append(following)
            lengths.append(distance[GOAL, DOOR_OPEN])
        assert max(lengths) == 33

        # Exactly: the distribution over states after each random move.
        probability, solved = {(start, KEY_LIES): 1 / len(STARTS) for start in STARTS}, 0.0
        for _ in range(MAX_EPISODE_STEPS):
            after_move: dict[tuple[int, int], float] = {}
            for state, p in probability.items():
                for following in moves[state]:
                    after_move[following] = after_move.get(following, 0) + p / 4
            solved += after_move.pop((GOAL, DOOR_OPEN), 0)
            probability = after_move
        key_found = solved + sum(p for (_, phase), p in probability.items() if phase != KEY_LIES)
        assert solved == pytest.approx(0.0007, abs=0.00005)
        assert key_found == pytest.approx(0.34, abs=0.005)

    def test_episodes_begin_everywhere_in_the_first_room(self) -> None:
        batched: Any = make_vector_env(KEY_DOOR, 500, seed=0)
        assert set(batched.state[0]) == set(STARTS)
        assert (batched.state[1] == KEY_LIES).all()
        single: Any = make_env(KEY_DOOR).unwrapped
        assert {int(single.reset(seed=seed)[0].any() and single.state[0]) for seed in range(200)} == set(STARTS)

    def test_conforms(self) -> None:
        check_vector_env(lambda mode: make_vector_env(KEY_DOOR, 3, max_episode_steps=15, autoreset_mode=mode))

    def test_drawing(self) -> None:
        env = make_vector_env(KEY_DOOR, 2, seed=0, render_mode="rgb_array")
        frames: Any = env.render()
        single: Any = make_env(KEY_DOOR, render_mode="rgb_array")
        single.reset(seed=0)
        single.unwrapped.state = env.state[:, 1]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(frames[1], single.render())
        assert frames[0].shape == (32 * HEIGHT, 32 * WIDTH, 3)
        pictures = set()
        for state in ((STARTS[0], KEY_LIES), (STARTS[1], KEY_LIES), (STARTS[0], KEY_HELD), (STARTS[0], DOOR_OPEN)):
            single.unwrapped.state = np.array(state)
            pictures.add(single.render().tobytes())
        assert len(pictures) == 4


class TestGridWorld:
    def test_moves(self) -> None:
        env: Any = make_env(GRID, slip=0).unwrapped
        env.reset(seed=0)
        for start, action, end in ((0, UP, 0), (0, RIGHT, 1), (0, DOWN, 8), (0, LEFT, 0), (63, DOWN, 63), (9, STAY, 9)):
            env.state = np.array([start])
            assert env.step(action)[0] == end

    def test_every_cell_is_worth_what_it_shows(self) -> None:
        env: Any = make_env(GRID, slip=0, render_mode="ansi")
        picture = env.unwrapped
        picture.reset(seed=0)
        picture.state = np.array([0])
        rows = picture.render().split()
        for cell in range(1, 64):
            picture.state = np.array([cell])
            assert picture.step(STAY)[1:4] == (VALUES[rows[cell // 8][cell % 8]], False, False)
        assert rows[0][0] == "@"
        env.reset(seed=0)
        assert [env.step(STAY)[3] for _ in range(50)] == [False] * 49 + [True]

    def test_moves_slip_as_often_as_the_table_says(self) -> None:
        batched: Any = make_vector_env(GRID, 20_000, seed=0, slip=0.3)
        assert type(batched) is GridWorldVectorEnv
        model = tabular_model(make_env(GRID, slip=0.3))
        assert model is not None
        for action in range(5):
            batched.state = np.full((1, 20_000), 27)
            observations, rewards, *_ = batched.step(np.full(20_000, action))
            shares = np.bincount(observations, minlength=64) / 20_000
            np.testing.assert_allclose(shares, model.transitions[27, action], atol=0.015)
            np.testing.assert_array_equal(rewards, model.rewards[27, action, observations])

    def test_both_forms_are_the_same_where_nothing_slips(self) -> None:
        batched: Any = make_vector_env(GRID, 3, seed=0, slip=0)
        single: Any = make_env(GRID, slip=0)
        single.reset(seed=0)
        batched.state = np.array([[5, 40, 62]])
        single.unwrapped.state = np.array([40])
        for _ in range(40):
            actions = batched.action_space.sample()
            observations, rewards, *_ = batched.step(actions)
            assert single.step(actions[1])[:2] == (observations[1], rewards[1])

    def test_conforms(self) -> None:
        check_vector_env(lambda mode: make_vector_env(GRID, 3, max_episode_steps=15, autoreset_mode=mode))

    def test_a_slip_that_is_no_probability(self) -> None:
        with pytest.raises(UserError, match="slip is a probability, between 0 and 1, not 2"):
            make_env(GRID, slip=2)


def test_gymnasium_finds_them_once_registered() -> None:
    environment_ids()
    assert isinstance(gym.make(KEY_DOOR).unwrapped, KeyDoorEnv)
    assert type(gym.make_vec(KEY_DOOR, 2)) is KeyDoorVectorEnv
    assert type(make_vector_env(KEY_DOOR, 2, wrappers=[gym.wrappers.FlattenObservation])) is ParallelVectorEnv
