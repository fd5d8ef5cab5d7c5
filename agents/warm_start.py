"""Going on with reinforcement learning from a policy that was cloned, without losing it again.

A fresh critic knows nothing: its first advantages are noise, and the policy is torn apart before the critic has
learned. So the critic is fitted first, on the returns of the demonstrations that the policy was cloned from, and then
learns from the policy's own first timesteps before the policy begins to move.
"""

from __future__ import annotations

import numpy as np
from torch.nn import functional as F

from rltool.agents.examples import Examples
from rltool.agents.on_policy import OnPolicyAgent
from rltool.envs import Demonstrations, load_demonstrations
from rltool.training.run import Run

EPOCHS = 30
CRITIC_FIRST = 8_192  # Timesteps that the critic alone learns from.
BATCH = 256
LEARNING_RATE = 1e-3


def fit_critic_to(agent: OnPolicyAgent, source: Run) -> float | None:
    """Fit an agent's critic on the demonstrations that another run learned from, if it did and they hold rewards.

    Returns:
        As `fit_critic`; None without demonstrations or rewards.
    """
    name = source.config["config"].get("demos")
    if name is None:
        return None
    demos = load_demonstrations(name, agent.observation_space, agent.action_space)
    return fit_critic(agent, demos) if np.isfinite(demos.rewards).all() else None


def fit_critic(agent: OnPolicyAgent, demos: Demonstrations, epochs: int = EPOCHS) -> float:
    """Fit an agent's critic on the discounted returns of demonstrations; its policy stays what it is.

    Args:
        agent: Its `gamma` discounts, and its return scaler (if it has one) begins with these returns.
        demos: Demonstrations with rewards.
        epochs: Passes over them.

    Returns:
        The share of the returns' variance that the critic explains in the last pass.
    """
    gamma, policy = agent.config.gamma, agent.policy
    returns = returns_to_go(demos, gamma)
    if agent.return_scaler is not None:
        agent.return_scaler.norm.update(accumulated(demos, gamma))
        returns = returns / np.sqrt(agent.return_scaler.norm.var.item() + agent.return_scaler.norm.epsilon)
    examples = Examples(policy, demos, returns.astype(np.float32))
    kept = agent.optimizer.learning_rate
    agent.optimizer.learning_rate = LEARNING_RATE
    errors = 0.0
    # Where the critic reads the policy's own backbone, its last layer alone is fitted.
    with agent._frozen([policy.backbone, policy.action_head]):
        for _ in range(epochs):
            errors = 0.0
            for batch in examples.batches(BATCH, agent.rng):
                loss = F.mse_loss(policy.values(batch.observations, batch.sequences), batch.targets)
                agent.optimizer.step(loss)
                errors += float(loss.detach()) * len(batch)
    agent.optimizer.reset()
    agent.optimizer.learning_rate = kept
    agent.optimizer.freeze([])
    return 1 - errors / len(examples) / max(float(returns.var()), 1e-8)


def returns_to_go(demos: Demonstrations, gamma: float) -> np.ndarray:
    """Discounted sum of the rewards from each timestep on, `(n,)`.

    An episode that was cut off is taken to go on at its mean reward: that is what a value is about.
    """
    returns = demos.discounted_returns(gamma)
    if gamma == 1 or demos.terminated is None:
        return returns
    for rows, terminated in zip(demos.episodes(), demos.terminated, strict=True):
        if not terminated:
            left = np.arange(rows.stop - rows.start, 0, -1)
            returns[rows] += gamma**left * demos.rewards[rows].mean() / (1 - gamma)
    return returns


def accumulated(demos: Demonstrations, gamma: float) -> np.ndarray:
    """Discounted sum of the rewards up to each timestep, `(n,)`: what `ReturnScaler` takes the deviation of."""
    sums = np.empty(len(demos))
    for rows in demos.episodes():
        running = 0.0
        for t in range(rows.start, rows.stop):
            running = gamma * running + float(demos.rewards[t])
            sums[t] = running
    return sums
