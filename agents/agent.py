"""The agent: a policy that can be asked for actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rltool.agents.policy import Policy, environment_actions


class Agent:
    """A policy that can be asked for actions, saved and loaded; the protocol of Stable-Baselines3.

    Attributes:
        policy: The `Policy` module.
        observation_space: Space of one observation.
        action_space: Space of one action.
    """

    policy: Policy
    observation_space: gym.Space
    action_space: gym.Space
    rng: np.random.Generator

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them.

        Args:
            observation: `(*observation_space.shape)` or `(B, *observation_space.shape)`.
            state: State of a recurrent policy, as the last call returned it.
            episode_start: `(B,)`; where the state is to be forgotten.
            deterministic: Take the distribution's mode instead of a sample.

        Returns:
            Actions as the environment takes them (clipped to the bounds of a Box), and the state.

        Raises:
            ValueError: The observation has another shape.
        """
        batch = np.asarray(observation)
        shape = self.observation_space.shape or ()
        single = batch.shape == shape
        if single:
            batch = batch[None]
        if batch.shape[1:] != shape:
            raise ValueError(f"expected an observation of shape {shape} or a batch of them, not {batch.shape}")
        act = self.policy.actor(None if deterministic else self.rng)
        actions = environment_actions(self.action_space)(act(batch))
        return (actions[0] if single else actions), state
