"""Every action space: what reaches the environment, and that gradient ascent finds the best action."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rltool.agents import A2C, PPO
from rltool.agents.policy import environment_actions
from rltool.networks import build_action_head

ACTION_SPACES: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "discrete-start": spaces.Discrete(3, start=-2),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi-discrete-start": spaces.MultiDiscrete([3, 2], start=[5, -1]),
    "multi-discrete-square": spaces.MultiDiscrete([[3, 2], [2, 4]], np.int32, start=[[0, 1], [2, 3]]),
    "multi-discrete-bytes": spaces.MultiDiscrete([100, 100], np.uint8, start=[0, 150]),
    "multi-binary": spaces.MultiBinary(4),
    "multi-binary-square": spaces.MultiBinary([2, 3]),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "box-square": spaces.Box(np.array([[-1, 0], [2, 3]]), np.array([[1, 0.5], [4, 9]]), dtype=np.float64),
}


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_actions_that_an_environment_takes(name: str, squash: bool) -> None:
    space = ACTION_SPACES[name]
    head = build_action_head(space, 4, squash=squash, log_std_init=1.0)
    actions = head.sampler(np.random.default_rng(0))(np.zeros((300, 4), np.float32))
    given = actions.copy()
    taken = environment_actions(space)(actions)
    assert taken.shape == (300, *space.shape)
    assert all(space.contains(action) for action in taken)
    np.testing.assert_array_equal(actions, given)  # They are learned from afterwards.
    if not isinstance(space, spaces.Box):
        start = getattr(space, "start", 0)
        np.testing.assert_array_equal(taken.astype(int) - start, actions.reshape(taken.shape))


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_a_bandit_is_solved_by_gradient_ascent(name: str) -> None:
    """Two states with a right action each; an action is worth the more the nearer it is to the right one."""
    space, rng = ACTION_SPACES[name], np.random.default_rng(0)
    space.seed(1)
    best = np.stack([space.sample(), space.sample()]).astype(float)
    if isinstance(space, spaces.Box):
        best = np.stack([space.low, (space.low + 3 * space.high) / 4])
    features = np.eye(2, dtype=np.float32)[rng.integers(2, size=256)]
    right = best[features.argmax(1)].reshape(256, -1)
    width = (space.high - space.low).ravel() if isinstance(space, spaces.Box) else 1
    to_environment = environment_actions(space)

    # A Gaussian begins around 0 whatever the Box is; squashed, it begins in its middle.
    for squash in {"box": (False, True), "box-square": (True,)}.get(name, (False,)):
        torch.manual_seed(0)
        head = build_action_head(space, 2, squash=squash)
        optimizer = torch.optim.Adam(head.parameters(), 0.02)
        for _ in range(400):
            actions = head.sampler(rng)(features)
            missed = (to_environment(actions).reshape(256, -1) - right) / width
            reward = -np.clip(np.abs(missed), 0, 1).sum(1)
            advantage = torch.from_numpy((reward - reward.mean()) / (reward.std() + 1e-8)).float()
            log_prob = head(torch.from_numpy(features)).log_prob(torch.from_numpy(actions))
            optimizer.zero_grad()
            (-(advantage * log_prob).mean()).backward()
            optimizer.step()
        chosen = to_environment(head.as_numpy()(np.eye(2, dtype=np.float32))).reshape(2, -1)
        assert np.abs((chosen - best.reshape(2, -1)) / width).max() < 0.05, squash


def test_masks_are_learned_around() -> None:
    """The best arm is forbidden: the second best is found, and the forbidden one stays where it was."""
    torch.manual_seed(0)
    rng, worth = np.random.default_rng(0), np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    head = build_action_head(spaces.Discrete(4), 1)
    features, mask = np.ones((128, 1), np.float32), np.tile(np.array([1, 1, 1, 0], np.int8), (128, 1))
    before = head.linear.bias[3].item()
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        actions = head.sampler(rng)(features, mask)
        advantage = torch.from_numpy(worth[actions] - worth[actions].mean())
        distribution = head(torch.from_numpy(features), torch.from_numpy(mask))
        optimizer.zero_grad()
        (-(advantage * distribution.log_prob(torch.from_numpy(actions))).mean()).backward()
        optimizer.step()
    distribution = head(torch.from_numpy(features), torch.from_numpy(mask))
    assert distribution.log_probs[0].exp()[2] > 0.95
    assert head.linear.bias[3].item() == before


# Agents


class Targets(gym.Env):
    """One-step episodes: the observation says, in two numbers, whether much or little is wanted."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.high = bool(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[int(self.high)], {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), float(np.mean(action) * (1 if self.high else -1)), True, False, {}


@pytest.mark.parametrize("cls", [A2C, PPO])
@pytest.mark.parametrize(
    ("space", "options"),
    [
        (spaces.MultiDiscrete([[2, 3], [2, 4]]), {}),
        (spaces.MultiBinary(3), {}),
        (spaces.Box(-1, 1, (2,), np.float32), {"squash": True}),
        (spaces.Box(-1, 1, (2,), np.float32), {"squash": True, "action_std": "gsde"}),
    ],
    ids=["multi-discrete", "multi-binary", "squashed", "squashed-gsde"],
)
def test_agents_train_save_and_load(cls: type, space: spaces.Space, options: dict, tmp_path) -> None:
    agent = cls(Targets(space), num_steps=64, learning_rate=3e-3, ent_coef=0.01, **options)
    agent.learn(256)
    agent.save(tmp_path / "agent.safetensors")
    loaded = cls.load(tmp_path / "agent.safetensors")
    assert loaded.action_space == space
    batch = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(
        loaded.predict(batch, deterministic=True)[0], agent.predict(batch, deterministic=True)[0]
    )


@pytest.mark.parametrize("std", ["independent", "dependent", "gsde"])
def test_the_ratio_of_ppo_begins_at_one(std: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where actions lie so near the bounds that 32 bits cannot tell them apart."""
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 5], np.float32))
    agent = PPO(Targets(space), num_steps=256, batch_size=64, num_epochs=1, squash=True, action_std=std)
    with torch.no_grad():
        agent.policy.action_head.inner.linear.bias += torch.tensor([9.0, -4.0])
    ratios: list[torch.Tensor] = []
    loss: Callable = agent.loss

    def spy(batch, clip_range):
        result = loss(batch, clip_range)
        ratios.append(result[2].exp())
        return result

    monkeypatch.setattr(agent, "loss", spy)
    agent.optimizer.step = lambda loss: loss.backward() or 0.0  # The policy stays as it is.
    agent.learn(256)
    ratio = torch.cat(ratios)
    assert len(ratio) > 100
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    assert all(p.grad.isfinite().all() for p in agent.policy.parameters() if p.grad is not None)
