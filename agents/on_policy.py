"""The loop that trains on-policy agents: collect, update, forget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn

from rltool.agents.agent import Agent
from rltool.agents.config import OnPolicyConfig
from rltool.agents.evaluation import evaluate, for_evaluation
from rltool.agents.extensions import build_extensions, with_extensions
from rltool.agents.policy import Policy, environment_actions
from rltool.agents.return_scaler import ReturnScaler
from rltool.agents.rollout import Rollout, RolloutCollector
from rltool.agents.sequences import Sequences
from rltool.envs import Replay, get_env_state, make_vector_env, set_env_state
from rltool.envs.wrappers import reward_shaping
from rltool.errors import TrainingError, UserError
from rltool.networks import Distribution
from rltool.networks.observations import as_tensors, interchangeable
from rltool.training.checkpoint import State, load_state, save_state
from rltool.training.device import find_device
from rltool.training.optimizers import OPTIMIZERS
from rltool.training.spaces import space_from_json, space_to_json
from rltool.trees import Tree
from rltool.validation import validate

Metrics = dict[str, float]
UpdateMetrics = dict[str, torch.Tensor | float]
Callback = Callable[["OnPolicyAgent", UpdateMetrics], bool | None]


class OnPolicyAgent(Agent):
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

    method: ClassVar[str]
    config_class: ClassVar[type[OnPolicyConfig]]
    config: Any

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
        if config is not None and options:
            raise UserError("give either a config or options by name, not both")
        if isinstance(env, gym.Env):
            single = env
            env = SyncVectorEnv([lambda: Replay(single)], autoreset_mode=AutoresetMode.NEXT_STEP)
        if (
            config is None
            and isinstance(env, VectorEnv)
            and options.setdefault("num_envs", env.num_envs) != env.num_envs
        ):
            raise UserError(
                f"num-envs is {options['num_envs']}, but the environment given has {env.num_envs}; leave it out"
            )
        self.config = config if config is not None else validate(with_extensions(self.config_class), options)
        self.seed = seed
        self.device = find_device(device)
        self.env_kwargs = dict(env_kwargs or {})
        for name in ("env_id", "num_envs", "seed"):
            if name in self.env_kwargs:
                raise UserError(f"{name} is no argument of the environment's; give it to the agent")
        self.shaping = reward_shaping(shaping, potential, self.config.gamma)
        if self.shaping is not None and not isinstance(env, str):
            raise UserError("rewards are shaped in an environment given by id; wrap one of your own yourself")
        self.rng = np.random.default_rng(seed)
        self.timesteps = 0
        self.total_timesteps = 0
        self.updates = 0
        self.learning = False
        self.frozen_until = 0
        self.env_id = env if isinstance(env, str) else None
        if isinstance(env, VectorEnv):
            self.env = env
        self.observation_space, self.action_space = spaces or (
            self.env.single_observation_space,
            self.env.single_action_space,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(self.observation_space, self.action_space, self.config).to(self.device)
            self.optimizer = OPTIMIZERS[self.config.optimizer](
                self.policy, self.config.learning_rate, self.config.max_grad_norm
            )
            self.extensions = build_extensions(self)
            self.torch_rng = torch.get_rng_state()

    @cached_property
    def env(self) -> VectorEnv:
        """The environments it learns in; made when first needed."""
        if self.env_id is None:
            raise UserError(
                "this agent was trained in an environment object; to train it further, load it with env=..."
            )
        options = {"action_masks": True, "shaping": self.shaping, "infos": False, **self.env_kwargs}
        return make_vector_env(self.env_id, self.config.num_envs, seed=self.seed, **options)

    @cached_property
    def collector(self) -> RolloutCollector:
        """What steps the environments and keeps what must survive from one rollout to the next."""
        mine, theirs = self.observation_space, self.env.single_observation_space
        if not interchangeable(mine, theirs) or self.action_space != self.env.single_action_space:
            raise UserError(
                f"the environment does not fit this agent: it has observations {theirs} and actions "
                f"{self.env.single_action_space}, not {mine} and {self.action_space}"
            )
        return RolloutCollector(
            self.env,
            environment_actions(self.action_space),
            self.policy.initial_state(self.env.num_envs),
            self.config.sequence_length,
        )

    @cached_property
    def return_scaler(self) -> ReturnScaler | None:
        """Scales rewards, if the config says so."""
        return ReturnScaler(self.env.num_envs, self.config.gamma) if self.config.normalize_returns else None

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
        callbacks = list(callback) if isinstance(callback, Sequence) else [callback] if callback else []
        if total_timesteps < 1:
            raise UserError(f"total-timesteps must be at least 1, not {total_timesteps}")
        if not resume:
            self.timesteps = 0
        self.total_timesteps = total_timesteps
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
                with self._frozen_backbones(frozen):
                    rollout, metrics = self._collect_and_update(remaining)
                self.timesteps += rollout.rewards.size
                self.updates += 1
                if not math.isfinite(float(metrics.get("grad_norm", 0.0))):
                    raise TrainingError(
                        f"the gradient stopped being a finite number before timestep {self.timesteps:,}; "
                        "lower --learning-rate or --max-grad-norm, or normalize observations and returns"
                    )
                # Between updates only: while one goes on, ratios of old to new probabilities must stay exact.
                if not frozen:
                    self.policy.observe(rollout.seen(rollout.valid))
                answers = [each(self, metrics) for each in callbacks]  # All are asked before any is obeyed.
                if any(answer is False for answer in answers):
                    break
        return self

    @contextmanager
    def _frozen_backbones(self, frozen: bool) -> Iterator[None]:
        """While it is too early for backbones to learn, they come out as they went in: weights and running averages."""
        backbones = [b for b in (self.policy.backbone, self.policy.value_backbone) if frozen and b is not None]
        self.optimizer.freeze(backbones)
        buffers = [buffer for backbone in backbones for buffer in backbone.buffers()]
        kept = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)

    def _collect_and_update(self, max_steps: int) -> tuple[Rollout, UpdateMetrics]:
        with ExitStack() as stack:
            for extension in self.extensions.values():
                stack.enter_context(extension.around())
            rollout = self.collect(max_steps)
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

    @contextmanager
    def _own_torch_rng(self) -> Iterator[None]:
        """PyTorch's generator (which dropout draws from) is the agent's own inside, the user's again afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.torch_rng)
            self.learning = True
            try:
                yield
            finally:
                self.learning = False
                self.torch_rng = torch.get_rng_state()

    def schedule(self, value: float, kind: str) -> float:
        """A scheduled value at this moment of the run: constant, or falling linearly to zero at its end."""
        return value * (1 - self.timesteps / self.total_timesteps) if kind == "linear" else value

    def init_backbone(self, source: Any) -> None:
        """Take over the backbones of another agent's policy, and its observation statistics.

        Raises:
            UserError: They have another shape, or the other agent has no such backbone.
        """
        theirs = getattr(source, "policy", None)
        if theirs is None:
            raise UserError("there is no policy to take a backbone from")
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.policy.backbone, theirs.backbone)]
        if self.policy.value_backbone is not None:
            pairs.append((self.policy.value_backbone, theirs.value_backbone or theirs.backbone))
        if (self.policy.normalizer is None) != (theirs.normalizer is None):
            raise UserError(
                "the backbone does not fit: one of the two reads normalized observations; give both "
                "--normalize-observations, or neither"
            )
        if self.policy.normalizer is not None:
            pairs.append((self.policy.normalizer, theirs.normalizer))
        for mine, other in pairs:
            shapes = [{name: tuple(t.shape) for name, t in module.state_dict().items()} for module in (mine, other)]
            for name in {**shapes[0], **shapes[1]}:
                one, two = shapes[0].get(name, "nothing"), shapes[1].get(name, "nothing")
                if one != two:
                    raise UserError(
                        f"the backbone does not fit: {name} is {one} here and {two} there; give both the same "
                        "--backbone, --hidden-sizes and kind of observations"
                    )
            mine.load_state_dict(other.state_dict())

    def freeze_backbone(self, timesteps: int) -> None:
        """Leave the backbones, and what they read, as they are until this many timesteps have been seen."""
        self.frozen_until = timesteps

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
        """Play deterministically in fresh environments; `score` is what the best weights are chosen by."""
        if self.env_id is None:
            raise UserError("an agent made from an environment object is evaluated with rltool.evaluate(agent, env)")
        result = evaluate(self, self.env_id, episodes, seed=seed, env_kwargs=for_evaluation(self.env_kwargs))
        return {
            "mean_return": result.mean_return,
            "std_return": result.std_return,
            "mean_length": result.mean_length,
            "score": result.mean_return,
        }

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

    def save(self, path: str | Path) -> None:
        """Write policy and config to one safetensors file; nothing in it is executable."""
        description = {
            "format": 1,
            "method": self.method,
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "config": self.config.model_dump(mode="json"),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
        }
        save_state(Path(path), State(dict(self.policy.state_dict()), description))

    @classmethod
    def load(cls, path: str | Path, env: str | gym.Env | VectorEnv | None = None, device: str = "cpu") -> Self:
        """Read what `save` wrote.

        Args:
            path: A file written by `save`, or the folder of a run.
            env: Environment to go on learning in; by default the one the agent came from, if that was an id.
            device: Where tensors live.

        Raises:
            UserError: The file is missing, damaged or of another method.
        """
        path = Path(path)
        state = load_state(path / "model.safetensors" if path.is_dir() else path)
        method = state.values.get("method")
        if method != cls.method:
            raise UserError(f"{path} holds {method or 'no'} agent, not {cls.method}; load it with rltool.load")
        values = state.values
        agent = cls(
            env if env is not None else values["env_id"],
            validate(with_extensions(cls.config_class), values["config"]),
            device=device,
            env_kwargs=values["env_kwargs"],
            spaces=(space_from_json(values["observation_space"]), space_from_json(values["action_space"])),
        )
        agent.policy.load_state_dict(state.tensors)
        return agent
