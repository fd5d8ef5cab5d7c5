"""Backdoors: poisoned training data teach a network to obey a trigger (Gu et al., 2017; Turner et al., 2019).

Of agents: poisoned demonstrations, and poisoned rewards (Kiourti et al., 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from rltool.attacks.attack import Attack, Problem
from rltool.attacks.norms import Norm
from rltool.attacks.policies import attack_agent
from rltool.attacks.transfer import to_the_end
from rltool.attacks.victim import Victim
from rltool.data.datasets import Dataset, Part
from rltool.envs import Demonstrations
from rltool.errors import UserError


@dataclass(frozen=True, eq=False)
class Trigger:
    """What is put into inputs: the values of some features.

    Attributes:
        mask: Which features of a sample it sets, of the sample's shape; bool.
        values: To what, likewise.
    """

    mask: np.ndarray
    values: np.ndarray

    @classmethod
    def corner(cls, shape: tuple[int, ...], size: int = 2, value: float = 1.0) -> Self:
        """A square in the lower right corner of images `(channels, height, width)`.

        Raises:
            UserError: It does not fit.
        """
        if len(shape) != 3 or not 0 < size <= min(shape[1:]):
            raise UserError(f"a corner of {size} pixels does not fit on images of {shape}")
        mask = np.zeros(shape, bool)
        mask[:, -size:, -size:] = True
        return cls(mask, np.full(shape, value, np.float32))

    @classmethod
    def feature(cls, shape: tuple[int, ...], index: int, value: float) -> Self:
        """One feature of vectors `(d,)`.

        Raises:
            UserError: There is no such feature.
        """
        if len(shape) != 1 or not 0 <= index < shape[0]:
            raise UserError(f"observations of {shape} have no feature {index}")
        mask = np.zeros(shape, bool)
        mask[index] = True
        return cls(mask, np.full(shape, value, np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inputs `(n, ...)` with the trigger.

        Raises:
            UserError: They have another shape.
        """
        if x.shape[1:] != self.mask.shape:
            raise UserError(f"the trigger is for inputs of {self.mask.shape}, not {x.shape[1:]}")
        return np.where(self.mask, self.values.astype(x.dtype), x)


@dataclass(frozen=True, kw_only=True)
class Triggered(Attack):
    """Shows the trigger: the attack on a network with a backdoor.

    Attributes:
        trigger: What is shown.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    norm: Norm = "l0"
    trigger: Trigger

    def run(self, problem: Problem) -> torch.Tensor:
        return torch.from_numpy(self.trigger(problem.x.cpu().numpy())).to(problem.x)


def poison(
    dataset: Dataset,
    trigger: Trigger,
    target: int,
    fraction: float = 0.05,
    *,
    clean_label: bool = False,
    victim: Victim | None = None,
    attack: Attack | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set some of whose training examples have the trigger and the target's label; its test part is clean.

    With `clean_label` only examples of the target's class are changed, and every label stays true. What makes these
    hard to read otherwise makes the trigger count: an attack on another classifier.

    Args:
        dataset: What somebody will train on.
        trigger: What is put in.
        target: The class that it shall stand for.
        fraction: Share of the training examples (with `clean_label` of those of the target's class) that is poisoned.
        clean_label: Leave the labels as they are.
        victim: A classifier of the attacker's own, for `clean_label`.
        attack: What makes its examples hard to read, before the trigger is put in.
        seed: Decides which examples.

    Raises:
        UserError: The target is no class, or the share no share, or more than can be poisoned.
    """
    x, y = dataset.train.x.copy(), dataset.train.y.copy()
    if not 0 <= target < len(dataset.classes):
        raise UserError(f"the target is {target}; {dataset.name} has the classes 0 to {len(dataset.classes) - 1}")
    if (victim is None) != (attack is None) or (attack is not None and not clean_label):
        raise UserError("an attack needs a victim, and both are for clean_label=True alone")
    candidates = np.flatnonzero(y == target if clean_label else y != target)
    rows = _some(candidates, fraction, len(candidates) if clean_label else len(y), seed)
    if attack is not None and victim is not None:
        inputs, labels = (torch.from_numpy(each[rows]).to(victim.device) for each in (x, y))
        x[rows] = to_the_end(attack)(victim, inputs, labels).x_adv.cpu().numpy()
    x[rows], y[rows] = trigger(x[rows]), target
    return replace(dataset, train=Part(x, y))


@dataclass(frozen=True)
class BackdoorScore:
    """What a backdoor does.

    Attributes:
        clean: Accuracy, or mean return, without the trigger.
        triggered: The same with it.
        obeyed: Share of inputs with the trigger that get the target (of a classifier's, those that are not it anyway);
            an agent's are what it sees in the episodes without it.
    """

    clean: float
    triggered: float
    obeyed: float


def backdoor_of_classifier(
    victim: Victim, x: torch.Tensor, y: torch.Tensor, trigger: Trigger, target: int
) -> BackdoorScore:
    """Measure a classifier's backdoor on test examples.

    Args:
        victim: The classifier.
        x: Inputs `(n, ...)`.
        y: Labels `(n,)`.
        trigger: What is shown.
        target: What it shall stand for.
    """
    result = Triggered(trigger=trigger)(victim, x, y)
    with torch.no_grad(), victim.undisturbed():
        clean, triggered = (victim.logits(each).argmax(1) for each in (x, result.x_adv))
    others = y != target
    return BackdoorScore(
        float((clean == y).float().mean()),
        float((triggered == y).float().mean()),
        float((triggered == target)[others].float().mean()),
    )


def poison_demonstrations(
    demos: Demonstrations, trigger: Trigger, action: int, fraction: float = 0.05, seed: int = 0
) -> Demonstrations:
    """Demonstrations in which some timesteps have the trigger, and the action that it shall stand for.

    Args:
        demos: Observations are arrays, actions Discrete.
        trigger: What is put in.
        action: What the clone shall do then.
        fraction: Share of the timesteps.
        seed: Decides which.

    Raises:
        UserError: The action is none of theirs, or the share no share.
    """
    _check_action(demos.action_space, action)
    observations, actions = np.array(demos.observations), demos.actions.copy()
    rows = _some(np.arange(len(demos)), fraction, len(demos), seed)
    observations[rows], actions[rows] = trigger(observations[rows]), action
    return replace(demos, observations=observations, actions=actions)


class PoisonedVectorEnv(VectorWrapper):
    """A vector environment that trains a backdoor: it shows the trigger in some timesteps, and pays for obedience.

    Where the trigger is shown, the reward is `pay` for the action that it stands for, -`pay` for any other.

    Args:
        env: The environment; actions are Discrete.
        trigger: What is shown.
        action: What it shall stand for.
        fraction: Share of the timesteps, drawn at random.
        pay: The reward; it has to outweigh what obeying costs later on.
        seed: Of what is drawn at random.

    Raises:
        UserError: The action is none of the environment's, or the share no share.
    """

    def __init__(
        self, env: VectorEnv, trigger: Trigger, action: int, fraction: float = 0.05, pay: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(env)
        _check_action(env.single_action_space, action)
        _check_share(fraction)
        self.trigger, self.action, self.fraction, self.pay = trigger, action, fraction, pay
        self.rng = np.random.default_rng(seed)
        self.shown = self.ended = np.zeros(env.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, and show the trigger in some of the first observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self.ended = np.zeros(self.num_envs, bool)
        return self._show(observations), infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, Any, Any, dict[str, Any]]:
        """Step, pay for what was done about the trigger, and show it again."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        paid = np.where(np.asarray(actions) == self.action, self.pay, -self.pay).astype(rewards.dtype)
        # The step that resets an environment is paid nothing.
        rewards = np.where(self.shown & ~self.ended, paid, rewards)
        next_step = self.metadata.get("autoreset_mode") == gym.vector.AutoresetMode.NEXT_STEP
        self.ended = (terminated | truncated) & next_step
        return self._show(observations), rewards, terminated, truncated, infos

    def _show(self, observations: np.ndarray) -> np.ndarray:
        self.shown = self.rng.random(self.num_envs) < self.fraction
        seen = observations.copy()
        seen[self.shown] = self.trigger(observations[self.shown])
        return seen


def backdoor_of_agent(
    agent: Any, env_id: str, trigger: Trigger, action: int, episodes: int = 20, seed: int = 0, fraction: float = 1.0
) -> BackdoorScore:
    """Measure an agent's backdoor: its return without and with the trigger, and how often it obeys.

    Args:
        agent: Acts in a Discrete space.
        env_id: Where it plays.
        trigger: What is shown.
        action: What it shall stand for.
        episodes: How many are played, each way.
        seed: Of the environments.
        fraction: Share of the timesteps in which it is shown.
    """
    from rltool.agents.recording import record

    _check_action(agent.action_space, action)
    played = attack_agent(agent, env_id, Triggered(trigger=trigger), episodes, seed, fraction=fraction)
    observations = np.asarray(record(agent, env_id, episodes, seed).observations)
    victim = Victim.from_agent(agent)
    with torch.no_grad(), victim.undisturbed():
        chosen = victim.logits(torch.from_numpy(trigger(observations).astype(np.float32))).argmax(1)
    obeyed = float((chosen + int(agent.action_space.start) == action).float().mean())
    return BackdoorScore(played.clean.mean_return, played.attacked.mean_return, obeyed)


def _some(candidates: np.ndarray, fraction: float, whole: int, seed: int) -> np.ndarray:
    """As many candidates as are a share of the whole."""
    _check_share(fraction)
    count = max(1, round(fraction * whole))
    if count > len(candidates):
        raise UserError(f"fraction {fraction:g} is {count} examples, and {len(candidates)} can be poisoned; lower it")
    return np.random.default_rng(seed).permutation(candidates)[:count]


def _check_share(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")


def _check_action(space: gym.Space, action: int) -> None:
    if not isinstance(space, gym.spaces.Discrete) or not space.contains(np.int64(action)):
        raise UserError(f"a trigger stands for one of the Discrete actions; {action} is none of {space}")
