"""When to attack a policy: in the few timesteps that matter most (how, is another attack's business)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch

from rltool.agents.evaluation import evaluate
from rltool.attacks.attack import Attack, Composed, Problem, generator
from rltool.attacks.gradient import MAD
from rltool.attacks.norms import Norm
from rltool.attacks.policies import options_under_attack
from rltool.attacks.policy_value import WATCHED_SEED, QFunction, Sarsa, learn_q
from rltool.envs import make_vector_env
from rltool.errors import UserError

CALIBRATION = 8  # Episodes without an attack that a threshold is found on.


@dataclass(frozen=True, kw_only=True)
class Occasional(Composed):
    """An attack that is made in some timesteps alone: those whose score is above a threshold.

    `prepare` chooses the threshold: in episodes without an attack, a share `budget` of the timesteps is above it. How
    many are above it under the attack, `AttackedEpisodes.attacked_share` says.

    Subclasses say what the score is.

    Attributes:
        attack: How the policy is attacked.
        budget: Share of the timesteps to attack.
        threshold: The score from which on; it wins over the budget.
        q: Values of actions, where they are needed and known.
    """

    inner: ClassVar[type[Attack]] = MAD
    attack: Attack = field(default_factory=MAD)
    budget: float = 0.25
    threshold: float | None = None
    q: QFunction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.budget <= 1:
            raise UserError(f"budget must be above 0 and at most 1, not {self.budget}")

    def look(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores `(B,)`, and attacked inputs, where these had to be made to find out."""
        raise TypeError(f"{type(self).__name__} lacks a look")

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        ready = replace(self, attack=self.attack.prepare(agent, env_id, env_kwargs, seed))
        if self.threshold is not None:
            return ready
        if self.budget == 1:  # All, also those that no episode without an attack comes to.
            return replace(ready, threshold=-math.inf)
        scores = clean_scores(ready, agent, env_id, env_kwargs, seed + WATCHED_SEED)
        return replace(ready, threshold=float(scores.quantile(1 - self.budget)))

    def run(self, problem: Problem) -> torch.Tensor:
        if self.threshold is None:
            raise UserError(
                f"{type(self).__name__.lower()} has to watch the agent first, by prepare(agent, env_id): "
                "it attacks agents alone"
            )
        scores, made = self.look(problem)
        rows = torch.nonzero(scores >= self.threshold)[:, 0]
        x_adv = problem.x.clone()
        if not len(rows):
            return x_adv
        x_adv[rows] = self.attack_now(problem[rows], problem, rows) if made is None else made[rows]
        return x_adv

    def attack_now(self, part: Problem, problem: Problem, rows: torch.Tensor) -> torch.Tensor:
        """Attack some rows of a problem, and count it."""
        part.queries.zero_()
        x_adv = replace(self.attack, seed=self.seed).run(part)
        problem.queries[rows] += part.queries
        return x_adv


@dataclass(frozen=True, kw_only=True)
class Timed(Occasional):
    """Strategically timed (Lin et al., 2017): where the policy prefers one action strongly, it matters which it takes.

    The score is max pi - min pi. Of continuous actions it is what the learned Q (see `Sarsa`) loses between what the
    policy does and the worst of some other actions.
    """

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        if self.q is None and isinstance(agent.action_space, gym.spaces.Box):
            q = learn_q(agent, env_id, Sarsa(), env_kwargs, seed)
            return replace(self, q=q).prepare(agent, env_id, env_kwargs, seed)
        return super().prepare(agent, env_id, env_kwargs, seed)

    def look(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor | None]:
        if problem.victim.tolerance is not None:
            if self.q is None:
                raise UserError("timed has to watch an agent with continuous actions first: prepare(agent, env_id)")
            # The same actions are tried at all times, so that what is found depends on no batch.
            return self.q.preference(problem.x, problem.outputs, generator(0, problem.x.device)), None
        # In double precision, so that policies that are nearly sure can be told apart.
        probabilities = problem.outputs.double().softmax(1)
        return probabilities.amax(1) - probabilities.amin(1), None


@dataclass(frozen=True, kw_only=True)
class Critical(Occasional):
    """Critical points (after Sun et al., 2020): where an attack is foretold to do the most damage.

    The score is what the learned Q (see `Sarsa`) loses between what the policy does and what it does under the attack.
    Sun et al. foretell the state some steps later and how bad it is; Q is that with all of the future in it. Every
    timestep is attacked to find out, and costs queries; few perturbations are used.
    """

    inner: ClassVar[type[Attack]] = Sarsa
    attack: Attack = field(default_factory=Sarsa)

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        options = self.attack if isinstance(self.attack, Sarsa) else Sarsa()
        ready = self if self.q is not None else replace(self, q=learn_q(agent, env_id, options, env_kwargs, seed))
        return super(Critical, ready).prepare(agent, env_id, env_kwargs, seed)

    def look(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.q is None:
            raise UserError("critical has to watch the agent first: prepare(agent, env_id)")
        everything = torch.arange(len(problem.x), device=problem.x.device)
        x_adv = problem.victim.admissible(problem.x, self.attack_now(problem[everything], problem, everything))
        value = self.q.values_of(problem.x)
        with torch.no_grad():
            damage = value(problem.outputs) - value(problem.victim.logits(x_adv))
        problem.queries += 1
        return damage, x_adv


@dataclass(frozen=True, kw_only=True)
class _Scores(Attack):
    """Changes nothing, and keeps the scores of what it is shown."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "l0")
    attack: Occasional
    scores: list[torch.Tensor] = field(default_factory=list)

    def run(self, problem: Problem) -> torch.Tensor:
        self.scores.append(replace(self.attack, seed=self.seed).look(problem)[0])
        return problem.x


def clean_scores(
    attack: Occasional,
    agent: Any,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    episodes: int = CALIBRATION,
) -> torch.Tensor:
    """Scores of the timesteps of episodes without an attack, `(n,)`.

    Args:
        attack: Whose score it is.
        agent: The victim.
        env_id: Where it plays.
        env_kwargs: Arguments of the environment's constructor.
        seed: Seeds environments and attack.
        episodes: How many.
    """
    watching = _Scores(attack=attack)
    options = options_under_attack(agent, watching, env_kwargs)
    envs = make_vector_env(env_id, episodes, seed=seed, **options)
    try:
        once, frame_stack = np.ones(episodes, dtype=np.int64), int(options.get("frame_stack", 1))
        watched = watching.surround(envs, agent, seed=seed, frame_stack=frame_stack, episodes=once)
        evaluate(agent, watched, episodes, seed)
    finally:
        envs.close()
    return torch.cat(watching.scores).double()
