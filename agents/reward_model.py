"""A reward that was learned: a backbone of the shared library that rates steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rltool.networks import BackboneConfig, build_backbone
from rltool.networks.backbone import device_of, evaluating
from rltool.networks.initialization import initialize
from rltool.networks.normalization import build_normalizer, is_numeric, normalized_space
from rltool.networks.observations import as_tensors, space_leaves
from rltool.trees import Tree, map_tree

ROWS = 4_096  # Steps that are rated at a time.


class Steps(NamedTuple):
    """B steps of episodes that never end: one that terminates goes on in an absorbing state.

    Attributes:
        observations: What was seen before, a tree `(B, ...)`.
        actions: What was done, `(B, ...)`, as the environment takes it.
        successors: What was seen afterwards, a tree `(B, ...)`.
        absorbing: Whether the state before is the absorbing one, `(B,)` integers 0 and 1; what was seen counts as
            nothing then.
        absorbed: Whether the state afterwards is, `(B,)`.
    """

    observations: Tree
    actions: Tree
    successors: Tree
    absorbing: Tree
    absorbed: Tree

    def rows(self, index: np.ndarray | slice) -> Steps:
        """Some of them."""
        return Steps(*(map_tree(lambda leaf: leaf[index], tree) for tree in self))

    def tensors(self, device: torch.device | str) -> Steps:
        """The same as tensors."""
        return Steps(*(as_tensors(tree, device) for tree in self))


class RewardModel(nn.Module):
    """A reward g(s) or g(s, a), and, for AIRL, a potential h: f(s, a, s') = g(s, a) + gamma h(s') - h(s).

    The potential takes in what depends on the dynamics (Fu et al., 2018); what is recovered is g.

    Args:
        observation_space: Space of one observation, without an action mask.
        action_space: Space of one action.
        hidden_sizes: Widths of its hidden layers, where it is an mlp.
        reads_actions: Whether it depends on actions.
        gamma: Discount factor of the potential; None for no potential.
        positive: Whether rewards are log(1 + exp(f)), as GAIL's are, instead of g.
        spectral_norm: As in `BackboneConfig`.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden_sizes: tuple[int, ...] = (64, 64),
        reads_actions: bool = True,
        gamma: float | None = None,
        positive: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.reads_actions, self.gamma, self.positive = reads_actions, gamma, positive
        # Images are scaled by the backbones that read them, and choices are one-hot.
        numeric = any(is_numeric(leaf) for _, leaf in space_leaves(observation_space))
        self.normalizer = build_normalizer(observation_space) if numeric else None
        seen = normalized_space(observation_space)
        state = gym.spaces.Tuple([seen, gym.spaces.Discrete(2)])
        step = gym.spaces.Tuple([*state, action_space]) if reads_actions else state
        config = BackboneConfig(activation="relu", hidden_sizes=hidden_sizes, spectral_norm=spectral_norm)
        self.rating = Rating(config, step)
        self.potential = None if gamma is None else Rating(config, state)

    def observe(self, observations: Tree) -> None:
        """Take observations `(B, ...)`, as arrays, into the running statistics."""
        if self.normalizer is not None:
            self.normalizer.update(observations)

    def inputs(self, steps: Steps) -> tuple[Tree, ...]:
        """What `rating` reads of steps, as tensors."""
        state = self._state(steps.observations, steps.absorbing)
        return (*state, steps.actions) if self.reads_actions else state

    def _state(self, observations: Tree, absorbing: Tree) -> tuple[Tree, ...]:
        return (observations if self.normalizer is None else self.normalizer(observations)), absorbing

    def forward(self, steps: Steps) -> torch.Tensor:
        """F of B steps, as tensors: `(B,)`."""
        rating = self.rating(self.inputs(steps))
        if self.potential is None or self.gamma is None:
            return rating
        before = self.potential(self._state(steps.observations, steps.absorbing))
        after = self.potential(self._state(steps.successors, steps.absorbed))
        return rating + self.gamma * after - before

    def recovered(self, steps: Steps) -> torch.Tensor:
        """The recovered reward of B steps, as tensors: `(B,)`."""
        rating = self.rating(self.inputs(steps))
        return functional.softplus(rating) if self.positive else rating

    def rewards(self, steps: Steps) -> np.ndarray:
        """The recovered reward of B steps, as arrays: that of each, less that of the absorbing state, `(B,)`.

        A constant added to the rewards of all states, the absorbing one among them, changes no policy. Chosen so that
        the absorbing state is worth nothing, it makes the end of an episode what agents take it for.
        """
        return self.rate(steps, self.recovered) - self.rate(absorbing_step(steps), self.recovered)

    def rate(self, steps: Steps, function: Callable[[Steps], torch.Tensor]) -> np.ndarray:
        """A function of steps as tensors, for arrays: `(B,)`."""
        parts = []
        with torch.no_grad(), evaluating(self):
            for start in range(0, len(steps.absorbing), ROWS):
                parts.append(function(steps.rows(slice(start, start + ROWS)).tensors(device_of(self))).cpu().numpy())
        return np.concatenate(parts)


class Rating(nn.Module):
    """A backbone and a linear layer that puts out one number."""

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        super().__init__()
        self.backbone = build_backbone(config, space)
        self.linear = nn.Linear(self.backbone.out_features, 1)
        initialize(self.linear, config.init, gain=0.1)

    def forward(self, inputs: Tree) -> torch.Tensor:
        return self.linear(self.backbone(inputs)).squeeze(-1)


def absorbing_step(steps: Steps) -> Steps:
    """One step in the absorbing state, shaped like the given ones."""
    zeros = map_tree(np.zeros_like, tuple(steps.rows(slice(0, 1))))
    one = np.ones(1, np.int64)
    return Steps(*zeros)._replace(absorbing=one, absorbed=one)


class RewardTable:
    """A recovered reward of a tabular environment, used like a `RewardModel`.

    Args:
        observation_space: Space of the states.
        action_space: Space of the actions.
        table: `(S,)`, the reward of arriving in a state, or `(S, A)`, of an action in a state.
    """

    def __init__(
        self, observation_space: gym.spaces.Discrete, action_space: gym.spaces.Discrete, table: np.ndarray
    ) -> None:
        self.observation_space, self.action_space, self.table = observation_space, action_space, table

    def rewards(self, steps: Steps) -> np.ndarray:
        """The reward of B steps, as arrays: `(B,)`."""
        if self.table.ndim == 1:
            return self.table[np.asarray(steps.successors) - int(self.observation_space.start)]
        states = np.asarray(steps.observations) - int(self.observation_space.start)
        return self.table[states, np.asarray(steps.actions) - int(self.action_space.start)]
