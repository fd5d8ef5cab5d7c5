"""The policy: observation statistics, backbone, action head and critic in one module."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.config import PolicyConfig
from rltool.agents.rollout import Actor
from rltool.agents.sequences import Sequences
from rltool.errors import UserError
from rltool.networks import Backbone, ValueHead, build_action_head, build_backbone
from rltool.networks.distributions import Distribution
from rltool.networks.normalization import build_normalizer, normalized_space
from rltool.networks.observations import ACTION_MASK, check_observation_space
from rltool.trees import Tree, map_tree

WITHIN = 0.0025  # Of a Box's width: tanh(3) is this far from the bound. Further out, tanh has hardly any slope left.


class Policy(nn.Module):
    """Maps observations to a distribution over actions and to a value.

    Args:
        observation_space: Space of one observation.
        action_space: Space of one action.
        config: Backbone, head and normalization options.

    Raises:
        UserError: The backbone or the head cannot handle these spaces.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, config: PolicyConfig) -> None:
        super().__init__()
        check_observation_space(observation_space)
        self.observation_space = observation_space
        self.action_space = action_space
        self.masked = isinstance(observation_space, gym.spaces.Dict) and ACTION_MASK in observation_space.spaces
        inputs = without_mask(observation_space) if self.masked else observation_space
        self.normalizer = build_normalizer(inputs) if config.normalize_observations else None
        if self.normalizer is not None:
            inputs = normalized_space(inputs)
        self.backbone = build_backbone(config, inputs)
        self.value_backbone = None if config.shared else build_backbone(config, inputs)
        features = self.backbone.out_features
        self.action_head = build_action_head(
            action_space,
            features,
            std=config.action_std,
            log_std_init=config.log_std_init,
            sde_sample_freq=config.sde_sample_freq,
            squash=config.squash,
            init=config.init,
        )
        self.value_head = ValueHead(features, config.init)
        if self.masked:
            choices = observation_space[ACTION_MASK].shape  # type: ignore[index]
            if not self.action_head.masks or choices != (self.action_head.linear.out_features,):
                raise UserError(
                    f"an action mask of shape {choices} does not fit the action space {action_space}; it has one entry "
                    "for each choice of a Discrete, MultiDiscrete or MultiBinary space"
                )

    @property
    def has_memory(self) -> bool:
        """Whether actions depend on earlier observations of the episode."""
        return self.backbone.has_memory

    def compile_backbones(self) -> None:
        """Compile what the backbones compute in updates (`torch.compile`); weights and their names stay as they are.

        Raises:
            UserError: There is no compiler to do it with.
        """
        if not any(map(shutil.which, ("cc", "gcc", "clang", "cl"))):
            raise UserError("compiling needs a C++ compiler, and there is none; install g++, or leave out --compile")
        for backbone in (self.backbone, self.value_backbone):
            if backbone is not None and backbone.has_memory:
                backbone.sequence = torch.compile(type(backbone).sequence.__get__(backbone))  # type: ignore[method-assign]
            elif backbone is not None:
                backbone.compile()

    def observe(self, observations: Tree) -> None:
        """Take observations `(B, ...)` into the running statistics, if there are any."""
        if self.normalizer is not None:
            self.normalizer.update(without_mask(observations) if self.masked else observations)

    def initial_state(self, batch: int) -> dict[str, Tree] | None:
        """State of policy and critic before the first observations of `batch` episodes; None without memory."""
        if not self.has_memory:
            return None
        backbones = {"policy": self.backbone, "value": self.value_backbone}
        return {
            name: map_tree(lambda leaf: leaf.cpu().numpy(), backbone.initial_state(batch))
            for name, backbone in backbones.items()
            if backbone is not None
        }

    def forward(self, observations: Tree, sequences: Sequences | None = None) -> tuple[Distribution, torch.Tensor]:
        """Action distribution and values `(B,)` for observations `(B, ...)`, with memory also for how they follow."""
        inputs, mask = self._inputs(observations)
        features = self._features("policy", self.backbone, inputs, sequences)
        value_features = features
        if self.value_backbone is not None:
            value_features = self._features("value", self.value_backbone, inputs, sequences)
        return self._distribution(features, mask), self.value_head(value_features)

    def distribution(self, observations: Tree, sequences: Sequences | None = None) -> Distribution:
        """Action distribution alone."""
        inputs, mask = self._inputs(observations)
        return self._distribution(self._features("policy", self.backbone, inputs, sequences), mask)

    def features(self, observations: Tree) -> torch.Tensor:
        """What the action head reads, `(B, out_features)`, of a policy without memory."""
        return self.backbone(self._inputs(observations)[0])

    def values(self, observations: Tree, sequences: Sequences | None = None) -> torch.Tensor:
        """Values `(B,)` alone."""
        name, critic = self._critic()
        return self.value_head(self._features(name, critic, self._inputs(observations)[0], sequences))

    def _distribution(self, features: torch.Tensor, mask: torch.Tensor | None) -> Distribution:
        return self.action_head(features) if mask is None else self.action_head(features, mask)

    def _inputs(self, observations: Tree) -> tuple[Tree, torch.Tensor | None]:
        """What the backbones read, and the action mask."""
        mask = observations[ACTION_MASK].bool() if self.masked else None
        if self.masked:
            observations = without_mask(observations)
        return (observations if self.normalizer is None else self.normalizer(observations)), mask

    @staticmethod
    def _features(name: str, backbone: Backbone, inputs: Tree, sequences: Sequences | None) -> torch.Tensor:
        return backbone(inputs) if sequences is None else sequences.features(name, backbone, inputs)

    def _critic(self) -> tuple[str, Backbone]:
        return ("policy", self.backbone) if self.value_backbone is None else ("value", self.value_backbone)

    def actor(self, rng: np.random.Generator | None) -> Actor:
        """A function from observations to actions `(B, ...)`, NumPy to NumPy, with the weights as they are now.

        For a policy with memory it maps (observations, state) to (actions, state).

        Args:
            rng: Source of randomness; None acts deterministically (the distribution's mode).
        """
        actions: Callable[..., np.ndarray] = (
            self.action_head.as_numpy() if rng is None else self.action_head.sampler(rng)
        )
        prepare = self._prepare()
        if self.has_memory:
            steps = {"policy": self.backbone.step_as_numpy()}
            if self.value_backbone is not None:
                steps["value"] = self.value_backbone.step_as_numpy()

            def act(observations: Tree, state: dict[str, Tree]) -> tuple[np.ndarray, dict[str, Tree]]:
                inputs, mask = prepare(observations)
                features, after = {}, {}
                for name, before in state.items():
                    features[name], after[name] = steps[name](inputs, before)
                policy = features["policy"]
                return (actions(policy) if mask is None else actions(policy, mask)), after

            return act
        read = self.backbone.as_numpy()
        if self.masked:

            def act_masked(observations: Tree) -> np.ndarray:
                inputs, mask = prepare(observations)
                return actions(read(inputs), mask)

            return act_masked
        if self.normalizer is None:
            return lambda observations: actions(read(observations))
        normalize = self.normalizer.as_numpy()
        return lambda observations: actions(read(normalize(observations)))

    def critic(self) -> Callable[..., np.ndarray]:
        """A function from observations (and states, with memory) to values `(B,)`, NumPy to NumPy."""
        values, prepare = self.value_head.as_numpy(), self._prepare()
        name, backbone = self._critic()
        if self.has_memory:
            step = backbone.step_as_numpy()
            return lambda observations, state: values(step(prepare(observations)[0], state[name])[0])
        read = backbone.as_numpy()
        return lambda observations, state=None: values(read(prepare(observations)[0]))

    def _prepare(self) -> Callable[[Tree], tuple[Tree, np.ndarray | None]]:
        """`_inputs`, NumPy to NumPy."""
        normalize = (lambda inputs: inputs) if self.normalizer is None else self.normalizer.as_numpy()
        if not self.masked:
            return lambda observations: (normalize(observations), None)
        return lambda observations: (normalize(without_mask(observations)), observations[ACTION_MASK].astype(bool))


def without_mask(tree: Any) -> Any:
    """An observation, or its space, without its action mask; what is left, if it is one thing alone, as that thing."""
    rest = {key: tree[key] for key in tree if key != ACTION_MASK}
    if len(rest) == 1:
        return next(iter(rest.values()))
    return gym.spaces.Dict(rest) if isinstance(tree, gym.spaces.Dict) else rest


def environment_actions(space: gym.Space) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a policy's actions to what the environment takes.

    They get the space's shape and type, are clipped into a Box, and counted from `start`.
    """
    match space:
        case gym.spaces.Box():
            low, high, shape = copy(space.low), copy(space.high), space.shape
            return lambda actions: np.clip(actions.reshape(-1, *shape), low, high).astype(space.dtype, copy=False)
        case gym.spaces.MultiDiscrete():
            starts = copy(space.start)
            return lambda actions: (actions.reshape(-1, *starts.shape) + starts).astype(starts.dtype, copy=False)
        case gym.spaces.MultiBinary():
            return lambda actions: actions.reshape(-1, *space.shape)
        case gym.spaces.Discrete() if space.start:
            start = int(space.start)
            return lambda actions: actions + start
    return lambda actions: actions


def policy_actions(space: gym.Space, squash: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """The inverse of `environment_actions`: a function from an environment's actions `(B, ...)` to a policy's.

    Args:
        space: Where the actions lie.
        squash: Whether the policy sends its actions through tanh. Those on the bounds of the Box, which only an
            infinite number is sent to, count as a little within.
    """
    match space:
        case gym.spaces.Box() if squash:
            low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
            margin = WITHIN * (high - low)
            return lambda actions: np.clip(actions.reshape(len(actions), -1), low + margin, high - margin)
        case gym.spaces.Box():
            return lambda actions: actions.reshape(len(actions), -1).astype(np.float32)
        case gym.spaces.MultiDiscrete():
            starts = copy(space.start)
            return lambda actions: (actions - starts).reshape(len(actions), -1).astype(np.int64)
        case gym.spaces.MultiBinary():
            return lambda actions: actions.reshape(len(actions), -1)
        case gym.spaces.Discrete():
            start = int(space.start)
            return lambda actions: (actions - start).astype(np.int64)
    raise TypeError(f"no policy acts in {space}")


def action_widths(space: gym.spaces.Box) -> np.ndarray:
    """Width of a Box in each component of an action, `(n,)` float64; 2, as from -1 to 1, where it has no bounds."""
    low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
    return np.where(np.isfinite(high - low) & (high > low), high - low, 2.0)
