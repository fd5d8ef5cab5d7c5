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
from rltool.agents.case import SEVERITIES, Case, Finding, Played
from rltool.agents.evaluation import check_spaces
from rltool.agents.on_policy import OnPolicyAgent
from rltool.agents.policy import environment_actions
from rltool.agents.rollout import RolloutCollector
from rltool.agents.sequences import Sequences
from rltool.agents.symptoms import RULES
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks.observations import empty_batch
from rltool.training.checkpoint import State, load_state
from rltool.training.curvature import hessian_extremes
from rltool.training.run import Run
from rltool.trees import Tree, tree_leaves

MOST_STEPS = 10_000  # of an episode that is played: some environments never end one
MOST_BYTES = 2**28  # of observations of all episodes together
SAMPLE = 2_048  # timesteps that networks and loss are looked at over
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
        curvature: Compute the ends of the Hessian's spectrum; by default for small networks without memory.

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
    inputs = sample(agent, played, seed)[1:]
    case = Case(rows, config, played, agent.policy, inputs, agent.action_space, threshold)
    findings = [finding for rule in RULES if (finding := rule(case)) is not None]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    small = sum(p.numel() for p in agent.policy.parameters()) <= SMALL and not agent.policy.has_memory
    wanted = small if curvature is None else curvature
    try:
        extremes = loss_curvature(agent, played, seed) if wanted else None
    except RuntimeError as error:  # Not every operation of PyTorch can be differentiated twice.
        if curvature:
            raise UserError(f"this network has no curvature that PyTorch can find ({error}); leave it out") from None
        extremes = None
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
    options = {"action_masks": policy.masked, "infos": False, **(env_kwargs or {})}
    env = make_vector_env(env_id, episodes, seed=seed, **options)
    try:
        threshold = env.spec.reward_threshold if env.spec is not None else None
        row = sum(leaf.nbytes for leaf in tree_leaves(empty_batch(env.single_observation_space, 1, episodes)))
        most = max(1, min(MOST_STEPS, MOST_BYTES // max(1, row)))
        collector = RolloutCollector(
            env, environment_actions(agent.action_space), policy.initial_state(episodes), config.sequence_length
        )
        rollout = collector.collect_episodes(policy.actor(np.random.default_rng(seed)), 1, most)
    finally:
        env.close()
    done = rollout.done
    # An episode that did not end in time counts as far as it went.
    valid = np.cumsum(done, axis=0) - done == 0
    rewards = (rollout.rewards * np.float32(reward_scale)).clip(-10, 10) if reward_scale != 1 else rollout.rewards
    with torch.no_grad():
        observations, sequences = agent.inputs(rollout)
        values = policy.values(observations, sequences).cpu().numpy().reshape(rewards.shape)
    bootstrap = policy.critic()(rollout.bootstrap_observations, rollout.bootstrap_state)
    next_values = rollout.next_values(values, bootstrap)
    advantages, whole = (
        gae(rewards, values, next_values, rollout.terminated, done, config.gamma, decay)
        for decay in (getattr(config, "gae_lambda", 1.0), 1.0)
    )
    cut = rollout.truncated & valid
    return Played(
        rollout.seen(valid),
        values[valid],
        (whole + values)[valid],
        advantages[valid],
        [float(r) for r in np.where(valid, rollout.rewards, 0).sum(0, dtype=np.float64)],
        [int(n) for n in valid.sum(0)],
        int((rollout.terminated & valid).sum()),
        next_values[cut],
        rollout,
        valid,
    ), threshold


def sample(agent: Any, played: Played, seed: int = 0) -> tuple[np.ndarray, Tree, Sequences | None]:
    """Some of the timesteps that were played, not too many to differentiate.

    Returns:
        Which of the B timesteps they are, as flags, and what the policy reads of them.
    """
    rollout, valid = played.rollout, played.valid
    if rollout is None or valid is None:
        raise ValueError("these episodes were not played by play()")
    if agent.policy.has_memory:  # Only the beginnings of the episodes hang together.
        chosen = valid & (np.cumsum(valid.sum(1)) <= max(SAMPLE, valid.shape[1]))[:, None]
    else:
        chosen = np.zeros_like(valid)
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(valid))[:SAMPLE]
        chosen.ravel()[rows] = True
    observations, sequences = agent.inputs(rollout, chosen)
    return chosen[valid], observations, sequences


def loss_curvature(agent: Any, played: Played, seed: int = 0, steps: int = 60) -> tuple[float, float]:
    """Ends of the spectrum of the Hessian of an agent's training loss on episodes it has just played.

    The loss is the surrogate with fixed advantages, ratio x advantage, whose gradient is the policy gradient; plus
    `vf_coef` times the value loss, minus `ent_coef` times the entropy.
    """
    config, policy = agent.config, agent.policy
    chosen, observations, sequences = sample(agent, played, seed)
    actions, advantages, values = (
        torch.from_numpy(array[chosen]).to(agent.device)
        for array in (played.rollout.actions[played.valid], played.advantages, played.values)  # type: ignore[union-attr]
    )
    returns = advantages + values
    has_critic = Case([], config.model_dump()).has_critic
    if config.normalize_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)

    def loss() -> torch.Tensor:
        distribution, predicted = policy(observations, sequences)
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
