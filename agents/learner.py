"""What all learners with a policy share: how they are made, evaluated, saved, loaded, and started from others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from pydantic import BaseModel
from torch import nn

from rltool.agents.agent import Agent
from rltool.agents.evaluation import evaluate, for_evaluation
from rltool.agents.policy import Policy
from rltool.envs import Replay, make_vector_env
from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import copy_weights
from rltool.training.checkpoint import State, load_state, save_state
from rltool.training.device import find_device
from rltool.training.optimizers import Optimizer
from rltool.training.spaces import space_from_json, space_to_json
from rltool.validation import validate

Metrics = dict[str, float]
UpdateMetrics = dict[str, torch.Tensor | float]
Callback = Callable[[Any, UpdateMetrics], bool | None]


class Learner(Agent):
    """An agent that learns; the base of all methods whose result is a policy.

    Subclasses set `method` and `config_class`, and make `policy` and `optimizer` inside `_seeded`.

    Attributes:
        config: Its options.
        timesteps: Timesteps seen so far.
        total_timesteps: Where the training ends.
        converged: Whether there is nothing more to learn, before that.
    """

    method: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any
    optimizer: Optimizer
    shaping: Any = None
    converged = False

    def _configure(
        self,
        env: str | gym.Env | VectorEnv | None,
        config: BaseModel | None,
        options: dict[str, Any],
        seed: int,
        device: str,
        env_kwargs: Mapping[str, Any] | None,
    ) -> None:
        """Check the arguments of the constructor and keep them; what they mean is told there.

        Raises:
            UserError: One is wrong.
        """
        if config is not None and options:
            raise UserError("give either a config or options by name, not both")
        if isinstance(env, gym.Env):
            single = env
            env = SyncVectorEnv([lambda: Replay(single)], autoreset_mode=AutoresetMode.NEXT_STEP)
        options_class = self._options_class()
        if (
            config is None
            and isinstance(env, VectorEnv)
            and "num_envs" in options_class.model_fields
            and options.setdefault("num_envs", env.num_envs) != env.num_envs
        ):
            raise UserError(
                f"num-envs is {options['num_envs']}, but the environment given has {env.num_envs}; leave it out"
            )
        self.config = config if config is not None else validate(options_class, options)
        self.seed = seed
        self.device = find_device(device)
        self.env_kwargs = dict(env_kwargs or {})
        for name in ("env_id", "num_envs", "seed"):
            if name in self.env_kwargs:
                raise UserError(f"{name} is no argument of the environment's; give it to the agent")
        self.rng = np.random.default_rng(seed)
        self.timesteps = 0
        self.total_timesteps = 0
        self.updates = 0
        self.learning = False
        self.frozen_until = 0
        self.critic_first_until = 0
        self.env_id = env if isinstance(env, str) else None
        if isinstance(env, VectorEnv):
            self.env = env

    @classmethod
    def _options_class(cls) -> type[BaseModel]:
        """The class that options are validated by."""
        return cls.config_class

    @cached_property
    def env(self) -> VectorEnv:
        """The environments it learns in; made when first needed."""
        if self.env_id is None:
            raise UserError(
                "this agent was trained in an environment object; to train it further, load it with env=..."
            )
        options = {"action_masks": True, "shaping": self.shaping, "infos": False, **self.env_kwargs}
        return make_vector_env(self.env_id, getattr(self.config, "num_envs", 1), seed=self.seed, **options)

    def _begin(
        self, total_timesteps: int, callback: Callback | Sequence[Callback] | None, resume: bool
    ) -> list[Callback]:
        """What every training begins with; returns the callbacks as a list.

        Raises:
            UserError: There is nothing to train for.
        """
        if total_timesteps < 1:
            raise UserError(f"total-timesteps must be at least 1, not {total_timesteps}")
        if not resume:
            self.timesteps = 0
        self.total_timesteps = total_timesteps
        return list(callback) if isinstance(callback, Sequence) else [callback] if callback else []

    def _check(self, metrics: UpdateMetrics) -> None:
        """See that the last gradient was finite.

        Raises:
            TrainingError: It was not; it has changed no weight.
        """
        if not math.isfinite(float(metrics.get("grad_norm", 0.0))):
            raise TrainingError(
                f"the gradient stopped being a finite number before timestep {self.timesteps:,}; "
                "lower --learning-rate or --max-grad-norm, or normalize observations and returns"
            )

    def _goes_on(self, callbacks: Sequence[Callback], metrics: UpdateMetrics) -> bool:
        """Tell the callbacks of an update; returns whether all want to go on."""
        answers = [each(self, metrics) for each in callbacks]  # All are asked before any is obeyed.
        return all(answer is not False for answer in answers)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """What is made inside depends on the seed alone, and the agent's own random numbers go on from there."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield
            self.torch_rng = torch.get_rng_state()

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

    @contextmanager
    def _frozen(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Modules come out as they went in: weights and running averages."""
        self.optimizer.freeze(modules)
        buffers = [buffer for module in modules for buffer in module.buffers()]
        kept = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)

    # Starting from others

    def init_backbone(self, source: Any) -> None:
        """Take over the backbones of another agent's policy, and its observation statistics; or that of a classifier.

        A classifier has no statistics of observations to take over: they begin afresh, where there are any.

        Raises:
            UserError: They have another shape, or the other has no such backbone.
        """
        theirs = getattr(source, "policy", source)
        backbone = getattr(theirs, "backbone", None)
        if backbone is None:
            raise UserError("there is no policy, nor a classifier, to take a backbone from")
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.policy.backbone, backbone)]
        if self.policy.value_backbone is not None:
            pairs.append((self.policy.value_backbone, getattr(theirs, "value_backbone", None) or backbone))
        if isinstance(theirs, Policy):
            _take_over("the backbone", self.policy, theirs, pairs)
        else:
            copy_weights(pairs, "the backbone")

    def init_policy(self, source: Any) -> None:
        """Take over another agent's policy, all but its critic: backbone, action head, observation statistics.

        Raises:
            UserError: It has another shape, or acts in another space.
        """
        theirs = getattr(source, "policy", None)
        if theirs is None:
            raise UserError("there is no policy to start from")
        if theirs.action_space != self.action_space:
            raise UserError(f"the policy does not fit: it acts in {theirs.action_space}, not in {self.action_space}")
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.policy.backbone, theirs.backbone),
            (self.policy.action_head, theirs.action_head),
        ]
        _take_over("the policy", self.policy, theirs, pairs)

    def freeze_backbone(self, timesteps: int) -> None:
        """Leave the backbones, and what they read, as they are until this many timesteps have been seen."""
        self.frozen_until = timesteps

    # Evaluating, saving, loading

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
        state = State(dict(self.policy.state_dict()), description)
        for name, module in self._further_modules().items():
            state.add(name, module.state_dict())
        save_state(Path(path), state)

    def _further_modules(self) -> dict[str, nn.Module]:
        """What is saved and loaded beside the policy, by name."""
        return {}

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
        agent = cls(  # type: ignore[call-arg]
            env if env is not None else values["env_id"],
            validate(cls._options_class(), values["config"]),
            device=device,
            env_kwargs=values["env_kwargs"],
            spaces=(space_from_json(values["observation_space"]), space_from_json(values["action_space"])),
        )
        further = agent._further_modules()
        for name, module in further.items():
            module.load_state_dict(state.take(name))
        rest = {n: tensor for n, tensor in state.tensors.items() if not n.startswith(tuple(f"{k}." for k in further))}
        agent.policy.load_state_dict(rest)
        return agent


def _take_over(what: str, mine: Policy, theirs: Policy, pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Copy the weights of the second module of each pair into the first, and the observation statistics.

    Raises:
        UserError: They have other shapes.
    """
    if (mine.normalizer is None) != (theirs.normalizer is None):
        raise UserError(
            f"{what} does not fit: one of the two reads normalized observations; give both "
            "--normalize-observations, or neither"
        )
    if mine.normalizer is not None and theirs.normalizer is not None:
        pairs = [*pairs, (mine.normalizer, theirs.normalizer)]
    copy_weights(pairs, what)
