"""Attacks on what becomes of a policy's actions: others have a hand in them, or push the bodies that they move.

Actions are disturbed as in Tessler et al., 2019; forces act on a simulator's bodies, as in Pinto et al., 2017, but are
drawn at random, or the worst of some, and not learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from rltool.attacks.attack import Attack, Problem, check_positive
from rltool.attacks.norms import Norm
from rltool.attacks.policies import check_share, play_attacked
from rltool.attacks.policy_value import WATCHED_SEED
from rltool.errors import UserError, unknown

TRIED = 4  # Episodes that each direction of a force is tried in.


class DisturbedVectorEnv(VectorWrapper):
    """A vector environment that does something else than what it is told.

    Attributes:
        steps: How many timesteps of single environments there were so far.
        attacked: In how many of them something was disturbed.
        flipped: In how many of these an action became another one; None where actions are left alone.
        queries: How often the policy was asked: never.
    """

    def __init__(self, env: VectorEnv, fraction: float, seed: int) -> None:
        super().__init__(env)
        check_share(fraction)
        self.fraction, self.rng = fraction, np.random.default_rng(seed)
        self.steps = self.attacked = self.queries = 0
        self.flipped: Any = None

    def drawn(self, probability: float = 1.0) -> np.ndarray:
        """Which environments are disturbed in this timestep, `(num_envs,)`; counts them."""
        chosen = self.rng.random(self.num_envs) < self.fraction * probability
        self.steps += self.num_envs
        self.attacked += int(chosen.sum())
        return chosen


class DisturbedActions(DisturbedVectorEnv):
    """A vector environment in which someone else has a hand in the actions, at random.

    With `mix=False` it is the probabilistic action-robust process (PR-MDP): with probability `alpha`, another action is
    taken in the policy's stead. With `mix=True`, the noisy one (NR-MDP): (1 - alpha) a + alpha a', of continuous
    actions with bounds.

    Args:
        env: The environment.
        alpha: How much of a hand, from 0 to 1.
        mix: Whether actions are mixed.
        seed: Of the other's actions, drawn uniformly.
        fraction: Share of the timesteps, drawn at random, in which that is so.

    Raises:
        UserError: Alpha is not from 0 to 1, or such actions cannot be disturbed so.

    Example:
        >>> from rltool.envs import make_vector_env
        >>> envs = DisturbedActions(make_vector_env("CartPole-v1", 4), alpha=0.1)
    """

    def __init__(self, env: VectorEnv, alpha: float, mix: bool = False, seed: int = 0, fraction: float = 1.0) -> None:
        space = env.single_action_space
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must be from 0 to 1, not {alpha}")
        if not isinstance(space, gym.spaces.Discrete | gym.spaces.Box):
            raise UserError(f"only Discrete and Box actions can be disturbed, not {space}")
        if isinstance(space, gym.spaces.Box) and not space.is_bounded():
            raise UserError(f"other actions are drawn from the bounds of {space}, and it has none")
        if mix and isinstance(space, gym.spaces.Discrete):
            raise UserError("choices cannot be mixed; leave out mix")
        super().__init__(env, fraction, seed)
        self.alpha, self.mix, self.flipped = alpha, mix, 0

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step with disturbed actions."""
        actions = np.asarray(actions)
        space: Any = self.env.single_action_space
        others: Any
        if isinstance(space, gym.spaces.Box):
            others = self.rng.uniform(space.low, space.high, actions.shape)
        else:
            others = self.rng.integers(space.start, space.start + space.n, actions.shape)
        if self.mix:
            others = (1 - self.alpha) * actions + self.alpha * others
        taken = self.drawn(1.0 if self.mix else self.alpha)
        disturbed = np.where(taken.reshape(-1, *[1] * (actions.ndim - 1)), others, actions).astype(actions.dtype)
        self.flipped += int((disturbed != actions).reshape(len(actions), -1).any(1).sum())
        return self.env.step(disturbed)


class PushedVectorEnv(DisturbedVectorEnv):
    """A vector environment of MuJoCo in which a body is pushed by a force that nobody sees.

    Args:
        env: Environments of MuJoCo, all in this process (`vectorization="sync"`).
        force: How strong, in newtons.
        body: Which is pushed, by its name in the model; by default the first one.
        hold: For how many timesteps a force stays as it is; then another direction is drawn.
        direction: The only direction, `(3,)`.
        seed: Of the directions, drawn uniformly, one for each environment.
        fraction: Share of the timesteps, drawn at random, in which there is a force.

    Raises:
        UserError: There is no such body, or the environments are others.
    """

    def __init__(
        self,
        env: VectorEnv,
        force: float,
        body: str = "",
        hold: int = 10,
        direction: np.ndarray | None = None,
        seed: int = 0,
        fraction: float = 1.0,
    ) -> None:
        super().__init__(env, fraction, seed)
        self.simulators = [each.unwrapped for each in getattr(env.unwrapped, "envs", ())]
        if not self.simulators or not all(
            hasattr(getattr(each, "data", None), "xfrc_applied") for each in self.simulators
        ):
            raise UserError("forces push bodies of MuJoCo, and this is no environment of it; take actions instead")
        if len(self.simulators) < env.num_envs:
            raise UserError('forces reach environments in this process alone; make them with vectorization="sync"')
        model = self.simulators[0].model
        names = [model.body(k).name for k in range(1, model.nbody)]  # The first of all is the world.
        if body and body not in names:
            raise unknown("body", body, names)
        self.body = 1 + (names.index(body) if body else 0)
        self.force, self.hold, self.direction = force, hold, direction
        self.age = 0
        self.directions = np.zeros((env.num_envs, 3))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and push."""
        if self.age % self.hold == 0:
            drawn = self.rng.standard_normal(self.directions.shape)
            self.directions = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        self.age += 1
        along = self.directions if self.direction is None else np.broadcast_to(self.direction, self.directions.shape)
        forces = self.force * along * self.drawn()[:, None]
        for simulator, force in zip(self.simulators, forces, strict=True):
            simulator.data.xfrc_applied[self.body, :3] = force
        return self.env.step(actions)


@dataclass(frozen=True, kw_only=True)
class Disturbance(Attack):
    """An attack on what becomes of an agent's actions; what it sees is left alone.

    Attributes:
        epsilon: How strong it is.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon < math.inf:
            raise UserError(f"epsilon must be a finite number, at least 0, not {self.epsilon}")

    def run(self, problem: Problem) -> torch.Tensor:
        raise UserError(f"{type(self).__name__.lower()} disturbs what an agent does, and attacks agents alone")


@dataclass(frozen=True, kw_only=True)
class Actions(Disturbance):
    """Someone else has a hand in the actions, at random (Tessler et al., 2019).

    Attributes:
        epsilon: How often another action is taken in the agent's stead, from 0 to 1; of mixed ones, how much of it.
        mix: Mix continuous actions with others: (1 - epsilon) a + epsilon a'.
    """

    unit: ClassVar[str] = "share"
    mix: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon > 1:
            raise UserError(f"epsilon is a share of the actions, at most 1, not {self.epsilon}")

    def surround(self, env: VectorEnv, agent: Any, fraction: float = 1.0, seed: int = 0, **options: Any) -> Any:
        return DisturbedActions(env, self.epsilon, self.mix, seed, fraction)


@dataclass(frozen=True, kw_only=True)
class Forces(Disturbance):
    """A body of MuJoCo is pushed by a force that the agent does not see.

    Attributes:
        epsilon: How strong it is, in newtons.
        body: Which is pushed, by its name in the model; by default the first one, the torso or the cart.
        hold: For how many timesteps a force stays as it is, before another direction is drawn.
        tries: Do not draw, but push in a single direction all the time: of so many the one that leaves the lowest mean
            return, found in other episodes (0: draw).
        direction: That direction, where it is known.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    in_process: ClassVar[bool] = True
    unit: ClassVar[str] = "newton"
    norm: Norm = "l2"
    epsilon: float = 1.0
    body: str = ""
    hold: int = 10
    tries: int = 0
    direction: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(hold=self.hold)
        if self.tries < 0:
            raise UserError(f"tries must be at least 0, not {self.tries}")
        if self.direction is not None and (len(self.direction) != 3 or not 0 < math.hypot(*self.direction) < math.inf):
            raise UserError(f"a direction is three numbers, not all of them 0; not {self.direction}")

    def surround(self, env: VectorEnv, agent: Any, fraction: float = 1.0, seed: int = 0, **options: Any) -> Any:
        along = None if self.direction is None else np.array(self.direction) / math.hypot(*self.direction)
        return PushedVectorEnv(env, self.epsilon, self.body, self.hold, along, seed, fraction)

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        if not self.tries or self.direction is not None:
            return self
        drawn = np.random.default_rng(seed).standard_normal((self.tries, 3)).tolist()
        known = [replace(self, direction=tuple(each)) for each in drawn]

        def left(attack: Self) -> float:
            played = play_attacked(agent, env_id, attack, TRIED, seed + WATCHED_SEED, env_kwargs=env_kwargs)
            return played.attacked.mean_return

        return min(known, key=left)
