"""Recording demonstrations: whole episodes that an agent plays, as `rltool.envs.Demonstrations`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rltool.agents.evaluation import VECTOR_ONLY, Predictor, episode_quotas, evaluate, with_masks
from rltool.envs import Demonstrations, make_vector_env
from rltool.errors import UserError
from rltool.networks.observations import ACTION_MASK, stack_observations, stored_form
from rltool.trees import Tree, first_leaf, map_tree


def record(
    agent: Predictor,
    env_id: str,
    episodes: int,
    seed: int = 0,
    deterministic: bool = True,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    num_envs: int | None = None,
) -> Demonstrations:
    """Let an agent play, and keep what it saw and did.

    The episodes are those that `evaluate` would play with the same arguments: how many each environment contributes is
    fixed in advance. They stand one environment after another, each one's in the order in which it played them.
    Observations are kept as the environment gives them, with its action masks where it offers some.

    Args:
        agent: Anything with `predict`: an rltool agent, an SB3 model, a `RandomAgent`.
        env_id: The environment.
        episodes: How many episodes.
        seed: Seeds the environments (and the agent's sampling, if it is one of ours).
        deterministic: Take the most probable actions instead of samples.
        env_kwargs: Arguments of the environment's constructor.
        num_envs: Environments stepped together; by default up to 32.

    Returns:
        The episodes, with final observations and `terminated`.

    Raises:
        UserError: There is no such environment, or its actions are no arrays.
        TrainingError: The environment failed.

    Example:
        >>> record(RandomAgent(gym.spaces.Discrete(2)), "CartPole-v1", episodes=3).num_episodes
        3
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    env_kwargs = dict(env_kwargs or {})
    # A random agent looks at nothing but masks, and whoever learns from it may want them.
    options = {"action_masks": True, **env_kwargs} if isinstance(agent, RandomAgent) else with_masks(agent, env_kwargs)
    envs = make_vector_env(env_id, num_envs or min(episodes, 32), seed=seed, **options)
    try:
        recorder = EpisodeRecorder(envs, episodes)
        evaluate(agent, recorder, episodes, seed, deterministic)
        return recorder.demonstrations(env_id, env_kwargs)
    finally:
        envs.close()


class EpisodeRecorder(VectorWrapper):
    """Keeps the first episodes that each environment plays, a number fixed in advance; of every autoreset mode."""

    def __init__(self, env: VectorEnv, episodes: int) -> None:
        """Record an environment.

        Args:
            env: What is stepped.
            episodes: How many episodes are kept, of all environments together.

        Raises:
            UserError: Its actions are no arrays.
        """
        super().__init__(env)
        check_recordable(env.single_action_space)
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.left = episode_quotas(episodes, env.num_envs)
        self._stored = stored_form(env.single_observation_space)
        self._resetting = np.zeros(env.num_envs, bool)
        self._steps: list[tuple[Any, ...]] = []
        self._finals: list[tuple[np.ndarray, Tree]] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self._remember(observations)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step, and keep it where it belongs to an episode that counts."""
        # In NEXT_STEP mode, the step after an episode's end only resets.
        counted = np.flatnonzero(~self._resetting & (self.left > 0))
        before = map_tree(lambda leaf: leaf[counted], self._observations)
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        self._steps.append(
            (
                counted,
                before,
                np.asarray(actions)[counted],
                np.asarray(rewards, np.float64)[counted],
                terminated[counted],
                done[counted],
            )
        )
        self._remember(observations)
        ended = counted[done[counted]]
        if len(ended):
            self._finals.append((ended, self._final(ended, infos)))
            self.left[ended] -= 1
        self._resetting = (done & ~self._resetting) if self.mode is AutoresetMode.NEXT_STEP else self._resetting
        return observations, rewards, terminated, truncated, infos

    def demonstrations(self, env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> Demonstrations:
        """The episodes that are complete; one environment's after another's."""

        def join(*batches: np.ndarray) -> np.ndarray:
            return np.concatenate(batches)

        envs, observations, actions, rewards, terminated, done = zip(*self._steps, strict=True)
        order = np.argsort(np.concatenate(envs), kind="stable")
        final_envs, finals = zip(*self._finals, strict=True)
        final_order = np.argsort(np.concatenate(final_envs), kind="stable")
        ends = np.flatnonzero(join(*done)[order])
        space, action_space = self.env.single_observation_space, self.env.single_action_space
        return Demonstrations(
            space,
            action_space,
            map_tree(lambda *leaves: join(*leaves)[order], *observations),
            join(*actions)[order].astype(action_space.dtype),
            join(*rewards)[order],
            ends,
            join(*terminated)[order][ends],
            map_tree(lambda *leaves: join(*leaves)[final_order], *finals),
            env_id,
            {name: value for name, value in (env_kwargs or {}).items() if name not in VECTOR_ONLY},
            "the recorded episodes",
        )

    def _remember(self, observations: Any) -> None:
        # A copy: the environment may write the next ones into the same arrays.
        self._observations = map_tree(np.array, self._stored(observations))

    def _final(self, ended: np.ndarray, infos: dict[str, Any]) -> Tree:
        if self.mode is AutoresetMode.SAME_STEP:
            return stack_observations(self.env.single_observation_space, [infos["final_obs"][i] for i in ended])
        return map_tree(lambda leaf: leaf[ended], self._observations)


def check_recordable(action_space: gym.Space) -> None:
    """Refuse actions that are no arrays.

    Raises:
        UserError: They are a Dict, a Tuple or something else without a shape.
    """
    if action_space.shape is None:
        raise UserError(f"demonstrations are recorded of Box and discrete actions, not of {action_space}")


class RandomAgent:
    """Draws every action from the action space, uniformly (or from what is allowed, where observations say it)."""

    def __init__(self, action_space: gym.Space, seed: int = 0) -> None:
        """Make one.

        Args:
            action_space: Space of one action.
            seed: Seeds the draws.
        """
        self.action_space = copy.deepcopy(action_space)  # Drawing from it changes it.
        self.action_space.seed(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        """Actions `(B, ...)` for a batch of observations; nothing else is looked at."""
        masks = observation.get(ACTION_MASK) if isinstance(observation, dict) else None
        if masks is not None and isinstance(self.action_space, gym.spaces.Discrete):
            return np.array([self.action_space.sample(mask=mask.astype(np.int8)) for mask in masks]), None
        return np.stack([self.action_space.sample() for _ in range(len(first_leaf(observation)))]), None
