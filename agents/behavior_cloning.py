"""Behavior cloning (Lecture 12; Pomerleau, 1991): supervised learning of what a demonstrator did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import nn
from torch.nn.functional import relu

from rltool.agents.cloning_config import BCConfig
from rltool.agents.examples import Batch, Examples, balancing_weights, held_out
from rltool.agents.learner import Callback, Learner, Metrics, UpdateMetrics
from rltool.agents.policy import Policy, action_widths, policy_actions
from rltool.agents.warm_start import continuation, go_on
from rltool.envs import Demonstrations, load_demonstrations
from rltool.errors import UserError
from rltool.networks.backbone import evaluating
from rltool.networks.distributions import DiagonalGaussian, Distribution
from rltool.networks.normalization import is_numeric
from rltool.networks.observations import space_leaves
from rltool.training.checkpoint import State
from rltool.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from rltool.training.progress import Progress
    from rltool.training.run import Run

LARGE_BATCH = 4_096  # Timesteps that are looked at together where nothing is learned from them.


class BehaviorCloning(Learner):
    """A policy that makes the demonstrated actions likely: minimizes the mean of -log pi(a | s).

    Some episodes are held out. `policy` has the weights that made their actions likeliest so far; `student` is what is
    being trained. A timestep is one timestep of demonstrations learned from, once.

    Args:
        env: As in `OnPolicyAgent`; None, if it is not known: then the demonstrations say what the spaces are.
        config: All options at once; or give them by name.
        demos: Demonstrations, a file `.npz` or the name of a Minari dataset.
        seed: Seeds weights, the choice of held-out episodes and the order of minibatches.
        device: Where tensors live.
        env_kwargs: Arguments of the environment's constructor, where `env` is an id.
        spaces: Observation and action space; with them, demonstrations are loaded only when training begins.
        **options: Fields of `BCConfig`.

    Raises:
        UserError: An option is wrong, or the demonstrations are missing or do not fit.

    Example:
        >>> from rltool.agents import BehaviorCloning
        >>> agent = BehaviorCloning("CartPole-v1", demos="cartpole.npz").learn(500_000)  # doctest: +SKIP
    """

    method = "bc"
    config_class: ClassVar[type[BCConfig]] = BCConfig

    def __init__(
        self,
        env: str | gym.Env | VectorEnv | None,
        config: BCConfig | None = None,
        *,
        demos: Demonstrations | str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        spaces: tuple[gym.Space, gym.Space] | None = None,
        **options: Any,
    ) -> None:
        if demos is not None and not isinstance(demos, Demonstrations):
            options["demos"], demos = str(demos), None
        self._given = demos
        self._configure(env, config, options, seed, device, env_kwargs)
        if spaces is not None:
            self.observation_space, self.action_space = spaces
        elif env is not None:
            self.observation_space, self.action_space = (
                self.env.single_observation_space,
                self.env.single_action_space,
            )
        else:
            known = self._load(None, None)
            self.observation_space, self.action_space = known.observation_space, known.action_space
        self._check_options()
        with self._seeded():
            self.policy = Policy(self.observation_space, self.action_space, self.config).to(self.device)
            self.student = deepcopy(self.policy)
            self.optimizer = OPTIMIZERS["adam"](self.student, self.config.learning_rate, self.config.max_grad_norm)
        self.started = False
        self.held_out = np.zeros(0, bool)
        self.pending = np.zeros(0, np.int64)
        self.epochs = 0
        self.stale_epochs = 0
        self.best_loss = float("inf")
        self.validation: Metrics = {}

    def _check_options(self) -> None:
        """Switch off what these spaces have no use for, and refuse what they cannot have.

        Raises:
            UserError: Labels of continuous actions are to be smoothed, or balanced.
        """
        if isinstance(self.action_space, gym.spaces.Box):
            for name in ("label_smoothing", "class_balance"):
                if getattr(self.config, name):
                    raise UserError(
                        f"{name.replace('_', '-')} is for choices; the actions here are {self.action_space}"
                    )
        if not any(is_numeric(leaf) for _, leaf in space_leaves(self.observation_space)):
            self.config = self.config.model_copy(update={"normalize_observations": False})

    # The demonstrations

    @cached_property
    def demonstrations(self) -> Demonstrations:
        """What is learned from, all of it."""
        return self._load(self.observation_space, self.action_space)

    def _load(self, observation_space: gym.Space | None, action_space: gym.Space | None) -> Demonstrations:
        source = self._given if self._given is not None else self.config.demos
        if source is None:
            raise UserError(
                f"{self.method} learns from demonstrations; name a file or a Minari dataset, as --demos FILE.npz "
                "(rltool record makes them)"
            )
        demos = load_demonstrations(source, observation_space, action_space, self.env_id)
        return demos.first(self.config.demos_episodes)

    def prepare(self) -> None:
        _ = self.demonstrations
        if self.config.then is not None and self.env_id is not None:
            continuation(self.config, self.env_id)

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        """What is learned from, and what is held out; where nothing is, both are the same."""
        demos, out = self.demonstrations, self.held_out
        parts = [demos.select(np.flatnonzero(~out)), demos.select(np.flatnonzero(out))] if out.any() else [demos]
        to_policy = policy_actions(self.action_space, self.config.squash)
        examples = [
            Examples(
                self.policy,
                part,
                to_policy(part.actions),
                balancing_weights(part.actions) if self.config.class_balance else None,
            )
            for part in parts
        ]
        return examples[0], examples[-1]

    # Training

    def update(self, batch: Batch) -> UpdateMetrics:
        """One step along the gradient of the mean of w log pi(a | s); returns metrics by their `train/` names."""
        config = self.config
        distribution, narrowness = self.distribution(batch)
        log_prob = distribution.log_prob(batch.targets)
        if config.label_smoothing:
            # Cross-entropy with (1 - e) on what was done and e on all actions alike (Szegedy et al., 2016).
            everything = distribution.uniform_log_prob()  # type: ignore[union-attr]
            log_prob = (1 - config.label_smoothing) * log_prob + config.label_smoothing * everything
        loss = narrowness - (batch.weights * log_prob).mean()
        if config.ent_coef:
            loss = loss - config.ent_coef * distribution.entropy().mean()
        if config.weight_decay:
            loss = loss + config.weight_decay / 2 * self.squared_weights() / len(self.examples[0])
        with torch.no_grad():
            agreement = self.agreement(distribution, batch).mean()
        grad_norm = self.optimizer.step(loss)
        return {"loss": loss.detach(), self.agreement_name: agreement, "grad_norm": grad_norm}

    def distribution(self, batch: Batch) -> tuple[Distribution, torch.Tensor | float]:
        """What the student would do, no Gaussian counting as narrower than allowed, and what being narrower costs.

        Demonstrators are often deterministic. The likelihood then grows without end as the deviation shrinks: gradients
        grow like its inverse square, and a policy is left that reinforcement learning could not explore with. At the
        least deviation, the loss is the squared error.
        """
        distribution = self.student.distribution(batch.observations, batch.sequences)
        if not isinstance(distribution, DiagonalGaussian):
            return distribution, 0.0
        missing = relu(self.least_log_std - distribution.log_std)
        distribution.log_std = distribution.log_std + missing
        return distribution, missing.square().mean()

    @cached_property
    def least_log_std(self) -> torch.Tensor:
        """Logarithm of the least deviation of each component of an action, `(n,)`; before tanh, if squashed."""
        space = self.action_space
        half = action_widths(space) / 2 if isinstance(space, gym.spaces.Box) and not self.config.squash else np.ones(1)
        return torch.from_numpy(np.log(self.config.min_std * half)).to(self.device, torch.float32)

    def squared_weights(self) -> torch.Tensor:
        """Sum of the squared weights, without biases, of what acts."""
        modules = (self.student.backbone, self.student.action_head)
        return sum((p.square().sum() for module in modules for p in module.parameters() if p.ndim > 1), torch.zeros(()))

    @property
    def agreement_name(self) -> str:
        """`accuracy`: the share of actions foretold, or `mse`: the mean squared error of continuous ones."""
        return "mse" if isinstance(self.action_space, gym.spaces.Box) else "accuracy"

    def agreement(self, distribution: Distribution, batch: Batch) -> torch.Tensor:
        """That figure for each timestep, `(B,)`."""
        foretold, done = distribution.mode(), batch.targets
        if isinstance(self.action_space, gym.spaces.Box):
            return (foretold - done).square().float().mean(-1)
        return (foretold == done).reshape(len(done), -1).all(-1).float()

    def fit(self, limit: int) -> tuple[int, UpdateMetrics]:
        """Learn from the next minibatch of at most `limit` timesteps, and look at the held-out ones after each pass.

        Returns:
            Its timesteps, and the update's metrics.
        """
        examples, _ = self.examples
        if not len(self.pending):
            self.pending = self.rng.permutation(len(examples.lengths))
        units, self.pending = examples.split(self.pending, min(limit, self.config.batch_size))
        batch = examples.take(units)
        metrics = self.update(batch)
        self.updates += 1
        if not len(self.pending):
            self.epochs += 1
            self.stale_epochs += 1
            self.validate()
        return len(batch), metrics

    @property
    def settled(self) -> bool:
        """Whether `patience` is over."""
        return 0 < self.config.patience <= self.stale_epochs

    def validate(self) -> None:
        """Look at the held-out demonstrations, and keep the student's weights if they never were better."""
        _, examples = self.examples
        loss, agreement = 0.0, 0.0
        with torch.no_grad(), evaluating(self.student):
            for batch in examples.batches(LARGE_BATCH):
                distribution, _ = self.distribution(batch)
                loss -= float((batch.weights * distribution.log_prob(batch.targets)).sum())
                agreement += float(self.agreement(distribution, batch).sum())
        self.validation = {
            "validation/loss": loss / len(examples),
            f"validation/{self.agreement_name}": agreement / len(examples),
        }
        if self.validation["validation/loss"] < self.best_loss:
            self.best_loss = self.validation["validation/loss"]
            self.stale_epochs = 0
            self.policy.load_state_dict(self.student.state_dict())

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = None,
        *,
        resume: bool = False,
    ) -> Self:
        """Train on `total_timesteps` of demonstrations, again and again, or until `patience` is over.

        Args:
            total_timesteps: Budget; what has converged before ends earlier.
            callback: As in `OnPolicyAgent.learn`.
            resume: Count from where the agent stands, and go on until it has seen `total_timesteps` in all.

        Returns:
            The agent itself.

        Raises:
            TrainingError: The loss stopped being a finite number.
        """
        callbacks = self._begin(total_timesteps, callback, resume)
        if not resume:
            self.converged, self.stale_epochs = False, 0
        with self._own_torch_rng():
            self._start()
            while self.timesteps < total_timesteps and not self.converged:
                with self._frozen(self._resting()):
                    seen, metrics = self.fit(total_timesteps - self.timesteps)
                self.timesteps += seen
                self.converged = self.settled
                self._check(metrics)
                if self.timesteps >= total_timesteps and len(self.pending):
                    self.validate()
                if not self._goes_on(callbacks, metrics):
                    break
        return self

    def _resting(self) -> list[nn.Module]:
        """What does not learn at this moment."""
        return [self.student.backbone] if self.timesteps < self.frozen_until else []

    def _start(self) -> None:
        """Before the first update: which episodes are held out, and the statistics of what was demonstrated."""
        # What was ever learned from is not held out later.
        self.held_out = held_out(
            self.demonstrations.num_episodes, self.config.validation_fraction, self.held_out, self.rng
        )
        if not self.started:
            self.student.observe(self.demonstrations.select(np.flatnonzero(~self.held_out)).observations)
            self.policy.load_state_dict(self.student.state_dict())
            self.started = True

    def init_backbone(self, source: Any) -> None:
        super().init_backbone(source)
        self._take_up()

    def init_policy(self, source: Any) -> None:
        super().init_policy(source)
        self._take_up()

    def _take_up(self) -> None:
        """The student begins with the policy as it is now, its observation statistics among it."""
        self.student.load_state_dict(self.policy.state_dict())
        self.started = True

    def metrics(self) -> Metrics:
        """Figures of this moment for a row of metrics."""
        return {
            **self.validation,
            "train/learning_rate": self.optimizer.learning_rate,
            "train/n_updates": self.updates,
            "train/epochs": self.epochs,
        }

    def evaluate(self, episodes: int, seed: int) -> Metrics:
        """As every learner; but `score` is how likely the held-out actions are.

        What imitates has no reward to choose the best weights by; returns are for the reader alone.
        """
        if self.learning:
            self.validate()
        return super().evaluate(episodes, seed) | {"score": -self.best_loss}

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        """Go on with reinforcement learning from the clone in a run of its own, if the option `then` says so."""
        if self.config.then is None:
            return {}
        after = go_on(run, self.config.then, continuation(self.config, run.data), progress)
        if not after.summary.get("finished"):
            return None
        return {"then": after.path.name, "then_return": after.summary["mean_return"]}

    # State

    def checkpoint(self) -> State:
        """Everything that training goes on from, as one object."""
        state = State(
            values={
                "timesteps": self.timesteps,
                "total_timesteps": self.total_timesteps,
                "updates": self.updates,
                "optimizer_steps": self.optimizer.steps,
                "rng": self.rng.bit_generator.state,
                "started": self.started,
                "converged": self.converged,
                "epochs": self.epochs,
                "stale_epochs": self.stale_epochs,
                "best_loss": self.best_loss,
                "validation": self.validation,
            }
        )
        state.add("policy", self.policy.state_dict())
        state.add("student", self.student.state_dict())
        state.add("optimizer", self.optimizer.state())
        state.tensors["pending"] = torch.from_numpy(self.pending)
        state.tensors["held_out"] = torch.from_numpy(self.held_out)
        state.tensors["torch_rng"] = torch.get_rng_state() if self.learning else self.torch_rng
        # Copies: the state stays what it is when training goes on.
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        """Go on from a checkpoint; returns whether training goes on bit for bit, which it does."""
        values = state.values
        for name in ("timesteps", "total_timesteps", "updates", "started", "converged", "epochs", "stale_epochs"):
            setattr(self, name, values[name])
        self.best_loss, self.validation = values["best_loss"], dict(values["validation"])
        self.policy.load_state_dict(state.take("policy"))
        self.student.load_state_dict(state.take("student"))
        self.optimizer.load_state(state.take("optimizer"), values["optimizer_steps"])
        self.rng.bit_generator.state = values["rng"]
        self.torch_rng = state.tensors["torch_rng"]
        self.pending = state.tensors["pending"].numpy().copy()
        self.held_out = state.tensors["held_out"].numpy().copy()
        self.__dict__.pop("examples", None)  # Made anew, of the episodes that are held out now.
        return True
