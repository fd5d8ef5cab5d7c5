"""Collecting: three autoreset modes that come out the same, exact bootstraps, and whole episodes without bias."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rltool.agents import REINFORCE
from rltool.agents.advantages import gae
from rltool.agents.return_scaler import ReturnScaler
from rltool.agents.rollout import EpisodeStatistics, Rollout, RolloutCollector
from rltool.errors import TrainingError

GAMMA = 0.9
LENGTHS = [(3, -4, 2), (-5,), (1, -1, 6, 3)]  # of the environments; a negative length is truncated

MakeEnvs = Callable[..., SyncVectorEnv]
Transition = tuple[float, int, float, bool, bool, float, float]


def act(observations: np.ndarray) -> np.ndarray:
    """A policy whose actions tell what it saw."""
    return observations[:, 0].astype(int) % 2


def value(observations: np.ndarray) -> np.ndarray:
    return 10.0 + observations[..., 0]


def advantages_of(rollout: Rollout, lam: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    values = value(rollout.observations[:-1])
    next_values = rollout.next_values(values, value(rollout.bootstrap_observations))
    return next_values, gae(rollout.rewards, values, next_values, rollout.terminated, rollout.done, GAMMA, lam)


def transitions(rollouts: list[Rollout], n: int) -> list[Transition]:
    """What environment n went through, without the steps that only reset it."""
    found: list[Transition] = []
    for rollout in rollouts:
        next_values, advantages = advantages_of(rollout)
        for t in np.flatnonzero(rollout.valid[:, n]):
            found.append(
                (
                    float(rollout.observations[t, n, 0]),
                    int(rollout.actions[t, n]),
                    float(rollout.rewards[t, n]),
                    bool(rollout.terminated[t, n]),
                    bool(rollout.truncated[t, n]),
                    float(next_values[t, n]),
                    float(advantages[t, n]),
                )
            )
    return found


def collect(envs: SyncVectorEnv, steps: list[int]) -> tuple[RolloutCollector, list[Rollout]]:
    collector = RolloutCollector(envs, lambda actions: actions)
    collector.reset(seed=0)
    rollouts = []
    for count in steps:
        rollout = collector.collect(act, count)
        rollout.observations = rollout.observations.copy()  # The next call overwrites them.
        rollouts.append(rollout)
    return collector, rollouts


def expected_steps(lengths: tuple[int, ...], count: int) -> list[tuple[float, int, float, bool, bool, float]]:
    steps, episode = [], 0
    while len(steps) < count:
        length = lengths[episode % len(lengths)]
        for t in range(abs(length)):
            end = t + 1 == abs(length)
            steps.append((float(t), t % 2, float(t + 1), end and length > 0, end and length < 0, 10.0 + t + 1))
        episode += 1
    return steps[:count]


def test_valid_transitions_are_the_same_in_all_modes(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    _, rollouts = collect(counting_envs(mode), [7, 1, 12, 20])
    for n, lengths in enumerate(LENGTHS):
        found = transitions(rollouts, n)
        assert len(found) >= (20 if mode is AutoresetMode.NEXT_STEP else 40)
        assert [step[:6] for step in found] == expected_steps(lengths, len(found))


def test_only_next_step_has_steps_that_reset(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    _, rollouts = collect(counting_envs(mode), [7, 3, 12])
    valid = np.concatenate([rollout.valid for rollout in rollouts])
    done = np.concatenate([rollout.done for rollout in rollouts])
    assert done.any()
    if mode is AutoresetMode.NEXT_STEP:
        # The step after an end resets, also when a new rollout begins in between.
        np.testing.assert_array_equal(valid[1:], ~done[:-1])
        assert valid[0].all()
        rewards = np.concatenate([rollout.rewards for rollout in rollouts])
        assert not rewards[~valid].any()
        assert not done[~valid].any()
    else:
        assert valid.all()


def test_advantages_are_exact_in_all_modes(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    """With lambda 1: discounted rewards to the end, plus the discounted value of what was cut off, minus the value."""
    _, (rollout,) = collect(counting_envs(mode), [40])
    for n, lengths in enumerate(LENGTHS):
        found = transitions([rollout], n)
        position, episode = 0, 0
        while position < len(found):
            length = lengths[episode % len(lengths)]
            end = min(position + abs(length), len(found))
            last = end - position  # steps of this episode in the rollout
            bootstrap = 0.0 if last == abs(length) and length > 0 else 10.0 + last
            for t in range(last):
                rewards = sum(GAMMA ** (k - t) * (k + 1) for k in range(t, last))
                expected = rewards + GAMMA ** (last - t) * bootstrap - (10.0 + t)
                assert found[position + t][6] == pytest.approx(expected, rel=1e-5), (n, episode, t)
            position, episode = end, episode + 1


def test_statistics_are_the_same_in_all_modes(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    collector, _ = collect(counting_envs(mode, [(3, -4, 2)]), [2, 5, 1, 1, 9, 30])
    statistics = collector.statistics
    finished = statistics.finished
    # 48 steps; an episode of 3, 4 and 2 each lasts one more where a step is spent on the reset.
    cycle = 12 if mode is AutoresetMode.NEXT_STEP else 9
    assert finished == (12 if mode is AutoresetMode.NEXT_STEP else 16)
    assert 48 // cycle * 3 <= finished
    assert list(statistics.lengths) == [3, 4, 2] * (finished // 3) + [3, 4, 2][: finished % 3]
    assert list(statistics.returns) == [length * (length + 1) / 2 for length in statistics.lengths]
    metrics = statistics.metrics()
    assert metrics["rollout/ep_len_mean"] == pytest.approx(np.mean(statistics.lengths))
    assert metrics["rollout/ep_rew_mean"] == pytest.approx(np.mean(statistics.returns))
    assert metrics["rollout/episodes"] == finished


def test_statistics_do_not_depend_on_where_rollouts_end(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    whole, _ = collect(counting_envs(mode), [60])
    parts, _ = collect(counting_envs(mode), [1] * 20 + [3, 7, 13, 17])
    assert sorted(whole.statistics.returns) == sorted(parts.statistics.returns)
    assert sorted(whole.statistics.lengths) == sorted(parts.statistics.lengths)
    assert whole.statistics.finished == parts.statistics.finished
    np.testing.assert_array_equal(whole.statistics.running_returns, parts.statistics.running_returns)
    np.testing.assert_array_equal(whole.statistics.running_lengths, parts.statistics.running_lengths)


def test_statistics_keep_the_last_100_episodes() -> None:
    statistics = EpisodeStatistics(np.zeros(1), np.zeros(1, int))
    assert statistics.metrics() == {}
    one = np.ones((1, 1), bool)
    for k in range(150):
        statistics.update(np.array([[float(k)]]), one, one)
    assert list(statistics.returns) == list(range(50, 150))
    assert statistics.finished == 150


def test_rows_line_up_between_rollouts(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    _, rollouts = collect(counting_envs(mode), [5, 4, 3])
    for before, after in pairwise(rollouts):
        np.testing.assert_array_equal(before.observations[-1], after.observations[0])


# Whole episodes


def whole_episodes(
    envs: SyncVectorEnv, num_steps: int, max_steps: int = 1000
) -> tuple[RolloutCollector, Rollout, list[list[int]]]:
    collector = RolloutCollector(envs, lambda actions: actions)
    collector.reset(seed=0)
    rollout = collector.collect_episodes(act, num_steps, max_steps)
    lengths = []
    for n in range(envs.num_envs):
        ends = np.flatnonzero(rollout.done[:, n] & rollout.valid[:, n])
        counts = [int(rollout.valid[: end + 1, n].sum()) for end in ends]
        lengths.append(np.diff([0, *counts]).tolist())
        assert rollout.valid[:, n].sum() == sum(lengths[-1])  # No step belongs to an unfinished episode.
    return collector, rollout, lengths


def test_one_step_is_one_episode_of_each_environment(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    collector, rollout, lengths = whole_episodes(counting_envs(mode), num_steps=1)
    # The reset before has used up each environment's first episode.
    assert lengths == [[4], [5], [1]]
    assert sorted(collector.statistics.lengths) == [1, 4, 5]
    assert len(rollout.rewards) == 5
    for n in range(3):
        length = lengths[n][0]
        assert rollout.valid[:length, n].all()
        assert not rollout.valid[length:, n].any()
        assert rollout.rewards[:length, n].tolist() == list(range(1, length + 1))


def test_each_environment_finishes_the_episode_it_is_in(counting_envs: MakeEnvs) -> None:
    _, _, lengths = whole_episodes(counting_envs(AutoresetMode.SAME_STEP), num_steps=6)
    # Episodes begin until step 6: 4 2 (6 steps), 5 and one more, 1 6.
    assert lengths == [[4, 2], [5, 5], [1, 6]]


@pytest.mark.parametrize("num_steps", [1, 20])
def test_long_episodes_are_taken_as_often_as_they_begin(
    counting_envs: MakeEnvs, mode: AutoresetMode, num_steps: int
) -> None:
    """Half of all episodes last 1 step, half 20; the episodes that end first would be nearly all short."""
    rng = np.random.default_rng(0)
    envs = counting_envs(mode, rng.choice([1, 20], (4, 997)).tolist())
    collector = RolloutCollector(envs, lambda actions: actions)
    collector.reset(seed=0)
    lengths: list[int] = []
    for _ in range(100):
        collector.statistics.lengths.clear()
        collector.collect_episodes(act, num_steps, 1000)
        lengths += collector.statistics.lengths
    assert len(lengths) >= 300
    assert np.mean(np.array(lengths) == 20) == pytest.approx(0.5, abs=0.09)  # three standard deviations


def test_episodes_cut_by_the_budget_are_left_out(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    collector, rollout, lengths = whole_episodes(counting_envs(mode), num_steps=1, max_steps=4)
    assert lengths == [[4], [], [1]]
    assert len(rollout.rewards) == 4
    assert sorted(collector.statistics.lengths) == [1, 4]
    _, rollout, lengths = whole_episodes(counting_envs(mode, [(9,)]), num_steps=1, max_steps=4)
    assert lengths == [[]]
    assert not rollout.valid.any()


# Rewards divided by the deviation of returns


def test_return_scaler_has_the_statistics_of_vecnormalize(counting_env: Callable) -> None:
    lengths = [(3, 7, 2), (5, 11), (4,)]
    envs = VecNormalize(
        DummyVecEnv([lambda each=each: counting_env(each) for each in lengths]), norm_obs=False, gamma=GAMMA
    )
    envs.reset()
    scaler = ReturnScaler(3, GAMMA)
    for _ in range(12):
        rewards, done, theirs = [], [], []
        for _ in range(25):
            _, scaled, ends, _ = envs.step(np.zeros(3, int))
            rewards.append(envs.get_original_reward().astype(np.float32))
            done.append(ends)
            theirs.append(scaled)
        ours = scaler(np.array(rewards), np.array(done), np.ones((25, 3), bool))
    assert scaler.norm.mean.item() == pytest.approx(envs.ret_rms.mean, rel=1e-3)
    assert scaler.norm.var.item() == pytest.approx(envs.ret_rms.var, rel=1e-3)
    np.testing.assert_allclose(scaler.running.numpy(), envs.returns * ~ends, rtol=1e-9)
    # They take statistics in step by step, we rollout by rollout: after 300 steps the difference is small.
    np.testing.assert_allclose(ours, np.array(theirs), rtol=0.05)


def test_return_scaler_by_hand() -> None:
    scaler = ReturnScaler(1, 0.5)
    rewards = np.array([[4.0], [2.0], [0.0], [8.0]], np.float32)
    done = np.array([[False], [True], [False], [False]])
    valid = np.array([[True], [True], [False], [True]])  # the third step only resets
    scaled = scaler(rewards, done, valid)
    # Discounted returns so far: 4, 4/2+2=4, (0), 8: mean 16/3, variance 32/9.
    assert scaler.norm.var.item() == pytest.approx(32 / 9)
    np.testing.assert_allclose(scaled[:, 0], np.array([4, 2, 0, 8]) / np.sqrt(32 / 9), rtol=1e-6)
    assert scaler.running.tolist() == [8.0]


def test_scaled_rewards_are_clipped() -> None:
    scaler = ReturnScaler(1, 0.0)
    rewards = np.zeros((1000, 1), np.float32)
    rewards[500] = 1.0
    scaled = scaler(rewards, np.zeros((1000, 1), bool), np.ones((1000, 1), bool))
    assert scaled.max() == 10.0


def test_discounted_returns_of_reinforce_begin_with_the_episode(counting_envs: MakeEnvs, mode: AutoresetMode) -> None:
    agent = REINFORCE(counting_envs(mode, [(2,), (7,)]), gamma=1.0, normalize_returns=True)
    agent.learn(140)
    # In every rollout the first environment is stopped after one episode, the second plays 7 steps: 1 3; 1 3 .. 28.
    sums = [1, 3, *np.cumsum(range(1, 8))]
    assert agent.return_scaler is not None
    assert agent.return_scaler.norm.var.item() == pytest.approx(np.var(sums), rel=1e-6)


# What can go wrong


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise", r"the environment failed in step\(\): RuntimeError: the simulator has crashed"),
        ("observation", "returned an observation that is not a finite number"),
        ("reward", "returned a reward that is not a finite number"),
    ],
)
def test_a_faulty_environment_is_a_training_error(
    faulty_env: Callable, mode: AutoresetMode, fault: str, sentence: str
) -> None:
    envs = SyncVectorEnv([lambda: faulty_env(fault), lambda: faulty_env("none")], autoreset_mode=mode)
    collector = RolloutCollector(envs, lambda actions: actions)
    collector.reset(seed=0)
    with pytest.raises(TrainingError, match=sentence):
        collector.collect(lambda observations: np.zeros(2, int), 20)


def test_a_last_observation_that_is_not_finite_is_a_training_error(faulty_env: Callable) -> None:
    """In SAME_STEP mode it is nowhere but in the infos."""
    env = faulty_env("observation")
    env.total = 2  # its seventh step is now the last of the first episode
    envs = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    collector = RolloutCollector(envs, lambda actions: actions)
    collector.reset(seed=0)
    with pytest.raises(TrainingError, match="not a finite number"):
        collector.collect(lambda observations: np.zeros(1, int), 20)
