"""Learning from demonstrations by a reward model (Lecture 12, "Inverse RL"): the teacher is always the best.

After each rollout a reward model learns to tell the demonstrations' steps from the policy's own, and the policy is
trained on its reward instead of the environment's: a GAN whose generator is the policy and the environment together.

Signs, once and for all. Demonstrations are the positive class: a high logit x says "demonstrated". With D = sigmoid(x),

    GAIL     x = f(s, a)                      loss  -log D(demonstrated) - log(1 - D(own))
             reward  -log(1 - D) = log(1 + e^x)            Ho & Ermon, 2016, with D and 1 - D in each other's place
    AIRL     x = f(s, a, s') - log pi(a | s)  loss as GAIL's
             reward  f: log D - log(1 - D) = f - log pi, of which the second part is an entropy bonus (`ent_coef`)
             f(s, a, s') = g(s) + gamma h(s') - h(s)       Fu et al., 2018: in the end f is the advantage, g the reward
    maxent   x = f(s, a)                      loss  mean x(own) - mean x(demonstrated): the likelihood's gradient, where
             reward  x                        demonstrations are as likely as exp(their reward), Finn et al., 2016
    margin   x = f(s, a)                      loss  max(0, 1 - x(demonstrated)) + max(0, 1 + x(own))
             reward  x                        the teacher's steps are better than the actor's, by a margin

Every episode is taken to have the same length: one that terminates goes on in an absorbing state, which is rated like
any other (Kostrikov et al., 2019). Its share of the policy's steps and of the demonstrations' weighs the one row that
stands for it in each loss. Without that, the sign of the reward alone would say whether to survive or to finish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from torch.nn.functional import relu, softplus

from rltool.agents.controls import Spoiled, compare_with_controls
from rltool.agents.evaluation import for_evaluation
from rltool.agents.extensions import Extension
from rltool.agents.on_policy import OnPolicyAgent, UpdateMetrics
from rltool.agents.policy import environment_actions, policy_actions, without_mask
from rltool.agents.recording import RandomAgent, record
from rltool.agents.reward_model import RewardModel, RewardTable, Steps, absorbing_step
from rltool.agents.rollout import Rollout
from rltool.envs.demonstration_files import load_demonstrations
from rltool.envs.demonstrations import Demonstrations
from rltool.errors import UserError
from rltool.networks.observations import as_tensors, interchangeable
from rltool.training.checkpoint import State
from rltool.training.optimizers import Adam
from rltool.training.progress import Progress
from rltool.training.run import Run
from rltool.trees import Tree, map_tree

Logits = torch.Tensor
MAX_LOGIT = 10.0  # Rewards come from f within -+ this.


@dataclass(frozen=True)
class Objective:
    """What a reward model learns, of logits `(B,)`.

    Attributes:
        demonstrated: Loss of each step that was demonstrated.
        own: Loss of each step of the policy.
        reward: What the policy is trained on, of f.
        subtracts_log_prob: Whether the logit is f - log pi(a | s) instead of f.
    """

    demonstrated: Callable[[Logits], Logits]
    own: Callable[[Logits], Logits]
    reward: Callable[[Logits], Logits]
    subtracts_log_prob: bool = False


def _same(x: Logits) -> Logits:
    return x


OBJECTIVES = {
    "gail": Objective(lambda x: softplus(-x), softplus, softplus),
    "airl": Objective(lambda x: softplus(-x), softplus, _same, subtracts_log_prob=True),
    "maxent": Objective(lambda x: -x, _same, _same),
    "margin": Objective(lambda x: relu(1 - x), lambda x: relu(1 + x), _same),
}


class DemonstrationReward(Extension):
    """Replaces the rewards of a rollout by those of a model that has just learned from it and the demonstrations."""

    replaces_rewards = True
    model: RewardModel

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        config, policy = self.config, agent.policy
        self.objective = OBJECTIVES[config.demos_objective]
        if self.objective.subtracts_log_prob and policy.has_memory:
            raise UserError("airl needs the probability of single steps, which a policy with memory lacks; take gail")
        space = without_mask(policy.observation_space) if policy.masked else policy.observation_space
        airl = config.demos_objective == "airl"
        self.model = RewardModel(
            space,
            agent.action_space,
            config.demos_hidden_sizes,
            reads_actions={"auto": not airl, "state": False, "state-action": True}[config.demos_reads],
            gamma=config.gamma if airl else None,
            positive=config.demos_objective == "gail",
            spectral_norm=config.demos_spectral_norm,
        ).to(agent.device)
        self.optimizer = Adam(self.model, config.demos_learning_rate)
        self.to_environment = environment_actions(agent.action_space)
        self.metrics: UpdateMetrics = {}
        self.running_lengths = np.zeros(config.num_envs, np.int64)
        self.own_absorbing = 0.0  # The absorbing state's share of the policy's steps, of late.

    def prepare(self) -> None:
        if len(self.demonstrated.absorbing) == 0:
            raise UserError(
                f"{self.demos.name} holds no step whose successor is known: its episodes have one timestep each and "
                "nobody recorded what followed; add final_observations"
            )

    @cached_property
    def demos(self) -> Demonstrations:
        """The demonstrations, spoiled if this is a control."""
        agent, config = self.agent, self.config
        demos = load_demonstrations(config.demos, agent.observation_space, agent.action_space, agent.env_id)
        demos = demos.first(config.demos_episodes)
        if config.demos_control == "shuffled":
            return shuffled(demos, agent.seed)
        if config.demos_control == "random":
            return self._random(demos.num_episodes)
        return demos

    def _random(self, episodes: int) -> Demonstrations:
        """As many episodes of an agent that knows nothing."""
        agent = self.agent
        if agent.env_id is None:
            raise UserError("random episodes can be played only in an environment that is given by its id")
        env_kwargs = for_evaluation(agent.env_kwargs)
        played = record(
            RandomAgent(agent.action_space, agent.seed), agent.env_id, episodes, agent.seed, True, env_kwargs
        )
        return load_demonstrations(played, agent.observation_space, agent.action_space)

    @cached_property
    def horizon(self) -> int:
        """Timesteps of an episode that does not terminate; without a time limit, more than any demonstration has."""
        env = self.agent.env
        spec = env.spec or (env.get_attr("spec")[0] if isinstance(env, SyncVectorEnv) else None)
        limit = None if spec is None else spec.max_episode_steps
        return limit or int(self.demos.lengths.max() + 1 / (1 - min(self.config.gamma, 0.999)))

    @cached_property
    def demonstrated(self) -> Steps:
        """The steps of the demonstrations whose successors are known."""
        demos = self.demos
        absorbed = np.zeros(len(demos), np.int64)
        absorbed[demos.ends] = self.demonstrated_ends
        steps = self._steps(demos.observations, demos.actions, demos.successors(), absorbed)
        # Where an episode terminates, it does not matter what was seen last.
        return steps.rows(demos.has_successor | (absorbed == 1))

    @cached_property
    def demonstrated_ends(self) -> np.ndarray:
        """Which episodes of the demonstrations terminated, `(E,)`; where that is unknown, those that end early."""
        demos = self.demos
        if not self.config.demos_absorbing:
            return np.zeros(demos.num_episodes, bool)
        return demos.lengths < self.horizon if demos.terminated is None else demos.terminated

    @cached_property
    def demonstrated_absorbing(self) -> float:
        """The absorbing state's share of the demonstrations' steps."""
        lengths = self.demos.lengths
        absorbing = np.maximum(self.horizon - lengths, 0)[self.demonstrated_ends].sum()
        return float(absorbing / (absorbing + lengths.sum()))

    def _steps(self, observations: Tree, actions: np.ndarray, successors: Tree, absorbed: np.ndarray) -> Steps:
        if self.agent.policy.masked:
            observations, successors = without_mask(observations), without_mask(successors)
        return Steps(observations, actions, successors, np.zeros(len(absorbed), np.int64), absorbed)

    # A rollout

    def task_reward(self, rollout: Rollout) -> np.ndarray:
        rewards = np.zeros(rollout.rewards.shape, np.float32)
        if self.config.demos_control in ("survive", "finish"):
            return rewards + (1 if self.config.demos_control == "survive" else -1)
        valid = rollout.valid
        if not valid.any():
            return rewards
        if self.model.normalizer is not None and not self.optimizer.steps:
            self.model.observe(self.demonstrated.observations)
        rows = valid.ravel()
        absorbed = rollout.terminated[valid].astype(np.int64) * self.config.demos_absorbing
        successors = map_tree(lambda leaf: leaf[rows], rollout.successors())
        own = self._steps(rollout.seen(valid), self.to_environment(rollout.actions[valid]), successors, absorbed)
        self.model.observe(own.observations)
        self._count_absorbing(rollout)
        self.metrics = self._learn(own, self._log_prob(rollout.seen(valid), rollout.actions[valid]))
        rewards[valid] = self.rewards(own)
        return rewards

    def rewards(self, own: Steps) -> np.ndarray:
        """What the policy is trained on: the reward of each step, less that of the absorbing state, `(B,)`."""

        def reward(steps: Steps) -> np.ndarray:
            f = torch.from_numpy(self.model.rate(steps, self.model))
            return self.objective.reward(f.clamp(-MAX_LOGIT, MAX_LOGIT)).numpy()

        return reward(own) - reward(absorbing_step(own)) if self.config.demos_absorbing else reward(own)

    def _learn(self, own: Steps, own_log_prob: np.ndarray) -> UpdateMetrics:
        """Train the model to tell both sides apart, for some minibatches."""
        config, rng = self.config, self.agent.rng
        losses: list[torch.Tensor] = []
        for _ in range(config.demos_steps):
            yes = rng.integers(len(self.demonstrated.absorbing), size=config.demos_batch_size)
            no = rng.integers(len(own.absorbing), size=config.demos_batch_size)
            # What the policy never does counts as what it does most seldom: else -log pi alone would tell them apart,
            # and f would learn nothing of the actions that a policy has given up.
            yes_log_prob = np.maximum(self.demonstrated_log_prob(yes), own_log_prob[no].min())
            loss, terms = self._loss(self.demonstrated.rows(yes), yes_log_prob, own.rows(no), own_log_prob[no])
            self.optimizer.step(loss)
            losses.append(terms)
        names = ("demos_loss", "demos_accuracy", "demos_own_accuracy", "demos_logit_gap")
        return dict(zip(names, torch.stack(losses).mean(0), strict=True))

    def _loss(
        self, yes: Steps, yes_log_prob: np.ndarray, no: Steps, no_log_prob: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device, model, config = self.agent.device, self.model, self.config
        absorbing = absorbing_step(no)
        demonstrated, own = yes.tensors(device), no.tensors(device)
        both = joined(demonstrated, own, absorbing.tensors(device))
        b = len(yes_log_prob)
        log_prob = torch.from_numpy(np.concatenate((yes_log_prob, no_log_prob, np.zeros(1, np.float32)))).to(device)
        logits = model(both) - log_prob
        x, y, z = logits[:b], logits[b : 2 * b], logits[2 * b :]
        shares = (self.demonstrated_absorbing, self.own_absorbing) if config.demos_absorbing else (0.0, 0.0)
        sides = zip(shares, (self.objective.demonstrated, self.objective.own), (x, y), strict=True)
        loss = torch.stack([(1 - p) * side(rated).mean() + p * side(z).mean() for p, side, rated in sides]).sum()
        if config.demos_weight_decay:
            loss = loss + config.demos_weight_decay * logits.square().mean()
        if config.demos_gradient_penalty:
            loss = loss + config.demos_gradient_penalty * self._gradient_penalty(demonstrated, own)
        with torch.no_grad():
            terms = torch.stack(((x > 0).float().mean(), (y < 0).float().mean(), x.mean() - y.mean()))
        return loss, torch.cat((loss.detach().reshape(1), terms))

    def _gradient_penalty(self, demonstrated: Steps, own: Steps) -> torch.Tensor:
        """(|df/ds| - 1)^2 at random points between steps of both sides (Gulrajani et al., 2017)."""
        mix = torch.rand(len(own.absorbing), device=self.agent.device)
        moved: list[torch.Tensor] = []

        def between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            if not one.is_floating_point():
                return one  # A choice has nothing in between.
            weight = mix.reshape(-1, *[1] * (one.ndim - 1))
            moved.append((weight * one + (1 - weight) * other).requires_grad_())
            return moved[-1]

        inputs = map_tree(between, self.model.inputs(demonstrated), self.model.inputs(own))
        if not moved:
            raise UserError("a gradient penalty needs observations or actions that are numbers; leave it out")
        gradients = torch.autograd.grad(self.model.rating(inputs).sum(), moved, create_graph=True)
        norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
        return (norm - 1).square().mean()

    # Probabilities of actions, and of absorption

    def _log_prob(self, observations: Tree, actions: np.ndarray) -> np.ndarray:
        """Log pi(a | s), where the logit takes it in, else zeros, `(B,)`."""
        if not self.objective.subtracts_log_prob:
            return np.zeros(len(actions), np.float32)
        with torch.no_grad():
            distribution, _ = self.agent.policy(as_tensors(observations, self.agent.device))
            return distribution.log_prob(torch.from_numpy(actions).to(self.agent.device)).cpu().numpy()

    def demonstrated_log_prob(self, rows: np.ndarray) -> np.ndarray:
        """Log pi(a | s) of rows of `demonstrated`, by the policy of this moment."""
        seen = map_tree(lambda leaf: leaf[rows], self.demonstrated.observations)
        return self._log_prob(seen, self._demonstrated_actions[rows])

    @cached_property
    def _demonstrated_actions(self) -> np.ndarray:
        return policy_actions(self.agent.action_space)(self.demonstrated.actions)

    def _count_absorbing(self, rollout: Rollout) -> None:
        """Follow how much of its time the policy would spend absorbed, if all episodes had the same length."""
        absorbing, real = 0, int(rollout.valid.sum())
        for t in range(len(rollout.rewards)):
            self.running_lengths += rollout.valid[t]
            ended = rollout.terminated[t]
            absorbing += int(np.maximum(self.horizon - self.running_lengths[ended], 0).sum())
            self.running_lengths[rollout.done[t]] = 0
        share = absorbing / (absorbing + real)
        first = not self.optimizer.steps
        self.own_absorbing = share if first else 0.5 * self.own_absorbing + 0.5 * share

    def after_update(self, rollout: Rollout) -> UpdateMetrics:
        return self.metrics

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        if self.config.demos_control != "none":
            return {}
        # Shuffling leaves the states that were visited as they are: all that a reward of states learns from.
        spoiled: Spoiled = "shuffled" if self.model.reads_actions else "random"
        return compare_with_controls(run, self.demos, progress, spoiled)

    def state(self) -> dict[str, torch.Tensor]:
        state = State()
        state.add("model", self.model.state_dict())
        state.add("optimizer", self.optimizer.state())
        state.tensors["steps"] = torch.tensor(self.optimizer.steps)
        state.tensors["running_lengths"] = torch.from_numpy(self.running_lengths)
        state.tensors["own_absorbing"] = torch.tensor(self.own_absorbing, dtype=torch.float64)
        return state.tensors

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        kept = State(state)
        self.model.load_state_dict(kept.take("model"))
        self.optimizer.load_state(kept.take("optimizer"), int(state["steps"]))
        self.running_lengths = state["running_lengths"].numpy().copy()
        self.own_absorbing = float(state["own_absorbing"])


class RecoveredReward(Extension):
    """Replaces rewards by those that another run has recovered."""

    replaces_rewards = True

    def __init__(self, agent: OnPolicyAgent) -> None:
        super().__init__(agent)
        self.to_environment = environment_actions(agent.action_space)

    def prepare(self) -> None:
        model, policy = self.recovered, self.agent.policy
        mine = without_mask(policy.observation_space) if policy.masked else policy.observation_space
        for what, own, theirs in (
            ("observations", mine, model.observation_space),
            ("actions", self.agent.action_space, model.action_space),
        ):
            if not interchangeable(own, theirs):
                raise UserError(f"the reward of {self.config.reward} is one of {what} {theirs}, not {own}")

    @cached_property
    def recovered(self) -> RewardModel | RewardTable:
        """The other run's reward."""
        return recovered_reward(Run(self.config.reward))

    def task_reward(self, rollout: Rollout) -> np.ndarray:
        valid, rows = rollout.valid, rollout.valid.ravel()
        seen, successors = rollout.seen(valid), map_tree(lambda leaf: leaf[rows], rollout.successors())
        if self.agent.policy.masked:
            seen, successors = without_mask(seen), without_mask(successors)
        actions = self.to_environment(rollout.actions[valid])
        zeros = np.zeros(len(actions), np.int64)
        rewards = np.zeros(rollout.rewards.shape, np.float32)
        steps = Steps(seen, actions, successors, zeros, rollout.terminated[valid].astype(np.int64))
        rewards[valid] = self.recovered.rewards(steps)
        return rewards


def recovered_reward(run: Run) -> RewardModel | RewardTable:
    """The reward that a run has recovered from demonstrations.

    Raises:
        UserError: It has none.
    """
    agent = run.agent
    if isinstance(table := getattr(agent, "reward", None), np.ndarray):
        return RewardTable(agent.observation_space, agent.action_space, table)
    for extension in getattr(agent, "extensions", {}).values():
        if isinstance(extension.model, RewardModel):
            return extension.model
    raise UserError(f"{run.path} holds no reward; gail, airl and maxent-irl recover one")


def shuffled(demos: Demonstrations, seed: int) -> Demonstrations:
    """Demonstrations whose observations and actions come from different timesteps: they show nothing any more."""
    rng = np.random.default_rng(seed)
    observations, actions = rng.permutation(len(demos)), rng.permutation(len(demos))
    fields: dict[str, Any] = {name: getattr(demos, name) for name in demos.__dataclass_fields__}
    fields["observations"] = map_tree(lambda leaf: leaf[observations], demos.observations)
    fields["actions"] = demos.actions[actions]
    return Demonstrations(**fields)


def joined(*steps: Steps) -> Steps:
    """Steps as tensors, one after another."""
    return Steps(*(map_tree(lambda *leaves: torch.cat(leaves), *trees) for trees in zip(*steps, strict=True)))
