"""Proactive defenses: classifiers that learn from attacked examples (Lecture 10: adversarial training).

The attack's random numbers follow from the learner's seed and its count of updates: a checkpoint needs none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from rltool.attacks.attack import generator
from rltool.attacks.defenses.training_config import RobustClassifierConfig
from rltool.attacks.gradient import PGD
from rltool.attacks.victim import Victim
from rltool.errors import UserError
from rltool.supervised.config import ClassifierConfig
from rltool.supervised.learner import ClassifierLearner
from rltool.training.checkpoint import State

Loss = tuple[torch.Tensor, torch.Tensor]  # The mean loss of a minibatch, and the logits (B, classes) it comes from.
PROBE_STEPS = 10  # Of the attack that robust accuracy is measured by while learning.
PROBED = 500  # Held-out examples that it is measured on.
COLLAPSE = 0.5  # A probe below this part of the best one so far, and clearly so, means that robustness is lost.
CLEARLY = 0.15


class RobustClassifierLearner(ClassifierLearner):
    """A `ClassifierLearner` that may learn from attacked examples; without `robust`, it is one like any other.

    The best weights are those with the highest robust accuracy on held-out examples; of those that are as good but for
    chance, the last.

    Attributes:
        collapsed: Whether training ended because fast adversarial training had lost its robustness.
    """

    config_class = RobustClassifierConfig
    config: Any
    KEPT = (*ClassifierLearner.KEPT, "collapsed", "best_probe")

    def __init__(self, data: str, config: ClassifierConfig | None = None, **options: Any) -> None:
        super().__init__(data, config or RobustClassifierConfig(), **options)
        self.collapsed, self.best_probe = False, 0.0
        self.good: dict[str, torch.Tensor] = {}  # Weights at the last probe that found them robust.

    def prepare(self) -> None:
        super().prepare()
        if self.config.robust != "none" and self.config.epsilon == 0:
            raise UserError("epsilon 0 allows no attack to learn from; give --epsilon, as --epsilon 0.1")
        if self.config.robust != "none" and self.config.mixup:
            raise UserError("--mixup mixes labels, which attacks need whole; leave it, or --robust, out")

    @property
    def victim(self) -> Victim:
        """The classifier as attacks see it."""
        space = self.model.input_space
        return Victim(self.model, (space.low, space.high))

    @property
    def radius(self) -> float:
        """Epsilon at this moment: it may grow at first."""
        done = self.timesteps / max(self.total_timesteps, 1)
        return self.config.epsilon * (min(done / self.config.robust_ramp, 1.0) if self.config.robust_ramp else 1.0)

    def attacked(self, x: torch.Tensor, y: torch.Tensor, steps: int, loss: str = "ce", length: float = 2.5) -> Any:
        """Attacked inputs `(B, ...)`, the last iterate from a random start, for learning.

        Args:
            x: Inputs `(B, ...)`.
            y: Labels `(B,)`.
            steps: Of the attack.
            loss: What it maximizes.
            length: All steps together, in epsilons.
        """
        attack = PGD(
            norm=self.config.robust_norm,
            epsilon=self.radius,
            steps=steps,
            step_size=max(length * self.radius / steps, 1e-12),
            loss=loss,
            keep="last",
            skip_broken=False,
            seed=self.draw,
        )
        return attack(self.victim, x, y).x_adv

    @property
    def draw(self) -> int:
        """Seed of this update's random numbers."""
        return self.seed * 1_000_003 + self.updates

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> Loss:
        return super().loss(x, y) if self.config.robust == "none" else LOSSES[self.config.robust](self, x, y)

    def plain_loss(self, x: torch.Tensor, y: torch.Tensor) -> Loss:
        """The loss of examples as they are."""
        return super().loss(x, y)

    def train_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        if self.config.robust == "fast" and self.config.robust_probe and self.updates % self.config.robust_probe == 0:
            self._probe()
            if self.converged:
                return {}
        return super().train_step(x, y)

    def _probe(self) -> None:
        """See whether robustness is still there; if not, go back to where it was, and end.

        Learning from single steps can turn, within few updates, into hiding the gradient from just these (Wong et al.,
        "Fast is better than free", 2020).
        """
        robust = self.robust_accuracy()
        if robust < min(COLLAPSE * self.best_probe, self.best_probe - CLEARLY):
            self.model.load_state_dict(self.good)
            self.collapsed = self.converged = True
            return
        self.best_probe = max(robust, self.best_probe)
        self.good = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def robust_accuracy(self) -> float:
        """Accuracy on held-out examples under PGD, at the full epsilon; of noise, under a draw of it."""
        x, y = (part[:PROBED] for part in self.examples[1])
        if self.config.robust == "noise":
            return float((self.logits(_noisy(self, x, seed=self.seed)).argmax(1) == y).float().mean())
        attack = PGD(norm=self.config.robust_norm, epsilon=self.config.epsilon, steps=PROBE_STEPS, loss="margin")
        return 1 - float(attack(self.victim, x, y).success.float().mean())

    def evaluate(self, episodes: int = 0, seed: int = 0) -> dict[str, float]:
        """Accuracy and loss on the held-out examples, and accuracy under attack; this chooses the best weights."""
        best, stale = self.best, self.stale
        result = super().evaluate(episodes, seed)
        if self.config.robust == "none":
            return result
        robust = self.robust_accuracy()
        if self.learning:
            better = robust > best
            self.best, self.stale = max(robust, best), 0 if better else stale + 1
            self.converged = self.collapsed or 0 < self.config.patience <= self.stale
        return {**result, "robust_accuracy": robust, "score": self._score(robust)}

    def _score(self, robust: float) -> float:
        """The best robust accuracy so far, where this one is as good but for chance: of such weights the last are kept.

        Held-out examples are few, and what is best on them by chance is no better on others (the rule of one standard
        error; Breiman et al., 1984). The last weights have the smallest steps behind them.
        """
        count, best = min(PROBED, len(self.examples[1][1])), max(robust, self.best)
        return best if robust >= best - math.sqrt(best * (1 - best) / count) else robust

    def conclude(self, run: Any, progress: Any) -> dict[str, Any]:
        result = super().conclude(run, progress)
        return {**result, "collapsed": True} if self.collapsed else result

    # State

    def checkpoint(self) -> State:
        state = super().checkpoint()
        state.add("good", self.good)
        return state

    def restore(self, state: State) -> bool:
        self.good = state.take("good")
        return super().restore(state)


def _pgd(learner: RobustClassifierLearner, x: torch.Tensor, y: torch.Tensor) -> Loss:
    """Min E max L(x'): the loss of attacked examples alone (Madry et al., 2018)."""
    return learner.plain_loss(learner.attacked(x, y, learner.config.robust_steps), y)


def _fast(learner: RobustClassifierLearner, x: torch.Tensor, y: torch.Tensor) -> Loss:
    """The same with one step of 1.25 epsilon from a random start (Wong et al., 2020)."""
    return learner.plain_loss(learner.attacked(x, y, steps=1, length=1.25), y)


def _trades(learner: RobustClassifierLearner, x: torch.Tensor, y: torch.Tensor) -> Loss:
    """L(x) + beta max KL(p(x) || p(x')): accuracy and steadiness apart (Zhang et al., 2019)."""
    x_adv = learner.attacked(x, y, learner.config.robust_steps, loss="kl")
    loss, logits = learner.plain_loss(x, y)
    moved = F.kl_div(learner.model(x_adv).log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
    return loss + learner.config.robust_beta * moved, logits


def _noise(learner: RobustClassifierLearner, x: torch.Tensor, y: torch.Tensor) -> Loss:
    """The loss of examples with Gaussian noise (Cohen et al., 2019)."""
    return learner.plain_loss(_noisy(learner, x, learner.draw), y)


def _noisy(learner: RobustClassifierLearner, x: torch.Tensor, seed: int) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=generator(seed, x.device), device=x.device)
    return x + learner.config.epsilon * noise


LOSSES: dict[str, Callable[[RobustClassifierLearner, torch.Tensor, torch.Tensor], Loss]] = {
    "pgd": _pgd,
    "trades": _trades,
    "fast": _fast,
    "noise": _noise,
}
