"""Attacks that lower what a policy is worth: by its own critic, and by a learned Q function (Robust-Sarsa).

Both are from Zhang et al., "Robust deep reinforcement learning against adversarial perturbations on state observations"
(2020), after Pattanaik et al. (2018). What values are taken of is the true state, where that is possible; what is
perturbed is what the policy sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rltool.agents.evaluation import with_masks
from rltool.agents.policy import action_widths, environment_actions, policy_actions
from rltool.agents.rollout import RolloutCollector
from rltool.attacks.attack import Problem, check_positive
from rltool.attacks.gradient import PGD
from rltool.attacks.losses import Objective
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks import build_backbone
from rltool.networks.config import BackboneConfig
from rltool.networks.normalization import build_normalizer, normalized_space
from rltool.networks.observations import is_image
from rltool.trees import Tree, map_tree

NUM_ENVS = 16  # In which the victim is watched.
BATCH = 256
TARGET_RATE = 0.02  # How fast the network that is bootstrapped from follows the one that learns.
WATCHED_SEED = 1_000_003  # What an attack learns from is not what it is tested on.


@dataclass(frozen=True, kw_only=True)
class ValueAttack(PGD):
    """PGD on a value instead of on outputs: all that counts is how far that goes down.

    Attributes:
        steps: How many from each start.
    """

    learned: ClassVar[tuple[str, ...]] = ("loss", "keep", "skip_broken")
    steps: int = 10
    skip_broken: bool = False

    def flat(self, problem: Problem) -> bool:
        return False

    def succeeded(self, problem: Problem, outputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)


@dataclass(frozen=True, kw_only=True)
class Critic(ValueAttack):
    """Shows the policy what its own critic holds for the worst observation near: min V(x').

    With V alone, which is all that A2C and PPO have, this is the critic attack. It is weak, as its authors say: that V
    is low at x' does not mean that what the policy does there is bad where it really is. Take it as a baseline.
    """

    def objective(self, problem: Problem) -> Objective:
        return lambda values: -values[:, 0]

    def run(self, problem: Problem) -> torch.Tensor:
        critic = problem.victim.critic
        if critic is None:
            raise UserError(
                "critic lowers what an agent's critic says, and this victim has learned none: take sarsa, which "
                "learns one of its own"
            )
        return super().run(replace(problem, victim=critic, y=problem.outputs))


@dataclass(frozen=True, kw_only=True)
class Sarsa(ValueAttack):
    """Robust-Sarsa: shows the policy what makes it do the action of least value (Zhang et al., 2020).

    `prepare` learns Q of the victim, which is watched while it plays: r + gamma Q(s', a'), a' being what it does at s'.
    The attack minimizes Q(x, mu(x')) or, of choices, sum_a pi(a | x') Q(x, a).

    Attributes:
        watched: Timesteps that Q is learned from.
        epochs: Passes over them.
        exploration: While the victim is watched: how often it takes a random choice; of continuous actions, the
            deviation of the noise that is added, as a share of their range.
        action_epsilon: (Continuous actions) Q shall change little within this share of an action's range.
        regularization: (Continuous actions) Weight of that in the loss.
        q: The Q function, where it is known.
    """

    watched: int = 20_000
    epochs: int = 30
    exploration: float = 0.1
    action_epsilon: float = 0.05
    regularization: float = 1.0
    q: QFunction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(watched=self.watched, epochs=self.epochs)
        if not (0 <= self.exploration <= 1 and self.action_epsilon >= 0 and self.regularization >= 0):
            raise UserError("exploration is from 0 to 1; action-epsilon and regularization are at least 0")

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        return self if self.q is not None else replace(self, q=learn_q(agent, env_id, self, env_kwargs, seed))

    def objective(self, problem: Problem) -> Objective:
        value = self.known.values_of(problem.x)
        return lambda outputs: -value(outputs)

    @property
    def known(self) -> QFunction:
        """The Q function.

        Raises:
            UserError: It was not learned yet.
        """
        if self.q is None:
            raise UserError("sarsa has to watch the agent first, by prepare(agent, env_id): it attacks agents alone")
        return self.q

    def run(self, problem: Problem) -> torch.Tensor:
        _ = self.known
        return super().run(problem)


class QFunction(nn.Module):
    """Values of actions: of all choices at once, or of continuous ones that are given.

    Args:
        observation_space: A Box.
        action_space: Discrete, or a Box.
        scale: What an output of 1 stands for.
    """

    low: torch.Tensor
    high: torch.Tensor
    widths: torch.Tensor

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, scale: float = 1.0) -> None:
        super().__init__()
        self.normalizer = None if is_image(observation_space) else build_normalizer(observation_space)
        space = observation_space if self.normalizer is None else normalized_space(observation_space)
        config = BackboneConfig(backbone="auto", hidden_sizes=(128, 128), activation="relu")
        self.backbone, self.scale = build_backbone(config, space), scale
        features = self.backbone.out_features
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        if isinstance(action_space, gym.spaces.Discrete):
            self.head: nn.Module = nn.Linear(features, int(action_space.n))
            return
        if not isinstance(action_space, gym.spaces.Box):
            raise UserError(f"values are learned of Discrete and Box actions, not of {action_space}")
        low, high = (torch.as_tensor(b.ravel(), dtype=torch.float32) for b in (action_space.low, action_space.high))
        widths = torch.as_tensor(action_widths(action_space), dtype=torch.float32)
        for name, tensor in (("low", low), ("high", high), ("widths", widths)):
            self.register_buffer(name, tensor)
        self.head = nn.Sequential(nn.Linear(features + len(low), 128), nn.ReLU(), nn.Linear(128, 1))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What is read of observations `(B, ...)`."""
        return self.backbone(x if self.normalizer is None else self.normalizer(x))

    def of(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Values `(B,)` of actions: choices `(B,)`, or continuous ones `(B, k)`."""
        if self.discrete:
            return self.scale * self.head(features).gather(1, actions[:, None])[:, 0]
        return self.scale * self.head(torch.cat((features, actions / self.widths * 2), 1))[:, 0]

    def forward(self, x: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Values `(B,)` of observations `(B, ...)` and actions."""
        return self.of(self.features(x), actions)

    def values_of(self, x: torch.Tensor) -> Objective:
        """What a policy's outputs `(B, K)` are worth at the observations `(B, ...)`, as a function.

        Of logits it is the mean over the choices. Beyond the bounds of a Box, values are those at the bounds, with the
        slope that they have there.
        """
        with torch.no_grad():
            features = self.features(x)
            table = self.scale * self.head(features) if self.discrete else None
        if table is not None:
            return lambda logits: (logits.softmax(1) * table).sum(1)
        return lambda means: self.of(features, means + (means.clamp(self.low, self.high) - means).detach())

    def preference(
        self, x: torch.Tensor, outputs: torch.Tensor, draw: torch.Generator, tried: int = 16
    ) -> torch.Tensor:
        """How much worse than what the policy does the worst of some other actions is, `(B,)`.

        Those are all choices, or continuous ones that are drawn from their range.
        """
        with torch.no_grad():
            features, done = self.features(x), self.values_of(x)(outputs)
            if self.discrete:
                return done - (self.scale * self.head(features)).amin(1)
            low = self.low.clamp_min(-1e3)
            actions = low + torch.rand((tried, 1, len(low)), generator=draw) * self.widths.clamp_max(2e3)
            return done - torch.stack([self.of(features, each.expand(len(x), -1)) for each in actions]).amin(0)


@dataclass
class Transitions:
    """Steps that were watched, each with what the victim does next.

    Attributes:
        observations: `(n, ...)`.
        actions: What was done: choices `(n,)`, or `(n, k)` within their bounds.
        rewards: `(n,)`.
        next_observations: `(n, ...)`; where an episode ended, its last one.
        next_actions: What the victim does there, without exploration.
        terminated: Whether the episode ended for good, `(n,)`; where it was merely cut off, its future still counts.
        state: Of an agent with memory, if it was asked for: its state before each observation, a tree of `(n, ...)`
            arrays.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_observations: torch.Tensor
    next_actions: torch.Tensor
    terminated: torch.Tensor
    state: Tree = None

    def __len__(self) -> int:
        return len(self.rewards)


def watch_transitions(
    agent: Any,
    env_id: str,
    steps: int,
    exploration: float = 0.0,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    with_state: bool = False,
) -> Transitions:
    """Watch an agent while it plays, as it does in evaluations, or nearly so.

    Args:
        agent: The agent; it acts deterministically.
        env_id: Where it plays.
        steps: For how many timesteps.
        exploration: As in `Sarsa`.
        env_kwargs: Arguments of the environment's constructor.
        seed: Seeds environments and exploration.
        with_state: Keep the states of an agent with memory.

    Raises:
        TrainingError: The environment failed.
    """
    space, policy, rng = agent.action_space, agent.policy, np.random.default_rng(seed)
    actor, squash = policy.actor(None), getattr(agent.config, "squash", False)
    to_environment, to_policy = environment_actions(space), policy_actions(space, squash)
    own: list[np.ndarray] = []
    memory: list[Tree] = []

    def explore(actions: np.ndarray) -> np.ndarray:
        if isinstance(space, gym.spaces.Discrete):
            drawn = rng.integers(int(space.n), size=len(actions))
            return np.where(rng.random(len(actions)) < exploration, drawn, actions)
        noise = exploration * action_widths(space) * rng.standard_normal(actions.shape)
        return (actions + noise).astype(actions.dtype)

    def act(observations: np.ndarray, *state: Any) -> Any:
        actions, after = actor(observations, *state) if policy.has_memory else (actor(observations), None)
        own.append(actions)
        memory.extend(state if with_state else ())
        done = explore(actions)
        return (done, after) if policy.has_memory else done

    def within(actions: np.ndarray) -> np.ndarray:
        return to_policy(to_environment(actions)) if isinstance(space, gym.spaces.Box) else actions

    options = {"infos": False, **with_masks(agent, env_kwargs)}
    envs = make_vector_env(env_id, NUM_ENVS, seed=seed, **options)
    try:
        collector = RolloutCollector(envs, to_environment, policy.initial_state(NUM_ENVS))
        collector.reset(seed=seed)
        rollout = collector.collect(act, max(2, steps // NUM_ENVS))
    finally:
        envs.close()
    state = () if rollout.bootstrap_state is None else (rollout.bootstrap_state,)
    beyond = actor(rollout.bootstrap_observations, *state)
    next_actions = rollout.next_values(np.stack(own), beyond[0] if state else beyond)
    valid = rollout.valid
    successors = rollout.successors()[valid.ravel()]
    arrays = (
        rollout.seen(valid).astype(np.float32),
        within(rollout.actions[valid]),
        rollout.rewards[valid],
        successors.astype(np.float32),
        within(next_actions[valid]),
        rollout.terminated[valid],
    )
    watched = Transitions(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
    if memory:
        watched.state = map_tree(lambda *leaves: np.stack(leaves)[valid], *memory)
    return watched


LEARNED: WeakKeyDictionary[nn.Module, dict[Any, QFunction]] = WeakKeyDictionary()


def learn_q(
    agent: Any, env_id: str, options: Sarsa, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0
) -> QFunction:
    """Q of an agent that learns nothing any more; learned once for each agent, environment and set of options.

    Args:
        agent: The agent.
        env_id: Where it plays.
        options: How Q is learned.
        env_kwargs: Arguments of the environment's constructor.
        seed: Of what is drawn at random.
    """
    version = tuple(parameter._version for parameter in agent.policy.parameters())
    how = (options.watched, options.epochs, options.exploration, options.action_epsilon, options.regularization)
    key = (env_id, repr(sorted((env_kwargs or {}).items())), version, how, seed)
    known = LEARNED.setdefault(agent.policy, {})
    if key not in known:
        data = watch_transitions(agent, env_id, options.watched, options.exploration, env_kwargs, seed + WATCHED_SEED)
        gamma = float(getattr(agent.config, "gamma", 0.99))
        known[key] = fit_q(data, agent.observation_space, agent.action_space, options, gamma, seed)
    return known[key]


def fit_q(
    data: Transitions,
    observation_space: gym.Space,
    action_space: gym.Space,
    options: Sarsa,
    gamma: float,
    seed: int = 0,
) -> QFunction:
    """Learn r + gamma Q(s', a') from transitions.

    A transition holds what follows it, so minibatches may be drawn in any order. What is bootstrapped from follows
    slowly. Of continuous actions, the loss also has the squared change of Q at the worst action nearby, found by a step
    along the gradient from a random start: a Q that is only right where it was looked at misleads the attack.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        scale = float(data.rewards.abs().max().clamp_min(1e-8)) / max(1 - gamma, 1e-3)
        q = QFunction(observation_space, action_space, scale)
        if q.normalizer is not None:
            q.normalizer.update(data.observations.numpy())
        slow = copy.deepcopy(q)
        optimizer = torch.optim.Adam(q.parameters(), 1e-3)
        for _ in range(options.epochs):
            for rows in torch.randperm(len(data)).split(BATCH):
                with torch.no_grad():
                    future = slow(data.next_observations[rows], data.next_actions[rows])
                    target = data.rewards[rows] + gamma * ~data.terminated[rows] * future
                features, actions = q.features(data.observations[rows]), data.actions[rows]
                values = q.of(features, actions)
                loss = F.mse_loss(values / scale, target / scale)
                if not q.discrete and options.regularization and options.action_epsilon:
                    loss = loss + options.regularization * _roughness(q, features, actions, values, options)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for old, new in zip(slow.parameters(), q.parameters(), strict=True):
                        old.lerp_(new, TARGET_RATE)
    return q.eval().requires_grad_(False)


def _roughness(
    q: QFunction, features: torch.Tensor, actions: torch.Tensor, values: torch.Tensor, options: Sarsa
) -> torch.Tensor:
    radius = options.action_epsilon * q.widths
    start = (torch.rand_like(actions) * 2 - 1) * radius
    near = (actions + start).requires_grad_()
    change = (q.of(features.detach(), near) - values.detach()).square().sum()
    (gradient,) = torch.autograd.grad(change, near)
    worst = actions + torch.clamp(start + 2 * radius * gradient.sign(), -radius, radius)
    return ((q.of(features, worst) - values) / q.scale).square().mean()
