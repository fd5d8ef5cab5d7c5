"""What all attacks share: how they are called, what they refuse, and what they return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from gymnasium.vector import VectorEnv

from rltool.attacks.losses import LOSSES, Objective
from rltool.attacks.norms import Ball, Norm, distance, make_ball
from rltool.attacks.units import feature_units
from rltool.attacks.victim import Victim
from rltool.errors import UserError


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        x_adv: Attacked inputs `(B, ...)`, within the victim's bounds.
        success: Whether the victim is wrong about `x_adv`, or gives the target where there was one, `(B,)`; judged
            on exactly these inputs. Of continuous actions: whether one has changed by more than the tolerance.
        distance: Size of each perturbation in the attack's norm, `(B,)`, in the input's own units.
        n_forward: Batches that the victim was shown.
        n_backward: Batches that gradients were taken of.
        n_queries: How often the victim had to be shown each sample, or a changed one, `(B,)`. (Of those that a gradient
            attack has broken, it may have been shown more, in company of others.)
    """

    x_adv: torch.Tensor
    success: torch.Tensor
    distance: torch.Tensor
    n_forward: int
    n_backward: int
    n_queries: torch.Tensor


@dataclass
class Problem:
    """Samples under attack; indexed by rows, it is the same problem of fewer samples.

    Attributes:
        victim: What is attacked.
        x: Clean inputs `(B, ...)`.
        y: Labels `(B,)`, or clean means of continuous actions `(B, K)`.
        target: What the victim shall say instead, `(B,)`; None where anything but the label will do.
        outputs: What the victim says of `x`, `(B, K)`.
        queries: How often each sample was shown to the victim so far, `(B,)`.
    """

    victim: Victim
    x: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor | None
    outputs: torch.Tensor
    queries: torch.Tensor = field(repr=False)

    def __getitem__(self, rows: torch.Tensor) -> Problem:
        target = None if self.target is None else self.target[rows]
        return Problem(self.victim[rows], self.x[rows], self.y[rows], target, self.outputs[rows], self.queries[rows])

    def succeeded(self, outputs: torch.Tensor) -> torch.Tensor:
        """Whether outputs `(B, K)` are what the attack wants, `(B,)`."""
        if self.victim.tolerance is not None:
            return ((outputs - self.y).abs() > self.victim.tolerance.to(outputs)).any(1)
        chosen = outputs.argmax(1)
        return chosen != self.y if self.target is None else chosen == self.target

    def objective(self, loss: str) -> Objective:
        """The loss of that name as a function of the outputs alone; `kl` is from what the victim says of `x`.

        Raises:
            UserError: It knows no targets, and there is one.
        """
        if loss == "kl" and self.target is not None:
            raise UserError("the loss kl leads away from what the victim says, to no target; take ce or margin")
        if loss == "kl" and self.victim.tolerance is None:
            clean = self.outputs.log_softmax(1)
            return lambda logits: (clean.exp() * (clean - logits.log_softmax(1))).sum(1)
        if self.victim.tolerance is not None:
            unit = self.victim.tolerance.to(self.y)
            return lambda means: ((means - self.y) / unit).square().sum(1)
        function = LOSSES[loss]
        return lambda logits: function(logits, self.y, self.target)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack: hyperparameters in the constructor, data in the call.

    Attributes:
        norm: How perturbations are measured.
        seed: Of what is drawn at random.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    targets: ClassVar[bool] = True
    continuous: ClassVar[bool] = True
    in_process: ClassVar[bool] = False  # Whether environments have to be in the process of the attack.
    learns_of_target: ClassVar[bool] = False  # Whether `fit` is to see inputs of the target's class.
    norm: Norm = "linf"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise UserError(f"{type(self).__name__} has no norm {self.norm!r}; choose {' or '.join(self.norms)}")

    def __call__(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> AttackResult:
        """Attack inputs.

        Args:
            victim: What is attacked; it comes out as it went in.
            x: Inputs `(B, ...)`, within the victim's bounds.
            y: Labels `(B,)`; by default what the victim says of `x`.
            target: Classes that the victim shall give instead, `(B,)`.

        Raises:
            UserError: The data, or what the victim gives for them, cannot be attacked.
        """
        if not isinstance(victim, Victim):
            raise UserError("attack a Victim: Victim(module, bounds=(0, 1)), or Victim.from_agent(agent)")
        forward, backward = victim.n_forward, victim.n_backward
        with victim.undisturbed():
            problem = self.pose(victim, x, y, target)
            x_adv = self.run(problem).detach()
            x_adv = victim.admissible(problem.x, torch.where(x_adv.isfinite(), x_adv, problem.x))
            with torch.no_grad():
                success = problem.succeeded(victim.logits(x_adv))
        return AttackResult(
            x_adv,
            success,
            distance(x_adv - problem.x, self.norm),
            victim.n_forward - forward,
            victim.n_backward - backward,
            problem.queries + 1,
        )

    def pose(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Problem:
        """Look at what is to be attacked, as it is given in a call, and show it to the victim once.

        Raises:
            UserError: The data, or what the victim gives for them, cannot be attacked.
        """
        if len(x) == 0:
            raise UserError("there is nothing to attack: x is empty")
        outputs = victim.check(x)
        y, target = self._labels(victim, outputs, y, target)
        queries = torch.ones(len(x), dtype=torch.long, device=x.device)
        return Problem(victim, x.detach(), y, target, outputs, queries)

    def fit(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Self:
        """Learn from training examples what is then used on all inputs: the attack that knows it.

        Most attacks have nothing to learn, and are returned as they are. Arguments are those of a call.
        """
        return self

    def suite(self, agent: Any) -> Mapping[str, Attack]:
        """Attacks by name of which, on an agent that plays, the worst counts in its stead; none, for most."""
        return {}

    def check_reach(self, agent: Any) -> None:
        """See that perturbations can be large enough to change what an agent sees.

        Raises:
            UserError: They cannot.
        """

    def picture(self) -> torch.Tensor | None:
        """What it has learned as an image `(channels, height, width)` in [0, 1], if it is one."""
        return None

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Attack:
        """What is to be done before an agent plays under the attack; nothing, for most.

        Args:
            agent: The victim.
            env_id: Where it plays.
            env_kwargs: Arguments of the environment's constructor.
            seed: Of what is drawn at random.

        Returns:
            The attack to use.
        """
        return self

    def surround(self, env: VectorEnv, agent: Any, fraction: float = 1.0, seed: int = 0, **options: Any) -> Any:
        """A vector environment in which an agent plays under the attack, and what is done to it is counted.

        For most it is a `PerturbedVectorEnv`, whose arguments these are. Whatever it is, it has its counts: `steps`,
        `attacked`, `flipped` (None where an attack has no such thing) and `queries`.
        """
        from rltool.attacks.policies import PerturbedVectorEnv

        return PerturbedVectorEnv(env, agent, self, fraction, seed, **options)

    def run(self, problem: Problem) -> torch.Tensor:
        """Attacked inputs `(B, ...)`; adds to `problem.queries` how often each sample was shown to the victim."""
        raise TypeError(f"{type(self).__name__} lacks a run method")

    def _labels(
        self, victim: Victim, outputs: torch.Tensor, y: torch.Tensor | None, target: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if victim.tolerance is not None:
            if not self.continuous:
                raise UserError(f"{type(self).__name__} looks for another class; continuous actions have none")
            if y is not None or target is not None:
                raise UserError("continuous actions have no labels; leave y and target out")
            return outputs, None
        count, classes = outputs.shape
        y = outputs.argmax(1) if y is None else check_labels("y", y, count, classes)
        if target is None:
            return y, None
        if not self.targets:
            raise UserError(f"{type(self).__name__} has no targeted form; leave target out")
        target = check_labels("target", target, count, classes)
        if bool((target == y).any()):
            raise UserError("a target is equal to its label; give another class")
        return y, target


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(Attack):
    """An attack that makes the most of a ball of perturbations.

    Attributes:
        epsilon: Radius of the ball: a number, or one for each feature.
        unit: `raw`: epsilon is in the units of the input; `std`: in standard deviations of each feature; numbers with
            commas, as `1,1,0.1`: in these, one for each feature.
    """

    epsilon: float | tuple[float, ...] | torch.Tensor = 0.1
    unit: str = "raw"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            values = torch.as_tensor(self.epsilon, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"epsilon must be a number, or one for each feature, not {self.epsilon!r}") from None
        if not bool((values >= 0).all()) or not bool(values.isfinite().all()):
            raise UserError(f"epsilon must be a finite number, at least 0, not {self.epsilon}")
        if values.ndim and not isinstance(self.epsilon, torch.Tensor):  # A list, or an array.
            object.__setattr__(self, "epsilon", values.float())
        feature_units(self.unit)

    def ball(self, problem: Problem) -> Ball:
        """The perturbations that are allowed.

        Raises:
            UserError: Epsilon does not fit the inputs.
        """
        return self.ball_at(problem.victim, problem.x)

    def ball_at(self, victim: Victim, x: torch.Tensor) -> Ball:
        """The same, for inputs `(B, ...)` of a victim.

        Raises:
            UserError: Epsilon does not fit the inputs.
        """
        if self.unit == "std" and victim.std is None:
            raise UserError("this victim knows no standard deviations; give epsilon in the units of its inputs")
        sizes = feature_units(self.unit)
        if sizes and len(sizes) not in (1, x[0].numel()):
            raise UserError(f"the unit {self.unit} has {len(sizes)} numbers, an input {x[0].numel()} features")
        scale = victim.std if self.unit == "std" else None
        if sizes:  # A feature that must not move: so little that a division by it stays a number.
            scale = torch.tensor(sizes).clamp_min(torch.finfo(x.dtype).tiny ** 0.5).to(x).expand(x[0].numel())
            scale = scale.reshape(x.shape[1:])
        if victim.movable is not None:  # Next to no room where nothing may move.
            room = victim.movable.to(x).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
            scale = room if scale is None else room * scale.to(x)
        return make_ball(self.norm, self.epsilon, scale, x)

    def check_reach(self, agent: Any) -> None:
        victim = Victim.from_agent(agent)
        if not victim.integers:
            return
        x = torch.zeros(1, *agent.observation_space.shape)
        farthest = float(self.ball_at(victim, x).radii(x).max())
        if 0 < farthest < 1:
            raise UserError(
                f"observations are whole numbers, {victim.low.min():g} to {victim.high.max():g}, of which {farthest:g} "
                "changes none; give epsilon in such numbers, as 8"
            )


@dataclass(frozen=True, kw_only=True)
class Composed(Attack):
    """An attack that leaves to another one how inputs are changed; norm, epsilon and its unit are that one's.

    Attributes:
        attack: The other.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "l0")
    inner: ClassVar[type[Attack]]  # Whose hyperparameters the command line takes, too.
    norm: Norm = field(init=False, default="linf")
    attack: Attack

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", self.attack.norm)
        super().__post_init__()

    def check_reach(self, agent: Any) -> None:
        self.attack.check_reach(agent)

    @property
    def epsilon(self) -> Any:
        """That of the other attack, if it has one."""
        return getattr(self.attack, "epsilon", None)

    @property
    def unit(self) -> str:
        """That of the other attack's epsilon."""
        return getattr(self.attack, "unit", "raw")


def generator(seed: int, device: torch.device, *stream: int) -> torch.Generator:
    """A source of random numbers of its own.

    What is drawn from one row by row, once, does not depend on how many rows there are; what is drawn after that does.
    So who draws more than once for all samples takes a stream of the seed for each.

    Args:
        seed: The seed.
        device: Where the numbers are to be.
        *stream: Which of the seed's streams; none is one, too.
    """
    if stream:  # Of whole numbers, the hash is the same everywhere.
        seed = hash((seed, *stream)) % 2**63
    return torch.Generator(device).manual_seed(seed)


def check_positive(**values: float | None) -> None:
    """See that hyperparameters are above 0, and whole numbers thus at least 1; None is left out.

    Raises:
        UserError: One is not.
    """
    for name, value in values.items():
        if value is not None and (not value > 0 or not math.isfinite(value)):
            raise UserError(f"{name.replace('_', '-')} must be above 0, not {value}")


def check_finite(**values: float) -> None:
    """See that hyperparameters are numbers of at least 0.

    Raises:
        UserError: One is not.
    """
    for name, value in values.items():
        if not value >= 0 or not math.isfinite(value):
            raise UserError(f"{name.replace('_', '-')} must be a number of at least 0, not {value}")


def check_labels(name: str, labels: torch.Tensor, count: int, classes: int) -> torch.Tensor:
    """See that labels are classes, one for each sample.

    Args:
        name: What they are called.
        labels: The labels, `(count,)`.
        count: How many samples there are.
        classes: How many classes.

    Raises:
        UserError: They are not.
    """
    if labels.is_floating_point() or labels.shape != (count,):
        raise UserError(f"{name} must hold one whole number for each of the {count} samples")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(f"{name} goes from {labels.min()} to {labels.max()}; there are the classes 0 to {classes - 1}")
    return labels.long()


def check_inputs(name: str, inputs: torch.Tensor, victim: Victim, like: torch.Tensor) -> None:
    """See that inputs of one's own `(n, ...)` are as those that are attacked `(B, ...)`, and within the bounds.

    Raises:
        UserError: They are not.
    """
    if inputs.shape[1:] != like.shape[1:]:
        raise UserError(f"{name} has samples of {tuple(inputs.shape[1:])}, the victim ones of {tuple(like.shape[1:])}")
    inputs = inputs.to(like)
    if not torch.equal(victim.clip(inputs), inputs):
        raise UserError(f"{name} goes from {inputs.min():g} to {inputs.max():g}, outside the victim's bounds")
