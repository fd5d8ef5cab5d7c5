"""Curiosity: rewards of an agent's own for steps that a network predicts badly, because it has seldom seen the like.

What is added to the reward is the error of the prediction, divided by the running standard deviation of its discounted
return; the network learns from each rollout once it has been rated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.extensions import Extension
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.policy import environment_actions, without_mask
from rltool.agents.return_scaler import ReturnScaler
from rltool.agents.rollout import Rollout
from rltool.networks import BackboneConfig, Flatten, build_action_head, build_backbone
from rltool.networks.initialization import initialize
from rltool.networks.normalization import build_normalizer, is_numeric
from rltool.networks.observations import as_tensors, space_leaves
from rltool.training.checkpoint import State
from rltool.training.optimizers import Adam
from rltool.trees import Tree, map_tree

BACKBONE = BackboneConfig(activation="relu", hidden_sizes=(64, 64))
FEATURES = 64  # Numbers that RND's networks put out.
CLIP = 5.0  # Normalized observations stay within -+ this, as in the paper of RND.
BATCH = 256  # Timesteps that are rated, or learned from, at a time.


class Transitions(NamedTuple):
    """B steps: what was seen before and after, and the actions `(B, ...)` as the policy gave them and as vectors."""

    observations: Tree
    successors: Tree
    actions: Tree
    action_vectors: Tree

    def rows(self, index: np.ndarray | slice) -> Transitions:
        """Some of them."""
        return Transitions(*(map_tree(lambda leaf: leaf[index], tree) for tree in self))


class Predictor(nn.Module):
    """Rates steps by how badly it predicts something about them.

    Args:
        space: The space of one observation, without an action mask.
    """

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        # Images are scaled by the backbones that read them, and choices are one-hot.
        numeric = any(is_numeric(leaf) for _, leaf in space_leaves(space))
        self.normalizer = build_normalizer(space, CLIP) if numeric else None

    def normalized(self, observations: Tree) -> Tree:
        """Observations as the networks read them."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def errors(self, batch: Transitions) -> torch.Tensor:
        """How badly each step is predicted, `(B,)`."""
        raise TypeError(f"{type(self).__name__} lacks errors")

    def loss(self, batch: Transitions) -> dict[str, torch.Tensor]:
        """Losses by name; what is learned lowers the one called `loss`."""
        return {"loss": self.errors(batch).mean()}


class RNDPredictor(Predictor):
    """A random network, and one that is trained to put out the same; they differ where it was not trained."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__(space)
        self.target, self.predictor = (self._network(space, hidden) for hidden in (0, 1))
        self.target.requires_grad_(False)

    @staticmethod
    def _network(space: gym.Space, hidden: int) -> nn.Sequential:
        backbone = build_backbone(BACKBONE, space)
        layers: list[nn.Module] = []
        for _ in range(hidden):  # The predictor has a layer more, as in the paper: it is to be able to learn it all.
            layers += [nn.Linear(backbone.out_features, backbone.out_features), nn.ReLU()]
        head = nn.Sequential(*layers, nn.Linear(backbone.out_features, FEATURES))
        return nn.Sequential(backbone, initialize(head, "orthogonal"))

    def errors(self, batch: Transitions) -> torch.Tensor:
        observations = self.normalized(batch.successors)
        return (self.predictor(observations) - self.target(observations)).square().mean(1)


class ICMPredictor(Predictor):
    """Foresees the features of the next observation; features are what the action can be recognized by.

    Args:
        space: The space of one observation, without an action mask.
        action_space: The space of one action.
        beta: Weight of the loss of foreseeing, against that of recognizing.
    """

    def __init__(self, space: gym.Space, action_space: gym.Space, beta: float) -> None:
        super().__init__(space)
        self.beta = beta
        self.backbone = build_backbone(BACKBONE, space)
        n = self.backbone.out_features
        self.inverse = nn.Sequential(initialize(nn.Linear(2 * n, n), "orthogonal"), nn.ReLU())
        self.action_head = build_action_head(action_space, n)
        self.foresee = initialize(
            nn.Sequential(nn.Linear(n + Flatten(action_space).out_features, n), nn.ReLU(), nn.Linear(n, n)),
            "orthogonal",
        )

    def _parts(self, batch: Transitions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features before and after, and the error of foreseeing the latter."""
        before, after = (self.backbone(self.normalized(tree)) for tree in (batch.observations, batch.successors))
        foreseen = self.foresee(torch.cat((before, batch.action_vectors), 1))
        return before, after, 0.5 * (foreseen - after).square().sum(1)

    def errors(self, batch: Transitions) -> torch.Tensor:
        return self._parts(batch)[2]

    def loss(self, batch: Transitions) -> dict[str, torch.Tensor]:
        before, after, error = self._parts(batch)
        recognized = self.action_head(self.inverse(torch.cat((before, after), 1)))
        inverse_loss, forward_loss = -recognized.log_prob(batch.actions).mean(), error.mean()
        loss = (1 - self.beta) * inverse_loss + self.beta * forward_loss
        return {"loss": loss, "forward_loss": forward_loss, "inverse_loss": inverse_loss}


class Curiosity(Extension):
    """Adds a predictor's errors to the rewards, and trains it.

    Attributes:
        name: Of the extension, which its options begin with.
        predictor: What rates the steps.
    """

    name: ClassVar[str]

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        policy = agent.policy
        self.space = without_mask(policy.observation_space) if policy.masked else policy.observation_space
        self.coef: float = getattr(self.config, f"{self.name}_coef")
        self.predictor = self.build_predictor().to(agent.device)
        self.optimizer = Adam(self.predictor, getattr(self.config, f"{self.name}_learning_rate"))
        self.mean_reward = 0.0
        self._to_environment = environment_actions(agent.action_space)
        self._as_vectors = Flatten(agent.action_space).as_numpy()

    def build_predictor(self) -> Predictor:
        """A new predictor."""
        raise TypeError(f"{type(self).__name__} lacks a predictor")

    @cached_property
    def scaler(self) -> ReturnScaler:
        """Brings the errors to one size, whatever the environment."""
        return ReturnScaler(self.agent.env.num_envs, self.config.gamma)

    def reward(self, rollout: Rollout) -> np.ndarray:
        steps = self._transitions(rollout)
        if self.predictor.normalizer is not None:
            self.predictor.normalizer.update(steps.successors)
        errors = np.zeros(rollout.rewards.shape, np.float32)
        with torch.no_grad():
            rated = [self.predictor.errors(self._tensors(steps.rows(rows))) for rows in batches(len(steps.actions))]
        errors[rollout.valid] = torch.cat(rated).cpu().numpy()
        # Curiosity does not end with an episode: what is found in the next one is still new.
        never = np.zeros_like(rollout.done)
        rewards = self.coef * self.scaler(errors, never, rollout.valid)
        self.mean_reward = float(rewards[rollout.valid].mean())
        return rewards

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        steps = self._transitions(rollout)
        order = self.agent.rng.permutation(len(steps.actions))
        losses: list[dict[str, torch.Tensor]] = []
        for rows in batches(len(order)):
            terms = self.predictor.loss(self._tensors(steps.rows(order[rows])))
            self.optimizer.step(terms["loss"])
            losses.append({name: term.detach() for name, term in terms.items()})
        means = {name: torch.stack([terms[name] for terms in losses]).mean() for name in losses[0]}
        return {f"{self.name}_reward": self.mean_reward, **{f"{self.name}_{name}": x for name, x in means.items()}}

    def _transitions(self, rollout: Rollout) -> Transitions:
        """The steps that count; those that only reset lead from one episode to another."""
        seen, successors = rollout.seen(rollout.valid), rollout.successors()
        successors = map_tree(lambda leaf: leaf[rollout.valid.ravel()], successors)
        if self.agent.policy.masked:
            seen, successors = without_mask(seen), without_mask(successors)
        actions = rollout.actions[rollout.valid]
        return Transitions(seen, successors, actions, self._as_vectors(self._to_environment(actions)))

    def _tensors(self, steps: Transitions) -> Transitions:
        return Transitions(*(as_tensors(tree, self.agent.device) for tree in steps))

    def state(self) -> dict[str, torch.Tensor]:
        state = State()
        state.add("predictor", self.predictor.state_dict())
        state.add("optimizer", self.optimizer.state())
        state.add("scaler", self.scaler.state_dict())
        state.tensors["steps"] = torch.tensor(self.optimizer.steps)
        return state.tensors

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        kept = State(state)
        self.predictor.load_state_dict(kept.take("predictor"))
        self.optimizer.load_state(kept.take("optimizer"), int(state["steps"]))
        self.scaler.load_state_dict(kept.take("scaler"))


class RND(Curiosity):
    """Random network distillation: rewards for observations that were seldom seen (Burda et al., ICLR 2019).

    Rewards of the environment and of curiosity share one value function.
    """

    name = "rnd"

    def build_predictor(self) -> RNDPredictor:
        return RNDPredictor(self.space)


class ICM(Curiosity):
    """Intrinsic curiosity module: rewards for steps whose outcome was not foreseen (Pathak et al., ICML 2017).

    What actions have no influence on does not show in the features, so that noise is not rewarded.
    """

    name = "icm"

    def build_predictor(self) -> ICMPredictor:
        return ICMPredictor(self.space, self.agent.action_space, self.config.icm_beta)


def batches(length: int) -> Iterator[slice]:
    """Slices of `BATCH` rows each, the last perhaps shorter."""
    for start in range(0, length, BATCH):
        yield slice(start, start + BATCH)
