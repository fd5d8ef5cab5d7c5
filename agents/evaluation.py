"""Evaluating agents: ours, Stable-Baselines3's, or anything else that has `predict`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rltool.envs import make_env, make_vector_env
from rltool.errors import TrainingError, UserError
from rltool.networks.observations import (
    ACTION_MASK,
    allow_all,
    interchangeable,
    is_image,
    stack_observations,
    stored_form,
)

# Options of environments that make learning easier, and that no result should be measured with.
LEARNING_ONLY = ("clip_rewards", "terminal_on_life_loss")

# Options of vector environments alone: how several are stepped together, and what is told of it.
VECTOR_ONLY = ("vectorization", "autoreset_mode", "infos")


class Predictor(Protocol):
    """What is evaluated."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for a batch of observations, and the state of a recurrent policy."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of evaluated episodes."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """Standard deviation of the return over episodes."""
        return float(np.std(self.returns))

    @property
    def mean_length(self) -> float:
        """Mean number of timesteps."""
        return float(np.mean(self.lengths))

    def as_dict(self) -> dict[str, float]:
        """The figures that `rltool eval --json` prints."""
        return {
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "min_return": min(self.returns),
            "max_return": max(self.returns),
            "mean_length": self.mean_length,
            "episodes": len(self.returns),
        }


def evaluate(
    agent: Predictor,
    env: str | gym.Env | VectorEnv,
    episodes: int = 20,
    seed: int = 0,
    deterministic: bool = True,
    *,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Let an agent play, and report its returns.

    Every environment plays a number of episodes fixed in advance: taking whichever end first favors short ones.

    Args:
        agent: Anything with `predict`: an rltool agent, an SB3 model.
        env: An environment id, a Gymnasium environment, or a vector environment.
        episodes: How many episodes.
        seed: Seeds the environments (and the agent's sampling, if it is one of ours).
        deterministic: Take the most probable actions instead of samples.
        num_envs: Environments stepped together; by default up to 32.
        env_kwargs: Arguments of the environment's constructor.

    Raises:
        TrainingError: The environment failed.

    Example:
        >>> from rltool.agents import A2C
        >>> evaluate(A2C("CartPole-v1"), "CartPole-v1", episodes=3).lengths  # doctest: +SKIP
        [10, 9, 9]
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    owned = isinstance(env, str)
    if isinstance(env, str):
        options = {"infos": False, **with_masks(agent, env_kwargs)}
        env = make_vector_env(env, num_envs or min(episodes, 32), seed=seed, **options)
    envs = env if isinstance(env, VectorEnv) else SyncVectorEnv([lambda: env])
    rng = None if deterministic else getattr(agent, "rng", None)
    if isinstance(rng, np.random.Generator):
        kept = rng.bit_generator.state
        rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    try:
        return _play(agent, envs, episodes, seed, deterministic)
    finally:
        if isinstance(rng, np.random.Generator):
            rng.bit_generator.state = kept  # A training that is evaluated goes on as if it were not.
        if owned:
            envs.close()


def _play(agent: Predictor, envs: VectorEnv, episodes: int, seed: int, deterministic: bool) -> Evaluation:
    n = envs.num_envs
    mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    quota = episode_quotas(episodes, n)
    results: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    returns, lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
    stored = stored_form(envs.single_observation_space)
    observation = stored(envs.reset(seed=seed)[0])
    state, start, resetting = None, np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    while quota.any():
        actions, state = agent.predict(observation, state=state, episode_start=start, deterministic=deterministic)
        try:
            observation, rewards, terminated, truncated, _ = envs.step(actions)
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(f"the environment failed in step(): {type(error).__name__}: {error}") from error
        observation = stored(observation)
        done = (terminated | truncated) & ~resetting
        returns += np.where(resetting, 0, rewards)
        lengths += ~resetting
        if not np.isfinite(returns.sum()):
            raise TrainingError("the environment returned a reward that is not a finite number")
        for i in np.flatnonzero(done & (quota > 0)):
            results[i].append((float(returns[i]), int(lengths[i])))
            quota[i] -= 1
        returns[done], lengths[done] = 0, 0
        if mode is AutoresetMode.DISABLED and done.any():
            observation = stored(envs.reset(options={"reset_mask": done})[0])
        elif mode is AutoresetMode.NEXT_STEP and done.any():
            observation = allow_all(observation, done)
        # In NEXT_STEP mode the next step only resets, and the episode's first observation comes out of it.
        start = done | resetting
        resetting = done if mode is AutoresetMode.NEXT_STEP else np.zeros(n, dtype=bool)
    played = [result for env_results in results for result in env_results]
    return Evaluation([r for r, _ in played], [length for _, length in played])


def episode_quotas(episodes: int, num_envs: int) -> np.ndarray:
    """How many episodes each environment plays, `(num_envs,)`: fixed in advance, since first-finished are short."""
    return np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)


def watch(
    agent: Predictor,
    env: str | gym.Env,
    episodes: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    *,
    render_mode: str = "human",
    on_frame: Callable[[np.ndarray, int], None] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Let an agent play one episode after another in a rendered environment.

    Args:
        agent: Anything with `predict`.
        env: An environment id, or an environment that renders; the latter is left open.
        episodes: How many episodes.
        seed: Seeds the first episode; the k-th gets `seed + k`.
        deterministic: Take the most probable actions instead of samples.
        render_mode: "human" opens a window, "rgb_array" gives frames; for an id.
        on_frame: Called with each frame `(height, width, 3)` and the number of its episode.
        env_kwargs: Arguments of the environment's constructor; for an id.

    Raises:
        UserError: There is no such environment, or it cannot render this way.
        TrainingError: The environment failed.
    """
    owned = isinstance(env, str)
    if isinstance(env, str):
        env = make_rendered_env(env, render_mode, with_masks(agent, env_kwargs))
    returns, lengths = [], []
    try:
        for episode in range(episodes):
            observation, _ = env.reset(seed=seed + episode)
            state, start, total, length, done = None, np.ones(1, dtype=bool), 0.0, 0, False
            while True:
                if on_frame is not None:
                    on_frame(np.asarray(env.render()), episode)
                if done:
                    break
                batch = stack_observations(env.observation_space, [observation])
                action, state = agent.predict(batch, state=state, episode_start=start, deterministic=deterministic)
                try:
                    observation, reward, terminated, truncated, _ = env.step(action[0])
                except TrainingError:
                    raise
                except Exception as error:
                    raise TrainingError(f"the environment failed in step(): {type(error).__name__}: {error}") from error
                start, total, length = np.zeros(1, dtype=bool), total + float(reward), length + 1
                done = terminated or truncated
            returns.append(total)
            lengths.append(length)
    finally:
        if owned:
            env.close()
    return Evaluation(returns, lengths)


def make_rendered_env(env_id: str, render_mode: str, env_kwargs: Mapping[str, Any] | None = None) -> gym.Env:
    """Make an environment that renders.

    Raises:
        UserError: There is no such environment, or it cannot render this way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*initialised with render_mode")  # An error here, and in our words.
        env: gym.Env = make_env(env_id, render_mode=render_mode, **_for_one(env_kwargs or {}))
    modes = env.metadata.get("render_modes") or []
    if render_mode not in modes:
        env.close()
        raise UserError(
            f"{env_id} cannot render {render_mode}; it has {', '.join(map(str, modes)) or 'no way to render'}"
        )
    return env


def check_spaces(agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse an environment whose spaces are not those the agent was trained in.

    Raises:
        UserError: They differ, or there is no such environment.
    """
    env = make_env(env_id, **_for_one(with_masks(agent, env_kwargs)))
    try:
        for name in ("observation_space", "action_space"):
            mine, theirs = getattr(agent, name, None), getattr(env, name)
            if mine is not None and not fits(mine, theirs):
                raise UserError(
                    f"{env_id} does not fit this agent: its {name.replace('_', ' ')} is {theirs}, not {mine}"
                )
    finally:
        env.close()


def for_evaluation(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an environment's constructor without those that change rewards and episodes for learning alone."""
    return {name: value for name, value in env_kwargs.items() if name not in LEARNING_ONLY}


def _for_one(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a single environment, out of those of a vector environment."""
    return {name: value for name, value in env_kwargs.items() if name not in VECTOR_ONLY}


def with_masks(agent: Any, env_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of an environment's constructor, with action masks for an agent that has learned with them."""
    space = getattr(agent, "observation_space", None)
    masked = isinstance(space, gym.spaces.Dict) and ACTION_MASK in space.spaces
    return {"action_masks": masked, **(env_kwargs or {})}


def fits(mine: gym.Space, theirs: gym.Space) -> bool:
    """Whether an agent of one space can read the other; of an image, channels may come first or last."""
    if is_image(mine) and is_image(theirs):
        # Sorted: an SB3 agent for images has its channels first where the environment may have them last.
        return sorted(mine.shape or ()) == sorted(theirs.shape or ())
    return interchangeable(mine, theirs)
