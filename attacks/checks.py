"""Red flags of an evaluation: one function for each suspicion that attacks do not show what they seem to show.

After the flags of AutoAttack and "Indicators of attack failure" (Pintor et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rltool.attacks.apgd import APGD
from rltool.attacks.attack import Attack, BoundedAttack
from rltool.attacks.gradient import MAD, PGD
from rltool.attacks.losses import margin
from rltool.attacks.noise import RandomNoise
from rltool.attacks.robustness import AgentUnderTest, measure_robustness
from rltool.attacks.square import Square
from rltool.attacks.victim import NoGradient, Victim
from rltool.errors import UserError

SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)  # Of the range of the inputs: epsilons that are tried for the checks.
SLACK = 0.05  # Differences of rates below this may be chance.


@dataclass(frozen=True)
class Flag:
    """What one check has found.

    Attributes:
        name: Of the check.
        raised: Whether something is wrong.
        evidence: What was seen.
        advice: What to do about it.
    """

    name: str
    raised: bool
    evidence: str
    advice: str = ""


@dataclass(frozen=True)
class Suspect:
    """A victim, and what it is checked on.

    Attributes:
        victim: What is attacked.
        x: Inputs `(B, ...)`.
        y: Labels `(B,)`, on which it is right; None for what the victim itself says.
        scale: Range of the inputs: a number for all features, or `(...)`.
        epsilon: Share of the range at which attacks change about half of what the victim says.
        seed: Of the attacks.
        rates: What has been measured already.
    """

    victim: Victim
    x: torch.Tensor
    y: torch.Tensor | None
    scale: torch.Tensor
    epsilon: float
    seed: int = 0
    rates: dict[Any, float] = field(default_factory=dict, repr=False)

    def rate(self, kind: Callable[..., BoundedAttack], share: float, **options: object) -> float:
        """Share of the inputs on which an attack succeeds, within a share of their range; measured once."""
        key = (kind, share, *sorted(options.items()))
        if key not in self.rates:
            attack = kind(epsilon=share * self.scale, seed=self.seed, **options)
            self.rates[key] = float(attack(self.victim, self.x, self.y).success.float().mean())
        return self.rates[key]


Check = Callable[[Suspect], Flag]


def examine(victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, seed: int = 0) -> list[Flag]:
    """Run all checks on a victim; it comes out as it went in.

    Args:
        victim: What attacks are made on.
        x: Inputs `(B, ...)`; some hundred are enough.
        y: Labels `(B,)`; by default what the victim says of `x`.
        seed: Of the attacks.

    Raises:
        UserError: The victim cannot be attacked at all.
    """
    found = [training_mode(victim)]  # Before anything else: the attacks see to it themselves.
    with victim.undisturbed():
        found += [randomized(victim, x), neighbors(victim, x), probabilities(victim, x)]
        if found[-1].raised and not victim.probabilities:
            victim = copy(victim)
            victim.probabilities = True  # The other checks want logits.
        try:
            outputs = victim.check(x)
        except UserError as error:
            return [*found, Flag("unusable", True, str(error), "mend the victim")]
        if y is not None:  # What is wrong without an attack tells nothing of attacks.
            right = outputs.argmax(1) == y
            if not bool(right.any()):
                return [*found, Flag("unusable", True, "it is wrong about every input", "see that labels are its own")]
            x, y = x[right], y[right]
        scale = range_of(victim, x)
        suspect = Suspect(victim, x, y, scale, telling_epsilon(victim, x, y, scale, seed), seed)
        found += [check(suspect) for check in CHECKS]
    return found


# Of the victim alone


def training_mode(victim: Victim) -> Flag:
    """Dropout and batch normalization do in training what they do not do in use."""
    modules = victim.module.modules() if isinstance(victim.module, nn.Module) else ()
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    learning = [type(module).__name__ for module in modules if isinstance(module, kinds) and module.training]
    seen = f"{len(learning)} of its layers are ({', '.join(sorted(set(learning)))})" if learning else "no layer is"
    return Flag(
        "training-mode",
        bool(learning),
        f"in training mode: {seen}",
        "call .eval() on it before it is used; attacks here do so, others may not",
    )


@torch.no_grad()
def randomized(victim: Victim, x: torch.Tensor) -> Flag:
    """The same inputs have to give the same outputs, or single answers of it mean little."""
    answers = torch.stack([victim.logits(x) for _ in range(5)])
    change = float((answers - answers[0]).abs().max() / answers.abs().max().clamp_min(1e-12))
    return Flag(
        "randomized",
        change > 1e-4,
        f"five answers to the same inputs differ by {change:.2g} of the largest",
        "attack the mean of several draws (expectation over transformation), and judge by several, too",
    )


@torch.no_grad()
def neighbors(victim: Victim, x: torch.Tensor) -> Flag:
    """What is said of a sample must not depend on the others in its batch."""
    rows = torch.arange(min(16, len(x)), device=x.device)
    together = victim[rows].logits(x[rows])
    alone = torch.cat([victim[row].logits(x[row]) for row in rows.split(1)])
    change = float((together - alone).abs().max() / together.abs().max().clamp_min(1e-12))
    return Flag(
        "neighbors",
        change > 1e-3,
        f"outputs of a sample alone and in a batch differ by {change:.2g} of the largest",
        "take what couples the samples of a batch out (batch statistics, usually)",
    )


@torch.no_grad()
def probabilities(victim: Victim, x: torch.Tensor) -> Flag:
    """Where probabilities are near 0 and 1 their gradients vanish."""
    outputs = victim.raw(x)
    sums = outputs.sum(1) if outputs.ndim == 2 else torch.zeros(1)
    they_are = bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    return Flag(
        "probabilities",
        they_are and victim.tolerance is None,
        f"outputs are {'' if they_are else 'not '}all in [0, 1] with sums of 1",
        "let it give logits, or say Victim(..., probabilities=True)",
    )


# Of attacks on it


def zero_gradients(suspect: Suspect) -> Flag:
    """A gradient of exactly zero, or none, says nothing of where the victim can be broken."""
    victim = suspect.victim
    name, advice = "zero-gradients", "replace what has no gradient on the way back (BPDA), or attack with square"
    outputs = victim.check(suspect.x)
    labels = outputs.argmax(1) if suspect.y is None else suspect.y
    away = outputs + 0.1 * outputs.std().clamp_min(1e-3)  # Of means: so that there is something to be away from.

    def objective(logits: torch.Tensor) -> torch.Tensor:
        if victim.tolerance is not None:
            return (logits - away).square().sum(1)
        return margin(logits, labels)

    try:
        gradient = victim.gradient(suspect.x, objective)[2].flatten(1)
    except NoGradient:
        return Flag(name, True, "there are no gradients at all", advice)
    share = float((gradient == 0).all(1).float().mean())
    return Flag(name, share > SLACK, f"the gradient is exactly zero on {share:.0%} of the inputs", advice)


def vanishing_loss(suspect: Suspect) -> Flag:
    """Logits so large that the cross-entropy is flat in floating-point numbers, while the margin is not."""
    name = "vanishing-loss"
    if suspect.victim.tolerance is not None:
        return Flag(name, False, "continuous actions have no cross-entropy")
    outputs = suspect.victim.check(suspect.x)
    sure = float((outputs.softmax(1).amax(1) == 1).float().mean())
    return Flag(
        name,
        sure > 0.5,
        f"the largest probability rounds to 1 on {sure:.0%} of the inputs",
        "attack the margin (--loss margin), not the cross-entropy",
    )


def unbounded(suspect: Suspect) -> Flag:
    """A perturbation as large as the inputs themselves must break nearly everything."""
    victim = suspect.victim
    classes = 2 if victim.tolerance is not None else int(victim.check(suspect.x).shape[1])
    rate = _white_box(suspect, 1.0, steps=50)
    return Flag(
        "unbounded",
        rate < 1 - 1 / classes - SLACK,
        f"PGD with an epsilon of the whole range breaks {rate:.0%}",
        "gradients are masked: attack through what masks them, or its robustness is an illusion",
    )


def black_box(suspect: Suspect) -> Flag:
    """Whoever may look inside must not do worse than whoever may not."""
    white = _white_box(suspect, suspect.epsilon, steps=40)
    black = suspect.rate(Square, suspect.epsilon, queries=500)
    noise = suspect.rate(RandomNoise, suspect.epsilon)
    return Flag(
        "black-box",
        max(black, noise) > white + SLACK,
        f"PGD breaks {white:.0%}, square {black:.0%}, random noise {noise:.0%}",
        "gradients mislead: take more steps, restarts, another loss, or attack through what masks them",
    )


def more_steps(suspect: Suspect) -> Flag:
    """Many steps must not do worse than one."""
    one = _white_box(suspect, suspect.epsilon, steps=1)
    many = _white_box(suspect, suspect.epsilon, steps=40)
    return Flag(
        "more-steps",
        one > many + SLACK,
        f"one step breaks {one:.0%}, 40 steps {many:.0%}",
        "gradients are useful near the input alone, or steps are too large: the victim masks them",
    )


def more_epsilon(suspect: Suspect) -> Flag:
    """A larger ball holds the smaller one: no attack may do worse in it."""
    shares = [suspect.epsilon / 4, suspect.epsilon / 2, suspect.epsilon, 2 * suspect.epsilon]
    rates = [_white_box(suspect, share, steps=20) for share in shares]
    highest = torch.tensor(rates).cummax(0).values
    return Flag(
        "more-epsilon",
        bool((torch.tensor(rates) < highest - SLACK).any()),
        f"with epsilon from a quarter to twice, PGD breaks {', '.join(f'{rate:.0%}' for rate in rates)}",
        "the attack does not find what is there: more steps, smaller ones, another loss",
    )


def converged(suspect: Suspect) -> Flag:
    """If many more steps break much more, the attack was stopped before its end."""
    few = _white_box(suspect, suspect.epsilon, steps=20)
    try:
        many = suspect.rate(APGD, suspect.epsilon, steps=100)
    except NoGradient:
        many = few
    return Flag(
        "incomplete",
        many > few + 2 * SLACK,
        f"20 steps of PGD break {few:.0%}, 100 of APGD {many:.0%}",
        "report what the stronger attack leaves (--attack apgd, strongest)",
    )


CHECKS: tuple[Check, ...] = (zero_gradients, vanishing_loss, unbounded, black_box, more_steps, more_epsilon, converged)


# Of returns


def examine_returns(subject: AgentUnderTest, scale: torch.Tensor, seed: int = 0) -> list[Flag]:
    """See that returns fall as epsilon grows, down to those of chance.

    Args:
        subject: An agent where it plays.
        scale: Range of its observations, as `range_of` gives it.
        seed: Of the attacks.
    """
    attacks: Mapping[str, Callable[[float], Attack]] = {
        "random": lambda share: RandomNoise(epsilon=share * scale, seed=seed),
        "mad": lambda share: MAD(epsilon=share * scale, steps=5, seed=seed),
    }
    result = measure_robustness(subject, attacks, [*SHARES, 1.0])
    low, high = min(result.chance, result.clean.score), max(result.chance, result.clean.score)
    curve = result.curve("mad")
    lowest, rising = curve[0], None
    for cell in curve[1:]:
        lowest = min(lowest, cell, key=lambda each: each.score)
        if cell.interval[0] > lowest.interval[1] + SLACK * (high - low):
            rising = cell
    shown = ", ".join(f"{cell.score:.4g} at {cell.level:g}" for cell in curve)
    left = result.normalized(result.envelope[-1].score)
    return [
        Flag(
            "rising-returns",
            rising is not None,
            f"MAD leaves a return of {shown} (epsilon in shares of the range of observations)",
            "what changes most actions need not lower the return: look at the least over all epsilons and attacks",
        ),
        Flag(
            "unbroken-returns",
            left > 0.2,
            f"an epsilon of the whole range leaves {left:.0%} of the way from chance to clean",
            "either its actions hardly depend on what it sees, or the attacks do not find what is there",
        ),
    ]


# Of an attack


def small_steps(attack: Attack) -> Flag:
    """Steps that together do not cross the ball cannot reach every part of it from where they start."""
    steps, size = getattr(attack, "steps", None), getattr(attack, "step_size", None)
    if steps is None or size is None or steps == 1:
        return Flag("small-steps", False, "its steps are chosen to cross the ball")
    epsilon = torch.as_tensor(getattr(attack, "epsilon", 0.0))
    radius = float(epsilon) if epsilon.ndim == 0 else 1.0  # With one for each feature, steps are parts of it.
    far = radius * (2 if getattr(attack, "random_start", False) else 1)
    return Flag(
        "small-steps",
        steps * size < far,
        f"{steps} steps of {size:g} go {steps * size:g}, and it may be {far:g} to where they should end",
        "take more or larger steps; by default they are 2.5 * epsilon / steps",
    )


# What they share


def range_of(victim: Victim, x: torch.Tensor) -> torch.Tensor:
    """How far inputs range: between the bounds, or, where there are none, as far as `x` does; `(...)`."""
    width = (victim.high - victim.low).expand(x.shape[1:]).to(x)
    seen = (x.amax(0) - x.amin(0)).clamp_min(1e-3)
    return torch.where(width.isfinite(), width, seen)


def telling_epsilon(victim: Victim, x: torch.Tensor, y: torch.Tensor | None, scale: torch.Tensor, seed: int) -> float:
    """The first share of the range at which attacks break a third of the inputs."""
    suspect = Suspect(victim, x, y, scale, 0.0, seed)
    for share in SHARES:
        rate = max(_white_box(suspect, share, steps=10), suspect.rate(Square, share, queries=100))
        if rate >= 1 / 3:
            return share
    return SHARES[-1]


def _white_box(suspect: Suspect, share: float, steps: int) -> float:
    """Success of PGD on the margin (of continuous actions: on their change); without gradients, of no attack."""
    try:
        return suspect.rate(PGD, share, steps=steps, loss="margin")
    except NoGradient:
        return suspect.rate(RandomNoise, 0.0)
