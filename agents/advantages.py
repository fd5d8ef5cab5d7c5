"""How good an action turned out to be: pure functions over `(T, N)` arrays (Lecture 12, versions 0 to 4).

Rows run forward in time, columns are environments, `done` marks the last step of an episode. Steps that only reset an
environment belong to no episode: what stands there is meaningless and must be left out by `Rollout.valid`.
"""

from __future__ import annotations

import math

import numpy as np


def discounted_returns(rewards: np.ndarray, done: np.ndarray, gamma: float) -> np.ndarray:
    """Discounted cumulated reward G'_t = sum over n >= t of gamma^(n-t) r_n, up to the end of the episode.

    Args:
        rewards: `(T, N)`.
        done: `(T, N)`; an episode that has not ended by row T counts as ending there.
        gamma: Discount factor; 1 gives the rewards to go, G_t.

    Returns:
        `(T, N)`.
    """
    returns = np.empty_like(rewards)
    following = np.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        following = returns[t] = rewards[t] + gamma * following * ~done[t]
    return returns


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al., 2016).

    A_t = sum over l >= 0 of (gamma lambda)^l delta_{t+l}, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t). Lambda 0 is
    the TD advantage of Lecture 12 (version 4), lambda 1 the return minus the value.

    Args:
        rewards: `(T, N)`.
        values: Values of the observations acted on, `(T, N)`.
        next_values: Values of their true successors, `(T, N)`, also where the episode was truncated.
        terminated: `(T, N)`; the successor is worth nothing.
        done: `(T, N)`; terminated or truncated, the sum ends.
        gamma: Discount factor.
        gae_lambda: Between 0 (low variance) and 1 (no bias).

    Returns:
        Advantages, `(T, N)`.
    """
    advantages = rewards + gamma * next_values * ~terminated - values
    decay = gamma * gae_lambda * (~done).astype(rewards.dtype)
    for t in reversed(range(len(rewards) - 1)):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def explained_variance(returns: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Share of the returns' variance that the critic foresaw, 1 - Var[returns - values] / Var[returns].

    1 is a perfect critic, 0 one that knows no more than the mean, below 0 one that knows less.

    Args:
        returns: `(B,)`.
        values: What the critic said before it learned from them, `(B,)`.

    Returns:
        The metric by its name; empty where all returns are the same, up to rounding, or overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # A training that overflows is told so elsewhere.
        errors = returns - values
        # Sums of squares by dot products: a third of the time of var(), which every update of A2C would feel.
        total = float(returns.dot(returns))
        errors -= errors.sum() / len(errors)
        returns = returns - returns.sum() / len(returns)
        unforeseen, spread = float(errors.dot(errors)), float(returns.dot(returns))
    known = math.isfinite(unforeseen) and spread > 1e-12 * total
    return {"explained_variance": 1 - unforeseen / spread} if known else {}
