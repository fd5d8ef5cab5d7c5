"""How alike two rewards are.

A policy does not change when a reward is scaled, or shaped by a potential. Plain correlation forgives scale and a
constant. EPIC (Gleave et al., 2021) forgives shaping, too: both rewards are brought to canonical form,

    C(R)(s, a, s') = R(s, a, s') + E[gamma R(s', A, S') - R(s, A, S') - gamma R(S, A, S')]

over independent states S, S' and actions A, in which R and R + gamma h(s') - h(s) are the same; the distance of two
rewards is sqrt((1 - rho) / 2), with rho the correlation of their canonical forms over transitions: 0 for the same, .71
for unrelated ones, 1 for opposites.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rltool.envs.tabular import Floats, Tabular
from rltool.trees import Tree, first_leaf, map_tree

RewardFunction = Callable[[Tree, np.ndarray, Tree], np.ndarray]  # of B transitions (s, a, s'); `(B,)`


def pearson(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Correlation of two arrays of the same shape, NaN where one of them does not vary.

    Args:
        first: Any shape.
        second: The same shape.
        weights: The same shape; how much each entry counts, by default all alike.
    """
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    w = np.ones(a.size) if weights is None else np.asarray(weights, np.float64).ravel()
    w = w / w.sum()
    deviations = []
    for values in (a, b):
        centered = values - w @ values
        deviation = np.sqrt(w @ centered**2)
        if deviation <= 1e-12 * np.abs(values).max(initial=0):  # Rounding errors, at most.
            return float("nan")
        deviations.append(centered / deviation)
    return float(np.clip(w @ (deviations[0] * deviations[1]), -1, 1))


def pearson_distance(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> float:
    """sqrt((1 - rho) / 2); arguments as of `pearson`."""
    return float(np.sqrt((1 - pearson(first, second, weights)) / 2))


def tabular_epic_distance(first: Floats, second: Floats, model: Tabular, gamma: float = 0.99) -> float:
    """The EPIC distance of two rewards in a tabular environment, exactly.

    S and S' are uniform over the states that can be arrived in, A over all actions; transitions are those of all
    actions in all states that can be reached, with their probabilities.

    Args:
        first: `(S,)`, the reward of arriving in a state; `(S, A)`, of an action in a state; or `(S, A, S)`.
        second: Likewise.
        model: The environment.
        gamma: The discount factor that shaping is done with.
    """
    coverage = model.transitions * model.reachable[:, None, None]
    there = model.enterable / model.enterable.sum()

    def canonical(reward: Floats) -> Floats:
        full = by_transition(reward, model)
        mean = full.mean(1) @ there  # (S,); E[R(s, A, S')]
        return full + gamma * mean - mean[:, None, None] - gamma * there @ mean

    return pearson_distance(canonical(first), canonical(second), coverage)


def by_transition(reward: Floats, model: Tabular) -> Floats:
    """A reward of arriving in a state `(S,)`, of an action in a state `(S, A)` or of transitions, as `(S, A, S)`."""
    shape = model.transitions.shape
    return np.broadcast_to(reward[:, :, None] if reward.ndim == 2 else reward, shape)


def epic_distance(
    first: RewardFunction,
    second: RewardFunction,
    observations: Tree,
    actions: np.ndarray,
    next_observations: Tree,
    gamma: float = 0.99,
    samples: int = 256,
    seed: int = 0,
) -> float:
    """The EPIC distance of two rewards, estimated from a batch of B transitions.

    States and actions of the expectations are drawn from the batch, the same for both rewards; each reward is asked
    about 2 B `samples` transitions.

    Args:
        first: A function from B observations, actions and next observations to rewards `(B,)`.
        second: Likewise.
        observations: `(B, ...)`, a tree.
        actions: `(B, ...)`.
        next_observations: `(B, ...)`, a tree.
        gamma: The discount factor that shaping is done with.
        samples: How many pairs (A, S') an expectation is the mean of.
        seed: Seeds the draw.
    """
    rng, count = np.random.default_rng(seed), len(first_leaf(observations))
    drawn_actions = actions[rng.integers(count, size=samples)]
    after = rng.integers(count, size=samples)
    drawn_next = map_tree(lambda leaf: leaf[after], next_observations)

    def canonical(reward: RewardFunction) -> np.ndarray:
        def mean(states: Tree) -> np.ndarray:
            """E[R(s, A, S')] of each state, `(B,)`."""
            means = np.empty(count)
            for i in range(count):
                here = map_tree(lambda leaf, i=i: np.repeat(leaf[i : i + 1], samples, 0), states)
                means[i] = np.mean(reward(here, drawn_actions, drawn_next))
            return means

        here = mean(observations)
        there = mean(next_observations)
        return reward(observations, actions, next_observations) + gamma * there - here - gamma * here.mean()

    return pearson_distance(canonical(first), canonical(second))
