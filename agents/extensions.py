"""Extensions: what makes an agent curious, robust or adapting. The algorithms know none of them.

An extension brings its own options, whose names begin with its own; the one that is its name switches it on. Installed
packages add theirs through the entry-point group `rltool.extensions`, each naming an `ExtensionKind`. Free of torch.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, create_model, model_validator

from rltool.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gymnasium.vector import VectorEnv
    from torch import nn

    from rltool.agents.learner import Metrics
    from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
    from rltool.agents.rollout import Rollout
    from rltool.networks import Distribution
    from rltool.training.progress import Progress
    from rltool.training.run import Run
    from rltool.trees import Tree

EXTENSIONS = Registry("extension", group="rltool.extensions")
EXTENSIONS.add("demos", "rltool.agents.imitation_config:demos", "a reward learned from demonstrations")
EXTENSIONS.add("reward", "rltool.agents.imitation_config:reward", "the reward that another run has recovered")
EXTENSIONS.add("rnd", "rltool.agents.exploration_config:rnd", "curiosity: rewards for what was seen seldom")
EXTENSIONS.add("icm", "rltool.agents.exploration_config:icm", "curiosity: rewards for what was not foreseen")
EXTENSIONS.add("parameter_noise", "rltool.agents.exploration_config:parameter_noise", "noise in the policy's weights")
EXTENSIONS.add("robust", "rltool.attacks.robust_config:robust", "a policy hardened against perturbed observations")
EXTENSIONS.add("adapt", "rltool.adaptation.policy_config:adapt", "features alike in another look of the environment")
EXTENSIONS.add("noisy", "rltool.agents.exploration_config:noisy", "learned noise in the weights of hidden layers")


@dataclass(frozen=True)
class ExtensionKind:
    """A registered extension.

    Attributes:
        config: Its options.
        implementation: `module:Class` of the `Extension`; called with the agent.
    """

    config: type[BaseModel]
    implementation: str


class Extension:
    """What an agent is extended by; every hook does nothing unless a subclass says otherwise.

    Attributes:
        replaces_rewards: Whether `task_reward` puts something else in the place of the environment's rewards.
        model: What others may use of it: saved with the policy, and loaded again.

    Args:
        agent: The agent, its policy and optimizer already made.
    """

    replaces_rewards: ClassVar[bool] = False
    model: nn.Module | None = None

    def __init__(self, agent: OnPolicyAgent) -> None:
        self.agent = agent
        self.config = agent.config

    def prepare(self) -> None:
        """Before training: load what is needed for it, or raise a UserError."""

    def environments(self, envs: VectorEnv) -> VectorEnv:
        """The environments that rollouts are collected in: those given, or a wrapper around them."""
        return envs

    def around(self) -> AbstractContextManager[Any]:
        """Entered before each rollout and left after its update, also where either fails."""
        return nullcontext()

    def task_reward(self, rollout: Rollout) -> np.ndarray:
        """What the environment's rewards are replaced by, `(T, N)`, before they are scaled."""
        return rollout.rewards

    def reward(self, rollout: Rollout) -> np.ndarray | float:
        """What is added to the rewards of a rollout, `(T, N)`."""
        return 0.0

    def loss_term(self, observations: Tree, distribution: Distribution) -> torch.Tensor | float:
        """What is added to the loss of a minibatch: its observations and the policy's answer to them."""
        return 0.0

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        """Learn from the rollout, too; returns metrics by their `train/` names."""
        return {}

    def evaluate(self, result: Metrics, episodes: int, seed: int) -> Metrics:
        """What is added to an evaluation, or replaces it; `score` is what the best weights are chosen by."""
        return {}

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        """When a run's training has finished: figures for its summary; None if the user stopped on the way."""
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        """All that must survive from one rollout to the next, by name."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""


class _Extended(BaseModel):
    """Marks a config that has the options of all extensions."""


def with_extensions(config: type[BaseModel]) -> type[Any]:
    """A config class with the options of all extensions; one that has them is left as it is."""
    return config if issubclass(config, _Extended) else _combined(config, tuple(EXTENSIONS.names()))


@cache
def _combined(config: type[BaseModel], names: tuple[str, ...]) -> type[Any]:
    parts = [EXTENSIONS[name].load().config for name in names]
    checks: dict[str, Any] = {"_idle_options": model_validator(mode="after")(_refuse_idle_options)}
    # Pydantic takes fields from the last base first: the algorithm's own options come before all others.
    return create_model(
        config.__name__, __base__=(_Extended, *reversed(parts), config), __doc__=config.__doc__, __validators__=checks
    )


def _refuse_idle_options(config: BaseModel) -> BaseModel:
    """An option of an extension that is off does nothing; whoever set it believes otherwise."""
    for entry in EXTENSIONS:
        if not getattr(config, entry.name, None):
            for name, field in type(config).model_fields.items():
                if name.startswith(f"{entry.name}_") and getattr(config, name) != field.default:
                    raise ValueError(f"{name.replace('_', '-')} does nothing without --{entry.name.replace('_', '-')}")
    return config


def build_extensions(agent: OnPolicyAgent) -> dict[str, Extension]:
    """The extensions that an agent's config switches on, by name."""
    extensions: dict[str, Extension] = {}
    for entry in EXTENSIONS:
        if getattr(agent.config, entry.name, None):
            module, _, name = entry.load().implementation.partition(":")
            extensions[entry.name] = getattr(importlib.import_module(module), name)(agent)
    return extensions
