"""Attacks on what a policy sees while it plays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from rltool.agents.evaluation import Evaluation, evaluate, with_masks
from rltool.agents.recording import RandomAgent
from rltool.attacks.attack import Attack
from rltool.attacks.victim import Victim
from rltool.envs import make_vector_env
from rltool.errors import UserError


class PerturbedVectorEnv(VectorWrapper):
    """A vector environment whose observations are attacked on their way to the policy.

    The simulator, its rewards and its ends are left alone.

    Args:
        env: The environment.
        agent: Whose policy is attacked.
        attack: How. Every batch of observations gets a seed of its own.
        fraction: Share of the timesteps, drawn at random, in which an observation is attacked.
        seed: Of what is drawn at random.

    Attributes:
        observations: What the policy would have seen, as `step` or `reset` last returned it.
        attacked: How many observations were attacked so far.
        flipped: How many of these made the policy do something else: another action, or one changed by more than the
            victim's tolerance.
        queries: How often the policy was asked.

    Raises:
        UserError: The policy cannot be attacked.
    """

    def __init__(self, env: VectorEnv, agent: Any, attack: Attack, fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(env)
        if not 0 < fraction <= 1:
            raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")
        self.victim = Victim.from_agent(agent)
        self.attack = attack
        self.fraction = fraction
        self.rng = np.random.default_rng(seed)
        self.attacked = self.flipped = self.queries = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, and attack the first observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._perturb(observations), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Step, and attack what came out."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return self._perturb(observations), rewards, terminated, truncated, infos

    def _perturb(self, observations: np.ndarray) -> np.ndarray:
        self.observations = observations
        chosen = np.flatnonzero(self.rng.random(len(observations)) < self.fraction)
        if not len(chosen):
            return observations
        # Observations that leave their own space are taken as they are, and stay where they were there.
        x, outside = self.victim.split(observations[chosen])
        attack = replace(self.attack, seed=int(self.rng.integers(2**31)))
        result = attack(self.victim, x)
        seen = observations.copy()
        seen[chosen] = (result.x_adv + outside).numpy().astype(observations.dtype)
        self.attacked += len(chosen)
        self.flipped += int(result.success.sum())
        self.queries += int(result.n_queries.sum())
        return seen


@dataclass(frozen=True)
class AttackedEvaluation:
    """What an attack does to an agent.

    Attributes:
        clean: Episodes without it.
        attacked: As many with it, from the same seeds.
        random: As many in which actions are drawn at random.
        flip_rate: Share of the attacked observations that made the policy do something else.
        queries_per_step: How often the policy was asked for each attacked observation.
        seconds: Duration of the attacked episodes.
    """

    clean: Evaluation
    attacked: Evaluation
    random: Evaluation
    flip_rate: float
    queries_per_step: float
    seconds: float

    @property
    def normalized(self) -> float:
        """What is left of the way from random to clean: (attacked - random) / (clean - random)."""
        low, high = self.random.mean_return, self.clean.mean_return
        return (self.attacked.mean_return - low) / (high - low) if high != low else float("nan")

    def as_dict(self) -> dict[str, float]:
        """The figures that `rltool attack --json` prints."""
        return {
            "clean": self.clean.mean_return,
            "attacked": self.attacked.mean_return,
            "random": self.random.mean_return,
            "normalized": self.normalized,
            "attacked_std": self.attacked.std_return,
            "flip_rate": self.flip_rate,
            "queries_per_step": self.queries_per_step,
            "episodes": len(self.attacked.returns),
            "seconds": round(self.seconds, 3),
        }


def attack_agent(
    agent: Any,
    env_id: str,
    attack: Attack,
    episodes: int = 50,
    seed: int = 0,
    *,
    fraction: float = 1.0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> AttackedEvaluation:
    """Let an agent play with and without an attack on what it sees.

    Args:
        agent: One of rltool's, or one that `load_sb3` read.
        env_id: Where it plays.
        attack: The attack.
        episodes: How many, each way.
        seed: Seeds the environments, the same each way, and the attack.
        fraction: Share of the timesteps that are attacked.
        env_kwargs: Arguments of the environment's constructor.

    Raises:
        UserError: The policy cannot be attacked this way.
        TrainingError: The environment failed.

    Example:
        >>> from rltool.agents import PPO
        >>> from rltool.attacks import PGD
        >>> agent = PPO("CartPole-v1").learn(100_000)  # doctest: +SKIP
        >>> left = attack_agent(agent, "CartPole-v1", PGD(epsilon=0.1)).normalized  # doctest: +SKIP
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    options = {"infos": False, **with_masks(agent, env_kwargs)}
    attack = attack.prepare(agent, env_id, env_kwargs, seed)
    envs = make_vector_env(env_id, min(episodes, 32), seed=seed, **options)
    try:
        perturbed = PerturbedVectorEnv(envs, agent, attack, fraction, seed)
        start = time.perf_counter()
        attacked = evaluate(agent, perturbed, episodes, seed)
        seconds = time.perf_counter() - start
    finally:
        envs.close()
    clean = evaluate(agent, env_id, episodes, seed, env_kwargs=env_kwargs)
    random = evaluate(RandomAgent(agent.action_space, seed), env_id, episodes, seed, env_kwargs=env_kwargs)
    count = max(perturbed.attacked, 1)
    return AttackedEvaluation(clean, attacked, random, perturbed.flipped / count, perturbed.queries / count, seconds)
