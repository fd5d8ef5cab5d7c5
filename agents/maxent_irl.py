"""Inverse RL where the transition table is known, as a method: see `irl_objectives` for what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.evaluation import VECTOR_ONLY, evaluate, for_evaluation
from rltool.agents.irl_objectives import OBJECTIVES, MaximumEntropy, MaximumMargin, Problem
from rltool.agents.learner import Callback, Learner, Metrics, UpdateMetrics
from rltool.agents.maxent_config import MaxEntIRLConfig
from rltool.envs import Demonstrations, load_demonstrations, make_env
from rltool.envs.tabular import Floats, Tabular, tabular_model
from rltool.errors import UserError
from rltool.training.checkpoint import State
from rltool.training.progress import Progress
from rltool.training.run import Run

NO_LIMIT = 1_000  # Timesteps of an evaluated episode in an environment that sets none: some policies never arrive.


class TabularPolicy(nn.Module):
    """A table of action probabilities, `(S, A)`, and the reward that it is for, `(S,)` or `(S, A)`."""

    has_memory = False
    probabilities: torch.Tensor
    reward: torch.Tensor

    def __init__(self, num_states: int, num_actions: int, by_state: bool) -> None:
        super().__init__()
        size = (num_states, num_actions)
        self.register_buffer("probabilities", torch.full(size, 1 / num_actions, dtype=torch.float64))
        self.register_buffer("reward", torch.zeros(size[:1] if by_state else size, dtype=torch.float64))

    def actor(self, rng: np.random.Generator | None) -> Any:
        """A function from states `(B,)` to actions `(B,)`, sampled or, without a generator, the most probable."""
        probabilities = self.probabilities.numpy()
        if rng is None:
            best = probabilities.argmax(-1)
            return lambda states: best[states]
        cumulative = probabilities.cumsum(-1)[:, :-1]  # The last action has the rest.
        return lambda states: (rng.random(len(states))[:, None] >= cumulative[states]).sum(-1)


class MaxEntIRL(Learner):
    """Recovers a reward from demonstrations, and the policy that is best for it, exactly: nothing is sampled.

    A timestep is one iteration, and steps no environment. `policy` holds both tables.

    Args:
        env: An environment's id, or a Gymnasium environment, with a transition table.
        config: All options at once; or give them by name.
        demos: Demonstrations, a file `.npz` or the name of a Minari dataset.
        seed: Seeds the sampling of actions; learning has no randomness.
        device: Where weights of other methods live; tables are NumPy's.
        env_kwargs: Arguments of the environment's constructor, where `env` is an id.
        spaces: Observation and action space; with them, all else is loaded only when training begins.
        **options: Fields of `MaxEntIRLConfig`.

    Raises:
        UserError: An option is wrong, the environment has no transition table, or the demonstrations do not fit.

    Example:
        >>> from rltool.agents import MaxEntIRL
        >>> agent = MaxEntIRL("FrozenLake-v1", demos="lake.npz").learn(1_000)  # doctest: +SKIP
        >>> agent.reward.shape  # doctest: +SKIP
        (16,)
    """

    method = "maxent-irl"
    config_class: ClassVar[type[MaxEntIRLConfig]] = MaxEntIRLConfig
    policy: Any

    def __init__(
        self,
        env: str | gym.Env | None,
        config: MaxEntIRLConfig | None = None,
        *,
        demos: Demonstrations | str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        spaces: tuple[gym.Space, gym.Space] | None = None,
        **options: Any,
    ) -> None:
        self._given = demos if isinstance(demos, Demonstrations) else None
        if demos is not None:
            options["demos"] = demos.name if isinstance(demos, Demonstrations) else str(demos)
        self._configure(env, config, options, seed, device, env_kwargs)
        if isinstance(env, gym.Env):
            self.world = env
        self.observation_space, self.action_space = spaces or (self.world.observation_space, self.world.action_space)
        if spaces is None:
            _ = self.problem  # What is wrong with it is to be said before anything is written.
        sizes = int(self.observation_space.n), int(self.action_space.n)  # type: ignore[attr-defined]
        self.policy = TabularPolicy(*sizes, by_state=self.config.features == "state")
        self.figures: dict[str, float] = {}

    @cached_property
    def world(self) -> gym.Env:
        """A single environment; made when first needed."""
        if self.env_id is None:
            raise UserError("this agent was trained in an environment object; to train it further, give it env=...")
        return make_env(self.env_id, **{k: v for k, v in self.env_kwargs.items() if k not in VECTOR_ONLY})

    @cached_property
    def model(self) -> Tabular:
        """The environment's transition table."""
        model = tabular_model(self.world)
        if model is None:
            raise UserError(
                f"{self.env_id or self.world} has no transition table, which {self.method} computes with; from "
                "samples, the same objectives are: rltool train gail ... --demos-objective maxent (or margin)"
            )
        return model

    @cached_property
    def demonstrations(self) -> Demonstrations:
        """What is learned from."""
        source = self._given if self._given is not None else self.config.demos
        demos = load_demonstrations(source, self.observation_space, self.action_space, self.env_id)
        episodes = self.config.demos_episodes
        return demos if episodes is None else demos.select(np.arange(min(episodes, demos.num_episodes)))

    @cached_property
    def problem(self) -> Problem:
        """What they say about the reward."""
        return Problem(self.model, self.demonstrations, self.config.features == "state", self.config.gamma)

    @cached_property
    def solver(self) -> MaximumEntropy | MaximumMargin:
        """What finds the reward."""
        return OBJECTIVES[self.config.objective](self.problem, self.config)

    @property
    def reward(self) -> Floats:
        """What was recovered: the reward of arriving in a state, `(S,)`, or of an action in a state, `(S, A)`."""
        return self.policy.reward.numpy()

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = None,
        *,
        resume: bool = False,
    ) -> Self:
        """Iterate until actor and teacher get the same of every feature.

        Args:
            total_timesteps: Iterations at most.
            callback: As in `OnPolicyAgent.learn`.
            resume: Count from where the agent stands; else it begins anew.

        Returns:
            The agent itself.
        """
        callbacks = self._begin(total_timesteps, callback, resume)
        if not resume:
            self.converged = False
            self.__dict__.pop("solver", None)
        while self.timesteps < total_timesteps and not self.converged:
            metrics = self.update()
            self.timesteps += 1
            self.updates += 1
            if not self._goes_on(callbacks, metrics):
                break
        return self

    def update(self) -> UpdateMetrics:
        """One iteration; returns its metrics by their `train/` names."""
        solver = self.solver
        solver.update()
        self.converged, self.figures = solver.converged, dict(solver.figures)
        self.policy.probabilities.copy_(torch.from_numpy(solver.policy))
        self.policy.reward.copy_(torch.from_numpy(solver.theta.reshape(self.policy.reward.shape)))
        return dict(self.figures)

    def metrics(self) -> Metrics:
        """Figures of this moment: how far visits are from the demonstrations', how likely those are."""
        return {**{f"train/{name}": value for name, value in self.figures.items()}, "train/n_updates": self.updates}

    def evaluate(self, episodes: int, seed: int) -> Metrics:
        """Play deterministically; `score` is how well visits match, since the true reward is not to be known."""
        if self.env_id is None:
            raise UserError("an agent made from an environment object is evaluated with rltool.evaluate(agent, env)")
        limit = {} if self.model.horizon else {"max_episode_steps": NO_LIMIT}
        result = evaluate(self, self.env_id, episodes, seed, env_kwargs=for_evaluation(limit | self.env_kwargs))
        return {
            "mean_return": result.mean_return,
            "std_return": result.std_return,
            "mean_length": result.mean_length,
            "score": -self.figures.get("feature_gap", float("inf")),
        }

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        """Exact returns of the policy (its most probable actions) and of random moves, beside the demonstrator's."""
        model, returns = self.model, self.demonstrations.returns
        random = model.expected_return(np.full_like(self.problem.visits, 1 / model.num_actions))
        own = model.expected_return(np.eye(model.num_actions)[self.solver.policy.argmax(-1)])
        demonstrator = float(np.mean(returns))
        if not np.isfinite(demonstrator) or demonstrator == random:
            return {"random_return": random, "exact_return": own}
        return {
            "random_return": random,
            "exact_return": own,
            "demonstrator_return": demonstrator,
            "score": (own - random) / (demonstrator - random),
        }

    def init_backbone(self, source: Any) -> None:
        raise UserError("the policy is a table and has no backbone")

    def init_policy(self, source: Any) -> None:
        raise UserError("the policy follows from the reward, and starts from no other")

    def checkpoint(self) -> State:
        values = {
            "timesteps": self.timesteps,
            "total_timesteps": self.total_timesteps,
            "updates": self.updates,
            "converged": self.converged,
            "figures": self.figures,
            "rng": self.rng.bit_generator.state,
        }
        state = State(values=values)
        state.add("policy", self.policy.state_dict())
        state.add("solver", self.solver.state())
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        values = state.values
        self.timesteps, self.total_timesteps = values["timesteps"], values["total_timesteps"]
        self.updates, self.converged = values["updates"], values["converged"]
        self.figures = values["figures"]
        self.rng.bit_generator.state = values["rng"]
        self.policy.load_state_dict(state.take("policy"))
        solver = self.solver
        solver.load_state(state.take("solver"))
        if self.figures:
            solver.figures, solver.policy = dict(self.figures), self.policy.probabilities.numpy().copy()
        return True
