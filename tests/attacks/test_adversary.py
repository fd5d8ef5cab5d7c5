"""The learned adversary: what it is shown, what it may do, and how near it comes to the best there is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

import rltool
from rltool.agents import PPO, Agent
from rltool.agents.evaluation import evaluate
from rltool.agents.rollout import forget
from rltool.attacks import AdversaryVectorEnv, LearnedAdversary, PerturbedVectorEnv, RandomNoise, attack_agent
from rltool.attacks.adversary import ENV_ID, make_adversary
from rltool.cli.main import main
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks.distributions import Categorical

SIDE, HORIZON = 4, 12
MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
REWARDS = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / 6
HABIT = np.random.default_rng(7).integers(len(MOVES), size=(SIDE, SIDE))  # What the victim does in each cell.


def after(cell: tuple[int, ...], move: int) -> tuple[int, ...]:
    return tuple(int(x) for x in np.clip(np.array(cell) + MOVES[move], 0, SIDE - 1))


class Grid(gym.Env):
    """The further down and to the right, the better; the observation is the cell's row and column."""

    observation_space = gym.spaces.Box(0, SIDE - 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cell, self.t = tuple(self.np_random.integers(SIDE, size=2)), 0
        return np.array(self.cell, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.cell, self.t = after(self.cell, int(action)), self.t + 1
        return np.array(self.cell, np.float32), float(REWARDS[self.cell]), False, self.t == HORIZON, {}


class Creature(torch.nn.Module):
    """Does in each cell what it always does there; between cells, what it does in the nearest one."""

    has_memory = False
    normalizer = None

    def initial_state(self, batch: int) -> None:
        """It remembers nothing."""

    def distribution(self, observations: torch.Tensor, sequences: None = None) -> Categorical:
        row, column = observations.round().long().unbind(1)
        return Categorical(10.0 * torch.nn.functional.one_hot(torch.from_numpy(HABIT)[row, column], len(MOVES)))


class Victim(SimpleNamespace):
    observation_space, action_space = Grid.observation_space, Grid.action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.policy.distribution(torch.as_tensor(observation)).mode().numpy(), state


def shown(cell: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The cells that an adversary may show instead, with epsilon 1."""
    near = [(cell[0] + i, cell[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return {(i, j) for i, j in near if 0 <= i < SIDE and 0 <= j < SIDE}


def returns_under(foresight: bool) -> np.ndarray:
    """The victim's return from each cell: under the best adversary, by value iteration, or under a greedy one."""
    values = np.zeros((SIDE, SIDE))
    for _ in range(HORIZON):
        worst = np.empty_like(values)
        for cell in np.ndindex(SIDE, SIDE):
            reached = [after(cell, HABIT[seen]) for seen in shown(cell)]
            target = min(reached, key=lambda target: REWARDS[target] + foresight * values[target])
            worst[cell] = REWARDS[target] + values[target]
        values = worst
    return values


def test_it_reaches_the_optimal_adversary() -> None:
    victim = Victim(policy=Creature())
    envs = AdversaryVectorEnv(SyncVectorEnv([Grid] * 8), victim, LearnedAdversary(epsilon=1.0))
    adversary = make_adversary(envs, num_steps=36, batch_size=96, learning_rate=3e-3).learn(15_000)
    attack = LearnedAdversary(epsilon=1.0, adversary=adversary)
    optimum, greedy = returns_under(foresight=True), returns_under(foresight=False)
    rows = []
    for seed in range(20):
        grid = Grid()
        grid.reset(seed=seed)
        learned, random = (
            evaluate(victim, PerturbedVectorEnv(SyncVectorEnv([Grid]), victim, each), 1, seed).mean_return
            for each in (attack, RandomNoise(epsilon=1.0))
        )
        assert learned >= optimum[grid.cell] - 1e-5
        rows.append((optimum[grid.cell], learned, greedy[grid.cell], random))
    best, learned, short_sighted, random = np.mean(rows, 0)
    assert best + 1 < short_sighted < random  # There is something to be learned.
    assert learned < best + 0.1 * (random - best)
    assert learned < short_sighted - 0.5


@pytest.fixture(scope="module")
def agent() -> Agent:
    return PPO("CartPole-v1", num_envs=8, num_steps=32, batch_size=128, learning_rate=1e-3).learn(2_048)


def test_what_the_victim_is_shown_is_what_the_attack_shows_it(agent: Agent) -> None:
    attack = LearnedAdversary(epsilon=torch.tensor([0.1, 0.0, 0.2, 0.3]))
    mine, theirs = (make_vector_env("CartPole-v1", 4, seed=1) for _ in range(2))
    envs = AdversaryVectorEnv(mine, agent, attack)
    adversary = make_adversary(envs, seed=3, batch_size=64)
    envs.reset(seed=1)
    perturbed = PerturbedVectorEnv(theirs, agent, LearnedAdversary(epsilon=attack.epsilon, adversary=adversary))
    seen, _ = perturbed.reset(seed=1)
    for _ in range(8):
        true = envs.observations
        actions, _ = adversary.predict(true, deterministic=True)
        _, rewards, *_ = envs.step(actions)
        np.testing.assert_allclose(envs.seen, seen, atol=1e-6)
        assert (np.abs(envs.seen - true) <= np.array([0.1, 0.0, 0.2, 0.3]) + 1e-6).all()
        assert (rewards == -1).all()
        seen, *_ = perturbed.step(agent.predict(seen, deterministic=True)[0])
        assert np.array_equal(envs.observations, perturbed.observations)


def test_epsilon_in_standard_deviations() -> None:
    agent = PPO("Pendulum-v1", normalize_observations=True, num_envs=4, num_steps=64).learn(256)
    envs = AdversaryVectorEnv(make_vector_env("Pendulum-v1", 2), agent, LearnedAdversary(epsilon=0.5, unit="std"))
    true, _ = envs.reset(seed=0)
    envs.step(np.full((2, 3), 7.0))  # Beyond 1 is 1.
    assert envs.victim.std is not None
    np.testing.assert_allclose(envs.seen, np.clip(true + 0.5 * envs.victim.std.numpy(), *BOUNDS), rtol=1e-5)


BOUNDS = (np.array([-1, -1, -8]), np.array([1, 1, 8]))


def test_attacking_trains_it_first_and_leaves_the_victim_alone(agent: Agent) -> None:
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    attack = LearnedAdversary(epsilon=0.2, total_timesteps=4_096)
    one, two = (attack_agent(agent, "CartPole-v1", attack, episodes=4, seed=2) for _ in range(2))
    assert one.attacked.returns == two.attacked.returns
    assert one.attacked.returns != one.clean.returns
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda agent: LearnedAdversary(norm="l2"), "no norm"),
        (lambda agent: LearnedAdversary(total_timesteps=0), "above 0"),
        (lambda agent: LearnedAdversary(algorithm="reinforce"), "ppo or a2c"),
        (lambda agent: LearnedAdversary(adversary="nowhere").prepare(agent, "CartPole-v1"), "no run nowhere"),
        (lambda agent: LearnedAdversary(adversary=agent).prepare(agent, "CartPole-v1"), "no adversary of this agent"),
        (lambda agent: LearnedAdversary()(envs_victim(agent), torch.zeros(1, 4)), "has to learn"),
        (lambda agent: LearnedAdversary(adversary=forgetful()).prepare(agent, "CartPole-v1"), "has a memory"),
    ],
)
def test_bad_input(make: object, sentence: str, agent: Agent) -> None:
    with pytest.raises(UserError, match=sentence):
        make(agent)  # type: ignore[operator]


def forgetful() -> Agent:
    """An adversary whose memory would have nowhere to go."""
    envs = AdversaryVectorEnv(make_vector_env("CartPole-v1", 2), PPO("CartPole-v1"), LearnedAdversary())
    return make_adversary(envs, backbone="gru", model_size=8, num_steps=16, batch_size=32)


def test_the_memory_of_a_victim_moves_on_with_what_it_was_shown() -> None:
    victim = PPO("CartPole-v1", backbone="lstm", model_size=8, num_envs=2, seed=0)
    envs = AdversaryVectorEnv(make_vector_env("CartPole-v1", 3, seed=0), victim, LearnedAdversary(epsilon=0.3))
    envs.reset(seed=0)
    state, start, resetting = None, np.ones(3, bool), np.zeros(3, bool)
    rng, ended = np.random.default_rng(0), 0
    for _ in range(60):
        saved = envs.get_state()
        _, _, terminated, truncated, _ = envs.step(rng.uniform(-1, 1, (3, 4)).astype(np.float32))
        _, state = victim.predict(envs.seen, state, start, deterministic=True)
        done = (terminated | truncated) & ~resetting
        start = done | resetting
        resetting = done if envs.mode.value == "NextStep" else resetting
        ended += int(done.sum())
        # Its memory lasts until the next episode's first observation comes.
        expected = forget(state, start & ~done) if envs.mode.value == "NextStep" else forget(state, start)
        assert all(np.array_equal(envs.state["policy"][name], expected["policy"][name]) for name in ("h", "c"))
    assert ended
    after = envs.state["policy"]["h"].copy()
    assert saved is not None
    envs.set_state(saved)
    assert not np.array_equal(envs.state["policy"]["h"], after)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert not envs.state["policy"]["h"][0].any()
    assert envs.state["policy"]["h"][1].any()


def test_a_victim_with_memory_is_learned_against() -> None:
    victim = PPO("CartPole-v1", backbone="gru", model_size=8, num_envs=4, seed=0)
    attack = LearnedAdversary(epsilon=0.1, total_timesteps=256).prepare(victim, "CartPole-v1")
    envs = PerturbedVectorEnv(make_vector_env("CartPole-v1", 3, seed=0), victim, attack)
    evaluate(victim, envs, 3)
    assert envs.attacked == envs.steps


def envs_victim(agent: Agent) -> object:
    return AdversaryVectorEnv(make_vector_env("CartPole-v1", 1), agent, LearnedAdversary()).victim


def test_a_run_trains_it_and_an_attack_takes_it(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agent.save(tmp_path / "victim.safetensors")
    options = {"total_timesteps": 4_096, "eval_freq": 2_048, "eval_episodes": 2, "save_freq": 2_048}
    arguments = {"victim": "victim.safetensors", "epsilon": 0.2}
    run = rltool.train("ppo", ENV_ID, name="adversary", env_kwargs=arguments, **options)
    assert run.config["config"]["num_envs"] == 32  # There is a preset.
    assert run.summary["mean_return"] < 0

    command = "attack victim.safetensors --attack learned --epsilon 0.2 --adversary adversary --episodes 4 --json"
    monkeypatch.setattr("sys.argv", ["rltool", *command.split()])
    with pytest.raises(SystemExit, match="0"):
        main()
    report = json.loads(capsys.readouterr().out)
    again = attack_agent(agent, "CartPole-v1", LearnedAdversary(epsilon=0.2, adversary=run.path), episodes=4)
    assert report["attacked"] == again.attacked.mean_return
    assert report["clean"] == again.clean.mean_return


def test_its_training_goes_on_bit_for_bit(agent: Agent) -> None:
    def fresh() -> Agent:
        envs = make_vector_env("CartPole-v1", 4, seed=0)
        return make_adversary(AdversaryVectorEnv(envs, agent, LearnedAdversary(epsilon=0.2)), batch_size=64)

    straight, second = fresh().learn(1_024), fresh()
    first = fresh().learn(1_024, lambda learner, _: learner.timesteps < 512)
    assert second.restore(first.checkpoint())
    second.learn(1_024, resume=True)
    for name, tensor in straight.checkpoint().tensors.items():
        assert torch.equal(tensor, second.checkpoint().tensors[name]), name


def test_a_victim_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run nowhere"):
        rltool.train("ppo", ENV_ID, env_kwargs={"victim": "nowhere", "epsilon": 0.1}, run_dir=str(tmp_path))
