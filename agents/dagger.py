"""DAgger (Ross, Gordon & Bagnell, 2011): cloning of what an expert would do where the learner gets to.

A clone sees only what its teacher saw; one mistake leads it to where nobody showed it what to do (Lecture 12, the first
problem of imitation). DAgger lets the learner act, asks the expert about everything that it met, and clones again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rltool.agents.behavior_cloning import BehaviorCloning
from rltool.agents.cloning_config import DAggerConfig
from rltool.agents.evaluation import Predictor, fits, for_evaluation
from rltool.agents.learner import Callback, Metrics, UpdateMetrics
from rltool.agents.loading import load_agent
from rltool.agents.policy import action_widths
from rltool.agents.recording import record
from rltool.envs import Demonstrations
from rltool.errors import UserError
from rltool.networks.observations import as_tensors, restore_observations
from rltool.training.checkpoint import State
from rltool.trees import map_tree, named_leaves

if TYPE_CHECKING:
    from rltool.training.progress import Progress
    from rltool.training.run import Run


class DAgger(BehaviorCloning):
    """Rounds of acting, asking the expert, and cloning all its answers so far. A timestep is one of the environment.

    Args:
        env: An environment id.
        config: All options at once; or give them by name.
        expert: Who is asked: anything with `predict`; by default what the option `expert` names.
        **arguments: As in `BehaviorCloning`.

    Raises:
        UserError: An option is wrong, or the expert is missing or does not fit.

    Example:
        >>> from rltool.agents import DAgger
        >>> agent = DAgger("CartPole-v1", expert="runs/ppo-CartPole-v1-1").learn(20_000)  # doctest: +SKIP
    """

    method = "dagger"
    config_class: ClassVar[type[DAggerConfig]] = DAggerConfig
    config: DAggerConfig

    def __init__(
        self,
        env: str | gym.Env | VectorEnv | None,
        config: DAggerConfig | None = None,
        *,
        expert: Predictor | str | None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(expert, str):
            arguments["expert"], expert = expert, None
        self._given_expert = expert
        self.rounds = 0
        self.gathered: Demonstrations | None = None
        self.figures: Metrics = {}
        self.disagreement: dict[str, float] = {}
        self.drift: dict[str, np.ndarray] = {}
        super().__init__(env, config, **arguments)
        if self.env_id is None:
            raise UserError("dagger plays in fresh environments; give the environment by its id")

    def prepare(self) -> None:
        _ = self.expert
        if self.gathered is None and (self._given is not None or self.config.demos is not None):
            self.gathered = self._load(self.observation_space, self.action_space)

    @cached_property
    def expert(self) -> Predictor:
        """Who is asked."""
        if self._given_expert is None and self.config.expert is None:
            raise UserError(
                "dagger asks an expert what to do; name one: --expert RUN, or a Stable-Baselines3 --expert FILE.zip"
            )
        expert = self._given_expert if self._given_expert is not None else load_agent(str(self.config.expert))
        for name in ("observation_space", "action_space"):
            mine, theirs = getattr(self, name), getattr(expert, name, None)
            if theirs is not None and not fits(mine, theirs):
                raise UserError(f"the expert does not fit: its {name.replace('_', ' ')} is {theirs}, not {mine}")
        return expert

    @property
    def demonstrations(self) -> Demonstrations:
        """All that the expert has answered so far."""
        if self.gathered is None:
            raise UserError("dagger has not gathered anything yet")
        return self.gathered

    # Training

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = None,
        *,
        resume: bool = False,
    ) -> Self:
        """Go on, round by round, for `total_timesteps` of the environment.

        Args:
            total_timesteps: Budget; the last round begins before it is used up, and plays its episodes to the end.
            callback: As in `OnPolicyAgent.learn`, called after each round.
            resume: Count from where the agent stands.

        Returns:
            The agent itself.
        """
        callbacks = self._begin(total_timesteps, callback, resume)
        with self._own_torch_rng():
            while self.timesteps < total_timesteps:
                metrics = self.round()
                self._check(metrics)
                if not self._goes_on(callbacks, metrics):
                    break
        return self

    def round(self) -> UpdateMetrics:
        """Act, ask, aggregate, clone; returns the round's metrics by their `train/` names."""
        self.prepare()
        if self.gathered is not None and not self.started:
            self.clone()  # Of the demonstrations given: the first to act.
        beta = self.beta()
        met = self.play(beta)
        answers = ask(self.expert, met)
        if self.rounds or beta < 1:
            self._compare(met, answers)
        self.gathered = join(self.gathered, answers)
        # Before the first cloning there is nothing to add to; what a frozen backbone reads stays as it is.
        if self.started and not self._resting():
            self.student.observe(met.observations)
        self.figures = {
            "rollout/ep_rew_mean": float(met.returns.mean()),
            "rollout/ep_len_mean": float(met.lengths.mean()),
        }
        self.timesteps += len(met)
        self.rounds += 1
        return self.clone()

    def beta(self) -> float:
        """How likely the expert acts in this round; the first is its own, unless demonstrations were given."""
        if self.config.beta == "linear":
            return max(0.0, 1 - self.rounds / self.config.beta_rounds)
        return 1.0 if self.gathered is None else 0.0

    def play(self, beta: float) -> Demonstrations:
        """Whole episodes of at least `num_steps` timesteps together, the expert acting with probability `beta`."""
        mixture = Mixture(self, self.expert, beta, self.rng)
        parts: list[Demonstrations] = []
        while sum(len(part) for part in parts) < self.config.num_steps:
            seed = int(self.rng.integers(2**31))
            env_kwargs = for_evaluation(self.env_kwargs)
            parts.append(record(mixture, str(self.env_id), self.config.num_envs, seed, env_kwargs=env_kwargs))
        return join(*parts)

    def clone(self) -> UpdateMetrics:
        """Behavior cloning of everything gathered, from the present weights on."""
        self.__dict__.pop("examples", None)
        self.pending, self.stale_epochs, self.best_loss = np.zeros(0, np.int64), 0, float("inf")
        self._start()
        end, before = self.epochs + self.config.num_epochs, self.updates
        sums: UpdateMetrics = {}
        with self._frozen(self._resting()):
            while self.epochs < end and not self.settled:
                _, metrics = self.fit(len(self.demonstrations))
                sums = {name: sums.get(name, 0.0) + value for name, value in metrics.items()}
        return {name: total / (self.updates - before) for name, total in sums.items()}

    def _compare(self, met: Demonstrations, answers: Demonstrations) -> None:
        """How far the learner's actions are from the expert's, on what was met: in all, and along the episode."""
        own = ask(self, met).actions
        if isinstance(self.action_space, gym.spaces.Box):
            gaps = np.abs(own - answers.actions).reshape(len(met), -1) / action_widths(self.action_space)
            apart = gaps.mean(1)
        else:
            apart = (own != answers.actions).reshape(len(met), -1).any(1).astype(np.float64)
        t = np.concatenate([np.arange(length) for length in met.lengths])
        drift, mean = np.bincount(t, apart) / np.bincount(t), float(apart.mean())
        self.drift = {"first": self.drift.get("first", drift), "last": drift}
        self.disagreement = {"first": self.disagreement.get("first", mean), "last": mean}

    def metrics(self) -> Metrics:
        metrics = super().metrics() | self.figures | {"train/rounds": self.rounds}
        return metrics | ({"train/disagreement": self.disagreement["last"]} if self.disagreement else {})

    def evaluate(self, episodes: int, seed: int) -> Metrics:
        """As every learner; the latest weights, which have seen most, count as the best."""
        return super().evaluate(episodes, seed) | {"score": 0.0}

    def conclude(self, run: Run, progress: Progress) -> dict[str, Any] | None:
        """Draw where the learner drifted off at first, and where it does at the end."""
        if not self.drift:
            return super().conclude(run, progress)
        from rltool.training.plotting import draw_drift

        draw_drift(run, self.drift)
        figures = {f"{name}_disagreement": value for name, value in self.disagreement.items()}
        more = super().conclude(run, progress)
        return None if more is None else figures | more

    # State

    def checkpoint(self) -> State:
        state = super().checkpoint()
        state.values |= {"rounds": self.rounds, "figures": self.figures, "disagreement": self.disagreement}
        state.add("drift", {name: torch.from_numpy(values.copy()) for name, values in self.drift.items()})
        if self.gathered is not None:
            gathered = self.gathered
            arrays = {
                **named_leaves(as_tensors(gathered.observations), "observations"),
                **named_leaves(as_tensors(gathered.final_observations), "finals"),
                **{name: as_tensors(getattr(gathered, name)) for name in ("actions", "rewards", "ends", "terminated")},
            }
            state.add("gathered", {name: tensor for name, tensor in arrays.items() if tensor is not None})
        return state

    def restore(self, state: State) -> bool:
        arrays = {name: tensor.numpy().copy() for name, tensor in state.take("gathered").items()}
        if arrays:
            finals = any(name.startswith("finals") for name in arrays)
            self.gathered = Demonstrations(
                self.observation_space,
                self.action_space,
                restore_observations(self.observation_space, arrays, "observations"),
                arrays["actions"],
                arrays["rewards"],
                arrays["ends"],
                arrays.get("terminated"),
                restore_observations(self.observation_space, arrays, "finals") if finals else None,
                self.env_id,
            )
        self.rounds, self.figures = state.values["rounds"], state.values["figures"]
        self.disagreement = state.values["disagreement"]
        self.drift = {name: tensor.numpy().copy() for name, tensor in state.take("drift").items()}
        return super().restore(state)


class Mixture:
    """Acts as the expert with probability `beta` at each timestep, else as the learner does."""

    def __init__(self, learner: Predictor, expert: Predictor, beta: float, rng: np.random.Generator) -> None:
        self.learner, self.expert, self.beta, self.random = learner, expert, beta, rng
        self.observation_space = learner.observation_space  # type: ignore[attr-defined]

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions `(B, ...)`, and the states of both."""
        states = state or (None, None)
        both = [
            agent.predict(observation, state=before, episode_start=episode_start, deterministic=deterministic)
            for agent, before in zip((self.learner, self.expert), states, strict=True)
        ]
        (own, own_state), (experts, expert_state) = both
        ask_expert = self.random.random(len(own)) < self.beta
        shape = (-1, *[1] * (np.ndim(own) - 1))
        return np.where(ask_expert.reshape(shape), experts, own), (own_state, expert_state)


def ask(agent: Predictor, met: Demonstrations) -> Demonstrations:
    """What an agent would have done, episode by episode, in place of what was done."""
    actions = np.empty_like(met.actions)
    for rows in met.episodes():
        seen = map_tree(lambda leaf, rows=rows: leaf[rows], met.observations)
        first = map_tree(lambda leaf: leaf[:1], seen)
        action, state = agent.predict(first, deterministic=True)
        if state is None:
            actions[rows] = agent.predict(seen, deterministic=True)[0]
            continue
        actions[rows.start] = action[0]
        for t in range(1, rows.stop - rows.start):
            now = map_tree(lambda leaf, t=t: leaf[t : t + 1], seen)
            action, state = agent.predict(now, state=state, episode_start=np.zeros(1, bool), deterministic=True)
            actions[rows.start + t] = action[0]
    return replace(met, actions=actions)


def join(*parts: Demonstrations | None) -> Demonstrations:
    """Demonstrations of the same environment, one after another; of some of them, nothing but what all know is kept."""
    known = [part for part in parts if part is not None]
    starts = np.cumsum([0, *map(len, known[:-1])])

    def all_or_none(values: list[Any]) -> Any:
        return None if any(value is None for value in values) else map_tree(lambda *x: np.concatenate(x), *values)

    return replace(
        known[0],
        observations=map_tree(lambda *leaves: np.concatenate(leaves), *(part.observations for part in known)),
        actions=np.concatenate([part.actions for part in known]),
        rewards=np.concatenate([part.rewards for part in known]),
        ends=np.concatenate([part.ends + start for part, start in zip(known, starts, strict=True)]),
        terminated=all_or_none([part.terminated for part in known]),
        final_observations=all_or_none([part.final_observations for part in known]),
    )
