"""Adversaries that are drawn at random, and stay a while: what a policy has to live with to become robust.

An attack that starts anew in every step shows a policy that its actions can be changed, and little else: it undoes in
one step what it did in the last. What brings a policy down pushes on, and where it pushes follows the state. To find
that push takes an adversary that learns; of those that push somewhere, one can draw as many as one likes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rltool.attacks.attack import AttackResult, BoundedAttack, Problem
from rltool.attacks.policies import PerturbedVectorEnv

STEERING, BIASED = 0.55, 0.25  # Shares of the kinds of adversaries; the rest does nothing.
CONSTANT = 0.45  # Share of the steering ones that push the same way in all states.
SWITCH = 0.01  # How probable it is in every step that another adversary takes over.
DECADES = 1.5  # Their sensitivity to each feature is drawn from so many powers of ten up and down: units are unknown.


@dataclass(frozen=True, kw_only=True)
class Push(BoundedAttack):
    """Perturbations as large as may be that move the victim's outputs, or its inputs, in given directions.

    Attributes:
        outputs: Where to move the outputs: one step along the sign of the gradient, `(B, K)`.
        inputs: Where to move the inputs of those samples whose outputs are to be moved nowhere, `(B, ...)`.
    """

    outputs: torch.Tensor
    inputs: torch.Tensor

    def run(self, problem: Problem) -> torch.Tensor:
        x, outputs = problem.x, self.outputs.to(problem.x)
        _, _, gradient = problem.victim.gradient(x, lambda given: (given * outputs).sum(1))
        problem.queries += 1
        return x + self.ball(problem).radii(x) * (gradient.sign() + self.inputs.to(x).reshape(x.shape))


class PersistentVectorEnv(PerturbedVectorEnv):
    """A vector environment, each of whose episodes is attacked by adversaries that are drawn at random.

    Most are like the director of PA-AD (Sun et al., 2022), which says where the policy's outputs are to be moved, and
    leaves it to the gradient how: here, what it says is a random linear function of the true observation, or constant.
    Others add the same perturbation all the time; some do nothing, so that the policy does not forget how to play
    without an attack. All those that act use all of epsilon.

    Args:
        env: The environment.
        agent: Whose policy is attacked.
        attack: The ball, as a `BoundedAttack` has it.
        seed: Of what is drawn at random.

    Attributes:
        adversaries: A row of numbers for each environment: the weights and the offset of the linear function, and the
            constant perturbation.
    """

    def __init__(self, env: VectorEnv, agent: Any, attack: Push, seed: int = 0) -> None:
        super().__init__(env, agent, attack, seed=seed)
        space = agent.action_space
        self.features = int(np.prod(env.single_observation_space.shape or ()))
        self.outputs = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))
        self.adversaries = np.zeros((env.num_envs, self.outputs * (self.features + 1) + self.features))

    def perturb(self, x: torch.Tensor, chosen: np.ndarray, begun: np.ndarray) -> AttackResult:
        for row in np.flatnonzero(begun | (self.rng.random(self.num_envs) < SWITCH)):
            self.adversaries[row] = self.draw()
        linear, constant = np.split(self.adversaries[chosen], [-self.features], axis=1)
        linear = linear.reshape(len(x), self.outputs, self.features + 1)
        pushes = np.einsum("bkf,bf->bk", linear[..., :-1], x.flatten(1).numpy()) + linear[..., -1]
        # Of choices, what is added to all logits alike moves nothing; continuous actions are each pushed up or down.
        pushes = pushes - pushes.mean(1, keepdims=True) if self.victim.tolerance is None else np.sign(pushes)
        assert isinstance(self.attack, Push)
        attack = replace(self.attack, outputs=torch.from_numpy(pushes), inputs=torch.from_numpy(constant))
        return attack(self.victim, x)

    def draw(self) -> np.ndarray:
        """The numbers of one adversary."""
        rng = self.rng
        linear, constant = np.zeros((self.outputs, self.features + 1)), np.zeros(self.features)
        kind = rng.random()
        if kind < STEERING:
            linear = rng.normal(size=linear.shape) * 10 ** rng.uniform(-DECADES, DECADES, self.features + 1)
            if rng.random() < CONSTANT:
                linear[:, :-1] = 0
        elif kind < STEERING + BIASED:
            constant = rng.choice([-1.0, 1.0], self.features)
        return np.concatenate((linear.ravel(), constant))
