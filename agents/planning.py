"""Exact planning in tabular environments: optimal and soft-optimal policies, and where they get to.

All sums run over discounted time without end. A stationary policy is best then, so that it is one table, and what
is known of a value carries over to the next reward. Bellman's equation,

    V(s) = max_a Q(s, a)               (optimal)          Q(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) V(s')
    V(s) = log sum_a exp Q(s, a)       (soft-optimal)

is solved by policy iteration: the policy of these Q is valued exactly, by a linear system, and gives new Q. That is
Newton's method on the equation; it needs a handful of steps where value iteration needs some thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rltool.envs.tabular import Floats, Tabular

MAX_STEPS = 200
PRECISION = 1e-10  # of values, relative


@dataclass(frozen=True)
class Plan:
    """A policy and its values.

    Attributes:
        policy: `(S, A)`; the probability of each action.
        log_policy: `(S, A)`; its logarithm, -inf where an optimal policy never goes.
        values: `(S,)`.
    """

    policy: Floats
    log_policy: Floats
    values: Floats


def plan(model: Tabular, rewards: Floats, gamma: float, soft: bool, values: Floats | None = None) -> Plan:
    """The best policy for a reward.

    Args:
        model: The environment; its own rewards are not looked at.
        rewards: `(S, A)`.
        gamma: The discount factor, below 1.
        soft: Count a policy's entropy as reward, too: pi(a | s) = exp(Q(s, a) - V(s)), of maximum causal entropy.
        values: `(S,)`; where to begin, such as the values for a similar reward.
    """
    values = np.zeros(model.num_states) if values is None else values
    for _ in range(MAX_STEPS):
        log_policy = _improve(rewards + gamma * model.continuing @ values, soft)
        policy = np.exp(log_policy)
        bonus = -(policy * log_policy).sum(-1) if soft else 0.0
        before, values = values, value(model, policy, (policy * rewards).sum(-1) + bonus, gamma)
        if np.abs(values - before).max() <= PRECISION * (1 + np.abs(values).max()):
            break
    log_policy = _improve(rewards + gamma * model.continuing @ values, soft)
    return Plan(np.exp(log_policy), log_policy, values)


def _improve(q: Floats, soft: bool) -> Floats:
    """Log-probabilities `(S, A)` of the policy that is best where actions are worth Q and nothing comes after."""
    if soft:
        shifted = q - q.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    log_policy = np.full(q.shape, -np.inf)
    log_policy[np.arange(len(q)), q.argmax(-1)] = 0.0
    return log_policy


def value(model: Tabular, policy: Floats, rewards: Floats, gamma: float) -> Floats:
    """`(S,)`; discounted sum of rewards `(S,)` from each state on: V = r + gamma P V under a policy `(S, A)`."""
    system = np.eye(model.num_states) - gamma * _step(model, policy)
    return np.asarray(np.linalg.solve(system, rewards), np.float64)


def occupancy(model: Tabular, policy: Floats, source: Floats, gamma: float) -> Floats:
    """`(S, A)`; how often a policy takes each action in each state, later times discounted.

    Args:
        model: The environment.
        policy: `(S, A)`.
        source: `(S,)`; how much begins in each state, such as the distribution of initial states.
        gamma: The discount factor, below 1.
    """
    states = np.linalg.solve((np.eye(model.num_states) - gamma * _step(model, policy)).T, source)
    return states[:, None] * policy


def _step(model: Tabular, policy: Floats) -> Floats:
    """`(S, S)`; the probability of the next state, and of the episode going on there, under a policy."""
    return np.einsum("sa,sat->st", policy, model.continuing)
