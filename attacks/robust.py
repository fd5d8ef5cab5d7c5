"""Agents that are hardened while they learn: `--robust persistent`, `sa`, `pgd` and `atla`.

All begin as if there were no attack, and let epsilon grow over the first part of the training: a policy that
knows nothing yet learns nothing from observations that are attacked with all strength.
"""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rltool.agents.evaluation import evaluate, for_evaluation
from rltool.agents.extensions import Extension
from rltool.agents.learner import Metrics
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.rollout import Rollout
from rltool.attacks.adversary import OPTIONS, AdversaryVectorEnv, LearnedAdversary, make_adversary
from rltool.attacks.attack import Attack
from rltool.attacks.gradient import MAD, PGD
from rltool.attacks.persistent import PersistentVectorEnv, Push
from rltool.attacks.policies import PerturbedVectorEnv
from rltool.attacks.victim import Victim
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks import Distribution
from rltool.networks.backbone import evaluating
from rltool.training.checkpoint import State
from rltool.trees import Tree, named_leaves, with_leaves


class Hardening(Extension, ABC):
    """What all kinds share: an epsilon that grows, and weights that are chosen by returns with and without attack.

    Raises:
        UserError: The policy cannot be attacked, and so not be hardened; or epsilon does not fit its observations.
    """

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        self.victim = Victim.from_agent(agent)
        x = torch.zeros(1, *agent.observation_space.shape or ())
        attack = MAD(epsilon=self.config.epsilon, unit=self.config.epsilon_unit)
        attack.ball_at(self.victim, x)
        attack.check_reach(agent)

    @property
    def epsilon(self) -> float:
        """Radius of the ball at this moment of the run."""
        ramp = self.config.robust_ramp * self.agent.total_timesteps
        return self.config.epsilon * min(1.0, self.agent.timesteps / ramp if ramp else 1.0)

    def ball(self) -> dict[str, Any]:
        """Epsilon and its unit, as attacks take them."""
        return {"epsilon": self.epsilon, "unit": self.config.epsilon_unit}

    @contextmanager
    def around(self) -> Iterator[None]:
        self.victim = Victim.from_agent(self.agent)  # Its standard deviations are those of now.
        yield

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        return {"robust_epsilon": self.epsilon}

    def evaluate(self, result: Metrics, episodes: int, seed: int) -> Metrics:
        agent = self.agent
        env_kwargs = {"infos": False, **for_evaluation(agent.env_kwargs)}
        envs = make_vector_env(str(agent.env_id), min(episodes, 32), seed=seed, **env_kwargs)
        try:
            attacked = evaluate(agent, self.examination(envs, seed), episodes, seed).mean_return
        finally:
            envs.close()
        return {"attacked_return": attacked, "score": (result["mean_return"] + attacked) / 2}

    def examination(self, envs: VectorEnv, seed: int) -> VectorEnv:
        """Environments for an evaluation, with an attack of full size in them."""
        attack = MAD(epsilon=self.config.epsilon, unit=self.config.epsilon_unit)
        return PerturbedVectorEnv(envs, self.agent, attack, seed=seed)


class SmoothPolicy(Hardening):
    """SA-PPO's regularizer (Zhang et al., 2020): kappa * E[max KL(pi(. | s) || pi(. | s'))], s' within the ball of s.

    The maximum is looked for by MAD, a few steps of gradient ascent from a random start. It adds a term to the loss and
    nothing else, so that A2C and REINFORCE have it, too.

    Raises:
        UserError: The policy has a memory, and what it does depends on more than one observation.
    """

    def __init__(self, agent: OnPolicyAgent) -> None:
        if agent.policy.has_memory:
            raise UserError(
                "sa smooths what single observations lead to, and this policy has a memory of others; "
                "take --robust persistent, pgd or atla"
            )
        super().__init__(agent)

    def loss_term(self, observations: Tree, distribution: Distribution) -> torch.Tensor | float:
        if self.epsilon == 0:
            return 0.0
        x = observations.to(torch.float32)
        inside = self.victim.clip(x)
        seed = int(self.agent.rng.integers(2**31))
        attack = MAD(steps=self.config.robust_steps, seed=seed, **self.ball())
        moved = attack(self.victim, inside).x_adv + (x - inside)
        return self.config.robust_kappa * divergence(distribution, self.agent.policy.distribution(moved)).mean()


class AttackedTraining(Hardening):
    """The policy learns in environments whose observations are attacked, by PGD against the policy as it is then."""

    def attack(self) -> Attack:
        """What the next rollout is attacked by."""
        # Of continuous actions, none is broken for good: the further, the better.
        discrete = self.victim.tolerance is None
        return PGD(loss="margin", steps=self.config.robust_steps, skip_broken=discrete, **self.ball())

    def environments(self, envs: VectorEnv) -> VectorEnv:
        self.perturbed = PerturbedVectorEnv(envs, self.agent, self.attack())
        self.perturbed.rng = self.agent.rng  # Which is a part of every checkpoint.
        return self.perturbed

    @contextmanager
    def around(self) -> Iterator[None]:
        with super().around():
            self.perturbed.victim, self.perturbed.attack = self.victim, self.attack()
            yield

    def state(self) -> dict[str, torch.Tensor]:
        envs = self.perturbed
        arrays = {"resetting": envs.resetting}
        if envs.state is not None:
            arrays |= {"seen": envs.seen, **named_leaves(envs.state, "memory")}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.agent.collector  # noqa: B018  It makes the environments.
        envs, kept = self.perturbed, {name: tensor.numpy().copy() for name, tensor in state.items()}
        envs.resetting = kept.get("resetting", envs.resetting)
        if envs.state is not None:
            envs.seen, envs.state = kept["seen"], with_leaves(envs.state, kept, "memory")


class PersistentAdversaries(AttackedTraining):
    """It learns in environments that are attacked by adversaries drawn at random, each for a while."""

    perturbed: PersistentVectorEnv

    def attack(self) -> Push:
        nothing = torch.zeros(1, 1)  # What to push, the environments know.
        return Push(outputs=nothing, inputs=nothing, **self.ball())

    def environments(self, envs: VectorEnv) -> VectorEnv:
        agent = self.agent  # One without a critic cannot tell who did harm.
        replay = self.config.robust_replay if agent.has_critic else 0.0
        self.perturbed = PersistentVectorEnv(envs, agent, self.attack(), replay=replay)
        self.perturbed.rng = agent.rng
        return self.perturbed

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        metrics = super().after_update(rollout)
        if self.perturbed.replay:
            self.perturbed.judge(td_errors(self.agent, rollout))
            harm = self.perturbed.pool.harm
            metrics["robust_harm"] = float(harm.mean()) if len(harm) else 0.0
        return metrics

    def examination(self, envs: VectorEnv, seed: int) -> VectorEnv:
        attack = replace(self.attack(), epsilon=self.config.epsilon)
        return PersistentVectorEnv(envs, self.agent, attack, seed=seed)

    def state(self) -> dict[str, torch.Tensor]:
        envs = self.perturbed
        arrays = {"adversaries": envs.adversaries, "harm": envs.harm}
        arrays |= {"pool.adversaries": envs.pool.adversaries, "pool.harm": envs.pool.harm}
        return super().state() | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        super().load_state(state)
        envs, kept = self.perturbed, {name: tensor.numpy().copy() for name, tensor in state.items()}
        envs.adversaries, envs.harm = kept["adversaries"], kept["harm"]
        envs.pool.adversaries, envs.pool.harm = kept["pool.adversaries"], kept["pool.harm"]
        envs.begin()


class AlternatingAdversary(AttackedTraining):
    """ATLA (Zhang et al., 2021): an adversary learns against the policy, the policy against the adversary, in turns.

    The adversary has environments of its own, whose timesteps are not counted as the agent's.
    """

    @cached_property
    def adversary(self) -> OnPolicyAgent:
        """The adversary, made when first needed.

        Raises:
            UserError: It cannot have environments of its own.
        """
        agent = self.agent
        if agent.env_id is None:
            raise UserError("an adversary needs environments of its own; give the environment by its id")
        options = {"shaping": agent.shaping, "infos": False, **agent.env_kwargs}
        envs = make_vector_env(agent.env_id, OPTIONS["ppo"]["num_envs"], seed=agent.seed, **options)
        attack = LearnedAdversary(epsilon=0.0, unit=self.config.epsilon_unit)
        adversary = make_adversary(
            AdversaryVectorEnv(envs, agent, attack, deterministic=False),
            seed=agent.seed,
            learning_rate_schedule="constant",
        )
        adversary.collector.reset(seed=agent.seed)
        return adversary

    def attack(self) -> Attack:
        return LearnedAdversary(adversary=self.adversary, deterministic=False, **self.ball())

    @contextmanager
    def around(self) -> Iterator[None]:
        self.catch_up()
        with super().around():
            yield

    def catch_up(self) -> None:
        """Let the adversary learn, rollout by rollout, until it has seen its share of timesteps."""
        adversary, envs = self.adversary, self.adversary.env
        assert isinstance(envs, AdversaryVectorEnv)
        envs.victim = Victim.from_agent(self.agent)
        envs.attack = LearnedAdversary(**self.ball())
        rollout = adversary.config.num_envs * adversary.config.num_steps
        while adversary.timesteps + rollout <= self.config.robust_share * self.agent.timesteps:
            adversary.learn(adversary.timesteps + rollout, resume=True)

    def state(self) -> dict[str, torch.Tensor]:
        state = self.adversary.checkpoint()
        values = json.dumps(state.values).encode()  # An extension's state is tensors alone.
        own = {f"perturbed.{name}": tensor for name, tensor in super().state().items()}
        return {**state.tensors, **own, "values": torch.from_numpy(np.frombuffer(values, np.uint8).copy())}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        tensors = State(dict(state), {})
        super().load_state(tensors.take("perturbed"))
        values = json.loads(state["values"].numpy().tobytes())
        self.adversary.restore(State({k: v for k, v in state.items() if k != "values"}, values))


KINDS: dict[str, type[Hardening]] = {
    "persistent": PersistentAdversaries,
    "sa": SmoothPolicy,
    "pgd": AttackedTraining,
    "atla": AlternatingAdversary,
}


def harden(agent: OnPolicyAgent) -> Hardening:
    """The extension that the option `robust` of an agent stands for."""
    return KINDS[agent.config.robust](agent)


def td_errors(agent: OnPolicyAgent, rollout: Rollout) -> np.ndarray:
    """How much better each step came out than the critic expected, r + gamma V(s') - V(s), `(T, N)`; 0 in resets."""
    with torch.no_grad(), evaluating(agent.policy):
        values = agent.policy.values(*agent.inputs(rollout)).cpu().numpy().reshape(rollout.rewards.shape)
    beyond = agent.policy.critic()(rollout.bootstrap_observations, rollout.bootstrap_state)
    following = rollout.next_values(values, beyond) * ~rollout.terminated
    return np.where(rollout.valid, rollout.rewards + agent.config.gamma * following - values, 0)


def divergence(clean: Any, moved: Any) -> torch.Tensor:
    """KL divergence of a policy's distributions at other inputs from those at the clean ones, `(B,)`.

    Of Gaussians, that of their means, in units of the clean deviation, which is taken as it is: otherwise the policy
    would hide how far its means move behind more noise, which is gone when it acts deterministically.
    """
    if hasattr(clean, "log_probs"):
        return (clean.log_probs.exp() * (clean.log_probs - moved.log_probs)).sum(-1)
    return 0.5 * ((clean.mean - moved.mean) * (-clean.log_std.detach()).exp()).square().sum(-1)
