"""Environments that look different, or move differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rltool.data.shifts import SHIFTS, SPELLINGS
from rltool.envs import make_env, make_vector_env
from rltool.envs.catch import SIZE, CatchEnv, CatchVectorEnv
from rltool.errors import UserError

CATCH = "rltool/Catch-v0"


def played(env_id: str, steps: int = 30, seed: int = 0, **options: Any) -> list[np.ndarray]:
    """What is seen of one environment in which the same actions are taken whatever it is."""
    env, rng = make_env(env_id, **options), np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        seen.append(env.step(int(rng.integers(2)))[0])
    return seen


@pytest.mark.parametrize("name", SHIFTS)
def test_looks_change_what_is_seen_and_nothing_else(name: str) -> None:
    plain, shifted = make_env(CATCH), make_env(f"{CATCH}~{name}")
    assert shifted.observation_space == plain.observation_space
    one, other = plain.reset(seed=3), shifted.reset(seed=3)
    differences = []
    for action in [0, 2, 2, 1, 0, 2, 1]:  # Before the ball lands, nothing is drawn.
        one, other = plain.step(action), shifted.step(action)
        assert one[1:] == other[1:]
        assert other[0] in shifted.observation_space
        differences.append(np.abs(one[0].astype(int) - other[0]).max())
    assert min(differences) > 50
    np.testing.assert_array_equal(played(f"{CATCH}~{name}"), played(f"{CATCH}~{name}"))


def test_inverted_is_inverted_and_two_times_nothing() -> None:
    plain = np.array(played(CATCH))
    np.testing.assert_array_equal(played(f"{CATCH}~inverted"), 255 - plain)
    np.testing.assert_array_equal(played(f"{CATCH}~inverted~inverted"), plain)


def test_textures_stay_colors_change_by_episode_and_noise_by_step() -> None:
    def corners(name: str) -> list[np.ndarray]:
        env = make_env(f"{CATCH}~{name}")
        seen = []
        for episode in range(2):
            seen.append(env.reset(seed=4 if episode == 0 else None)[0])
            seen.append(env.step(1)[0])
        return [image[SIZE - 1, 0] for image in seen]  # Nothing is there in these moments.

    textured, colored, noisy = map(corners, ("textured", "colored", "noisy"))
    assert len({tuple(each) for each in textured}) == 1
    assert (colored[0] == colored[1]).all()
    assert (colored[2] == colored[3]).all()
    assert (colored[0] != colored[2]).any()
    assert len({tuple(each) for each in noisy}) > 1
    assert "colored" in SPELLINGS


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ("~gravityx1.5", {"gravity": 1.5 * 9.8}),
        ("~gravity*1.5~polex2", {"gravity": 1.5 * 9.8, "length": 1.0, "polemass_length": 0.1}),
        ("~massx3", {"masspole": 0.3, "total_mass": 1.3, "polemass_length": 0.15}),
        ("~gainx0.5", {"force_mag": 5.0}),
    ],
)
def test_dynamics_of_cartpole(shift: str, expected: dict[str, float]) -> None:
    base: Any = make_env("CartPole-v1" + shift).unwrapped
    for name, value in expected.items():
        assert getattr(base, name) == pytest.approx(value), name
    assert make_env("CartPole-v1").unwrapped.gravity == 9.8  # type: ignore[attr-defined]  # Nobody else's is changed.


def test_a_range_is_drawn_from_anew_for_each_episode() -> None:
    env = make_env("CartPole-v1~gravityx0.5-2")
    drawn = []
    for seed in range(40):
        env.reset(seed=seed)
        drawn.append(env.unwrapped.gravity / 9.8)  # type: ignore[attr-defined]
    assert 0.5 <= min(drawn) < 0.7
    assert 1.6 < max(drawn) <= 2
    env.reset(seed=0)
    assert env.unwrapped.gravity / 9.8 == drawn[0]  # type: ignore[attr-defined]


def test_continuous_actions_are_scaled() -> None:
    plain, weak = make_env("Pendulum-v1"), make_env("Pendulum-v1~gainx0.5")
    plain.reset(seed=0), weak.reset(seed=0)
    for _ in range(10):
        one, other = plain.step(np.array([0.7], np.float32)), weak.step(np.array([1.4], np.float32))
        np.testing.assert_allclose(one[0], other[0], rtol=1e-6)


def test_what_mujoco_computes_from_masses_follows() -> None:
    pytest.importorskip("mujoco")
    plain, heavy = make_env("Hopper-v5"), make_env("Hopper-v5~massx2")
    models = [env.unwrapped.model for env in (plain, heavy)]  # type: ignore[attr-defined]
    np.testing.assert_allclose(models[1].body_subtreemass, 2 * models[0].body_subtreemass)
    assert (models[1].dof_invweight0 < models[0].dof_invweight0).all()
    starts = [env.reset(seed=0)[0] for env in (plain, heavy)]
    np.testing.assert_array_equal(*starts)


def test_actions_come_late() -> None:
    plain, late = make_env("CartPole-v1"), make_env("CartPole-v1~delay2")
    plain.reset(seed=0), late.reset(seed=0)
    actions = [1, 1, 0, 1, 1, 0]
    for now, then in zip(actions, [0, 0, *actions], strict=False):
        np.testing.assert_array_equal(late.step(now)[0], plain.step(then)[0])


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1~gravty", "no shift 'gravty'; did you mean 'gravity'?"),
        (
            "CartPole-v1~inverted",
            "~inverted does not fit CartPole-v1 .*no color images.*; what fits is ~gravity, ~length",
        ),
        ("CartPole-v1~gravity", "~gravity needs a number above 0, or a range of them, as ~gravityx1.5"),
        ("CartPole-v1~gravityx0", "needs a number above 0"),
        ("CartPole-v1~gravityx2-1", "needs a number above 0, or a range"),
        ("CartPole-v1~delay1.5", "~delay1.5 needs a whole number of timesteps, as ~delay2"),
        ("CartPole-v1~gravityx0.5-2~gravityx2", "~gravity stands twice"),
        ("MountainCar-v0~massx2", "~massx2 does not fit MountainCar-v0; what fits is ~gravity, ~gain, ~delay"),
        (f"{CATCH}~inverted2", "~inverted2 takes no number; write ~inverted"),
        (f"{CATCH}@steep", "'@steep' is no angle"),
    ],
)
def test_what_does_not_exist_or_fit(env_id: str, message: str) -> None:
    for make in (make_env, make_vector_env):
        with pytest.raises(UserError, match=message):
            make(env_id)


class TestCatch:
    def test_one_of_a_batch_is_the_single_one(self) -> None:
        single, batched = CatchEnv(), CatchVectorEnv(1)
        np.testing.assert_array_equal(single.reset(seed=5)[0], batched.reset(seed=5)[0][0])
        for action in np.random.default_rng(0).integers(3, size=80):
            one, many = single.step(action), batched.step(np.array([action]))
            np.testing.assert_array_equal(one[0], many[0][0])
            assert one[1] == many[1][0]

    def test_every_ball_can_be_caught(self) -> None:
        env, total = CatchVectorEnv(20), np.zeros(20)
        env.reset(seed=0)
        for step in range(90):
            assert env.state is not None
            _, column, paddle = env.state
            _, rewards, terminated, truncated, _ = env.step(1 + np.sign(column - paddle))
            total += rewards
            assert not terminated.any()
            assert truncated.all() == (step == 89)
        assert (total == 10).all()

    def test_what_is_seen(self) -> None:
        env = CatchVectorEnv(2)
        images = env.reset(seed=0)[0]
        assert (images.shape, images.dtype) == ((2, 10, 10, 3), np.uint8)
        assert ((images == (255, 255, 255)).all(-1).sum((1, 2)) == 1).all()
        assert (images[:, 9, 5] == (0, 200, 80)).all()
