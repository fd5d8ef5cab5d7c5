"""Agents that adapt while they learn: `--adapt dann`, `coral` and `mmd`, with `--target ENV~shift`.

The policy's features of what it sees in the target, which it visits without learning from a reward there, are made
alike to those of what it sees where it learns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch

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


class DomainGame:
    """DANN's part beside the features: a domain classifier with an optimizer of its own.

    Args:
        features: Length of a feature vector.
        device: Where tensors live.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.classifier = DomainClassifier(features, SIZES).to(device)
        self.optimizer = Adam(self.classifier, LEARNING_RATE, betas=BETAS)
        self.accuracy = 0.5

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A step of the classifier; then what features `(B, d)` are to minimize, its gradient reversed."""
        self.optimizer.descend(domain_cross_entropy(self.classifier(source.detach()), self.classifier(target.detach())))
        both = self.classifier.fooled(torch.cat([source, target]), 1.0)
        logits = both[: len(source)], both[len(source) :]
        told = ((logits[0] > 0).float().mean() + (logits[1] < 0).float().mean()) / 2
        self.accuracy = float(told)
        return domain_cross_entropy(*logits)

    def state(self) -> dict[str, torch.Tensor]:
        """All that must survive."""
        state = State()
        state.add("classifier", self.classifier.state_dict())
        state.add("optimizer", self.optimizer.state())
        return {**state.tensors, "steps": torch.tensor(self.optimizer.steps)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""
        parts = State(state)
        self.classifier.load_state_dict(parts.take("classifier"))
        self.optimizer.load_state(parts.take("optimizer"), int(state["steps"]))


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
        self.game = DomainGame(width, agent.device) if self.config.adapt == "dann" else None
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
        return figures | ({"domain_accuracy": self.game.accuracy} if self.game else {})

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
