"""Attacks that need an agent: values, targets, timing, memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rltool.agents import PPO, Agent
from rltool.agents.evaluation import evaluate
from rltool.attacks import (
    MAD,
    PGD,
    Actions,
    Critic,
    Forces,
    PerturbedVectorEnv,
    PushedVectorEnv,
    RandomNoise,
    Sarsa,
    Targeted,
    Timed,
    Universal,
    Victim,
    attack_agent,
)
from rltool.attacks.policies import cvar, newest_frame, paired_difference, play_attacked
from rltool.attacks.policy_actions import DisturbedActions
from rltool.attacks.policy_timing import clean_scores
from rltool.attacks.policy_value import Transitions, fit_q, watch_transitions
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.trees import tree_leaves


def test_q_of_a_chain_is_exact() -> None:
    # State 0 leads to 1, and 1 to the end; in 2, where the reward is 1 more, episodes are only ever cut off. Action 1
    # pays 1 more than 0, which the policy always takes: Q(0, a) = Q(1, a) = a, and Q(2, a) = a + 1 + Q(2, 0) / 2.
    states = torch.eye(3)
    rows = [(0, 1, False), (1, 1, True), (2, 2, False)]
    observations, actions, rewards, following, terminated = [], [], [], [], []
    for state, after, ended in rows:
        for action in (0, 1):
            observations.append(states[state])
            actions.append(action)
            rewards.append(action + (1.0 if state == 2 else 0.0))
            following.append(states[after])
            terminated.append(ended)
    repeat = 64
    data = Transitions(
        torch.stack(observations).repeat(repeat, 1),
        torch.tensor(actions).repeat(repeat),
        torch.tensor(rewards).repeat(repeat),
        torch.stack(following).repeat(repeat, 1),
        torch.zeros(6 * repeat, dtype=torch.long),
        torch.tensor(terminated).repeat(repeat),
    )
    space = gym.spaces.Box(0, 1, (3,), np.float32)
    q = fit_q(data, space, gym.spaces.Discrete(2), Sarsa(epochs=300), gamma=0.5)
    table = torch.stack([q(states, torch.full((3,), action)) for action in (0, 1)], 1)
    assert torch.allclose(table, torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 3.0]]), atol=0.1)


def test_the_memory_moves_on_once_in_every_step_with_what_was_shown() -> None:
    agent = PPO("CartPole-v1", backbone="lstm", model_size=8, num_envs=2, seed=0)
    envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 3, seed=0), agent, PGD(epsilon=0.3, steps=2))
    seen, state, start = envs.reset(seed=0)[0], None, np.ones(3, bool)
    resetting = np.zeros(3, bool)
    for _ in range(60):
        actions, state = agent.predict(seen, state, start, deterministic=True)
        seen, _, terminated, truncated, _ = envs.step(actions)
        for name in ("h", "c"):
            gone = state["policy"][name].copy()
            done = (terminated | truncated) & ~resetting
            gone[resetting if envs.mode.value == "NextStep" else done] = 0
            assert np.allclose(envs.state["policy"][name], gone, atol=1e-6)
        start = done | resetting
        resetting = done if envs.mode.value == "NextStep" else resetting
    assert envs.flipped > 0


@pytest.mark.parametrize("backbone", ["gru", "transformer"])
def test_policies_with_memory_are_attacked(backbone: str) -> None:
    agent = PPO("CartPole-v1", backbone=backbone, model_size=8, num_envs=2, seed=0)
    for attack in (MAD(epsilon=0.2, steps=2), Critic(epsilon=0.2, steps=2)):
        envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 3, seed=0), agent, attack)
        evaluate(agent, envs, 3)
        assert envs.attacked == envs.steps


@pytest.mark.parametrize("attack", [Critic, Targeted])
def test_who_has_a_slope_at_the_clean_input_may_start_there(attack: type[PGD]) -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        agent = PPO(env_id, num_envs=2, num_steps=32, seed=0)
        victim = Victim.from_agent(agent)
        x = 0.1 * torch.randn(8, *agent.observation_space.shape, generator=torch.Generator().manual_seed(0))
        first, second = (
            attack(epsilon=0.3, steps=2, step_size=0.05, random_start=False, seed=seed)(victim, x).x_adv
            for seed in (0, 1)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, x)


def test_one_perturbation_is_learned_for_a_policy_with_memory() -> None:
    agent = PPO("CartPole-v1", backbone="gru", model_size=8, num_envs=2, seed=0)
    seen = watch_transitions(agent, "CartPole-v1", 320, with_state=True)
    assert seen.state is not None
    assert all(len(leaf) == len(seen) for leaf in tree_leaves(seen.state))
    # The first state of every episode is empty, and the policy does what it did while it was watched.
    victim = Victim.from_agent(agent)
    victim.remember(seen.state)
    with torch.no_grad():
        assert torch.equal(victim.logits(seen.observations).argmax(1), seen.actions)
    attack = Universal(epsilon=0.3, steps=20).prepare(agent, "CartPole-v1")
    assert attack.delta is not None
    assert attack.delta.shape == (4,)
    envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 3, seed=0), agent, attack)
    evaluate(agent, envs, 3)
    assert envs.attacked == envs.steps


def test_a_policy_with_memory_is_no_victim_by_itself() -> None:
    victim = Victim.from_agent(PPO("CartPole-v1", backbone="lstm", model_size=8, num_envs=2))
    with pytest.raises(UserError, match="while it plays"):
        PGD()(victim, torch.zeros(1, 4))


def untrained() -> Agent:
    return PPO("CartPole-v1", num_envs=2, seed=0)


def draw(count: int) -> torch.Tensor:
    """Observations `(count, 4)` within the bounds of CartPole."""
    return 0.2 * torch.rand((count, 4), generator=torch.Generator().manual_seed(0)) - 0.1


def test_critic_lowers_what_the_critic_says() -> None:
    victim = Victim.from_agent(untrained())
    x = draw(16)
    before, after = (victim.critic.logits(each) for each in (x, Critic(epsilon=0.3)(victim, x).x_adv))  # type: ignore[union-attr]
    assert bool((after < before).all())


def test_targeted_lures_into_the_action() -> None:
    victim = Victim.from_agent(untrained())
    x = draw(32)
    for action in (0, 1):
        found = Targeted(epsilon=1.0, target_action=action)(victim, x).x_adv
        assert bool((victim.logits(found).argmax(1) == action).all())
    with pytest.raises(UserError, match="actions 0 to 1"):
        Targeted(target_action=2)(victim, x)


def test_timed_keeps_to_its_threshold_and_budget() -> None:
    agent = untrained()
    attack = Timed(attack=RandomNoise(epsilon=0.1), budget=0.25).prepare(agent, "CartPole-v1")
    scores = clean_scores(attack, agent, "CartPole-v1", seed=1_000_003)
    assert float((scores >= attack.threshold).double().mean()) == pytest.approx(0.25, abs=0.05)
    victim = Victim.from_agent(agent)
    x = draw(64)
    p = victim.logits(x).double().softmax(1)
    moved = attack(victim, x).distance > 0
    assert torch.equal(moved, p.amax(1) - p.amin(1) >= attack.threshold)


@pytest.mark.parametrize("attack", [Critic(), Sarsa(), Timed()])
def test_classifiers_are_refused(attack: object) -> None:
    with pytest.raises(UserError, match="agent"):
        attack(Victim(torch.nn.Linear(4, 3)), torch.rand(2, 4))  # type: ignore[operator]


def test_statistics() -> None:
    assert paired_difference([1.0, 3.0], [0.0, 1.0])[0] == 1.5
    assert cvar([5.0, 1.0, 3.0]) == 1.0
    assert newest_frame(gym.spaces.Box(0, 1, (4, 2)), 4).sum() == 2


def test_actions_are_disturbed_as_often_as_said() -> None:
    class Remembering(gym.vector.VectorWrapper):
        def step(self, actions: np.ndarray) -> tuple:
            self.actions = actions
            return self.env.step(actions)

    envs = Remembering(make_vector_env("Pendulum-v1", 400, seed=0))
    zero = np.zeros((400, 1), np.float32)
    for mix, low, high in ((False, 0.15, 0.35), (True, 1.0, 1.0)):
        disturbed = DisturbedActions(envs, 0.25, mix)
        disturbed.reset(seed=0)
        disturbed.step(zero)
        assert low <= (envs.actions != 0).mean() <= high
        assert np.abs(envs.actions).max() <= (0.5 if mix else 2.0)


def test_disturbed_actions_are_counted() -> None:
    agent = untrained()
    played = play_attacked(agent, "CartPole-v1", Actions(epsilon=0.3), episodes=64)
    assert played.attacked_share == pytest.approx(0.3, abs=0.05)
    assert played.flip_rate == pytest.approx(0.5, abs=0.1)  # Every other draw is what the agent does anyway.
    assert played.queries_per_step == 0
    few = play_attacked(agent, "CartPole-v1", Actions(epsilon=1.0), episodes=64, fraction=0.25)
    assert few.attacked_share == pytest.approx(0.25, abs=0.05)
    none = attack_agent(agent, "CartPole-v1", Actions(epsilon=0.0), episodes=4)
    assert none.attacked.returns == none.clean.returns
    mixed = play_attacked(PPO("Pendulum-v1", num_envs=2), "Pendulum-v1", Actions(epsilon=0.1, mix=True), episodes=2)
    assert (mixed.attacked_share, mixed.flip_rate) == (1, 1)


def test_forces_push_as_they_are_said_to() -> None:
    pytest.importorskip("mujoco")
    # A force along x on the pole makes it fall faster to that side.
    envs = make_vector_env("InvertedPendulum-v5", 2, seed=0, vectorization="sync")
    pushed = PushedVectorEnv(envs, 3.0, body="pole", direction=np.array([1.0, 0.0, 0.0]))
    start = pushed.reset(seed=0)[0].copy()
    after = pushed.step(np.zeros((2, 1), np.float32))[0]
    assert all(each.data.xfrc_applied[2].tolist() == [3, 0, 0, 0, 0, 0] for each in pushed.simulators)
    plain = make_vector_env("InvertedPendulum-v5", 2, seed=0, vectorization="sync")
    assert np.array_equal(plain.reset(seed=0)[0], start)
    assert (after[:, 3] > plain.step(np.zeros((2, 1), np.float32))[0][:, 3] + 0.03).all()
    drawn = PushedVectorEnv(envs, 2.0, hold=2, fraction=0.5)
    drawn.reset(seed=0)
    seen = []
    for _ in range(40):
        drawn.step(np.zeros((2, 1), np.float32))
        seen.append([each.data.xfrc_applied[1, :3].copy() for each in drawn.simulators])
    sizes = np.linalg.norm(seen, axis=2)
    assert np.allclose(sizes[sizes > 0], 2.0)
    assert 0.3 < (sizes > 0).mean() < 0.7
    with pytest.raises(UserError, match="did you mean 'pole'"):
        PushedVectorEnv(envs, 1.0, body="pool")
    with pytest.raises(UserError, match="no environment of it"):
        PushedVectorEnv(make_vector_env("CartPole-v1", 1), 1.0)


def test_the_worst_of_some_directions() -> None:
    pytest.importorskip("mujoco")
    agent = PPO("InvertedPendulum-v5", num_envs=2, seed=0)
    found = Forces(epsilon=5.0, body="pole", tries=3).prepare(agent, "InvertedPendulum-v5")
    assert found.direction is not None
    assert found.prepare(agent, "InvertedPendulum-v5") is found
    drawn = np.random.default_rng(0).standard_normal((3, 3)).tolist()
    left = [
        play_attacked(agent, "InvertedPendulum-v5", replace(found, direction=tuple(each)), 4, 1_000_003)
        for each in drawn
    ]
    assert list(found.direction) == min(zip(left, drawn, strict=True), key=lambda pair: pair[0].attacked.mean_return)[1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Actions(epsilon=1.5), "at most 1"),
        (lambda: Actions(epsilon=float("nan")), "at least 0"),
        (lambda: Actions(epsilon=-0.1), "at least 0"),
        (lambda: Forces(hold=0), "above 0"),
        (lambda: Forces(tries=-1), "at least 0"),
        (lambda: Forces(direction=(0.0, 0.0, 0.0)), "not all of them 0"),
        (lambda: Forces(norm="linf"), "choose l2"),
        (lambda: Actions()(Victim(torch.nn.Linear(4, 3)), torch.rand(2, 4)), "attacks agents alone"),
        (lambda: play_attacked(untrained(), "CartPole-v1", Actions(mix=True), 1), "cannot be mixed"),
        (lambda: play_attacked(untrained(), "CartPole-v1", Actions(), 1, fraction=2.0), "at most 1"),
    ],
)
def test_disturbances_that_cannot_be(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_only_episodes_that_count_are_attacked() -> None:
    agent = untrained()
    one = np.ones(4, np.int64)
    envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 4, seed=0), agent, RandomNoise(epsilon=0.1), episodes=one)
    played = evaluate(agent, envs, 4)
    assert envs.steps == envs.attacked == sum(played.lengths)
    assert max(played.lengths) > min(played.lengths)  # So that some have begun another episode.


def test_the_critic_attack_spends_all_on_the_newest_frame() -> None:
    agent = PPO("CartPole-v1", env_kwargs={"frame_stack": 3}, num_envs=2, seed=0)
    envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 2, frame_stack=3), agent, Critic(norm="l2"), frame_stack=3)
    envs.reset(seed=0)
    spent = np.linalg.norm((envs.seen - envs.observations).reshape(2, -1), axis=1)
    assert np.allclose(spent, 0.1, rtol=0.02)


def test_all_of_the_budget_is_all_timesteps() -> None:
    ready = Timed(attack=RandomNoise(epsilon=0.1), budget=1.0).prepare(untrained(), "CartPole-v1")
    assert play_attacked(untrained(), "CartPole-v1", ready, 4).attacked_share == 1


def test_older_frames_stay_as_they_were_shown() -> None:
    agent = PPO("CartPole-v1", env_kwargs={"frame_stack": 3}, num_envs=2, seed=0)
    inner = make_vector_env("CartPole-v1", 2, seed=0, frame_stack=3)
    envs = PerturbedVectorEnv(inner, agent, RandomNoise(epsilon=0.1), frame_stack=3)
    before = envs.reset(seed=0)[0].copy()
    assert np.array_equal(before[:, :2], envs.observations[:, :2])
    for _ in range(4):
        now = envs.step(np.array([0, 1]))[0].copy()
        assert np.array_equal(now[:, :2], before[:, 1:])
        assert 0 < np.abs(now[:, 2] - envs.observations[:, 2]).max() <= 0.1 + 1e-6
        before = now
