"""Attacks on what a policy does: its actions are disturbed on their way to the environment (Tessler et al., 2019)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from rltool.errors import UserError


class DisturbedActions(VectorWrapper):
    """A vector environment in which someone else has a hand in the actions, at random.

    With `mix=False` it is the probabilistic action-robust process (PR-MDP): with probability `alpha`, another action is
    taken in the policy's stead. With `mix=True`, the noisy one (NR-MDP): (1 - alpha) a + alpha a', of continuous
    actions with bounds.

    Args:
        env: The environment.
        alpha: How much of a hand, from 0 to 1.
        mix: Whether actions are mixed.
        seed: Of the other's actions, drawn uniformly.

    Raises:
        UserError: Alpha is not from 0 to 1, or such actions cannot be disturbed so.

    Example:
        >>> from rltool.envs import make_vector_env
        >>> envs = DisturbedActions(make_vector_env("CartPole-v1", 4), alpha=0.1)
    """

    def __init__(self, env: VectorEnv, alpha: float, mix: bool = False, seed: int = 0) -> None:
        super().__init__(env)
        space = env.single_action_space
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must be from 0 to 1, not {alpha}")
        if not isinstance(space, gym.spaces.Discrete | gym.spaces.Box):
            raise UserError(f"only Discrete and Box actions can be disturbed, not {space}")
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise UserError(f"other actions are drawn from the bounds of {space}, and it has none")
        if mix and isinstance(space, gym.spaces.Discrete):
            raise UserError("choices cannot be mixed; leave out mix")
        self.alpha, self.mix = alpha, mix
        self.rng = np.random.default_rng(seed)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step with disturbed actions."""
        actions = np.asarray(actions)
        space: Any = self.env.single_action_space
        others: Any
        if isinstance(space, gym.spaces.Box):
            others = self.rng.uniform(space.low, space.high, actions.shape)
        else:
            others = self.rng.integers(space.start, space.start + space.n, actions.shape)
        if self.mix:
            disturbed = (1 - self.alpha) * actions + self.alpha * others
        else:
            taken = self.rng.random(len(actions)) < self.alpha
            disturbed = np.where(taken.reshape(-1, *[1] * (actions.ndim - 1)), others, actions)
        return self.env.step(disturbed.astype(actions.dtype))
