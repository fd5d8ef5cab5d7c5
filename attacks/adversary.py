"""The learned adversary: an agent whose actions are the perturbations of what another agent sees.

With a fixed victim, perturbing its observations is a Markov decision process of its own (Zhang et al., 2021, "SA-RL"):
the state is the true observation, the action a perturbation within the ball, the reward the victim's, negated. The best
policy of that process is the strongest attack there is, so any agent that learns well is a good approximation of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from rltool.agents.evaluation import for_evaluation, with_masks
from rltool.agents.loading import load_agent
from rltool.agents.on_policy import OnPolicyAgent
from rltool.agents.presets import PRESETS
from rltool.agents.rollout import forget
from rltool.attacks.attack import BoundedAttack, Problem, check_positive
from rltool.attacks.norms import Norm
from rltool.attacks.policies import first_follows, frame_axis, newest_frame, with_shown_frames
from rltool.attacks.policy_value import WATCHED_SEED
from rltool.attacks.victim import Victim
from rltool.envs import get_env_state, make_vector_env, set_env_state
from rltool.errors import UserError
from rltool.networks.observations import interchangeable
from rltool.training.methods import METHODS
from rltool.trees import Tree, named_leaves, with_leaves

# The id by which runs name it: `rltool train ppo ID --env-arg victim=RUN --env-arg epsilon=0.1`.
ENV_ID = "rltool.attacks.adversary:rltool/Adversary-v0"
OPTIONS = {algorithm: PRESETS[algorithm][ENV_ID] for algorithm in ("ppo", "a2c")}


class AdversaryVectorEnv(VectorWrapper):
    """A vector environment seen with the eyes of an adversary, which acts by perturbing what the victim sees.

    Observations are the true ones. An action has a number from -1 to 1 for each of their features: the perturbation, as
    a part of epsilon. What comes out is clipped to the victim's bounds and shown to it; the environment takes the
    victim's action. Rewards are the victim's, negated.

    Args:
        env: Where the victim plays.
        agent: The victim.
        attack: The ball that perturbations stay in.
        deterministic: Whether the victim takes its most probable actions, as in evaluations, or samples.
        frame_stack: How many frames an observation holds. The newest alone is changed, and both see older ones as they
            were shown, as in `PerturbedVectorEnv`.

    Attributes:
        observations: What `step` or `reset` last returned.
        seen: What the victim was shown last.
        state: Of a victim with memory, its state before that.
        resetting: Where the next step only resets, `(num_envs,)`.

    Raises:
        UserError: The victim cannot be attacked.
    """

    spec = None  # Its own, which Gymnasium sets, not that of what lies beneath.

    def __init__(
        self, env: VectorEnv, agent: Any, attack: LearnedAdversary, deterministic: bool = True, frame_stack: int = 1
    ) -> None:
        super().__init__(env)
        self.victim = Victim.from_agent(agent)
        self.agent = agent
        self.attack = attack
        self.deterministic = deterministic
        self.single_action_space = gym.spaces.Box(-1, 1, env.single_observation_space.shape, np.float32)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self.observations = self.seen = np.empty(0)
        self.state = acting_state(agent.policy, env.num_envs)
        self.frame_stack = frame_stack
        self.resetting = np.zeros(env.num_envs, dtype=bool)
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if frame_stack > 1:
            self.victim.movable = newest_frame(env.single_observation_space, frame_stack)

    @property
    def unwrapped(self) -> AdversaryVectorEnv:
        """This environment: what lies beneath it is another one."""
        return self

    def get_state(self) -> dict[str, Any] | None:
        """All that it goes on from, as `rltool.envs.get_env_state` gives it; None where that cannot be had."""
        state = get_env_state(self.env)
        own = {name: getattr(self, name).copy() for name in ("observations", "seen", "resetting")}
        return None if state is None else {**state, **own, **named_leaves(self.state, "memory")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        inner = dict(state)
        for name in ("observations", "seen", "resetting"):
            setattr(self, name, np.array(inner.pop(name)))
        memory = {name: np.array(inner.pop(name)) for name in named_leaves(self.state, "memory")}
        self.state = with_leaves(self.state, memory, "memory")
        if not set_env_state(self.env, inner):
            raise ValueError("its episodes, played again, took another course")

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset."""
        observations, infos = self.env.reset(seed=seed, options=options)
        begun = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if begun.all():
            self.observations, self.seen = observations.copy(), observations.copy()
        self.observations[begun] = observations[begun]
        self.resetting = np.where(begun, False, self.resetting)
        self.state = forget(self.state, begun)
        return self.observations, infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Show the victim what the adversary wants it to see, and let it act."""
        x, outside = self.victim.split(self.observations)
        moved = self.victim.admissible(x, self.attack.moved(self.victim, x, actions)) + outside
        self.seen = moved.numpy().astype(self.observations.dtype)
        chosen, self.state = self.agent.predict(self.seen, self.state, deterministic=self.deterministic)
        self.observations, rewards, terminated, truncated, infos = self.env.step(chosen)
        done = (terminated | truncated) & ~self.resetting
        begun = done | self.resetting
        self.state = forget(self.state, first_follows(self.mode, done, self.resetting))
        self.resetting = done if self.mode is AutoresetMode.NEXT_STEP else self.resetting
        if self.frame_stack > 1:
            axis = frame_axis(self.single_observation_space)
            self.observations = with_shown_frames(self.observations, self.seen, ~begun, axis, self.frame_stack)
        return self.observations, -rewards, terminated, truncated, infos


@dataclass(frozen=True, kw_only=True)
class LearnedAdversary(BoundedAttack):
    """An agent that was trained to perturb what another one sees (SA-RL; Zhang et al., 2021).

    Before it attacks an agent, it has to learn how: `prepare` trains it against that agent, or loads the given one.

    Attributes:
        adversary: The agent, or the run or file that it is loaded from; None trains one.
        algorithm: What trains it: `ppo` or `a2c`.
        total_timesteps: How long.
        deterministic: Whether it takes its most probable actions, or samples.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    adversary: str | Any | None = None
    algorithm: Literal["ppo", "a2c"] = "ppo"
    total_timesteps: int = 100_000
    deterministic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(total_timesteps=self.total_timesteps)
        if self.algorithm not in OPTIONS:
            raise UserError(f"an adversary is trained by {' or '.join(OPTIONS)}, not {self.algorithm!r}")

    def prepare(
        self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0
    ) -> LearnedAdversary:
        """The same attack with an adversary that has learned.

        Args:
            agent: The victim.
            env_id: Where it plays.
            env_kwargs: Arguments of the environment's constructor.
            seed: Seeds the adversary, if it is trained here.

        Raises:
            UserError: The adversary that was given is none of this victim.
        """
        adversary = self.adversary
        if adversary is None:
            adversary = train_adversary(agent, env_id, self, seed, env_kwargs)
        elif isinstance(adversary, str | Path):
            adversary = load_agent(adversary)
        sees, does = adversary.observation_space, adversary.action_space
        if not interchangeable(sees, agent.observation_space) or getattr(does, "shape", None) != sees.shape:
            raise UserError(
                f"{self.adversary} is no adversary of this agent: it sees {sees} and does {does}; "
                "leave it out to train one"
            )
        if adversary.policy.has_memory:
            raise UserError(f"{self.adversary} has a memory, for which there is no place in an attack; train an mlp")
        return replace(self, adversary=adversary)

    def run(self, problem: Problem) -> torch.Tensor:
        adversary: Any = self.adversary
        if not hasattr(adversary, "policy"):
            raise UserError("an adversary has to learn before it attacks: call prepare(agent, env_id) first")
        sees = adversary.observation_space
        rng = None if self.deterministic else np.random.default_rng(self.seed)
        actions = adversary.policy.actor(rng)(problem.x.numpy().astype(sees.dtype))
        return self.moved(problem.victim, problem.x, actions)

    def moved(self, victim: Victim, x: torch.Tensor, actions: np.ndarray) -> torch.Tensor:
        """Inputs `(B, ...)` with an adversary's actions `(B, ...)`, parts of epsilon, added to them."""
        radii = self.ball_at(victim, x).radii(x)
        return x + radii * torch.from_numpy(actions).to(x).reshape(x.shape).clamp(-1, 1)


def acting_state(policy: Any, batch: int) -> Tree:
    """State of a policy with memory before `batch` episodes, as `Agent.predict` takes it; None without memory."""
    state = policy.initial_state(batch)
    return None if state is None else {"policy": state["policy"]}


def make_adversary(envs: AdversaryVectorEnv, algorithm: str = "ppo", seed: int = 0, **options: Any) -> OnPolicyAgent:
    """An adversary that has learned nothing yet.

    Args:
        envs: Where it will learn; it is an agent of as many environments.
        algorithm: `ppo` or `a2c`.
        seed: Seeds its weights, its environments and its exploration.
        **options: Other options of the algorithm than those in `OPTIONS`.
    """
    learner: type[OnPolicyAgent] = METHODS[algorithm].load().learner_class()
    return learner(envs, seed=seed, **{**OPTIONS[algorithm], **options, "num_envs": envs.num_envs})


def train_adversary(
    agent: Any, env_id: str, attack: LearnedAdversary, seed: int = 0, env_kwargs: Mapping[str, Any] | None = None
) -> OnPolicyAgent:
    """Train an adversary against an agent that learns nothing any more.

    Args:
        agent: The victim.
        env_id: Where it plays.
        attack: The ball, the algorithm and the budget.
        seed: Seeds the adversary and the environments.
        env_kwargs: Arguments of the environment's constructor.

    Example:
        >>> from rltool.agents import PPO
        >>> victim = PPO("CartPole-v1").learn(100_000)  # doctest: +SKIP
        >>> adversary = train_adversary(victim, "CartPole-v1", LearnedAdversary(epsilon=0.1))  # doctest: +SKIP
    """
    num_envs: int = OPTIONS[attack.algorithm]["num_envs"]
    seed += WATCHED_SEED
    envs = make_vector_env(env_id, num_envs, seed=seed, **{"infos": False, **with_masks(agent, env_kwargs)})
    try:
        stack = int((env_kwargs or {}).get("frame_stack", 1))
        adversary = make_adversary(AdversaryVectorEnv(envs, agent, attack, frame_stack=stack), attack.algorithm, seed)
        return adversary.learn(attack.total_timesteps)
    finally:
        envs.close()


def make_adversary_vector_env(
    num_envs: int, victim: str, epsilon: float, unit: str = "raw", env: str | None = None
) -> AdversaryVectorEnv:
    """The environment `rltool/Adversary-v0`, in which runs train adversaries.

    Args:
        num_envs: How many are stepped together.
        victim: The run, or the file, of the victim.
        epsilon: Radius of the ball of perturbations.
        unit: `raw`, `std`, or numbers with commas, one for each feature.
        env: Where the victim plays; by default where it was trained.

    Raises:
        UserError: There is no such victim, or it cannot be attacked.
    """
    agent = load_agent(victim)
    where = env or getattr(agent, "env_id", None)
    if where is None:
        raise UserError(f"{victim} does not say which environment it plays in; add --env-arg env=ID")
    env_kwargs = {} if env else for_evaluation(getattr(agent, "env_kwargs", {}))
    envs = make_vector_env(where, num_envs, **{"infos": False, **with_masks(agent, env_kwargs)})
    stack = int(env_kwargs.get("frame_stack", 1))
    return AdversaryVectorEnv(envs, agent, LearnedAdversary(epsilon=epsilon, unit=unit), frame_stack=stack)


gym.register(ENV_ID.partition(":")[2], vector_entry_point="rltool.attacks.adversary:make_adversary_vector_env")
