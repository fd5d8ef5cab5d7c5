"""Inverse RL where the transition table is known (Lecture 12, "Inverse RL"): the teacher is always the best.

The reward is linear in features phi of a state and an action, r = theta . phi. With d(s, a) the demonstrations' share
of timesteps in which action a was taken in state s, what the teacher gets of each feature is

    f_teacher = sum_sa d(s, a) phi(s, a)

and what an actor pi gets in its place is `occupancy`: its visits rho, where as much begins in each state as in the
demonstrations,  source(s') = d(s') - gamma sum_sa d(s, a) P(s' | s, a),  f_actor = sum_sa rho(s, a) phi(s, a). The
source holds their first states and, because later times are discounted for the actor and not in d, some of all others.
The teacher's own policy would return to d exactly.

**maxent**, maximum causal entropy (Ziebart, 2010): demonstrators do what is worth more with a higher probability,

    pi(a | s) = exp(Q(s, a) - V(s))               the soft-optimal policy for r
    maximize  L(theta) = sum_sa d(s, a) log pi(a | s) - l2 / 2n |theta|^2
    gradient  dL/dtheta = f_teacher - f_actor - l2 / n theta

because d . (dQ - dV) telescopes: that is dV, the visits from a state on, at every state where more goes in than comes
out. So at the maximum actor and teacher get the same of every feature. L is concave wherever the source is not negative
(which sampling noise alone can make it), and is climbed by L-BFGS.

**margin**, the course's algorithm, with the margins of Ratliff et al. (2006) and the quadratic program of Abbeel & Ng
(2004): 1. an actor interacts; 2. a reward is defined that makes the teacher better than all actors so far, by a margin
that is the larger the less they do what the teacher did; 3. the next actor is optimal for it; and so on,

    loss_i = sum_sa d(s, a) (1 - pi_i(a | s))
    minimize  l2 / 2 |theta|^2 + n / 2 slack^2    such that    theta . (f_teacher - f_i) >= loss_i - slack   for all i

until an actor gets the same as the teacher, or is no worse than the margin asks.
"""

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
from rltool.agents.learner import Callback, Learner, Metrics, UpdateMetrics
from rltool.agents.maxent_config import MaxEntIRLConfig
from rltool.agents.planning import occupancy, plan
from rltool.envs import Demonstrations, load_demonstrations, make_env
from rltool.envs.tabular import Floats, Tabular, tabular_model
from rltool.errors import UserError
from rltool.training.checkpoint import State
from rltool.training.progress import Progress
from rltool.training.run import Run

NO_LIMIT = 1_000  # Timesteps of an evaluated episode in an environment that sets none: some policies never arrive.


class Problem:
    """What demonstrations say about a reward, and how a policy compares.

    Args:
        model: The environment.
        demos: Demonstrations in it.
        by_state: The features are the states arrived in; else the pairs of state and action.
        gamma: The discount factor.

    Attributes:
        visits: `(S, A)`; the share of timesteps that the teacher spent with each action in each state.
        source: `(S,)`; where visits begin.
        expectation: `(F,)`; what the teacher gets of each feature: F is S or S * A.

    Raises:
        UserError: The demonstrations hold a step that this environment cannot make.
    """

    def __init__(self, model: Tabular, demos: Demonstrations, by_state: bool, gamma: float) -> None:
        self.model, self.by_state, self.gamma = model, by_state, gamma
        states, actions = np.asarray(demos.observations), demos.actions
        self._check_steps(demos, states)
        self.timesteps = len(demos)
        self.visits: Floats = np.zeros((model.num_states, model.num_actions))
        np.add.at(self.visits, (states, actions), 1 / len(demos))
        # What its actions lead to on average has less noise than what they led to.
        followed = np.einsum("sa,sat->t", self.visits, model.continuing)
        self.source = self.visits.sum(1) - gamma * followed
        self.expectation = self.features(self.visits)

    def _check_steps(self, demos: Demonstrations, states: np.ndarray) -> None:
        following, actions, last = np.asarray(demos.successors()), demos.actions, np.zeros(len(demos), bool)
        last[demos.ends] = True
        steps = (states, actions, following)
        possible = np.where(last, self.model.transitions[steps], self.model.continuing[steps]) > 0
        wrong = np.flatnonzero(~possible & demos.has_successor)
        if len(wrong):
            s, a, s2 = (int(each[wrong[0]]) for each in steps)
            raise UserError(
                f"{demos.name} goes from state {s} by action {a} to state {s2}, which this environment never does; "
                "give the --env-arg that it was recorded with"
            )

    def features(self, visits: Floats) -> Floats:
        """`(F,)`; how much of each feature is got with these visits `(S, A)`."""
        return np.einsum("sa,sat->t", visits, self.model.transitions) if self.by_state else visits.ravel()

    def rewards(self, theta: Floats) -> Floats:
        """`(S, A)`; the reward that has these weights `(F,)`."""
        return self.model.transitions @ theta if self.by_state else theta.reshape(self.visits.shape)

    def shortfall(self, policy: Floats) -> Floats:
        """`(F,)`; what the teacher gets of each feature, less what a policy `(S, A)` gets."""
        return self.expectation - self.features(occupancy(self.model, policy, self.source, self.gamma))

    def agreement(self, policy: Floats) -> float:
        """The mean probability with which a policy does what the teacher did."""
        return float((self.visits * policy).sum())


class MaximumEntropy:
    """The reward for which the demonstrations are likeliest.

    Attributes:
        theta: `(F,)`; its weights.
        policy: `(S, A)`; the soft-optimal policy for it.
        figures: What is reported.
        converged: Whether the gradient is within the tolerance.
    """

    def __init__(self, problem: Problem, config: MaxEntIRLConfig) -> None:
        self.problem, self.tolerance = problem, config.tolerance
        self.penalty = config.l2 / problem.timesteps
        self.parameter = nn.Parameter(torch.zeros(len(problem.expectation), dtype=torch.float64))
        self.optimizer = torch.optim.LBFGS(
            [self.parameter],
            max_iter=1,
            max_eval=30,
            history_size=20,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )
        self.values: Floats = np.zeros(problem.model.num_states)
        self.known: tuple[Floats, float, Floats] | None = None  # the last theta, its L and its gradient
        self.figures: dict[str, float] = {}
        self.converged = False
        self.policy: Floats = np.full_like(problem.visits, 1 / problem.model.num_actions)

    @property
    def theta(self) -> Floats:
        return self.parameter.detach().numpy()

    def likelihood(self, theta: Floats) -> tuple[float, Floats]:
        """L and its gradient `(F,)`."""
        if self.known is not None and np.array_equal(self.known[0], theta):
            return self.known[1:]  # A line search ends where the next begins.
        problem = self.problem
        best = plan(problem.model, problem.rewards(theta), problem.gamma, soft=True, values=self.values)
        self.policy, self.values = best.policy, best.values
        log_likelihood = float((problem.visits * best.log_policy).sum())
        shortfall = problem.shortfall(self.policy)
        self.figures = {
            "log_likelihood": log_likelihood,
            "feature_gap": float(np.abs(shortfall).sum() / 2),
            "agreement": problem.agreement(self.policy),
        }
        gradient = shortfall - self.penalty * theta
        self.known = theta.copy(), log_likelihood - self.penalty / 2 * float(theta @ theta), gradient
        return self.known[1:]

    def update(self) -> None:
        """One step of L-BFGS, with a line search."""

        def closure() -> float:
            value, gradient = self.likelihood(self.theta)
            self.parameter.grad = torch.from_numpy(-gradient)
            return -value

        before = self.theta.copy()
        self.optimizer.step(closure)
        _, gradient = self.likelihood(self.theta)
        stuck = np.array_equal(before, self.theta)  # Numbers have no more digits.
        self.converged = bool(np.abs(gradient).sum() / 2 <= self.tolerance) or stuck

    def state(self) -> dict[str, torch.Tensor]:
        kept = self.optimizer.state_dict()["state"].get(0, {})
        state = {"theta": self.parameter.detach(), "values": torch.from_numpy(self.values)}
        if self.known is not None:
            theta, value, gradient = self.known
            state |= {"known": torch.from_numpy(np.stack((theta, gradient))), "value": torch.tensor(value).double()}
        for name, value in kept.items():
            if name == "al":  # Scratch.
                continue
            tensor = torch.stack(value) if isinstance(value, list) and value else value
            state[f"lbfgs.{name}"] = torch.as_tensor(tensor, dtype=torch.float64)
        return state

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.parameter.copy_(state["theta"])
        kept: dict[str, Any] = {n.removeprefix("lbfgs."): t for n, t in state.items() if n.startswith("lbfgs.")}
        for name, tensor in kept.items():
            if name in ("old_dirs", "old_stps", "ro"):
                kept[name] = list(tensor)
            elif name in ("n_iter", "func_evals"):
                kept[name] = int(tensor)
        if kept:
            self.optimizer.state[self.parameter] = kept
        self.values = state["values"].numpy().copy()
        if "known" in state:
            theta, gradient = state["known"].numpy().copy()
            self.known = theta, float(state["value"]), gradient


class MaximumMargin:
    """A reward for which the teacher is better than every actor found so far; attributes as of `MaximumEntropy`.

    `theta` and `policy` are those of the actor that has come closest to the teacher.
    """

    def __init__(self, problem: Problem, config: MaxEntIRLConfig) -> None:
        self.problem, self.tolerance = problem, config.tolerance
        self.slackness = config.l2 / problem.timesteps
        self.theta: Floats = np.zeros(len(problem.expectation))
        self.policy: Floats = np.full_like(problem.visits, 1 / problem.model.num_actions)
        shortfall = problem.shortfall(self.policy)
        self.shortfalls: Floats = shortfall[None]  # (k, F), of all k actors; the first moves at random
        self.losses: Floats = np.array([1 - problem.agreement(self.policy)])  # (k,)
        self.weights: Floats = np.zeros(1)  # (k,)
        self.figures: dict[str, float] = {"feature_gap": float("inf")}
        self.converged = False

    def update(self) -> None:
        """A reward that makes the teacher better than all actors, and the actor that is optimal for it."""
        problem = self.problem
        self.weights = margin_weights(self.shortfalls, self.losses, self.slackness, self.weights)
        theta = self.weights @ self.shortfalls
        slack = max(0.0, float((self.losses - self.shortfalls @ theta).max()))
        policy = plan(problem.model, problem.rewards(theta), problem.gamma, soft=False).policy
        shortfall, loss = problem.shortfall(policy), 1 - problem.agreement(policy)
        gap = float(np.abs(shortfall).sum() / 2)
        if gap < self.figures["feature_gap"]:
            self.theta, self.policy = theta, policy
            self.figures = {"feature_gap": gap, "agreement": 1 - loss, "slack": slack}
        worse_already = bool(theta @ shortfall >= loss - slack - 1e-9)
        self.converged = gap <= self.tolerance or worse_already
        self.shortfalls = np.concatenate((self.shortfalls, shortfall[None]))
        self.losses = np.append(self.losses, loss)
        self.weights = np.append(self.weights, 0.0)

    def state(self) -> dict[str, torch.Tensor]:
        arrays = {"theta": self.theta, "shortfalls": self.shortfalls, "losses": self.losses, "weights": self.weights}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.theta, self.shortfalls, self.losses, self.weights = (
            state[name].numpy().copy() for name in ("theta", "shortfalls", "losses", "weights")
        )


def margin_weights(shortfalls: Floats, losses: Floats, slackness: float, start: Floats, sweeps: int = 300) -> Floats:
    """How much each actor counts, `(k,)`: theta = sum_i weight_i (f_teacher - f_i) solves the quadratic program.

    Its dual is  maximize losses . w - w' H w / 2  over w >= 0, with  H = D D' + slackness  and D the shortfalls: one
    weight after the other goes to its maximum, until none moves.

    Args:
        shortfalls: `(k, F)`.
        losses: `(k,)`; the margins.
        slackness: How cheap slack is.
        start: `(k,)`; weights to begin with.
        sweeps: Passes over all weights at most.
    """
    curvature = shortfalls @ shortfalls.T + slackness
    weights = start.copy()
    for _ in range(sweeps):
        before = weights.copy()
        for i, row in enumerate(curvature):
            weights[i] = max(0.0, weights[i] + (losses[i] - row @ weights) / row[i])
        if np.abs(weights - before).max() <= 1e-9 * max(1.0, weights.max()):
            break
    return weights


OBJECTIVES: dict[str, type[MaximumEntropy] | type[MaximumMargin]] = {
    "maxent": MaximumEntropy,
    "margin": MaximumMargin,
}


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
                f"{self.env_id or self.world} has no transition table, which {self.method} computes with; take gail or "
                "airl"
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
