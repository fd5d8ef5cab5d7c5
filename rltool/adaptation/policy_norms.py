"""AdaBN for policies (Li et al., 2017): statistics of normalization become those of another look of the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rltool.adaptation.batch_norm import adapt_statistics, batch_norms
from rltool.agents.policy import environment_actions
from rltool.errors import UserError
from rltool.networks.backbone import evaluating

ROUNDS = (
    4  # A policy that plays badly sees other things than a good one: it is adapted to what it sees, then looks again.
)

Act = Callable[[np.ndarray], np.ndarray]


def adapt_norms(agent: Any, look: Callable[[Act, int], torch.Tensor], rng: np.random.Generator) -> None:
    """Give all batch norms of a policy, and the normalization of its observations, the statistics of what it sees.

    Args:
        agent: Its policy is changed; scales, shifts and all other weights stay as they are.
        look: Plays with a function from observations to actions, in the given round; returns what was seen, `(n, ...)`.
        rng: Draws the policy's actions.

    Raises:
        UserError: The policy normalizes nothing, or has a memory, or reads other things than arrays.
    """
    policy = agent.policy
    if policy.has_memory or not isinstance(agent.observation_space, gym.spaces.Box):
        raise UserError(
            "adabn is for a policy without a memory that reads arrays; train one in the target, with rewards"
        )
    if policy.normalizer is None and not batch_norms(policy):
        raise UserError(
            "adabn adapts statistics of normalization, and this policy has none; train one with --batch-norm, "
            "--backbone resnet --resnet-norm batch or --normalize-observations, or take --method dann"
        )
    to_environment = environment_actions(agent.action_space)
    with evaluating(policy):
        for k in range(ROUNDS):
            choose = policy.actor(rng)  # Anew: it has the statistics as they were when it was made.

            def act(observations: np.ndarray, choose: Act = choose) -> np.ndarray:
                return to_environment(choose(observations))

            seen = look(act, k)
            if policy.normalizer is not None:
                policy.normalizer.count.zero_()  # The next update replaces all there was before.
                policy.normalizer.update(seen.cpu().numpy())
            adapt_statistics(policy, seen)
