"""Adversaries that are drawn at random, and stay a while: what a policy has to live with to become robust.

An attack that starts anew in every step shows a policy that its actions can be changed, and little else: it undoes in
one step what it did in the last. What brings a policy down pushes on, and where it pushes follows the state. To find
that push takes an adversary that learns; of those that push somewhere, one can draw as many as one likes. Those that
did harm come back, changed a little, which is a search for the strongest while the policy learns (levels of games are
replayed so: Jiang et al., "Prioritized level replay", 2021; Parker-Holder et al., "ACCEL", 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rltool.attacks.attack import AttackResult, BoundedAttack, Problem, generator
from rltool.attacks.policies import PerturbedVectorEnv

STEERING, BIASED = 0.55, 0.25  # Shares of the kinds of adversaries; the rest does nothing.
CONSTANT = 0.45  # Share of the steering ones that push the same way in all states.
SWITCH = 0.01  # How probable it is in every step that another adversary takes over.
DECADES = 1.5  # Their sensitivity to each feature is drawn from so many powers of ten up and down: units are unknown.
POOL = 64  # How many of those that did harm are remembered.
FADING = 0.9  # What is left of the harm they did after each rollout: the policy learns from it.
MUTATED, MUTATION = 0.5, 0.3  # Share of those that come back changed, and by how much.


@dataclass(frozen=True, kw_only=True)
class Push(BoundedAttack):
    """Perturbations that move the victim's outputs, or its inputs, in given directions.

    Outputs are moved by one step of epsilon along the sign of the gradient, from the input or from anywhere in the
    ball, whichever moves them further. A policy that meets the former alone learns what to do in the corners of the
    ball, and to hide its gradient; an adversary that learns finds the inside.

    Attributes:
        outputs: Where to move the outputs, `(B, K)`.
        inputs: Where to move the inputs of those samples whose outputs are to be moved nowhere, `(B, ...)`.
    """

    outputs: torch.Tensor
    inputs: torch.Tensor

    def run(self, problem: Problem) -> torch.Tensor:
        x, victim, outputs = problem.x, problem.victim, self.outputs.to(problem.x)
        ball, inputs = self.ball(problem), self.inputs.to(x).reshape(x.shape)
        anywhere = x + ball.sample(x, generator(self.seed, x.device))
        attempts = []
        for start in (x, victim.admissible(x, anywhere)):
            _, _, gradient = victim.gradient(start, lambda given: (given * outputs).sum(1))
            step = ball.radii(x) * (gradient.sign() + inputs)
            moved = victim.admissible(x, x + ball.project(start - x + step))
            with torch.no_grad():
                attempts.append((moved, (victim.logits(moved) * outputs).sum(1)))
        problem.queries += 4
        (near, gained), (far, gained_there) = attempts
        return torch.where((gained_there > gained).reshape(-1, *[1] * (x.ndim - 1)), far, near)


class Pool:
    """Adversaries that did harm, to be met again.

    Attributes:
        adversaries: `(n, size)`, those that did the most first.
        harm: How far the return fell below what the critic expected while each attacked, `(n,)`.
    """

    def __init__(self, size: int) -> None:
        self.adversaries, self.harm = np.zeros((0, size)), np.zeros(0)

    def add(self, adversaries: np.ndarray, harm: np.ndarray) -> None:
        """Take in `(n, size)` and `(n,)`; the most harmful stay, and what was there before fades."""
        adversaries = np.concatenate((self.adversaries, adversaries))
        harm = np.concatenate((self.harm * FADING, harm))
        worst = np.argsort(-harm, kind="stable")[:POOL]
        self.adversaries, self.harm = adversaries[worst], harm[worst]

    def draw(self, rng: np.random.Generator, features: int) -> np.ndarray:
        """One of them, often changed a little."""
        adversary = self.adversaries[rng.integers(len(self.harm))].copy()
        if rng.random() < MUTATED:
            linear, constant = adversary[:-features], adversary[-features:]
            linear *= 10 ** rng.normal(scale=MUTATION, size=linear.shape)
            linear += rng.normal(scale=MUTATION, size=linear.shape) * np.abs(linear)
            constant[rng.integers(features)] *= -1
        return adversary


class PersistentVectorEnv(PerturbedVectorEnv):
    """A vector environment, each of whose episodes is attacked by adversaries that are drawn at random.

    Most are like the director of PA-AD (Sun et al., 2022), which says where the policy's outputs are to be moved, and
    leaves it to the gradient how: here, what it says is a random linear function of the true observation, or constant.
    Others add the same perturbation all the time; some do nothing, so that the policy does not forget how to play
    without an attack. Those that add the same use all of epsilon.

    Args:
        env: The environment.
        agent: Whose policy is attacked.
        attack: The ball, as a `BoundedAttack` has it.
        seed: Of what is drawn at random.
        replay: Share of those adversaries that have done harm before, and come back; all others are new. Above 0,
            `judge` has to be called after each rollout.

    Attributes:
        adversaries: A row of numbers for each environment: the weights and the offset of the linear function, and the
            constant perturbation.
        harm: What those did before this rollout, `(num_envs,)`.
        pool: Those that have done harm.
    """

    def __init__(self, env: VectorEnv, agent: Any, attack: Push, seed: int = 0, replay: float = 0.0) -> None:
        super().__init__(env, agent, attack, seed=seed)
        space = agent.action_space
        self.replay = replay
        self.features = int(np.prod(env.single_observation_space.shape or ()))
        self.outputs = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))
        self.adversaries = np.zeros((env.num_envs, self.outputs * (self.features + 1) + self.features))
        self.harm: np.ndarray = np.zeros(env.num_envs)
        self.pool = Pool(self.adversaries.shape[1])
        self.begin()

    def begin(self) -> None:
        """Forget which adversaries there were since the last rollout, but not those that are there now."""
        self.drawn = list(self.adversaries.copy())
        self.current: np.ndarray = np.arange(self.num_envs)
        self.met = [self.current.copy()]  # For each row of the rollout, which of those drawn each environment met.

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        observations, infos = super().reset(seed=seed, options=options)
        if "reset_mask" not in (options or {}):
            self.begin()
        self.met[-1] = self.current.copy()  # Episodes begin in the row of the rollout in which others go on.
        return observations, infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        result = super().step(actions)
        if self.replay:
            self.met.append(self.current.copy())
        return result

    def perturb(self, x: torch.Tensor, chosen: np.ndarray, begun: np.ndarray) -> AttackResult:
        for row in np.flatnonzero(begun | (self.rng.random(self.num_envs) < SWITCH)):
            self.adversaries[row] = self.draw()
            if self.replay:
                self.current[row] = len(self.drawn)
                self.drawn.append(self.adversaries[row].copy())
        linear, constant = np.split(self.adversaries[chosen], [-self.features], axis=1)
        linear = linear.reshape(len(x), self.outputs, self.features + 1)
        pushes = np.einsum("bkf,bf->bk", linear[..., :-1], x.flatten(1).numpy()) + linear[..., -1]
        # Of choices, what is added to all logits alike moves nothing; continuous actions are each pushed up or down.
        pushes = pushes - pushes.mean(1, keepdims=True) if self.victim.tolerance is None else np.sign(pushes)
        assert isinstance(self.attack, Push)
        seed, outputs, inputs = int(self.rng.integers(2**31)), torch.from_numpy(pushes), torch.from_numpy(constant)
        return replace(self.attack, outputs=outputs, inputs=inputs, seed=seed)(self.victim, x)

    def draw(self) -> np.ndarray:
        """The numbers of one adversary."""
        rng = self.rng
        if len(self.pool.harm) and rng.random() < self.replay:
            return self.pool.draw(rng, self.features)
        linear, constant = np.zeros((self.outputs, self.features + 1)), np.zeros(self.features)
        kind = rng.random()
        if kind < STEERING:
            linear = rng.normal(size=linear.shape) * 10 ** rng.uniform(-DECADES, DECADES, self.features + 1)
            if rng.random() < CONSTANT:
                linear[:, :-1] = 0
        elif kind < STEERING + BIASED:
            constant = rng.choice([-1.0, 1.0], self.features)
        return np.concatenate((linear.ravel(), constant))

    def judge(self, surprise: np.ndarray) -> None:
        """Remember the adversaries of the last rollout by the harm they did.

        Args:
            surprise: The TD errors of the rollout, `(T, num_envs)`: what came out better than the critic expected.
        """
        drawn, met = np.array(self.drawn), np.array(self.met[: len(surprise)])
        harm: np.ndarray = np.bincount(met.ravel(), -surprise.ravel(), minlength=len(drawn))
        harm[: self.num_envs] += self.harm
        gone = np.setdiff1d(np.flatnonzero(drawn.any(axis=1)), self.current)  # Who does nothing is no adversary.
        self.pool.add(drawn[gone], harm[gone])
        self.harm = harm[self.current]
        self.begin()
