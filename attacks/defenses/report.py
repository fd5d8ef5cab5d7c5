"""What a passive defense is worth: accuracy under attacks that do not know it, and under one that does."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from rltool.attacks.apgd import APGD
from rltool.attacks.attack import Attack
from rltool.attacks.defenses.defense import Defense, defended
from rltool.attacks.gradient import PGD
from rltool.attacks.victim import Victim

BATCH = 250  # Examples that are attacked together.
DRAWS = 20  # Of a random defense, over which accuracy is a mean.


@dataclass(frozen=True)
class DefenseReport:
    """Accuracies of a classifier with and without a defense.

    Attributes:
        clean: Without attack and defense.
        attacked: Under the attack, without the defense.
        defended_clean: With the defense, without attack.
        defended_static: With the defense, on what the attack found without it: an attacker who does not know of it.
        defended_adaptive: With the defense, under attacks through it; of several, each example's strongest.
        differentiable: Whether gradients go through the defense.
        random: Whether it draws anew each time; accuracies are means over draws then.
        examples: How many were attacked.
        seconds: Duration.
    """

    clean: float
    attacked: float
    defended_clean: float
    defended_static: float
    defended_adaptive: float
    differentiable: bool
    random: bool
    examples: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures that `rltool defend --json` prints."""
        return dict(vars(self))

    @property
    def meaning(self) -> str:
        """What the figures say, in a sentence."""
        apparent, real = self.defended_static - self.attacked, self.defended_adaptive - self.attacked
        fall = (
            f"{self.defended_static:.2%} falls to {self.defended_adaptive:.2%} once the attacker knows of the defense"
        )
        if apparent <= 0.02:
            return "It does not even help against an attacker who does not know of it."
        if real <= 0.05:
            return f"It protects only from attackers who do not know of it: {fall}."
        if real <= 0.6 * apparent:
            return f"Most of what it seems to protect is hidden, not safe: {fall}."
        return f"Some of it is real at this epsilon: {fall}; try stronger attacks before you rely on it."


def defend_classifier(
    classifier: Any,
    defense: Defense,
    attack: Attack,
    *,
    examples: int = 1_000,
    bpda: bool = True,
    eot: int = 10,
    steps: int = 40,
) -> DefenseReport:
    """Measure what a defense does for a classifier, on test examples of its data.

    The adaptive attacks are the one that is given, and, where it has an epsilon, PGD without early stopping and APGD on
    the margin, all through the defense; what the attack found without the defense is tried, too.

    Args:
        classifier: A `ClassifierLearner`, as `rltool.load(run).agent` is for a classifier's run.
        defense: The defense; it learns from the training inputs first, if it has something to learn.
        attack: The attack; what it can learn from the training examples, it learns first, each time.
        examples: How many of the test examples, the first ones.
        bpda: Let gradients go around a defense that has none.
        eot: Draws of a random defense that each gradient is the mean of.
        steps: Of the added attacks.

    Raises:
        UserError: The classifier, or the defense, cannot be attacked this way.
    """
    space = classifier.model.input_space
    victim = Victim(classifier.model, (space.low, space.high))
    part = classifier.dataset.test
    x, y = (torch.from_numpy(array[:examples]).to(classifier.device) for array in (part.x, part.y))
    start = time.perf_counter()
    training = classifier.examples[0]
    defense.to(classifier.device).fit(training[0])
    through = defended(victim, defense, bpda=bpda and not defense.differentiable, eot=eot)
    single = defended(victim, defense)
    with victim.undisturbed():
        clean = _hits(victim, x, y)
        found = _attacked(attack.fit(victim, *training), victim, x, y)
        static = torch.minimum(_hits(victim, found, y), clean)
        behind = _rates(single, defense, x, y)
        static_behind = _rates(single, defense, found, y)
        # Found by some draws, reported from others: the smallest of several means is not a mean.
        tried = [found]
        for each in adaptive_attacks(attack, steps):
            tried.append(_attacked(each.fit(through, *training), through, x, y))
        rates = torch.stack([_rates(single, defense, each, y) for each in tried])
        worst = torch.stack(tried)[rates.argmin(0), torch.arange(len(x), device=x.device)]
        adaptive = _rates(single, defense, worst, y)
    return DefenseReport(
        float(clean.mean()),
        float(static.mean()),
        float(behind.mean()),
        float(torch.minimum(static_behind, behind).mean()),
        float(torch.minimum(adaptive, behind).mean()),
        defense.differentiable,
        defense.random,
        len(x),
        round(time.perf_counter() - start, 3),
    )


def adaptive_attacks(attack: Attack, steps: int) -> list[Attack]:
    """The attacks that a defense is judged by: the given one, and two that are strong where it may be weak."""
    epsilon = getattr(attack, "epsilon", None)
    if epsilon is None:
        return [attack]
    ball: dict[str, Any] = {
        "norm": attack.norm,
        "epsilon": epsilon,
        "unit": getattr(attack, "unit", "raw"),
        "seed": attack.seed,
        "steps": steps,
    }
    own = replace(attack, skip_broken=False) if isinstance(attack, PGD) else attack
    others: list[Attack] = [PGD(loss="margin", skip_broken=False, **ball)]
    return [own, *others, *([APGD(**ball)] if attack.norm in APGD.norms else [])]


def _attacked(attack: Attack, victim: Victim, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([attack(victim, *batch).x_adv for batch in zip(x.split(BATCH), y.split(BATCH), strict=True)])


@torch.no_grad()
def _hits(victim: Victim, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Whether each example is read rightly, `(n,)`, as 0 or 1."""
    return torch.cat([victim.logits(part).argmax(1) for part in x.split(BATCH)]).eq(y).float()


def _rates(victim: Victim, defense: Defense, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How often each example is read rightly, `(n,)`, over draws of the defense."""
    draws = DRAWS if defense.random else 1
    return torch.stack([_hits(victim, x, y) for _ in range(draws)]).mean(0)
