"""Agents that are hardened while they learn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import A2C, PPO, REINFORCE
from rltool.agents.on_policy import OnPolicyAgent
from rltool.attacks import PGD, AdversaryVectorEnv, PerturbedVectorEnv, RandomNoise, Victim
from rltool.attacks.persistent import FADING, PersistentVectorEnv, Push
from rltool.attacks.robust import AlternatingAdversary, AttackedTraining, divergence, td_errors
from rltool.errors import UserError
from rltool.trees import tree_leaves

SMALL = {"num_envs": 4, "num_steps": 64, "batch_size": 64, "num_epochs": 2}


class Wide(gym.Env):
    """Observations without bounds, and one continuous action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.np_random.normal(size=3).astype(np.float32), float(action[0]), False, self.t == 10, {}


def hardened(kind: str, env: Any = "CartPole-v1", learner: type[OnPolicyAgent] = PPO, **options: Any) -> Any:
    small = {} if learner is not PPO else SMALL if isinstance(env, str) else {"num_steps": 64}
    return learner(env, robust=kind, **{"epsilon": 0.1, "robust_ramp": 0.0, **small, **options})


def test_the_penalty_of_a_constant_policy_is_zero() -> None:
    for env in ("CartPole-v1", Wide()):
        agent = hardened("sa", env)
        observations = torch.randn(16, *agent.observation_space.shape) / 10
        penalty = agent.extensions["robust"].loss_term
        assert penalty(observations, agent.policy.distribution(observations)) > 0
        with torch.no_grad():
            for name, parameter in agent.policy.action_head.named_parameters():
                if name.endswith("weight"):
                    parameter.zero_()
        assert penalty(observations, agent.policy.distribution(observations)) == 0


def test_the_penalty_of_a_linear_policy_is_that_of_the_corner() -> None:
    agent = hardened("sa", Wide(), hidden_sizes=(), epsilon=0.3, robust_kappa=2.0, log_std_init=-1.0)
    weight = torch.tensor([[0.5, -2.0, 1.0]])
    with torch.no_grad():
        agent.policy.action_head.linear.weight.copy_(weight)
    observations = torch.randn(32, 3)
    distribution = agent.policy.distribution(observations)
    penalty = agent.extensions["robust"].loss_term(observations, distribution)
    furthest = 0.3 * weight.abs().sum()
    assert penalty.item() == pytest.approx(2.0 * 0.5 * (furthest / np.exp(-1)).item() ** 2, rel=1e-4)
    (gradient,) = torch.autograd.grad(penalty, agent.policy.action_head.linear.weight)
    expected = 2.0 * furthest * 0.3 * weight.sign() / np.exp(-2)
    torch.testing.assert_close(gradient, expected.to(gradient), rtol=1e-4, atol=1e-5)


def test_the_penalty_is_more_than_noise_comes_to() -> None:
    agent = hardened("sa", epsilon=0.2, seed=3)
    with torch.no_grad():
        agent.policy.action_head.linear.weight.mul_(100.0)
    observations = torch.randn(64, 4) / 10
    victim, policy = agent.extensions["robust"].victim, agent.policy
    with torch.no_grad():
        clean = policy.distribution(observations)
        noisy = policy.distribution(RandomNoise(epsilon=0.2)(victim, observations).x_adv)
        assert agent.extensions["robust"].loss_term(observations, clean) > 2 * divergence(clean, noisy).mean()


def test_divergence() -> None:
    logits = torch.randn(2, 5, 3)
    one, two = (rltool.networks.distributions.Categorical(each) for each in logits)
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=each) for each in logits))
    torch.testing.assert_close(divergence(one, two), expected)
    means, log_std = torch.randn(2, 5, 2), torch.tensor([-1.0, 0.5])
    normals = [torch.distributions.Normal(mean, log_std.exp()) for mean in means]
    one, two = (rltool.networks.distributions.DiagonalGaussian(mean, log_std) for mean in means)
    torch.testing.assert_close(divergence(one, two), torch.distributions.kl_divergence(*normals).sum(1))


def test_epsilon_grows_over_the_first_part() -> None:
    agent = hardened("sa", epsilon=0.4, robust_ramp=0.5)
    seen = []
    agent.learn(2_048, lambda learner, metrics: seen.append((learner.timesteps, metrics["robust_epsilon"])))
    # Metrics are of an update, and made before its timesteps are counted.
    assert seen == [(t, pytest.approx(0.4 * min(1, (t - 256) / 1_024))) for t in range(256, 2_049, 256)]


def test_observations_of_training_are_attacked() -> None:
    plain, attacked = PPO("CartPole-v1", **SMALL), hardened("pgd")
    envs = attacked.collector.env
    assert isinstance(attacked.extensions["robust"], AttackedTraining)
    assert isinstance(envs, PerturbedVectorEnv)
    for agent in (plain, attacked):
        agent.learn(256)
    difference = np.abs(attacked.collector.observation - envs.observations)
    assert 0.099 < difference.max() <= 0.1 + 1e-6
    assert envs.attacked == 4 * 65
    assert envs.attack.epsilon == 0.1


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [
        ("persistent", "mlp"),
        ("persistent", "lstm"),
        ("sa", "mlp"),
        ("pgd", "mlp"),
        ("pgd", "gru"),
        ("atla", "mlp"),
        ("atla", "gru"),
    ],
)
def test_resuming_is_exact(kind: str, backbone: str) -> None:
    options: dict[str, Any] = {"robust_ramp": 0.5, "backbone": backbone}
    if kind == "atla":
        options["robust_share"] = 8.0
    whole, first, second = (hardened(kind, seed=4, **options) for _ in range(3))
    whole.learn(1_024)
    kept = []
    first.learn(1_024, lambda learner, _: kept.append(learner.checkpoint()) or len(kept) < 2)
    assert second.restore(kept[-1])
    second.learn(1_024, resume=True)
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, second.policy.state_dict()[name]), name
    ours, theirs = whole.checkpoint(), second.checkpoint()
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    if kind == "atla":
        adversary = whole.extensions["robust"].adversary
        assert adversary.timesteps == 6_144
        assert any(name.startswith("extension.robust.policy.") for name in ours.tensors)


def persistent(
    envs: int = 64, env: str = "CartPole-v1", unit: str = "1,1,0.1,0.5", **options: float
) -> tuple[PPO, PersistentVectorEnv]:
    agent = PPO(env, seed=2)
    nothing = torch.zeros(1, 1)
    attack = Push(outputs=nothing, inputs=nothing, epsilon=0.1, unit=unit)
    return agent, PersistentVectorEnv(rltool.make_vector_env(env, envs, seed=3), agent, attack, seed=4, **options)


def test_persistent_adversaries_stay_within_epsilon() -> None:
    agent, envs = persistent()
    envs.reset(seed=3)
    for _ in range(5):
        moved = np.abs(envs.seen - envs.observations) / (0.1 * np.array([1, 1, 0.1, 0.5]))
        assert moved.max() <= 1 + 1e-4
        same = envs.adversaries[:, -4:].any(1)  # Who adds the same all the time, adds as much as may be.
        assert moved[same] == pytest.approx(1, abs=1e-4)
        acts = envs.adversaries.any(1)
        assert np.array_equal(moved.any(1), acts)
        assert 0.6 < acts.mean() < 1
        envs.step(agent.predict(envs.seen)[0])


def test_adversaries_stay_until_the_episode_ends_or_another_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltool.attacks.persistent.SWITCH", 0.0)
    agent, envs = persistent(8)
    envs.reset(seed=3)
    ended = 0
    for _ in range(40):
        before = envs.adversaries.copy()
        _, _, terminated, _, _ = envs.step(agent.predict(envs.seen)[0])
        same = (envs.adversaries == before).all(1)
        assert same[~(terminated | envs.resetting)].all() or ended
        ended += int(terminated.sum())
        assert not same[terminated & before[:, 4].astype(bool)].any()  # A constant push may be drawn twice.
    assert ended
    monkeypatch.setattr("rltool.attacks.persistent.SWITCH", 1.0)
    before = envs.adversaries.copy()
    envs.step(agent.predict(envs.seen)[0])
    assert not (envs.adversaries == before)[before[:, 4] != 0].all(1).any()


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1"])  # Episodes that end while others go on; and that do not.
def test_adversaries_are_remembered_by_the_harm_they_did(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltool.attacks.persistent.SWITCH", 0.2)
    agent, envs = persistent(8, env=env, unit="raw", replay=0.5)
    rng, owed = np.random.default_rng(0), {}
    envs.draw = lambda: rng.normal(size=envs.adversaries.shape[1]) * (rng.random() < 0.8)  # All different, or idle.
    seen = envs.reset(seed=3)[0]
    for _ in range(3):
        surprise = rng.normal(size=(30, 8))
        for row in surprise:
            for adversary, error in zip(envs.adversaries, row, strict=True):
                owed[adversary.tobytes()] = owed.get(adversary.tobytes(), 0) - error
            seen, _, terminated, truncated, _ = envs.step(agent.predict(seen)[0])
            done = terminated | truncated
            if done.any():
                seen = envs.reset(options={"reset_mask": done})[0]
        envs.judge(surprise)
        assert len(envs.drawn) == 8
    assert len(envs.pool.harm) == 64
    for adversary, harm in zip(envs.pool.adversaries, envs.pool.harm, strict=True):
        assert adversary.any()
        assert min(abs(harm - owed[adversary.tobytes()] * FADING**k) for k in range(3)) < 1e-9
    for adversary, harm in zip(envs.adversaries, envs.harm, strict=True):
        assert not adversary.any() or harm == pytest.approx(owed.get(adversary.tobytes(), 0))


def test_adversaries_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _, envs = persistent(4, replay=0.5)
    known = np.random.default_rng(0).normal(size=(200, envs.adversaries.shape[1]))
    envs.pool.add(known, np.arange(200.0))
    assert np.array_equal(envs.pool.adversaries, known[:-65:-1])
    envs.pool.add(known[:1], np.array([160.0]))  # Others have faded: 199 is worth 179.1 now.
    assert envs.pool.harm[:2] == pytest.approx([179.1, 178.2])
    assert envs.pool.harm.tolist().index(160.0) == 22
    drawn = [envs.draw() for _ in range(400)]
    again = sum((known[136:] == each).all(1).any() for each in drawn)
    assert 60 < again < 140  # Half of 400 come back, half of these as they were.
    monkeypatch.setattr("rltool.attacks.persistent.MUTATED", 0.0)
    envs.replay = 1.0
    assert all((envs.pool.adversaries == envs.draw()).all(1).any() for _ in range(50))


def test_td_errors_are_those_of_a_critic_that_says_nothing() -> None:
    agent = hardened("persistent", seed=3, gamma=0.5)
    with torch.no_grad():
        for parameter in agent.policy.value_head.parameters():
            parameter.zero_()
    agent.collector.reset(seed=3)
    rollout = agent.collect(64)
    assert td_errors(agent, rollout) == pytest.approx(np.where(rollout.valid, rollout.rewards, 0))
    with torch.no_grad():
        agent.policy.value_head.linear.bias.fill_(3.0)
    expected = np.where(rollout.valid, 1 + 0.5 * 3.0 * ~rollout.terminated - 3.0, 0)
    assert td_errors(agent, rollout) == pytest.approx(expected)


def test_a_push_moves_outputs_where_it_is_to() -> None:
    agent = PPO("CartPole-v1", seed=5)
    victim = Victim.from_agent(agent)
    x = torch.randn(32, 4) / 10
    outputs = torch.randn(32, 2)
    outputs -= outputs.mean(1, keepdim=True)
    result = Push(outputs=outputs, inputs=torch.zeros(32, 4), epsilon=0.01)(victim, x)
    with torch.no_grad():
        gained = ((victim.logits(result.x_adv) - victim.logits(x)) * outputs).sum(1)
    assert (gained > 0).all()
    assert result.distance.numpy() == pytest.approx(0.01, rel=1e-3)
    still = Push(outputs=torch.zeros(32, 2), inputs=torch.zeros(32, 4), epsilon=0.01)(victim, x)
    assert torch.equal(still.x_adv, x)


def test_a_push_finds_what_the_gradient_at_the_input_does_not_show() -> None:
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            up = torch.relu(x[:, :1].abs() - 0.05)  # Flat about the input, and steep further out.
            return torch.cat((up, -up), 1)

    x, push = torch.zeros(64, 2), torch.tensor([[1.0, -1.0]]).repeat(64, 1)
    victim = Victim(Flat(), bounds=(-1, 1))
    moved = Push(outputs=push, inputs=torch.zeros(64, 2), epsilon=0.1, seed=1)(victim, x).x_adv
    found = moved[:, 0].abs() > 0  # From half of the ball.
    assert 16 < found.sum() < 48
    assert moved[found, 0].abs().numpy() == pytest.approx(0.1)
    assert (moved[found, 0] > 0).any()
    assert (moved[found, 0] < 0).any()
    assert not moved[~found].any()


def test_units_of_features() -> None:
    agent = PPO("CartPole-v1", seed=5)
    victim, x = Victim.from_agent(agent), torch.randn(16, 4) / 10
    by_unit = PGD(epsilon=0.1, unit="1,2,0,0.5", seed=1)(victim, x).x_adv
    by_epsilon = PGD(epsilon=torch.tensor([0.1, 0.2, 0.0, 0.05]), seed=1)(victim, x).x_adv
    torch.testing.assert_close(by_unit, by_epsilon)
    assert torch.equal(by_unit[:, 2], x[:, 2])
    for unit in ("", "degrees", "1,-1", "0,0", "nan"):
        with pytest.raises(UserError, match="a number for each feature"):
            PGD(unit=unit)


def test_the_adversary_learns_with_the_policy() -> None:
    agent = hardened("atla", robust_share=8.0, epsilon=0.3)
    extension = agent.extensions["robust"]
    assert isinstance(extension, AlternatingAdversary)
    before = {name: tensor.clone() for name, tensor in extension.adversary.policy.state_dict().items()}
    agent.learn(512)
    after = extension.adversary.policy.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after)
    envs = extension.adversary.env
    assert isinstance(envs, AdversaryVectorEnv)
    assert envs.agent is agent
    assert envs.attack.epsilon == agent.collector.env.attack.epsilon == 0.3
    assert agent.timesteps == 512


@pytest.mark.parametrize("learner", [A2C, REINFORCE])
@pytest.mark.parametrize("kind", ["persistent", "sa", "pgd"])
def test_other_algorithms(learner: type[OnPolicyAgent], kind: str) -> None:
    agent = hardened(kind, learner=learner)
    agent.learn(200)
    assert agent.timesteps >= 200


def test_continuous_actions_in_standard_deviations() -> None:
    options = {"normalize_observations": True, "epsilon_unit": "std", "epsilon": 0.3}
    for kind in ("persistent", "sa", "pgd", "atla"):
        agent = hardened(kind, "Pendulum-v1", robust_share=8.0, **options).learn(768)
        assert all(tensor.isfinite().all() for tensor in agent.policy.state_dict().values())


def test_weights_are_chosen_by_returns_with_and_without_an_attack(tmp_path: Any) -> None:
    run = rltool.train(
        "ppo",
        "CartPole-v1",
        total_timesteps=2_048,
        robust="sa",
        eval_freq=1_024,
        eval_episodes=4,
        run_dir=str(tmp_path),
        **SMALL,
    )
    assert run.config["config"]["robust_steps"] == 3  # The preset's.
    assert 9 <= run.summary["best_attacked_return"] <= run.summary["mean_return"]
    rows = [row for row in run.metrics if "eval/attacked_return" in row]
    sums = [row["eval/attacked_return"] + row["eval/mean_return"] for row in rows if row["eval/mean_return"]]
    assert run.summary["best_attacked_return"] + run.summary["mean_return"] == pytest.approx(max(sums))


def test_judging_adversaries_leaves_the_critic_as_it_is() -> None:
    for options in ({"dropout": 0.3}, {"batch_norm": True}):
        agent = hardened("persistent", **options)
        rollout = agent.collect(agent.config.num_steps)
        agent.policy.train()
        before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
        assert np.array_equal(td_errors(agent, rollout), td_errors(agent, rollout))
        assert all(torch.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())
        assert agent.policy.training


def test_single_observations_say_nothing_of_a_memory() -> None:
    with pytest.raises(UserError, match="take --robust persistent, pgd or atla"):
        hardened("sa", backbone="lstm")


def test_policies_with_memory_learn_under_attack_with_the_memory_of_what_they_were_shown() -> None:
    agent = hardened("pgd", backbone="gru", epsilon=0.3)
    agent.learn(512)
    envs = agent.extensions["robust"].perturbed
    assert envs.flipped > 0
    ours, collected = envs.state["policy"], agent.collector.state["policy"]
    assert np.allclose(next(tree_leaves(ours)), next(tree_leaves(collected)), atol=1e-6)


def test_an_adversary_needs_an_environment_by_its_id() -> None:
    with pytest.raises(UserError, match="by its id"):
        hardened("atla", Wide()).learn(64)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"robust": "sa", "preset": "none"}, "add --epsilon"),
        ({"robust": "sa", "epsilon": -0.1}, "epsilon"),
        ({"robust": "sa", "epsilon": float("nan")}, "epsilon"),
        ({"robust": "no", "epsilon": 0.1}, "'sa', 'pgd' or 'atla'"),
        ({"epsilon": 0.1}, "nothing without --robust"),
        ({"robust_kappa": 3.0}, "robust-kappa does nothing without --robust"),
        ({"robust": "sa", "epsilon": 0.1, "epsilon_unit": "std"}, "--normalize-observations"),
        ({"robust": "sa", "epsilon": 0.1, "epsilon_unit": "1,one"}, "a number for each feature"),
        ({"robust": "sa", "epsilon": 0.1, "epsilon_unit": "1,1"}, "has 2 numbers, an input 4 features"),
    ],
)
def test_bad_input(options: dict[str, Any], sentence: str, tmp_path: Any) -> None:
    with pytest.raises(UserError, match=sentence):
        rltool.train("ppo", "CartPole-v1", total_timesteps=64, run_dir=str(tmp_path), **options)
    assert not list(tmp_path.iterdir())
