"""Reward models learned from demonstrations: their signs, the absorbing state, and what agents learn from them."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import A2C, AIRL, GAIL, PPO, controls
from rltool.agents.adversarial import OBJECTIVES, recovered_reward, shuffled
from rltool.agents.controls import verdict
from rltool.agents.reward_model import RewardModel, RewardTable, Steps, absorbing_step
from rltool.envs import load_demonstrations
from rltool.envs.demonstrations import Demonstrations
from rltool.errors import UserError
from rltool.training.checkpoint import load_state

from .conftest import IdentityVectorEnv

LINE = gym.spaces.Box(-1, 1, (1,), np.float32)
TWO = gym.spaces.Discrete(2)


def save(path, observations, actions, ends, **arrays):
    marks = np.zeros(len(actions), bool)
    marks[np.asarray(ends)] = True
    np.savez(
        path, observations=observations, actions=actions, rewards=np.ones(len(actions)), episode_ends=marks, **arrays
    )
    return str(path)


@pytest.fixture
def identity_demos(tmp_path):
    """Twenty episodes of ten steps in which the action named is always the right one."""
    rng = np.random.default_rng(0)
    actions = rng.integers(3, size=200)
    ends = np.arange(9, 200, 10)
    return save(tmp_path / "demos.npz", np.eye(3, dtype=np.float32)[actions], actions, ends)


def share_of_right_actions(agent):
    observations = np.eye(3, dtype=np.float32)
    return float((agent.predict(observations, deterministic=True)[0] == np.arange(3)).mean())


# Signs


@pytest.mark.parametrize("name", OBJECTIVES)
def test_descending_the_loss_raises_logits_of_demonstrations_and_lowers_the_policys(name):
    objective, x = OBJECTIVES[name], torch.linspace(-0.9, 0.9, 7, requires_grad=True)
    up = torch.autograd.grad(objective.demonstrated(x).sum(), x)[0]
    down = torch.autograd.grad(objective.own(x).sum(), x)[0]
    assert (up < 0).all()
    assert (down > 0).all()
    assert (torch.autograd.grad(objective.reward(x).sum(), x)[0] > 0).all()


def test_gail_is_the_logistic_loss_and_rewards_minus_log_of_one_minus_d():
    x = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64)
    d, gail = torch.sigmoid(x), OBJECTIVES["gail"]
    torch.testing.assert_close(gail.demonstrated(x), -d.log())
    torch.testing.assert_close(gail.own(x), -torch.sigmoid(-x).log())
    torch.testing.assert_close(gail.reward(x), -torch.sigmoid(-x).log())


def test_airls_logit_is_f_minus_log_pi_and_its_reward_f(identity_demos):
    agent = AIRL(IdentityVectorEnv("discrete", 4), demos=identity_demos, num_steps=8, batch_size=32)
    extension = agent.extensions["demos"]
    rollout = agent.collect(8)
    seen, actions = rollout.seen(rollout.valid), rollout.actions[rollout.valid]
    own = extension._steps(seen, actions, seen, np.zeros(len(actions), np.int64))
    log_prob = extension._log_prob(seen, actions)
    with torch.no_grad():
        distribution, _ = agent.policy(torch.from_numpy(seen))
    np.testing.assert_allclose(log_prob, distribution.log_prob(torch.from_numpy(actions)).numpy(), rtol=1e-5)
    model = extension.model
    f, nothing = model.rate(own, model), model.rate(absorbing_step(own), model)
    np.testing.assert_allclose(extension.rewards(own), f - nothing, rtol=1e-4, atol=1e-5)
    loss, _ = extension._loss(own, log_prob, own, log_prob)
    x = torch.from_numpy(f - log_prob)
    shares = extension.demonstrated_absorbing, extension.own_absorbing
    assert shares[1] == 0.0
    z = torch.from_numpy(nothing)
    expected = (
        (1 - shares[0]) * torch.nn.functional.softplus(-x).mean()
        + shares[0] * torch.nn.functional.softplus(-z).mean()
        + torch.nn.functional.softplus(x).mean()
    )
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


# The reward model


def steps(n, seed=0, absorbed=False):
    rng = np.random.default_rng(seed)
    before, after = (rng.uniform(-1, 1, (n, 1)).astype(np.float32) for _ in range(2))
    zeros = np.zeros(n, np.int64)
    return Steps(before, rng.integers(2, size=n), after, zeros, zeros + absorbed)


def test_the_potential_telescopes_along_an_episode():
    model = RewardModel(LINE, TWO, (8,), reads_actions=False, gamma=0.9)
    path = np.random.default_rng(0).uniform(-1, 1, (6, 1)).astype(np.float32)
    zeros = np.zeros(5, np.int64)
    episode = Steps(path[:-1], zeros, path[1:], zeros, zeros)
    shaping = model.rate(episode, model) - model.rate(episode, model.recovered)
    with torch.no_grad():
        h = model.potential((torch.from_numpy(path), torch.zeros(6, dtype=torch.long))).numpy()
    assert float((0.9 ** np.arange(5)) @ shaping) == pytest.approx(0.9**5 * h[-1] - h[0], abs=1e-6)


def test_a_reward_of_states_does_not_depend_on_actions():
    model = RewardModel(LINE, TWO, (8,), reads_actions=False)
    some = steps(10)
    other = some._replace(actions=1 - some.actions)
    np.testing.assert_array_equal(model.rewards(some), model.rewards(other))
    assert not np.allclose(RewardModel(LINE, TWO, (8,)).rewards(some), RewardModel(LINE, TWO, (8,)).rewards(other))


def test_the_absorbing_state_is_worth_nothing():
    for positive in (False, True):
        model = RewardModel(LINE, TWO, (8,), positive=positive)
        assert model.rewards(absorbing_step(steps(3))) == pytest.approx([0.0])


SPACES = [
    LINE,
    gym.spaces.Discrete(5),
    gym.spaces.MultiBinary(3),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.Box(0, 255, (24, 24, 3), np.uint8),
    gym.spaces.Dict({"a": LINE, "b": gym.spaces.Discrete(2)}),
    gym.spaces.Tuple([LINE, gym.spaces.MultiBinary(2)]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("actions", [TWO, LINE, gym.spaces.MultiDiscrete([2, 2])], ids=str)
def test_it_reads_every_space(space, actions):
    from rltool.networks.observations import stack_observations

    space.seed(0)
    actions.seed(0)
    seen, then = (stack_observations(space, [space.sample() for _ in range(4)]) for _ in range(2))
    zeros = np.zeros(4, np.int64)
    batch = Steps(seen, np.stack([actions.sample() for _ in range(4)]), then, zeros, zeros)
    model = RewardModel(space, actions, (8,), gamma=0.9)
    model.observe(seen)
    assert model.rate(batch, model).shape == model.rewards(batch).shape == (4,)
    assert np.isfinite(model.rewards(batch)).all()


# Episodes that terminate


def absorbing_agent(tmp_path, lengths, terminated, **options):
    n, ends = sum(lengths), np.cumsum(lengths) - 1
    demos = save(
        tmp_path / "ends.npz", np.zeros((n, 1), np.float32), np.zeros(n, int), ends, terminated=np.array(terminated)
    )
    return GAIL(make_walk(), demos=demos, num_steps=16, batch_size=16, **options)


class Walk(gym.Env):
    """From 0, action 1 goes a step to the right, action 0 to the left; at +-`goal` the episode terminates."""

    observation_space = gym.spaces.Box(-4, 4, (1,), np.float32)
    action_space = TWO

    def __init__(self, goal=3):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += 1 if action else -1
        return np.array([self.x], np.float32), 0.0, abs(self.x) == self.goal, False, {}


def make_walk():
    """The walk, cut off after ten steps."""
    return gym.make(gym.envs.registration.EnvSpec("Walk-v0", Walk, max_episode_steps=10), disable_env_checker=True)


def test_the_share_of_the_absorbing_state(tmp_path):
    extension = absorbing_agent(tmp_path, [4, 10], [True, False]).extensions["demos"]
    assert extension.horizon == 10
    assert extension.demonstrated_absorbing == pytest.approx(6 / 20)
    # The last step of an episode that was cut off is left out: nobody knows what followed.
    assert len(extension.demonstrated.absorbing) == 13
    assert extension.demonstrated.absorbed.tolist() == [0, 0, 0, 1] + [0] * 9


def test_where_it_is_unknown_whether_episodes_terminated_the_short_ones_have(tmp_path):
    marks = np.zeros(14, bool)
    marks[[3, 13]] = True
    np.savez(
        tmp_path / "flat.npz",
        observations=np.zeros((14, 1), np.float32),
        actions=np.zeros(14, int),
        rewards=np.ones(14),
        episode_ends=marks,
    )
    agent = absorbing_agent(tmp_path, [4], [True])
    agent = GAIL(agent.env, demos=str(tmp_path / "flat.npz"), num_steps=16, batch_size=16)
    assert agent.extensions["demos"].demonstrated_ends.tolist() == [True, False]


def test_the_policys_share_of_the_absorbing_state_is_counted_over_rollouts(tmp_path):
    agent = absorbing_agent(tmp_path, [4], [True])
    extension = agent.extensions["demos"]
    for rollout in (agent.collect(16), agent.collect(16)):
        extension._count_absorbing(rollout)
        extension.optimizer.steps = 1
    assert 0 < extension.own_absorbing < 1


@pytest.mark.parametrize("objective", ["gail", "airl"])
@pytest.mark.parametrize("right", [True, False])
def test_it_finishes_where_that_was_demonstrated_and_lasts_where_that_was(tmp_path, objective, right):
    if right:  # Straight to the goal.
        path, lengths, ends = [0, 1, 2], [3] * 5, [True] * 5
        observations, actions = path * 5, [1, 1, 1] * 5
    else:  # To and fro, until the time is up.
        lengths, ends = [10] * 5, [False] * 5
        observations, actions = [0, 1] * 25, [1, 0] * 25
    demos = save(
        tmp_path / "walk.npz",
        np.array(observations, np.float32)[:, None],
        np.array(actions),
        np.cumsum(lengths) - 1,
        terminated=np.array(ends),
        final_observations=np.full((5, 1), 3.0 if right else 0.0, np.float32),
    )
    env = make_walk()
    agent = (GAIL if objective == "gail" else AIRL)(env, demos=demos, num_steps=64, batch_size=64, learning_rate=5e-3)
    assert agent.extensions["demos"].horizon == 10
    agent.learn(4_000)
    observation, _ = env.reset(seed=0)
    for t in range(10):
        observation, _, terminated, _, _ = env.step(agent.predict(observation, deterministic=True)[0])
        if terminated:
            break
    assert (terminated and t == 2) if right else not terminated


# Learning


@pytest.mark.parametrize("objective", ["gail", "airl", "maxent", "margin"])
def test_it_learns_what_was_demonstrated(identity_demos, objective):
    agent = PPO(
        IdentityVectorEnv("discrete", 8),
        demos=identity_demos,
        demos_objective=objective,
        demos_reads="state-action",
        demos_weight_decay=0.1,
        ent_coef=0.05,
        num_steps=32,
        batch_size=64,
        learning_rate=3e-3,
        num_epochs=4,
    )
    agent.learn(8_000)
    assert share_of_right_actions(agent) == 1.0


def test_a2c_is_a_generator_too(identity_demos):
    agent = A2C(IdentityVectorEnv("discrete", 8), demos=identity_demos, num_steps=16, learning_rate=3e-3)
    agent.learn(16_000)
    assert share_of_right_actions(agent) == 1.0


def test_shuffled_demonstrations_teach_nothing(identity_demos):
    env = IdentityVectorEnv("discrete", 8)
    options = {"demos": identity_demos, "num_steps": 32, "batch_size": 64, "learning_rate": 3e-3}
    right = [
        share_of_right_actions(GAIL(env, demos_control="shuffled", seed=s, **options).learn(4_000)) for s in range(3)
    ]
    assert np.mean(right) < 0.9


def test_shuffling_keeps_what_there_is_but_not_what_belongs_together():
    rows = np.arange(50)
    demos = Demonstrations(LINE, gym.spaces.Discrete(50), rows[:, None] / 50, rows, np.ones(50), np.array([49]))
    spoiled = shuffled(demos, 0)
    assert sorted(spoiled.actions) == list(rows)
    assert sorted(spoiled.observations[:, 0]) == list(rows / 50)
    assert (spoiled.actions / 50 == spoiled.observations[:, 0]).mean() < 0.2


@pytest.mark.parametrize(
    "options", [{"demos_gradient_penalty": 1.0}, {"demos_spectral_norm": True}, {"demos_absorbing": False}]
)
def test_what_steadies_it_still_learns(identity_demos, options):
    agent = GAIL(
        IdentityVectorEnv("discrete", 8),
        demos=identity_demos,
        num_steps=32,
        batch_size=64,
        learning_rate=3e-3,
        **options,
    )
    agent.learn(8_000)
    assert share_of_right_actions(agent) == 1.0


def test_the_gradient_penalty_of_a_linear_model_is_its_slopes():
    model = RewardModel(LINE, TWO, (4,), reads_actions=False)
    model.normalizer = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    # f = 3 x for x > -1: one hidden unit relu(x + 1), times 3.
    with torch.no_grad():
        hidden, out = model.rating.backbone.layers[0], model.rating.linear
        hidden.weight[0, 0], hidden.bias[0], out.weight[0, 0] = 1.0, 1.0, 3.0

    class Holder:
        agent = type("Agent", (), {"device": "cpu"})
        _gradient_penalty = __import__(
            "rltool.agents.adversarial", fromlist=["x"]
        ).DemonstrationReward._gradient_penalty

    holder = Holder()
    holder.model = model
    penalty = holder._gradient_penalty(steps(8).tensors("cpu"), steps(8, 1).tensors("cpu"))
    assert float(penalty.detach()) == pytest.approx((3 - 1) ** 2)


# Mistakes


def test_airl_needs_single_steps(identity_demos):
    with pytest.raises(UserError, match="take gail"):
        AIRL(IdentityVectorEnv("discrete"), demos=identity_demos, backbone="lstm")


def test_options_without_demonstrations():
    with pytest.raises(UserError, match="--demos"):
        GAIL("CartPole-v1")
    with pytest.raises(UserError, match="does nothing without --demos"):
        PPO("CartPole-v1", demos_steps=3)


def test_verdicts():
    figures = {"score": 0.9, "random_return": 20.0, "demonstrator_return": 500.0}
    assert len(verdict(figures)) == 1
    leaky = verdict(figures | {"leak": "survive", "constant_score": 0.8, "spoiled": "shuffled", "spoiled_score": 0.1})
    assert any("it is enough to last long" in sentence for sentence in leaky)
    honest = verdict(figures | {"leak": "none", "spoiled": "random", "spoiled_score": 0.05})
    assert not any("enough" in sentence for sentence in honest)
    assert any("nothing away" in s for s in honest)
    assert any("random agent's episodes" in s for s in honest)
    assert math.isfinite(figures["score"])
    assert verdict({}) == []


# Runs


CARTPOLE = {"num_envs": 4, "num_steps": 64, "batch_size": 64, "num_epochs": 2}


@pytest.fixture
def cartpole_demos(tmp_path):
    """Five good episodes: the pole is pushed back whenever it leans."""
    env, rows, acts, ends, finals = gym.make("CartPole-v1"), [], [], [], []
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        for _ in range(100):
            action = int(observation[2] + 0.5 * observation[3] > 0)
            rows.append(observation)
            acts.append(action)
            observation, _, terminated, _, _ = env.step(action)
            assert not terminated
        ends.append(len(acts) - 1)
        finals.append(observation)
    return save(
        tmp_path / "cartpole.npz", np.array(rows), np.array(acts), ends,
        terminated=np.zeros(5, bool), final_observations=np.array(finals),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["gail", "airl"])
def test_a_run_goes_on_bit_for_bit(tmp_path, cartpole_demos, method):
    options = {
        "demos": cartpole_demos,
        "controls": False,
        "run_dir": str(tmp_path / "runs"),
        "eval_freq": 0,
        **CARTPOLE,
    }
    straight = rltool.train(method, "CartPole-v1", name="straight", total_timesteps=1_536, **options)
    stop = lambda learner, _: learner.timesteps < 768  # noqa: E731
    stopped = rltool.train(method, "CartPole-v1", name="stopped", total_timesteps=1_536, callback=stop, **options)
    assert not stopped.summary["finished"]
    resumed = rltool.resume(stopped.path)
    one, two = (load_state(run.checkpoints()[-1]) for run in (straight, resumed))
    assert one.tensors.keys() == two.tensors.keys()
    assert any("extension.demos.model" in name for name in one.tensors)
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


def test_the_reward_is_kept_and_a_fresh_agent_learns_from_it(tmp_path, cartpole_demos):
    first = rltool.train(
        "airl", "CartPole-v1", demos=cartpole_demos, controls=False, run_dir=str(tmp_path), name="airl",
        total_timesteps=2_048, eval_freq=0, **CARTPOLE,
    )  # fmt: skip
    reward = recovered_reward(rltool.load(tmp_path / "airl"))
    trained = load_state(first.checkpoints()[-1])
    for name, tensor in reward.state_dict().items():
        assert torch.equal(tensor, trained.tensors[f"extension.demos.model.{name}"])
    again = rltool.train(
        "ppo", "CartPole-v1", reward=str(first.path), run_dir=str(tmp_path), total_timesteps=2_048, eval_freq=1_024
    )
    agent = again.agent
    rollout = PPO("CartPole-v1", reward=str(first.path), num_steps=64).collect(64)
    replaced = agent.extensions["reward"].task_reward(rollout)
    assert not np.allclose(replaced, rollout.rewards)
    assert agent.replaces_rewards
    with pytest.raises(UserError, match="is one of observations"):
        rltool.train("ppo", "Acrobot-v1", reward=str(first.path), run_dir=str(tmp_path), name="wrong", preset="none")
    with pytest.raises(UserError, match="holds no reward"):
        rltool.train("ppo", "CartPole-v1", reward=str(again.path), run_dir=str(tmp_path), name="wrong")
    assert not (tmp_path / "wrong").exists()


def test_controls_come_after_training_and_a_resume_goes_on_with_them(tmp_path, cartpole_demos, monkeypatch):
    options = {"demos": cartpole_demos, "run_dir": str(tmp_path), "eval_freq": 0, "total_timesteps": 1_024, **CARTPOLE}
    monkeypatch.setattr(controls, "EPISODES", 4)
    with monkeypatch.context() as context:
        context.setattr("rltool.agents.adversarial.compare_with_controls", lambda *_: None)  # As if the user stopped.
        run = rltool.train("gail", "CartPole-v1", name="run", **options)
        assert not run.summary["finished"]
    run = rltool.resume(run.path)
    summary = run.summary
    assert summary["finished"]
    assert summary["total_timesteps"] == 1_024
    assert summary["leak"] == "survive"
    assert {"score", "constant_score", "spoiled_score"} <= summary.keys()
    assert summary["demonstrator_return"] == 100.0
    shuffled_run = rltool.load(run.path / "controls" / "spoiled")
    assert shuffled_run.config["config"]["demos_control"] == "shuffled"


def test_the_control_of_a_reward_of_states_is_random_episodes(tmp_path, cartpole_demos, monkeypatch):
    options = {"demos": cartpole_demos, "run_dir": str(tmp_path), "eval_freq": 0, "total_timesteps": 512, **CARTPOLE}
    monkeypatch.setattr(controls, "EPISODES", 4)
    run = rltool.train("airl", "CartPole-v1", name="run", **options)
    assert run.summary["spoiled"] == "random"
    control = rltool.load(run.path / "controls" / "spoiled")
    assert control.config["config"]["demos_control"] == "random"
    demos = AIRL("CartPole-v1", demos=cartpole_demos, demos_control="random", **CARTPOLE).extensions["demos"].demos
    assert demos.num_episodes == load_demonstrations(cartpole_demos).num_episodes
    assert demos.lengths.mean() < 40


def test_demonstrations_that_are_missing_leave_no_run_behind(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        rltool.train("gail", "CartPole-v1", demos=str(tmp_path / "nowhere.npz"), run_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_fresh_agent_learns_from_a_table_of_rewards():
    states, actions = gym.spaces.Discrete(3), gym.spaces.Discrete(2, start=1)
    zeros = np.zeros(3, np.int64)
    some = Steps(np.array([0, 1, 2]), np.array([1, 2, 1]), np.array([1, 2, 0]), zeros, zeros)
    arriving = RewardTable(states, actions, np.array([10.0, 20.0, 30.0]))
    assert arriving.rewards(some).tolist() == [20.0, 30.0, 10.0]
    acting = RewardTable(states, actions, np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert acting.rewards(some).tolist() == [1.0, 4.0, 5.0]
