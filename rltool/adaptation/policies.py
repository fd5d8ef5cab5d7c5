"""Agents that adapt while they learn: `--adapt dann`, `mcd`, `coral` and `mmd`, with `--target ENV~shift`.

The policy's features of what it sees in the target, which it visits without learning from a reward there, are made
alike to those of what it sees where it learns.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from rltool.adaptation.losses import coral, domain_cross_entropy, mmd
from rltool.adaptation.networks import DomainClassifier
from rltool.agents.evaluation import evaluate, for_evaluation
from rltool.agents.extensions import Extension
from rltool.agents.learner import Metrics
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.policy import environment_actions
from rltool.agents.rollout import Rollout
from rltool.envs import get_env_state, make_vector_env, set_env_state
from rltool.errors import UserError
from rltool.networks import Distribution
from rltool.networks.observations import as_tensors, interchangeable, stored_form
from rltool.training.checkpoint import State
from rltool.training.optimizers import Adam
from rltool.trees import Tree, first_leaf, map_tree

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SIZES = (64, 64)  # Widths of the domain classifier's hidden layers.
LEARNING_RATE = 1e-3  # Of the domain classifier.
BETAS = (0.5, 0.999)  # Games like a low momentum.


class Game(ABC):
    """What plays against the features, with networks and an optimizer of its own.

    Args:
        networks: What learns.
    """

    def __init__(self, networks: nn.Module) -> None:
        self.networks = networks
        self.optimizer = Adam(networks, LEARNING_RATE, betas=BETAS)
        self.figures: UpdateMetrics = {}

    @abstractmethod
    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A step of the networks; then what features `(B, d)` are to minimize."""

    def state(self) -> dict[str, torch.Tensor]:
        """All that must survive."""
        state = State()
        state.add("networks", self.networks.state_dict())
        state.add("optimizer", self.optimizer.state())
        return {**state.tensors, "steps": torch.tensor(self.optimizer.steps)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""
        parts = State(state)
        self.networks.load_state_dict(parts.take("networks"))
        self.optimizer.load_state(parts.take("optimizer"), int(state["steps"]))


class DomainGame(Game):
    """DANN's: a domain classifier, whose gradient is reversed for the features.

    Args:
        features: Length of a feature vector.
        device: Where tensors live.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.classifier = DomainClassifier(features, SIZES).to(device)
        super().__init__(self.classifier)

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.optimizer.descend(domain_cross_entropy(self.classifier(source.detach()), self.classifier(target.detach())))
        both = self.classifier.fooled(torch.cat([source, target]), 1.0)
        logits = both[: len(source)], both[len(source) :]
        told = ((logits[0] > 0).float().mean() + (logits[1] < 0).float().mean()) / 2
        self.figures = {"domain_accuracy": float(told)}
        return domain_cross_entropy(*logits)


class OpinionGame(Game):
    """MCD's: two networks that say what the action head does, and differ where the target is unlike the source.

    They learn from the head's outputs in the source, and to disagree in the target; features learn to make them agree
    there. Outputs, logits or means, are taken in units of their standard deviation and squashed, so that disagreement
    has an end.

    Args:
        head: The action head's last layer.
        device: Where tensors live.
    """

    def __init__(self, head: nn.Linear, device: torch.device | str = "cpu") -> None:
        def network() -> nn.Module:
            hidden = [nn.Linear(head.in_features, SIZES[0]), nn.LeakyReLU(0.2)]
            return nn.Sequential(*hidden, nn.Linear(SIZES[0], head.out_features), nn.Tanh())

        super().__init__(nn.ModuleList([network(), network()]).to(device))
        self.head = head

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            outputs = self.head(source)
            wanted = torch.tanh((outputs - outputs.mean(0)) / (outputs.std() + 1e-6))
        wrong = sum((each - wanted).square().mean() for each in self.opinions(source.detach()))
        self.optimizer.descend(wrong - self.disagreement(target.detach()))
        disagreement = self.disagreement(target)
        self.figures = {"disagreement": float(disagreement.detach())}
        return disagreement

    def opinions(self, features: torch.Tensor) -> list[torch.Tensor]:
        """What the two networks say of features `(B, d)`."""
        return [network(features) for network in self.networks.children()]

    def disagreement(self, features: torch.Tensor) -> torch.Tensor:
        """How much they differ, 0 to 2."""
        one, other = self.opinions(features)
        return (one - other).abs().mean()


def centered_coral(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """CORAL in units of the width of the features, and the squared distance of their means."""
    return coral(source, target) * source.shape[1] + (source.mean(0) - target.mean(0)).square().mean()


class Adapting(Extension):
    """Adds what the features of both domains should minimize to the policy's loss.

    Raises:
        UserError: The policy has a memory, or the agent no environment id.
    """

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        if agent.policy.has_memory:
            raise UserError("a policy with memory cannot be adapted yet; leave out --adapt or --backbone")
        width = agent.policy.backbone.out_features
        self.game: Game | None = None
        if self.config.adapt == "dann":
            self.game = DomainGame(width, agent.device)
        elif self.config.adapt == "mcd":
            self.game = OpinionGame(agent.policy.action_head.linear, agent.device)
        self.loss: Loss = self.game or {"coral": centered_coral, "mmd": mmd}[self.config.adapt]
        self.seen: Tree = None
        self.observation: Tree = None
        self.last = 0.0

    def prepare(self) -> None:
        self.envs  # noqa: B018  It makes the environments, or says why not.

    @cached_property
    def envs(self) -> Any:
        """Environments of the target.

        Raises:
            UserError: There are none such, or what is seen in them has another form.
        """
        agent = self.agent
        options = {"action_masks": True, "infos": False, **for_evaluation(agent.env_kwargs)}
        envs = make_vector_env(self.config.target, self.config.num_envs, seed=agent.seed + 1, **options)
        spaces = envs.single_observation_space, envs.single_action_space
        if not interchangeable(agent.observation_space, spaces[0]) or agent.action_space != spaces[1]:
            raise UserError(
                f"{self.config.target} does not fit: it has observations {spaces[0]} and actions {spaces[1]}, not "
                f"{agent.observation_space} and {agent.action_space}"
            )
        return envs

    @contextmanager
    def around(self) -> Iterator[None]:
        """Before each rollout, as many timesteps in the target, with the policy as it is."""
        stored, act = stored_form(self.envs.single_observation_space), self.agent.policy.actor(self.agent.rng)
        performed = environment_actions(self.agent.action_space)
        if self.observation is None:
            self.observation = stored(self.envs.reset(seed=self.agent.seed + 1)[0])
        seen = []
        for _ in range(getattr(self.config, "num_steps", 32)):
            seen.append(self.observation)
            self.observation = stored(self.envs.step(performed(act(self.observation)))[0])
        self.seen = map_tree(lambda *leaves: np.concatenate(leaves), *seen)
        yield

    def loss_term(self, observations: Tree, distribution: Distribution) -> torch.Tensor | float:
        agent, batch = self.agent, self.config.adapt_batch
        some = agent.rng.integers(len(first_leaf(self.seen)), size=batch)
        target = as_tensors(map_tree(lambda leaf: leaf[some], self.seen), agent.device)
        source = map_tree(lambda leaf: leaf[:batch], observations)
        loss = self.loss(agent.policy.features(source), agent.policy.features(target))
        self.last = float(loss.detach())
        return self.config.adapt_weight * loss

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        figures: UpdateMetrics = {"adapt_loss": self.last}
        return figures | (self.game.figures if self.game else {})

    def evaluate(self, result: Metrics, episodes: int, seed: int) -> Metrics:
        """The return in the target is watched only: it chooses no weights."""
        kwargs = for_evaluation(self.agent.env_kwargs)
        found = evaluate(self.agent, self.config.target, episodes, seed=seed, env_kwargs=kwargs)
        return {"target_return": found.mean_return}

    def state(self) -> dict[str, torch.Tensor]:
        state = {f"game.{name}": value for name, value in self.game.state().items()} if self.game else {}
        env = get_env_state(self.envs)
        if env is None or not isinstance(self.observation, np.ndarray):  # Then new episodes begin.
            return state
        arrays = {f"env.{name}": torch.from_numpy(v) for name, v in env.items() if isinstance(v, np.ndarray)}
        values = json.dumps({name: v for name, v in env.items() if not isinstance(v, np.ndarray)}).encode()
        state["values"] = torch.from_numpy(np.frombuffer(values, np.uint8).copy())
        return {**state, **arrays, "observation": torch.from_numpy(self.observation)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        parts = State(state)
        if self.game:
            self.game.load_state(parts.take("game"))
        if "values" not in state:
            return
        self.envs.reset(seed=self.agent.seed + 1)
        kept = json.loads(state["values"].numpy().tobytes()) | {k: v.numpy() for k, v in parts.take("env").items()}
        if set_env_state(self.envs, kept):
            self.observation = state["observation"].numpy().copy()
