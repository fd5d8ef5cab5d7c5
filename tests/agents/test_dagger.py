"""DAgger: asking an expert about what the learner met."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import rltool
from rltool.agents import BehaviorCloning, DAgger
from rltool.agents.dagger import Mixture, ask, join
from rltool.agents.recording import record
from rltool.envs import Demonstrations
from rltool.errors import UserError
from rltool.training.checkpoint import load_state

LINE = gym.spaces.Box(-8, 8, (1,), np.float32)


class Ridge(gym.Env):
    """A walk along a ridge; a gust sometimes throws the walker off to a side, from where only one way leads back.

    The expert steps back to the middle. Its own episodes hardly ever leave it, so that a clone does not learn how to.
    """

    observation_space = LINE
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x += (1 if action else -1) + self.np_random.normal(0, 0.1)
        return np.array([self.x], np.float32), float(abs(self.x) < 2), bool(abs(self.x) > 6), False, {}


class Windy(gym.Env):
    """A bridge of eleven planks; one falls off at either end. In wind, one step in five goes outwards in any case.

    In calm weather a walker who goes back to the middle sees three planks of them.
    """

    observation_space = gym.spaces.Discrete(11)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, wind=0.2):
        self.wind = wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return self.x + 5, {}

    def step(self, action):
        outwards = self.np_random.random() < self.wind
        self.x += (1 if self.x >= 0 else -1) if outwards else (1 if action else -1)
        fallen = abs(self.x) > 5
        return min(max(self.x, -5), 5) + 5, 1.0, fallen, False, {}


class Walker:
    """Goes back to the middle."""

    observation_space = Windy.observation_space
    action_space = Windy.action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation <= 5).astype(np.int64), None


class Expert:
    """Goes back to the middle."""

    observation_space = LINE
    action_space = gym.spaces.Discrete(2)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation[:, 0] < 0).astype(np.int64), None


class Alternating:
    """Remembers how many steps there were, and answers with that, modulo 2."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        state = np.zeros(len(observation), np.int64) if state is None else state
        return state % 2, state + 1


@pytest.fixture(scope="module", autouse=True)
def ridge():
    gym.register("Ridge-v0", entry_point=Ridge, max_episode_steps=40)
    gym.register("Windy-v0", entry_point=Windy, max_episode_steps=100)
    yield
    del gym.registry["Ridge-v0"], gym.registry["Windy-v0"]


OPTIONS = {"num_steps": 80, "num_envs": 2, "num_epochs": 5, "batch_size": 32, "hidden_sizes": (16,)}


def test_it_learns_what_the_expert_would_do_everywhere():
    agent = DAgger("Ridge-v0", expert=Expert(), **OPTIONS).learn(200)
    assert agent.timesteps >= 200
    assert agent.rounds == 3
    places = np.array([[-4.0], [-1.0], [1.0], [4.0]], np.float32)
    assert agent.predict(places, deterministic=True)[0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("seed", range(2))
def test_it_survives_where_a_clone_drifts_off(seed):
    demos = record(Walker(), "Windy-v0", 3, env_kwargs={"wind": 0.0})
    assert np.unique(demos.observations).size <= 3
    options = {"demos": demos, "seed": seed, "hidden_sizes": (16,), "learning_rate": 1e-2}
    clone = BehaviorCloning("Windy-v0", **options).learn(10_000)
    agent = DAgger("Windy-v0", expert=Walker(), num_steps=200, batch_size=32, **options).learn(2_000)
    expert, cloned, asked = (
        rltool.evaluate(each, "Windy-v0", episodes=50).mean_return for each in (Walker(), clone, agent)
    )
    assert asked == expert
    assert cloned < 0.9 * expert
    assert agent.disagreement["last"] < agent.disagreement["first"]


def test_it_asks_about_what_the_learner_met():
    agent = DAgger("Ridge-v0", expert=Expert(), **OPTIONS)
    met = agent.play(0.0)
    assert len(met) >= 80
    answers = ask(agent.expert, met)
    np.testing.assert_array_equal(answers.actions, met.observations[:, 0] < 0)
    np.testing.assert_array_equal(answers.observations, met.observations)


def test_an_expert_with_a_memory_is_asked_from_each_episodes_beginning():
    demos = Demonstrations(
        LINE, gym.spaces.Discrete(2), np.zeros((7, 1), np.float32), np.zeros(7, np.int64), np.zeros(7), np.array([2, 6])
    )
    assert ask(Alternating(), demos).actions.tolist() == [0, 1, 0, 0, 1, 0, 1]


def test_the_mixture():
    class Says:
        observation_space = LINE

        def __init__(self, action):
            self.action = action

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.full(len(observation), self.action), None

    observation, rng = np.zeros((2_000, 1), np.float32), np.random.default_rng(0)
    for beta in (0.0, 0.3, 1.0):
        actions, _ = Mixture(Says(0), Says(1), beta, rng).predict(observation)
        assert actions.mean() == pytest.approx(beta, abs=0.05)


def test_beta():
    first = DAgger("Ridge-v0", expert=Expert(), **OPTIONS)
    assert first.beta() == 1.0
    first.learn(100)
    assert first.beta() == 0.0
    linear = DAgger("Ridge-v0", expert=Expert(), beta_rounds=4, **OPTIONS | {"beta": "linear"})
    betas = []
    for linear.rounds in range(6):
        betas.append(linear.beta())
    assert betas == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_joining_keeps_what_all_know():
    def part(n, terminated):
        return Demonstrations(
            LINE,
            gym.spaces.Discrete(2),
            np.full((n, 1), n, np.float32),
            np.zeros(n, np.int64),
            np.ones(n),
            np.array([n - 1]),
            terminated,
            np.zeros((1, 1), np.float32),
        )

    both = join(part(2, np.array([True])), None, part(3, np.array([False])))
    assert both.ends.tolist() == [1, 4]
    assert both.terminated.tolist() == [True, False]
    assert both.observations[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert join(part(2, np.array([True])), part(3, None)).terminated is None


def test_a_run_goes_on_bit_for_bit_and_draws_the_drift(tmp_path):
    rltool.train("ppo", "CartPole-v1", total_timesteps=2_048, run_dir=str(tmp_path), name="expert", eval_freq=0)
    options = {"expert": str(tmp_path / "expert"), "run_dir": str(tmp_path), "eval_freq": 0, "total_timesteps": 1_200}
    options |= {"num_steps": 200, "num_epochs": 2}
    straight = rltool.train("dagger", "CartPole-v1", name="straight", **options)
    stopped = rltool.train(
        "dagger", "CartPole-v1", name="stopped", callback=lambda learner, _: learner.rounds < 2, **options
    )
    resumed = rltool.resume(stopped.path)
    one, two = (load_state(run.checkpoints()[-1]) for run in (straight, resumed))
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name
    assert (straight.path / "drift.png").stat().st_size > 1_000
    assert 0 <= straight.summary["last_disagreement"] <= 1


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="asks an expert"):
        rltool.train("dagger", "CartPole-v1", run_dir=str(tmp_path / "runs"))
    with pytest.raises(UserError, match="nowhere"):
        rltool.train("dagger", "CartPole-v1", expert=str(tmp_path / "nowhere"), run_dir=str(tmp_path / "runs"))
    with pytest.raises(UserError, match="its observation space is"):
        DAgger("CartPole-v1", expert=Expert()).prepare()
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="by its id"):
        DAgger(gym.make("CartPole-v1"), expert=Expert())
    assert issubclass(DAgger, BehaviorCloning)


def test_a_frozen_backbone_is_left_alone():
    agent = DAgger("Ridge-v0", expert=Expert(), num_envs=1, num_steps=40, num_epochs=1)
    agent.freeze_backbone(10**9)
    before = {name: weight.clone() for name, weight in agent.policy.backbone.state_dict().items()}
    agent.learn(80)
    assert agent.rounds > 1
    for name, weight in agent.policy.backbone.state_dict().items():
        assert torch.equal(weight, before[name])
