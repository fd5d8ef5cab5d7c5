"""Recorded episodes are whole, are those that an evaluation plays, and can be played again."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rltool.agents import A2C, PPO
from rltool.agents.evaluation import evaluate
from rltool.agents.recording import RandomAgent, record
from rltool.envs import load_demonstrations, make_env, make_vector_env
from rltool.errors import UserError
from rltool.trees import first_leaf, map_tree

MODES = ["NextStep", "SameStep", "Disabled"]


class Counter(gym.Env):
    """Observes the timestep; ends at a random time, terminated where that is even."""

    observation_space = spaces.Dict(t=spaces.Box(-1, 99, (1,)), seen=spaces.Tuple([spaces.Discrete(99)]))
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.end = int(self.np_random.integers(1, 8))
        self.t = np.zeros(1, np.float32)
        return self.observe(), {}

    def observe(self):
        return {"t": self.t, "seen": (int(self.t[0]),)}

    def step(self, action):
        self.t = self.t + 1
        done, even = int(self.t[0]) == self.end, self.end % 2 == 0
        return self.observe(), float(self.t[0]) + 0.1 * action[1], done and even, done and not even, {}


class Masked(gym.Env):
    """Allows only the action that the observation shows."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe()

    def observe(self):
        self.allowed = int(self.np_random.integers(5))
        return self.allowed, {"action_mask": np.eye(5, dtype=np.int8)[self.allowed]}

    def step(self, action):
        assert action == self.allowed or self.t >= 4
        self.t += 1
        observation, info = self.observe()
        return observation, 1.0, self.t == 4, False, info


for name in (Counter, Masked):
    gym.register(f"{name.__name__}ForRecording-v0", name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "CounterForRecording-v0"])
def test_the_episodes_are_those_of_an_evaluation(env_id, mode):
    options = {"autoreset_mode": mode} | ({"max_episode_steps": 30} if env_id == "Pendulum-v1" else {})
    with make_env(env_id) as env:
        action_space = env.action_space
    demos = record(RandomAgent(action_space), env_id, 11, seed=3, env_kwargs=options, num_envs=4)
    result = evaluate(RandomAgent(action_space), env_id, 11, seed=3, env_kwargs=options, num_envs=4)
    np.testing.assert_allclose(demos.returns, result.returns, rtol=1e-6)
    assert list(demos.lengths) == result.lengths
    assert "autoreset_mode" not in demos.env_kwargs
    load_demonstrations(demos, demos.observation_space, demos.action_space, env_id)


@pytest.mark.parametrize("mode", MODES)
def test_every_row_belongs_to_its_episode(mode):
    with make_env("CounterForRecording-v0") as env:
        agent = RandomAgent(env.action_space)
    demos = record(agent, "CounterForRecording-v0", 23, env_kwargs={"autoreset_mode": mode}, num_envs=5)
    for e, rows in enumerate(demos.episodes()):
        length = rows.stop - rows.start
        np.testing.assert_array_equal(demos.observations["t"][rows, 0], np.arange(length))
        np.testing.assert_array_equal(demos.observations["seen"][0][rows], np.arange(length))
        assert demos.final_observations["t"][e, 0] == length
        assert demos.terminated[e] == (length % 2 == 0)
        np.testing.assert_allclose(demos.rewards[rows], np.arange(1, length + 1) + 0.1 * demos.actions[rows, 1])
    assert demos.num_episodes == 23


@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v3", "MountainCarContinuous-v0"])
def test_the_same_seeds_and_actions_give_the_same_episodes_again(env_id):
    options = {"vectorization": "sync", "max_episode_steps": 60}
    with make_env(env_id) as env:
        demos = record(RandomAgent(env.action_space), env_id, 7, seed=5, env_kwargs=options, num_envs=3)
    episodes = demos.episodes()
    for k, count in enumerate((3, 2, 2)):
        envs = make_vector_env(env_id, 1, **options, autoreset_mode=AutoresetMode.DISABLED)
        envs.reset(seed=5 + k)  # as a vector environment seeds its k-th
        for e in range(count):
            observation = envs.reset(seed=None if e else 5 + k)[0]
            for t in range(*next(episodes).indices(len(demos))):
                np.testing.assert_array_equal(demos.observations[t], observation[0])
                observation, reward, *_ = envs.step(demos.actions[t][None])
                assert demos.rewards[t] == reward[0]


def test_masks_are_kept_and_respected():
    with make_env("MaskedForRecording-v0") as env:
        demos = record(RandomAgent(env.action_space), "MaskedForRecording-v0", 6)
    masks = demos.observations["action_mask"]
    assert masks[np.arange(len(demos)), demos.actions].all()
    assert (masks.sum(1) == 1).all()
    agent = A2C("MaskedForRecording-v0")
    played = record(agent, "MaskedForRecording-v0", 3)
    load_demonstrations(played, agent.observation_space, agent.action_space)


def test_memory_is_carried_and_forgotten():
    agent = PPO("CartPole-v1", backbone="gru", seed=1)
    demos = record(agent, "CartPole-v1", 6, num_envs=2, deterministic=True)
    assert demos.returns.tolist() == evaluate(agent, "CartPole-v1", 6, num_envs=2).returns
    # The recorded actions are what the policy does when it sees one whole episode from its beginning.
    for rows in demos.episodes():
        state = None
        for observation, action in zip(demos.observations[rows], demos.actions[rows], strict=True):
            mine, state = agent.predict(observation[None], state, deterministic=True)
            assert mine[0] == action


def test_sampled_actions_follow_the_seed():
    agent = A2C("CartPole-v1")
    one, two, other = (record(agent, "CartPole-v1", 4, seed=seed, deterministic=False) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.actions, two.actions)
    assert not np.array_equal(one.observations[0], other.observations[0])


def test_stacked_frames_are_what_the_agent_sees():
    agent = A2C("Pendulum-v1", env_kwargs={"frame_stack": 3})
    options = {"frame_stack": 3, "max_episode_steps": 5}
    demos = record(agent, "Pendulum-v1", 2, env_kwargs=options)
    assert demos.observations.shape == (10, 3, 3)
    assert demos.env_kwargs == options
    np.testing.assert_array_equal(demos.observations[1:5, :-1], demos.observations[:4, 1:])


def test_random_agents_draw_everything_that_there_is():
    for space in (spaces.Discrete(3, start=-1), spaces.MultiBinary(4), spaces.Box(-1, 1, (2,), np.float64)):
        before = str(space.np_random.bit_generator.state)
        actions, _ = RandomAgent(space, 1).predict(np.zeros((500, 2)))
        assert all(action in space for action in actions)
        assert str(space.np_random.bit_generator.state) == before
        np.testing.assert_array_equal(actions, RandomAgent(space, 1).predict({"a": np.zeros((500, 2))})[0])
    assert set(RandomAgent(spaces.Discrete(3, start=-1)).predict(np.zeros((100, 1)))[0]) == {-1, 0, 1}


def test_mistakes():
    agent = RandomAgent(spaces.Discrete(2))
    with pytest.raises(UserError, match="episodes must be at least 1, not 0"):
        record(agent, "CartPole-v1", 0)
    with pytest.raises(UserError, match="no environment 'CartPole-v7'"):
        record(agent, "CartPole-v7", 1)


def test_graphs_stay_in_memory():
    class Graphs(Counter):
        observation_space = spaces.Graph(spaces.Box(-1, 99, (1,)), None)

        def observe(self):
            nodes = np.full((int(self.t[0]) + 1, 1), self.t[0], np.float32)
            return spaces.GraphInstance(nodes, None, None)

    gym.register("GraphsForRecording-v0", Graphs)
    demos = record(RandomAgent(Counter.action_space), "GraphsForRecording-v0", 4)
    for rows in demos.episodes():
        assert [len(graph.nodes) for graph in demos.observations[rows]] == list(range(1, rows.stop - rows.start + 1))
    assert len(first_leaf(map_tree(np.asarray, demos.successors()))) == len(demos)
