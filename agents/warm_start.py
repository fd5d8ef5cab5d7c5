"""Going on with reinforcement learning from a policy that was cloned, without losing it again.

A fresh critic knows nothing: its first advantages are noise, and the policy is torn apart before the critic has
learned. So the critic is fitted first, on the returns of the demonstrations that the policy was cloned from, and then
learns from the policy's own first timesteps before the policy begins to move, in small steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from rltool.agents.config import PolicyConfig
from rltool.agents.examples import Examples
from rltool.envs import Demonstrations, load_demonstrations
from rltool.training.methods import METHODS
from rltool.training.options import resolve_options
from rltool.training.progress import Progress
from rltool.training.run import Run
from rltool.training.train import resume, train

if TYPE_CHECKING:
    from rltool.agents.on_policy import OnPolicyAgent

CRITIC_FIRST = 8_192  # Timesteps that the critic alone learns from.
UPDATES = 2_000
BATCH = 256
LEARNING_RATE = 1e-3
# Rates are tuned to leave random weights fast. With a whole one, PPO loses a clone in Pendulum (-202 to -877).
GENTLY = 0.1


def fit_critic_to(agent: OnPolicyAgent, source: Run) -> float | None:
    """Fit an agent's critic on the demonstrations that another run learned from, if it did and they hold rewards.

    Returns:
        As `fit_critic`; None without demonstrations, or where their rewards are not what the agent learns from.
    """
    name = source.config["config"].get("demos")
    if name is None or agent.replaces_rewards:
        return None
    demos = load_demonstrations(name, agent.observation_space, agent.action_space)
    return fit_critic(agent, demos) if np.isfinite(demos.rewards).all() else None


def fit_critic(agent: OnPolicyAgent, demos: Demonstrations, updates: int = UPDATES) -> float:
    """Fit an agent's critic on the discounted returns of demonstrations; its policy stays what it is.

    Args:
        agent: Its `gamma` discounts, and its return scaler (if it has one) begins with these returns.
        demos: Demonstrations with rewards.
        updates: Minibatches to learn from.

    Returns:
        The share of the returns' variance that the critic explains afterwards.
    """
    gamma, policy = agent.config.gamma, agent.policy
    returns = returns_to_go(demos, gamma)
    if agent.return_scaler is not None:
        agent.return_scaler.norm.update(accumulated(demos, gamma))
        returns = returns / np.sqrt(agent.return_scaler.norm.var.item() + agent.return_scaler.norm.epsilon)
    examples = Examples(policy, demos, returns.astype(np.float32))
    with torch.no_grad():
        policy.value_head.linear.bias.fill_(returns.mean())  # Small steps would take long to get there.
    kept = agent.optimizer.learning_rate
    agent.optimizer.learning_rate = LEARNING_RATE
    # Where the critic reads the policy's own backbone, its last layer alone is fitted.
    # With the agent's own random numbers, which dropout draws from: the seed alone decides.
    with agent._own_torch_rng(), agent._frozen([policy.backbone, policy.action_head]):
        while agent.optimizer.steps < updates:
            for batch in examples.batches(BATCH, agent.rng):
                values = policy.values(batch.observations, batch.sequences)
                agent.optimizer.step(F.mse_loss(values, batch.targets))
    agent.optimizer.reset()
    agent.optimizer.learning_rate = kept
    agent.optimizer.freeze([])
    with torch.no_grad():
        batches = list(examples.batches(BATCH))
        left = [batch.targets - policy.values(batch.observations, batch.sequences) for batch in batches]
    return 1 - float(torch.cat(left).var(correction=0)) / max(float(returns.var()), 1e-8)


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


def continuation(config: Any, data: str) -> dict[str, Any]:
    """Options of a run that goes on from a clone: its network, its learning rate, and how long.

    Args:
        config: Options of the run that clones.
        data: Its environment.

    Raises:
        UserError: They do not fit the method that goes on.
    """
    options = {name: getattr(config, name) for name in PolicyConfig.model_fields}
    options |= {} if config.then_timesteps is None else {"total_timesteps": config.then_timesteps}
    tuned: Any = resolve_options(METHODS[config.then].load(), data, options)[1]
    return options | {"learning_rate": config.then_learning_rate or GENTLY * tuned.learning_rate}


def go_on(run: Run, method: str, options: dict[str, Any], progress: Progress) -> Run:
    """Train a method from a run's policy on, in a run NAME-METHOD beside it; or go on with that.

    Args:
        run: The run; its training has finished.
        method: The method.
        options: Its options, where they are not those tuned for the environment.
        progress: The display of the run, which ends here.
    """
    progress.stop()
    name, path = f"{run.path.name}-{method}", run.path.parent / f"{run.path.name}-{method}"
    if path.is_dir() and (begun := Run(path)).options.init_policy == str(run.path):
        return resume(begun.path, progress=progress.shows)
    same = {key: getattr(run.options, key) for key in ("seed", "device", "threads", "env_kwargs", "track")}
    options = {"name": name, "run_dir": str(run.path.parent), "init_policy": str(run.path), **same, **options}
    options = {key: value for key, value in options.items() if value is not None}
    return train(method, run.data, progress=progress.shows, **options)
