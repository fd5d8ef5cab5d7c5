"""Attacks on what a policy sees while it plays."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from scipy.special import stdtrit

from rltool.agents.evaluation import Evaluation, episode_quotas, evaluate, with_masks
from rltool.agents.recording import RandomAgent
from rltool.agents.rollout import forget
from rltool.attacks.attack import Attack, AttackResult
from rltool.attacks.victim import Victim
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks.observations import channels_last
from rltool.trees import map_tree

MOST_ENVS = 128  # Stepped together: so many episodes each have a seed of their own.
TAIL = 0.1  # Share of the worst episodes that the conditional value at risk is the mean of.


class PerturbedVectorEnv(VectorWrapper):
    """A vector environment whose observations are attacked on their way to the policy.

    The simulator, its rewards and its ends are left alone. Of a policy with memory, the state is followed: it moves on
    once in every step, with what the policy was shown.

    Args:
        env: The environment.
        agent: Whose policy is attacked.
        attack: How. Every batch of observations gets a seed of its own.
        fraction: Share of the timesteps, drawn at random, in which an observation is attacked.
        seed: Of what is drawn at random.
        frame_stack: How many frames an observation holds (see `rltool.envs.wrappers.stack_frames`). The newest alone is
            changed, and it stays as it was shown while it moves back in the stack; 1 lets all of it be changed anew.
        episodes: How many episodes each environment is attacked in, `(num_envs,)`; by default all that it plays.

    Attributes:
        observations: What the policy would have seen, as `step` or `reset` last returned it.
        seen: What it was shown.
        state: Of a policy with memory, its state before that.
        steps: How many observations there were so far.
        attacked: How many of them were changed.
        flipped: How many of these made the policy do something else: another action, or one changed by more than the
            victim's tolerance.
        queries: How often the policy was asked.

    Raises:
        UserError: The policy cannot be attacked.
    """

    def __init__(
        self,
        env: VectorEnv,
        agent: Any,
        attack: Attack,
        fraction: float = 1.0,
        seed: int = 0,
        frame_stack: int = 1,
        episodes: np.ndarray | None = None,
    ) -> None:
        super().__init__(env)
        check_share(fraction)
        self.victim = Victim.from_agent(agent)
        self.attack = attack
        self.fraction = fraction
        self.rng = np.random.default_rng(seed)
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.steps = self.attacked = self.flipped = self.queries = 0
        self.observations = self.seen = np.empty(0)
        self.resetting = np.zeros(env.num_envs, dtype=bool)
        self.frame_stack = frame_stack
        self.axis = frame_axis(env.single_observation_space)
        self.left = np.full(env.num_envs, np.iinfo(np.int64).max) if episodes is None else np.array(episodes)
        if frame_stack > 1:
            for each in filter(None, (self.victim, self.victim.critic)):
                each.movable = newest_frame(env.single_observation_space, frame_stack)
        self.policy = agent.policy
        self.state = self.policy.initial_state(env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, and attack the first observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        begun = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if begun.all():
            self.seen = observations
            self.resetting[:] = False
        self.state = forget(self.state, begun)
        return self._show(observations, begun, begun), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Step, and attack what came out."""
        if self.state is not None:  # It does not depend on what is done: any actions will do.
            self.state = self.policy.actor(None)(self.seen, self.state)[1]
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = (terminated | truncated) & ~self.resetting
        self.left -= done
        # In NEXT_STEP mode the next step only resets, and the episode's first observation comes out of it. Until then a
        # memory lasts: a critic may want to know what the last observation was worth.
        self.state = forget(self.state, first_follows(self.mode, done, self.resetting))
        begun = done | self.resetting
        self.resetting = done if self.mode is AutoresetMode.NEXT_STEP else self.resetting
        everywhere = np.ones(self.num_envs, dtype=bool)
        return self._show(observations, everywhere, begun), rewards, terminated, truncated, infos

    def _show(self, observations: np.ndarray, where: np.ndarray, begun: np.ndarray) -> np.ndarray:
        """What the policy is shown: attacked observations, some of them new, some of these the first of an episode."""
        self.observations = observations
        clean = observations
        if self.frame_stack > 1:
            clean = with_shown_frames(observations, self.seen, where & ~begun, self.axis, self.frame_stack)
        here = where.reshape(-1, *[1] * (clean.ndim - 1))
        self.seen = clean.copy() if where.all() else np.where(here, clean, self.seen)
        where = where & (self.left > 0)
        chosen = np.flatnonzero(where & (self.rng.random(len(observations)) < self.fraction))
        self.steps += int(where.sum())
        if not len(chosen):
            return self.seen
        # Observations that leave their own space are taken as they are, and stay where they were there.
        x, outside = self.victim.split(clean[chosen])
        if self.state is not None:
            self.victim.remember(map_tree(lambda leaf: leaf[chosen], self.state))
        result = self.perturb(x, chosen, begun)
        self.seen[chosen] = (result.x_adv + outside).numpy().astype(observations.dtype)
        moved = result.distance > 0
        self.attacked += int(moved.sum())
        self.flipped += int((result.success & moved).sum())
        self.queries += int(result.n_queries.sum())
        return self.seen

    def perturb(self, x: torch.Tensor, chosen: np.ndarray, begun: np.ndarray) -> AttackResult:
        """Attack observations.

        Args:
            x: Those that are attacked in this step, within the victim's bounds.
            chosen: The environments that they are of.
            begun: Of all environments: whether what they show now is the first of an episode, or, where the next step
                only resets, the last.
        """
        return replace(self.attack, seed=int(self.rng.integers(2**31)))(self.victim, x)


def with_shown_frames(
    observations: np.ndarray, seen: np.ndarray, where: np.ndarray, axis: int, frame_stack: int
) -> np.ndarray:
    """Observations whose older frames are as they were shown.

    Args:
        observations: Stacks of frames `(n, ...)`, as the environments have them.
        seen: What the policy was shown before, `(n, ...)`.
        where: Of which that is so, and not of those that have just begun, `(n,)`.
        axis: Along which axis of an observation frames are stacked.
        frame_stack: How many there are.
    """
    if not where.any():
        return observations
    size = observations.shape[axis + 1] // frame_stack
    mixed = np.moveaxis(observations.copy(), axis + 1, 0)
    shown = np.moveaxis(seen, axis + 1, 0)
    for index in range(len(mixed) - size):
        mixed[index][where] = shown[index + size][where]
    return np.moveaxis(mixed, 0, axis + 1)


def first_follows(mode: AutoresetMode, done: np.ndarray, resetting: np.ndarray) -> np.ndarray:
    """Where what a step has returned is the first observation of an episode, `(n,)`.

    Args:
        mode: How the environments begin new episodes.
        done: Where the step has ended one, `(n,)`.
        resetting: Where it only reset, `(n,)`.
    """
    if mode is AutoresetMode.NEXT_STEP:
        return resetting
    return done if mode is AutoresetMode.SAME_STEP else np.zeros_like(done)


def check_share(fraction: float) -> None:
    """See that something is a share, and not of nothing.

    Raises:
        UserError: It is not.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")


def frame_axis(space: gym.Space) -> int:
    """Along which axis of an observation frames are stacked: the channels, where it has such, or the first."""
    return 2 if len(space.shape or ()) == 3 and channels_last(space) else 0


def newest_frame(space: gym.Space, count: int) -> torch.Tensor:
    """Which features of an observation belong to the newest of `count` frames; boolean, of its shape.

    Raises:
        UserError: It does not consist of so many frames.
    """
    shape, axis = space.shape or (), frame_axis(space)
    if not shape or shape[axis] % count:
        raise UserError(f"observations of shape {shape} are no stack of {count} frames")
    newest = torch.zeros(shape, dtype=torch.bool)
    newest.narrow(axis, shape[axis] - shape[axis] // count, shape[axis] // count).fill_(True)
    return newest


@dataclass(frozen=True)
class AttackedEpisodes:
    """Episodes that an agent has played under an attack.

    Attributes:
        attacked: What it got.
        flip_rate: Share of the attacked observations that made the policy do something else; None where an attack
            changes none.
        queries_per_step: How often the policy was asked for each timestep.
        seconds: Duration.
        attacked_share: Share of the timesteps that were attacked.
        by: Of several attacks, the one that has left the least.
    """

    attacked: Evaluation
    flip_rate: float | None
    queries_per_step: float
    seconds: float
    attacked_share: float
    by: str = ""


@dataclass(frozen=True)
class AttackedEvaluation:
    """What an attack does to an agent.

    Attributes:
        clean: Episodes without it.
        random: As many in which actions are drawn at random.
        play: As many with the attack, from the seeds of the clean ones.
    """

    clean: Evaluation
    random: Evaluation
    play: AttackedEpisodes

    @property
    def attacked(self) -> Evaluation:
        """Returns and lengths under the attack."""
        return self.play.attacked

    @property
    def normalized(self) -> float:
        """What is left of the way from random to clean: (attacked - random) / (clean - random)."""
        low, high = self.random.mean_return, self.clean.mean_return
        return (self.attacked.mean_return - low) / (high - low) if high != low else float("nan")

    @property
    def difference(self) -> tuple[float, float, float]:
        """Mean of attacked minus clean return, episode by episode, and the ends of its 95% interval (Student's t)."""
        return paired_difference(self.attacked.returns, self.clean.returns)

    def as_dict(self) -> dict[str, Any]:
        """The figures that `rltool attack --json` prints."""
        difference, low, high = self.difference
        return {
            "clean": self.clean.mean_return,
            "attacked": self.attacked.mean_return,
            "random": self.random.mean_return,
            "normalized": self.normalized,
            "attacked_std": self.attacked.std_return,
            "difference": difference,
            "difference_low": low,
            "difference_high": high,
            "clean_cvar": cvar(self.clean.returns),
            "attacked_cvar": cvar(self.attacked.returns),
            "flip_rate": self.play.flip_rate,
            "attacked_share": self.play.attacked_share,
            "queries_per_step": self.play.queries_per_step,
            "episodes": len(self.attacked.returns),
            "seconds": round(self.play.seconds, 3),
        } | ({"by": self.play.by} if self.play.by else {})


def paired_difference(ones: list[float], others: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the differences of pairs, and the ends of its interval by Student's t; nan where there is but one pair.

    Example:
        >>> paired_difference([1.0, 2.0], [0.0, 1.0])
        (1.0, 1.0, 1.0)
    """
    differences = np.subtract(ones, others)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, math.nan, math.nan
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    reach = float(stdtrit(len(differences) - 1, (1 + level) / 2)) * error
    return mean, mean - reach, mean + reach


def cvar(returns: list[float], tail: float = TAIL) -> float:
    """Conditional value at risk: the mean of the worst `tail` of the returns, of one at least.

    Example:
        >>> cvar([float(i) for i in range(20)])
        0.5
    """
    return float(np.sort(returns)[: max(1, math.ceil(tail * len(returns) - 1e-9))].mean())


def attack_agent(
    agent: Any,
    env_id: str,
    attack: Attack,
    episodes: int = 50,
    seed: int = 0,
    *,
    fraction: float = 1.0,
    env_kwargs: Mapping[str, Any] | None = None,
    all_frames: bool = False,
) -> AttackedEvaluation:
    """Let an agent play with and without an attack on what it sees.

    Up to 128 episodes each have an environment, and thus a seed, of their own, so that clean and attacked ones are
    pairs that begin alike.

    Args:
        agent: One of rltool's, or one that `load_sb3` read.
        env_id: Where it plays.
        attack: The attack; what it has to know before, it learns now (`Attack.prepare`).
        episodes: How many, each way.
        seed: Seeds the environments, the same each way, and the attack. What the attack learns from has others.
        fraction: Share of the timesteps that are attacked.
        env_kwargs: Arguments of the environment's constructor.
        all_frames: Where observations are stacks of frames, let the attack change all of a stack, not the newest alone.

    Raises:
        UserError: The policy cannot be attacked this way.
        TrainingError: The environment failed.

    Example:
        >>> from rltool.agents import PPO
        >>> from rltool.attacks import PGD
        >>> agent = PPO("CartPole-v1").learn(100_000)  # doctest: +SKIP
        >>> left = attack_agent(agent, "CartPole-v1", PGD(epsilon=0.1)).normalized  # doctest: +SKIP
    """
    attacked = play_attacked(
        agent, env_id, attack, episodes, seed, fraction=fraction, env_kwargs=env_kwargs, all_frames=all_frames
    )
    return AttackedEvaluation(
        evaluate(agent, env_id, episodes, seed, num_envs=min(episodes, MOST_ENVS), env_kwargs=env_kwargs),
        play_at_random(agent, env_id, episodes, seed, env_kwargs),
        attacked,
    )


def play_at_random(
    agent: Any, env_id: str, episodes: int, seed: int = 0, env_kwargs: Mapping[str, Any] | None = None
) -> Evaluation:
    """Episodes of actions drawn at random, from the seeds of the attacked ones."""
    chance = RandomAgent(agent.action_space, seed)
    return evaluate(chance, env_id, episodes, seed, num_envs=min(episodes, MOST_ENVS), env_kwargs=env_kwargs)


def play_attacked(
    agent: Any,
    env_id: str,
    attack: Attack,
    episodes: int = 50,
    seed: int = 0,
    *,
    fraction: float = 1.0,
    env_kwargs: Mapping[str, Any] | None = None,
    all_frames: bool = False,
) -> AttackedEpisodes:
    """Let an agent play under an attack; of a suite of attacks, the one counts that leaves the lowest mean return.

    Arguments and errors are those of `attack_agent`.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    suite = attack.suite(agent)
    if suite:
        played = {
            name: play_attacked(
                agent, env_id, part, episodes, seed, fraction=fraction, env_kwargs=env_kwargs, all_frames=all_frames
            )
            for name, part in suite.items()
        }
        by = min(played, key=lambda name: played[name].attacked.mean_return)
        queries, seconds = (
            sum(getattr(each, name) for each in played.values()) for name in ("queries_per_step", "seconds")
        )
        return replace(played[by], by=by, queries_per_step=queries, seconds=seconds)
    options = options_under_attack(agent, attack, env_kwargs)
    frame_stack = 1 if all_frames else int(options.get("frame_stack", 1))
    num_envs = min(episodes, MOST_ENVS)
    start = time.perf_counter()
    attack.check_reach(agent)
    attack = attack.prepare(agent, env_id, env_kwargs, seed)
    envs = make_vector_env(env_id, num_envs, seed=seed, **options)
    try:
        quotas = episode_quotas(episodes, num_envs)
        under = attack.surround(envs, agent, fraction, seed, frame_stack=frame_stack, episodes=quotas)
        attacked = evaluate(agent, under, episodes, seed)
    finally:
        envs.close()
    steps = max(under.steps, 1)
    return AttackedEpisodes(
        attacked,
        None if under.flipped is None else under.flipped / max(under.attacked, 1),
        under.queries / steps,
        time.perf_counter() - start,
        under.attacked / steps,
    )


def options_under_attack(agent: Any, attack: Attack, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of `make_vector_env` for an agent that is to play under an attack."""
    options = {"infos": False, **with_masks(agent, env_kwargs)}
    return options | ({"vectorization": "sync"} if attack.in_process else {})
