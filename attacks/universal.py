"""Universal perturbations: one for all inputs (Moosavi-Dezfooli et al., 2017), by gradients (Shafahi et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from rltool.attacks.asking import decisions
from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.losses import Objective
from rltool.attacks.norms import Norm
from rltool.attacks.victim import Victim
from rltool.errors import UserError

WATCHED = 2_000  # Timesteps of an agent that its perturbation is learned from.


@dataclass(frozen=True, kw_only=True)
class Universal(BoundedAttack):
    """Adds the same perturbation to every input.

    `fit` learns it from training examples: steps along the mean gradient of the margin, over minibatches, of the
    examples that are not broken yet; the perturbation that breaks most is kept. Called without `fit`, it is learned
    from the inputs that are attacked: unlike those of other attacks, a sample's result depends on the others then.

    Attributes:
        steps: How many.
        batch_size: Examples that a step looks at.
        step_size: Length of the first step, as a share of epsilon; they shrink to nothing.
        delta: The perturbation, of the shape of a sample, where it is known.

    Example:
        >>> attack = Universal(epsilon=0.2).fit(victim, x_train, y_train)  # doctest: +SKIP
        >>> fooled = attack(victim, x_test, y_test).success.float().mean()  # doctest: +SKIP
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    steps: int = 200
    batch_size: int = 128
    step_size: float = 0.3
    delta: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, batch_size=self.batch_size, step_size=self.step_size)

    def fit(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Self:
        if self.delta is not None:
            return self
        with victim.undisturbed():
            return replace(self, delta=self._learn(self.pose(victim, x, y, target)))

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        from rltool.attacks.policy_value import WATCHED_SEED, watch_transitions

        if self.delta is not None:
            return self
        victim = Victim.from_agent(agent)
        seen = watch_transitions(agent, env_id, WATCHED, 0.0, env_kwargs, seed + WATCHED_SEED, with_state=True)
        if seen.state is not None:
            victim.remember(seen.state)
        return self.fit(victim, victim.clip(seen.observations))

    def run(self, problem: Problem) -> torch.Tensor:
        if self.delta is None:
            return problem.victim.clip(problem.x + self._learn(problem))
        if self.delta.shape != problem.x.shape[1:]:
            raise UserError(
                f"the perturbation has the shape {tuple(self.delta.shape)}, a sample {tuple(problem.x.shape[1:])}; "
                "learn another by fit"
            )
        # It may have been learned for a larger epsilon.
        return problem.victim.clip(problem.x + self.ball(problem).project(self.delta[None].to(problem.x)))

    def picture(self) -> torch.Tensor | None:
        if self.delta is None or self.delta.ndim != 3:
            return None
        return 0.5 + 0.5 * self.delta / self.delta.abs().max().clamp_min(1e-12)

    def _learn(self, problem: Problem) -> torch.Tensor:
        victim, x, ball = problem.victim, problem.x, self.ball(problem)
        draw = generator(self.seed, x.device)
        delta = best = ball.project(ball.sample(x[:1], draw))
        most = -1.0
        order = torch.empty(0, dtype=torch.long, device=x.device)
        for step in range(self.steps):
            if len(order) < min(self.batch_size, len(x)):
                order = torch.randperm(len(x), generator=draw, device=x.device)
            rows, order = order[: self.batch_size], order[self.batch_size :]
            part = problem[rows]
            outputs, _, gradient = part.victim.gradient(victim.clip(part.x + delta), _of_unbroken(part))
            problem.queries[rows] += 1
            # How much a minibatch says of a perturbation depends on luck: on few examples, all of them decide.
            broken = float(part.succeeded(outputs).float().mean())
            if broken > most:
                most, best = broken, delta
            length = self.step_size * ball.epsilon * (1 - step / self.steps)
            delta = ball.project(delta + length * ball.steepest(gradient.sum(0, keepdim=True)))
        everything = torch.arange(len(x), device=x.device)
        rates = [decisions(problem, everything, x + each).float().mean() for each in (best, delta)]
        return (best if rates[0] > rates[1] else delta)[0]


def _of_unbroken(problem: Problem) -> Objective:
    """The margin, where the attack has not succeeded yet."""
    margin = problem.objective("margin")
    return lambda outputs: margin(outputs) * ~problem.succeeded(outputs)
