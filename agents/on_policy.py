"""The loop that trains on-policy agents: collect, update, forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from rltool.agents.config import OnPolicyConfig
from rltool.agents.extensions import build_extensions, with_extensions
from rltool.agents.learner import Callback, Learner, Metrics
from rltool.agents.learner import UpdateMetrics as UpdateMetrics
from rltool.agents.policy import Policy, environment_actions
from rltool.agents.return_scaler import ReturnScaler
from rltool.agents.rollout import Rollout, RolloutCollector
from rltool.agents.sequences import Sequences
from rltool.agents.warm_start import CRITIC_FIRST, fit_critic_to
from rltool.envs import get_env_state, set_env_state
from rltool.envs.wrappers import reward_shaping
from rltool.errors import UserError
from rltool.networks import Distribution
from rltool.networks.observations import as_tensors, interchangeable
from rltool.training.checkpoint import State
from rltool.training.optimizers import OPTIMIZERS
from rltool.trees import Tree

if TYPE_CHECKING:
    from rltool.training.progress import Progress
    from rltool.training.run import Run


class OnPolicyAgent(Learner):
    """An agent that learns from its own latest experience: collect a rollout, update the policy, forget the rollout.

    Subclasses set `method`, `config_class` and `update`; REINFORCE also collects differently.

    Args:
        env: An environment id, a Gymnasium environment or a vector environment. An id is made into `num_envs`
            environments the fastest way there is.
        config: All options at once; or give them by name.
        seed: Seeds weights, environments and exploration: same seed, same result.
        device: Where tensors live: "cpu" or "cuda".
        env_kwargs: Arguments of the environment's constructor, where `env` is an id.
        spaces: Observation and action space; with them, the environment is made only when training begins.
        shaping: Changes the rewards while training: a function, or its name `module:function`, from (observation,
            action, reward, next observation, terminated) to a reward.
        potential: A function, or its name, from an observation to a number: gamma times the next observation's minus
            this one's is added to the rewards, which leaves the best policy the best (Ng et al., 1999).
        **options: Fields of the config class.

    Raises:
        UserError: An option is wrong, or the policy cannot handle the environment's spaces.

    Example:
        >>> from rltool.agents import PPO
        >>> agent = PPO("CartPole-v1", num_envs=8, num_steps=32, batch_size=64)
        >>> agent.learn(1_024).timesteps
        1024
    """

    config_class: ClassVar[type[OnPolicyConfig]]

    def __init__(
        self,
        env: str | gym.Env | VectorEnv | None,
        config: OnPolicyConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        spaces: tuple[gym.Space, gym.Space] | None = None,
        shaping: str | Callable[..., float] | None = None,
        potential: str | Callable[..., float] | None = None,
        **options: Any,
    ) -> None:
        self._configure(env, config, options, seed, device, env_kwargs)
        self.shaping = reward_shaping(shaping, potential, self.config.gamma)
        if self.shaping is not None and not isinstance(env, str):
            raise UserError("rewards are shaped in an environment given by id; wrap one of your own yourself")
        self.observation_space, self.action_space = spaces or (
            self.env.single_observation_space,
            self.env.single_action_space,
        )
        with self._seeded():
            self.policy = Policy(self.observation_space, self.action_space, self.config).to(self.device)
            self.optimizer = OPTIMIZERS[self.config.optimizer](
                self.policy, self.config.learning_rate, self.config.max_grad_norm
            )
            self.extensions = build_extensions(self)

    @classmethod
    def _options_class(cls) -> type[Any]:
        return with_extensions(cls.config_class)

    @cached_property
    def collector(self) -> RolloutCollector:
        """What steps the environments and keeps what must survive from one rollout to the next."""
        mine, theirs = self.observation_space, self.env.single_observation_space
        if not interchangeable(mine, theirs) or self.action_space != self.env.single_action_space:
            raise UserError(
                f"the environment does not fit this agent: it has observations {theirs} and actions "
                f"{self.env.single_action_space}, not {mine} and {self.action_space}"
            )
        envs = self.env
        for extension in self.extensions.values():
            envs = extension.environments(envs)
        return RolloutCollector(
            envs,
            environment_actions(self.action_space),
            self.policy.initial_state(self.env.num_envs),
            self.config.sequence_length,
        )

    @cached_property
    def return_scaler(self) -> ReturnScaler | None:
        """Scales rewards, if the config says so or they are learned ones, whose size means nothing."""
        scaled = self.config.normalize_returns or self.replaces_rewards
        return ReturnScaler(self.env.num_envs, self.config.gamma) if scaled else None

    # Training

    def update(self, rollout: Rollout) -> UpdateMetrics:
        """Improve the policy on one rollout; returns the update's metrics by their `train/` names."""
        raise TypeError(f"{type(self).__name__} lacks an update")

    def collect(self, max_steps: int) -> Rollout:
        """One rollout of at most `max_steps` timesteps per environment."""
        return self.collector.collect(self.policy.actor(self.rng), min(self.config.num_steps, max_steps))

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = None,
        *,
        resume: bool = False,
    ) -> Self:
        """Train for `total_timesteps`, summed over environments.

        Args:
            total_timesteps: Budget; rounded up to a multiple of the number of environments.
            callback: Called after every update with the agent and the update's metrics; one that returns False ends
                the training. A list of them is called in order.
            resume: Count from where the agent stands, and go on until it has seen `total_timesteps` in all.

        Returns:
            The agent itself.

        Raises:
            TrainingError: The environment failed, or the loss stopped being a finite number.
        """
        callbacks = self._begin(total_timesteps, callback, resume)
        if self.config.compile:
            self.policy.compile_backbones()
        if self.collector.observation is None:
            self.collector.reset(seed=self.seed)
        with self._own_torch_rng():
            while self.timesteps < total_timesteps:
                remaining = -(-(total_timesteps - self.timesteps) // self.env.num_envs)
                self.optimizer.learning_rate = self.schedule(
                    self.config.learning_rate, self.config.learning_rate_schedule
                )
                frozen = self.timesteps < self.frozen_until
                with self._frozen(self._resting()):
                    rollout, metrics = self._collect_and_update(remaining)
                self.timesteps += rollout.rewards.size
                self.updates += 1
                self._check(metrics)
                # Between updates only: while one goes on, ratios of old to new probabilities must stay exact.
                # And never where a policy was taken over: the statistics that it was cloned with are a part of it.
                if not frozen and not self.critic_first_until:
                    self.policy.observe(rollout.seen(rollout.valid))
                if not self._goes_on(callbacks, metrics):
                    break
        return self

    def _resting(self) -> list[nn.Module]:
        """What does not learn at this moment: backbones that are frozen, or a policy whose critic is not ready yet."""
        policy = self.policy
        modules: list[nn.Module | None] = []
        if self.timesteps < self.frozen_until:
            modules = [policy.backbone, policy.value_backbone]
        if self.timesteps < self.critic_first_until and self.has_critic:
            modules += [policy.backbone, policy.action_head]
        return [module for module in dict.fromkeys(modules) if module is not None]

    def _collect_and_update(self, max_steps: int) -> tuple[Rollout, UpdateMetrics]:
        with ExitStack() as stack:
            for extension in self.extensions.values():
                stack.enter_context(extension.around())
            rollout = self.collect(max_steps)
            for extension in self.extensions.values():
                rollout.rewards = extension.task_reward(rollout)
            if self.return_scaler is not None:
                rollout.rewards = self.return_scaler(rollout.rewards, rollout.done, rollout.valid)
            if not rollout.valid.any():  # Nothing is learned from steps that only reset, or make no whole episode.
                return rollout, {}
            for extension in self.extensions.values():
                rollout.rewards = rollout.rewards + extension.reward(rollout)
            metrics = self.update(rollout)
        for extension in self.extensions.values():
            metrics |= extension.after_update(rollout)
        return rollout, metrics

    def extra_loss(self, observations: Tree, distribution: Distribution) -> torch.Tensor | float:
        """What extensions add to the loss of a minibatch."""
        return sum(extension.loss_term(observations, distribution) for extension in self.extensions.values())

    def schedule(self, value: float, kind: str) -> float:
        """A scheduled value at this moment of the run: constant, or falling linearly to zero at its end."""
        return value * (1 - self.timesteps / self.total_timesteps) if kind == "linear" else value

    def metrics(self) -> Metrics:
        """Figures of this moment for a row of metrics: returns of late episodes, learning rate, spread of actions."""
        metrics = self.collector.statistics.metrics()
        metrics["train/learning_rate"] = self.optimizer.learning_rate
        metrics["train/n_updates"] = self.updates
        log_std = getattr(self.policy.action_head, "log_std", None)
        if log_std is not None:
            metrics["train/std"] = float(log_std.detach().exp().mean())
        return metrics

    def evaluate(self, episodes: int, seed: int) -> Metrics:
        result = super().evaluate(episodes, seed)
        for extension in self.extensions.values():
            result |= extension.evaluate(result, episodes, seed)
        # Rewards that were not learned from choose no weights: the latest are the best.
        return result | {"score": 0.0} if self.replaces_rewards else result

    def warm_start(self, source: Run) -> None:
        """Fit the critic on the demonstrations that the policy was cloned from, if it was (see `warm_start.py`)."""
        fit_critic_to(self, source)
        self.critic_first_until = CRITIC_FIRST

    @property
    def has_critic(self) -> bool:
        """Whether values are learned; a policy that was taken over had better wait for them."""
        return True

    def prepare(self) -> None:
        for extension in self.extensions.values():
            extension.prepare()

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        figures: dict[str, Any] = {}
        for extension in self.extensions.values():
            more = extension.conclude(run, progress)
            if more is None:
                return None
            figures |= more
        return figures

    @property
    def timesteps_at_once(self) -> int:
        """What the budget is rounded up to a multiple of."""
        return self.config.num_envs

    @property
    def replaces_rewards(self) -> bool:
        """Whether it learns from other rewards than the environment's."""
        return any(extension.replaces_rewards for extension in self.extensions.values())

    def inputs(self, rollout: Rollout, valid: np.ndarray | None = None) -> tuple[Tree, Sequences | None]:
        """What the policy reads of a rollout: observations as rows and, with a memory, how they follow each other.

        Args:
            rollout: T steps of N environments.
            valid: Rows that are wanted, `(T, N)`; None wants all.
        """
        table, sequences = rollout.sequence_table, None
        if table is not None:
            _, sequences = table.take(valid=None if valid is None else valid.ravel(), device=self.device)
        return as_tensors(rollout.seen(valid), self.device), sequences

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A `(T, N, ...)` array as a `(T * N, ...)` tensor on the agent's device."""
        return torch.from_numpy(array.reshape(-1, *array.shape[2:])).to(self.device)

    # State

    def checkpoint(self) -> State:
        """Everything that training goes on from, as one object."""
        collector, statistics = self.collector, self.collector.statistics
        state = State(
            values={
                "timesteps": self.timesteps,
                "total_timesteps": self.total_timesteps,
                "updates": self.updates,
                "critic_first_until": self.critic_first_until,
                "optimizer_steps": self.optimizer.steps,
                "rng": self.rng.bit_generator.state,
                "returns": list(statistics.returns),
                "lengths": list(statistics.lengths),
                "finished": statistics.finished,
                "env": None,
            }
        )
        state.add("policy", self.policy.state_dict())
        state.add("optimizer", self.optimizer.state())
        state.tensors["torch_rng"] = torch.get_rng_state() if self.learning else self.torch_rng
        if self.return_scaler is not None:
            state.add("return_scaler", self.return_scaler.state_dict())
        for name, extension in self.extensions.items():
            state.add(f"extension.{name}", extension.state())
        env_state = get_env_state(self.env)
        if env_state is not None and collector.observation is not None:
            arrays = {k: torch.from_numpy(v) for k, v in env_state.items() if isinstance(v, np.ndarray)}
            state.values["env"] = {k: v for k, v in env_state.items() if not isinstance(v, np.ndarray)}
            state.add("env", arrays)
            state.add("collector", collector.state_dict())
        # Copies: the state stays what it is when training goes on.
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        """Go on from a checkpoint; environments whose state cannot be kept begin new episodes.

        Returns:
            Whether training goes on bit for bit.
        """
        values = state.values
        self.timesteps, self.total_timesteps = values["timesteps"], values["total_timesteps"]
        self.updates = values["updates"]
        self.critic_first_until = values.get("critic_first_until", 0)
        self.policy.load_state_dict(state.take("policy"))
        self.optimizer.load_state(state.take("optimizer"), values["optimizer_steps"])
        self.rng.bit_generator.state = values["rng"]
        self.torch_rng = state.tensors["torch_rng"]
        if self.return_scaler is not None:
            self.return_scaler.load_state_dict(state.take("return_scaler"))
        for name, extension in self.extensions.items():
            extension.load_state(state.take(f"extension.{name}"))
        collector, statistics = self.collector, self.collector.statistics
        for figures, kept_figures in ((statistics.returns, values["returns"]), (statistics.lengths, values["lengths"])):
            figures.clear()
            figures.extend(kept_figures)
        statistics.finished = values["finished"]
        if values["env"] is not None:
            self.env.reset(seed=self.seed)
            if set_env_state(self.env, values["env"] | {k: t.numpy() for k, t in state.take("env").items()}):
                collector.load_state_dict(state.take("collector"))
                return True
        collector.reset(seed=self.seed + self.timesteps)
        return False

    def _further_modules(self) -> dict[str, nn.Module]:
        models = {f"extension.{name}": extension.model for name, extension in self.extensions.items()}
        return {name: model for name, model in models.items() if model is not None}
