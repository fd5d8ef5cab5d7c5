"""What looks wrong with a run: its metrics, and episodes that its agent plays now, looked at by `symptoms.RULES`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from rltool.agents.advantages import gae
from rltool.agents.evaluation import check_spaces
from rltool.agents.on_policy import OnPolicyAgent
from rltool.agents.policy import environment_actions
from rltool.agents.rollout import RolloutCollector
from rltool.agents.symptoms import RULES, SEVERITIES, Case, Finding, Played
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.training.checkpoint import State, load_state
from rltool.training.curvature import hessian_extremes
from rltool.training.run import Run

MOST_STEPS = 10_000  # of an episode that is played: some environments never end one
MOST_BYTES = 2**28  # of observations of all episodes together
CURVATURE_STEPS = 2_048  # timesteps that the loss is taken over
NOISE = 1e-5  # of the largest eigenvalue: what single precision leaves of zero
SMALL = 100_000  # parameters up to which the curvature takes well under two seconds


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        run: The run.
        findings: The most serious first.
        returns: Undiscounted returns of the episodes played, sampling actions.
        lengths: Their lengths.
        curvature: Smallest and largest eigenvalue of the Hessian of the training loss; None if not asked for.
    """

    run: Run
    findings: list[Finding]
    returns: list[float]
    lengths: list[int]
    curvature: tuple[float, float] | None

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def surface(self) -> str:
        """The curvature in words (Lecture 2: minimum or saddle)."""
        if self.curvature is None:
            return "not computed"
        low, high = self.curvature
        if high <= 0:
            kind = "no minimum: the loss curves down in every direction"
        elif low < -NOISE * high:
            kind = "a saddle: some directions still lead down"
        else:
            kind = "minimum-like: no direction leads down"
        return f"Hessian eigenvalues from {low:.3g} to {high:.3g}: {kind}"

    def as_dict(self) -> dict[str, Any]:
        """What `rltool diagnose --json` prints."""
        return {
            "run": str(self.run.path),
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "returns": self.returns,
            "lengths": self.lengths,
            "hessian_eigenvalues": list(self.curvature) if self.curvature is not None else None,
            "surface": self.surface,
        }


def diagnose(path: str | Path, episodes: int = 5, seed: int = 0, curvature: bool | None = None) -> Diagnosis:
    """Say what looks wrong with a run, why, and what to try.

    The agent plays with the weights of the last checkpoint, not with the best ones: it is the training that is looked
    at. Where no checkpoint can be read, the best weights play.

    Args:
        path: The run's folder, its name, or `latest`.
        episodes: Episodes to play, sampling actions as in training.
        seed: Seeds environments and sampling.
        curvature: Compute the ends of the Hessian's spectrum; by default for small networks only.

    Raises:
        UserError: There is no such run, or it has no weights yet.
        TrainingError: The environment failed.

    Example:
        >>> diagnose("ppo-CartPole-v1-1").healthy  # doctest: +SKIP
        True
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, not {episodes}")
    run = Run(path)
    agent, options = run.agent, run.options
    if not isinstance(agent, OnPolicyAgent):
        raise UserError(f"{run.method} trains no agent that diagnose knows; it knows those that learn on policy")
    reward_scale = _take_last_weights(run, agent)
    check_spaces(agent, run.data, options.env_kwargs)
    config = agent.config.model_dump()
    played, threshold = play(agent, run.data, episodes, seed, options.env_kwargs, reward_scale)
    rows = [{name: value for name, value in row.items() if math.isfinite(value)} for row in run.metrics]
    case = Case(rows, config, played, agent.policy, agent.action_space, threshold)
    findings = [finding for rule in RULES if (finding := rule(case)) is not None]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    if curvature is None:
        curvature = sum(p.numel() for p in agent.policy.parameters()) <= SMALL
    extremes = loss_curvature(agent, played, seed) if curvature else None
    return Diagnosis(run, findings, played.episode_returns, played.lengths, extremes)


def _take_last_weights(run: Run, agent: Any) -> float:
    """Put the last readable checkpoint's weights into the agent; returns what it multiplies rewards by."""
    for file in reversed(run.checkpoints()):
        try:
            state: State = load_state(file)
            agent.policy.load_state_dict(state.take("policy"))
        except (UserError, RuntimeError):
            continue
        variance = state.tensors.get("return_scaler.norm.var")
        return 1.0 if variance is None else float((variance + 1e-8).rsqrt())
    return 1.0


def play(
    agent: Any,
    env_id: str,
    episodes: int,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    reward_scale: float = 1.0,
) -> tuple[Played, float | None]:
    """Let an agent play as it does in training; also returns the return that counts as solved, if there is one.

    Args:
        agent: One of ours.
        env_id: The environment.
        episodes: As many environments play one episode each.
        seed: Seeds environments and sampling.
        env_kwargs: Arguments of the environment's constructor.
        reward_scale: What the critic's rewards were multiplied by.
    """
    config, policy = agent.config, agent.policy
    env = make_vector_env(env_id, episodes, seed=seed, **(env_kwargs or {}))
    try:
        threshold = env.spec.reward_threshold if env.spec is not None else None
        size = (
            int(np.prod(env.single_observation_space.shape or ()))
            * np.dtype(env.single_observation_space.dtype).itemsize
        )
        most = max(1, min(MOST_STEPS, MOST_BYTES // max(1, size * episodes)))
        collector = RolloutCollector(env, environment_actions(agent.action_space))
        rollout = collector.collect_episodes(policy.actor(np.random.default_rng(seed)), 1, most)
    finally:
        env.close()
    done = rollout.done
    # An episode that did not end in time counts as far as it went.
    valid = np.cumsum(done, axis=0) - done == 0
    rewards = (rollout.rewards * np.float32(reward_scale)).clip(-10, 10) if reward_scale != 1 else rollout.rewards
    critic = policy.critic()
    observations = rollout.observations[:-1]
    values = critic(observations.reshape(-1, *observations.shape[2:])).reshape(rewards.shape)
    bootstrap = critic(rollout.bootstrap_observations)
    next_values = rollout.next_values(values, bootstrap)
    advantages, whole = (
        gae(rewards, values, next_values, rollout.terminated, done, config.gamma, decay)
        for decay in (getattr(config, "gae_lambda", 1.0), 1.0)
    )
    cut = rollout.truncated & valid
    return Played(
        observations[valid],
        rollout.actions[valid],
        values[valid],
        (whole + values)[valid],
        advantages[valid],
        [float(r) for r in np.where(valid, rollout.rewards, 0).sum(0, dtype=np.float64)],
        [int(n) for n in valid.sum(0)],
        int((rollout.terminated & valid).sum()),
        next_values[cut],
    ), threshold


def loss_curvature(agent: Any, played: Played, seed: int = 0, steps: int = 60) -> tuple[float, float]:
    """Ends of the spectrum of the Hessian of an agent's training loss on episodes it has just played.

    The loss is the surrogate with fixed advantages, ratio x advantage, whose gradient is the policy gradient; plus
    `vf_coef` times the value loss, minus `ent_coef` times the entropy.
    """
    config, policy = agent.config, agent.policy
    chosen = np.random.default_rng(seed).permutation(len(played.values))[:CURVATURE_STEPS]
    observations, actions, advantages, values = (
        torch.from_numpy(array[chosen]).to(agent.device)
        for array in (played.observations, played.actions, played.advantages, played.values)
    )
    returns = advantages + values
    has_critic = Case([], config.model_dump()).has_critic
    if config.normalize_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)

    def loss() -> torch.Tensor:
        distribution, predicted = policy(observations)
        log_prob = distribution.log_prob(actions)
        ratio = (log_prob - log_prob.detach()).exp()
        value_loss = F.mse_loss(predicted, returns) if has_critic else 0.0
        return (
            -(advantages * ratio).mean() + config.vf_coef * value_loss - config.ent_coef * distribution.entropy().mean()
        )

    training = policy.training
    policy.eval()
    try:
        return hessian_extremes(loss, policy.parameters(), steps, seed)
    finally:
        policy.train(training)
