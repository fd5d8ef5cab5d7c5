"""The agent: a policy that can be asked for actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rltool.agents.policy import Policy, environment_actions
from rltool.agents.rollout import forget
from rltool.networks.observations import as_batch
from rltool.trees import first_leaf

if TYPE_CHECKING:
    from rltool.training.progress import Progress
    from rltool.training.run import Run


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

    @property
    def has_critic(self) -> bool:
        """Whether the values that its policy gives were learned."""
        return False

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for one observation or a batch of them.

        Args:
            observation: An element of the observation space, or a batch of them.
            state: State of a recurrent policy, as the last call returned it.
            episode_start: `(B,)`; where the state is to be forgotten.
            deterministic: Take the distribution's mode instead of a sample.

        Returns:
            Actions as the environment takes them (clipped to the bounds of a Box), and the state.

        Raises:
            ValueError: The observation has another shape, or the state is of another number of observations.
        """
        batch, single = as_batch(self.observation_space, observation)
        actor = self.policy.actor(None if deterministic else self.rng)
        if self.policy.has_memory:
            rows = len(first_leaf(batch))
            if state is None:
                state = {"policy": self.policy.initial_state(rows)["policy"]}  # type: ignore[index]
            elif (size := len(first_leaf(state))) != rows:
                raise ValueError(f"the state is of {size} observations, not {rows}; leave it out where others begin")
            elif episode_start is not None:
                state = forget(state, np.asarray(episode_start).reshape(rows))
            actions, state = actor(batch, state)
        else:
            actions = actor(batch)
        actions = environment_actions(self.action_space)(actions)
        return (actions[0] if single else actions), state

    def warm_start(self, source: Run) -> None:
        """Take over more from the run that the policy comes from."""

    def prepare(self) -> None:
        """Look at what training needs, before anything is written.

        Raises:
            UserError: Something is missing or does not fit.
        """

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        """What is to be done when a run's training has finished.

        Returns:
            Figures for the run's summary; None if the user stopped on the way, which a resume comes back to.
        """
        return {}
