"""Detection: telling attacked inputs from clean ones, and attacks that also go by the detector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from rltool.attacks.apgd import APGD
from rltool.attacks.attack import Attack
from rltool.attacks.defenses.defense import Defense
from rltool.attacks.defenses.filters import BitDepth, Median
from rltool.attacks.victim import Victim
from rltool.errors import UserError
from rltool.networks.backbone import evaluating

TARGETS = 3  # Classes that the adaptive attack goes to, the likeliest first.


class Detector(nn.Module):
    """Scores of inputs, high where they look attacked; above a threshold, they are refused.

    Attributes:
        threshold: Found by `calibrate`.
    """

    threshold: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Scores `(B,)` of inputs `(B, ...)`."""
        raise TypeError(f"{type(self).__name__} lacks its scores")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x)

    @torch.no_grad()
    def calibrate(self, x: torch.Tensor, false_positives: float = 0.05) -> Self:
        """Set the threshold so that this share of clean inputs is refused.

        Args:
            x: Clean inputs `(n, ...)` that nothing was learned from.
            false_positives: The share, between 0 and 1.

        Raises:
            UserError: It is not.
        """
        if not 0 < false_positives < 1:
            raise UserError(f"the rate of false positives is between 0 and 1, not {false_positives}")
        self.threshold.copy_(self.scores(x).quantile(1 - false_positives))
        return self

    @torch.no_grad()
    def detects(self, x: torch.Tensor) -> torch.Tensor:
        """Whether inputs are refused, `(B,)`."""
        return self.scores(x) > self.threshold


class FeatureSqueezing(Detector):
    """How far the probabilities move, in l1, when the image is squeezed (Xu et al., 2018); the most of all squeezers.

    Gradients go past squeezers that have none (BPDA).

    Args:
        module: The classifier, in evaluation mode.
        squeezers: Filters; by default a median and three bits.
    """

    def __init__(self, module: nn.Module, squeezers: Sequence[Defense] | None = None) -> None:
        super().__init__()
        self.module = module
        self.squeezers = nn.ModuleList(squeezers or (Median(), BitDepth(bits=3)))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        clean = self.module(x).softmax(1)
        moved = [(self.module(_straight_through(each, x)).softmax(1) - clean).abs().sum(1) for each in self.squeezers]
        return torch.stack(moved).amax(0)


class Mahalanobis(Detector):
    """How far features are from the nearest class's mean, in the covariance that the classes share (Lee et al., 2018).

    Args:
        features: Inputs `(B, ...)` to features `(B, F)`: a classifier's backbone, normalization included.
        x: Clean training inputs `(n, ...)`.
        y: Their labels `(n,)`.
        shrinkage: Share of the identity in the covariance, which few examples leave without full rank.
    """

    means: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, features: nn.Module, x: torch.Tensor, y: torch.Tensor, shrinkage: float = 0.1) -> None:
        super().__init__()
        self.features = features
        with torch.no_grad():
            z = features(x)
            means = torch.stack([z[y == k].mean(0) for k in y.unique()])
            _, which = y.unique(return_inverse=True)
            centered = z - means[which]
            covariance = centered.T @ centered / len(z)
            scale = covariance.diagonal().mean()
            covariance = (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(len(covariance)).to(z)
            # L L' is the inverse: |L' (z - mean)| is the distance.
            self.register_buffer("whitening", torch.linalg.cholesky(torch.linalg.inv(covariance)))
            self.register_buffer("means", means @ self.whitening)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(self.features(x) @ self.whitening, self.means).amin(1)


class Features(nn.Module):
    """What a `Classifier` computes before its last layer."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier.backbone((x - self.classifier.mean) / self.classifier.std)


class Detected(nn.Module):
    """A classifier with one class more, "refused" (Carlini & Wagner, "... bypassing ten detection methods", 2017).

    Its logit is above all others exactly where the detector refuses: logits `(B, K + 1)`. An attack on it with a target
    succeeds where the classifier gives the target and the detector sees nothing.
    """

    def __init__(self, module: nn.Module, detector: Detector) -> None:
        super().__init__()
        self.module, self.detector = module, detector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.module(x)
        beyond = (self.detector.scores(x) - self.detector.threshold) / self.detector.threshold.clamp_min(1e-6)
        spread = (logits.amax(1) - logits.mean(1)).detach()  # In the unit of the logits, whatever they are.
        return torch.cat((logits, (logits.amax(1) + spread * beyond)[:, None]), 1)


@dataclass(frozen=True)
class DetectionReport:
    """What a detector sees of attacks that do not know it, and of one that does.

    Attributes:
        false_positives: Share of the clean test examples that it refuses.
        auc: How often an attacked example, drawn at random, has a higher score than a clean one: of those that fool the
            classifier; nan where none does.
        detected: Share of those that it refuses.
        undetected_static: Share of all examples that are read wrongly and not refused, under an attack that does not
            know the detector.
        undetected_adaptive: The same under attacks that do.
        examples: How many were attacked: those that are read rightly, and not refused, as they are.
        seconds: Duration.
    """

    false_positives: float
    auc: float
    detected: float
    undetected_static: float
    undetected_adaptive: float
    examples: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures."""
        return dict(vars(self))


def detect_classifier(classifier: Any, detector: Detector, attack: Attack, examples: int = 1_000) -> DetectionReport:
    """Measure a detector on test examples; its threshold is to be calibrated before.

    Args:
        classifier: A `ClassifierLearner`, as `rltool.load(run).agent` is for a classifier's run.
        detector: The detector.
        attack: The attack that does not know it; the adaptive one has its norm and epsilon.
        examples: How many of the test examples, the first ones.

    Raises:
        UserError: The detector is not calibrated, or refuses all clean examples; or the attack has no epsilon.
    """
    if getattr(attack, "epsilon", None) is None:
        raise UserError(f"{type(attack).__name__} has no epsilon, which an attack on the detector takes; name another")
    if not bool(detector.threshold.isfinite()):
        raise UserError("the detector has no threshold yet; call its calibrate(x) with clean inputs")
    space, part = classifier.model.input_space, classifier.dataset.test
    victim = Victim(classifier.model, (space.low, space.high))
    x, y = (torch.from_numpy(array[:examples]).to(classifier.device) for array in (part.x, part.y))
    start = time.perf_counter()
    with victim.undisturbed():
        refused = detector.detects(x)
        kept = (victim.logits(x).argmax(1) == y) & ~refused
        x, y = x[kept], y[kept]
        if not len(x):
            raise UserError("no clean example is both read rightly and let through; train the classifier further")
        static = attack.fit(victim, *classifier.examples[0])(victim, x, y)
        fooled = static.success
        seen = detector.detects(static.x_adv)
        with torch.no_grad():
            clean, attacked = detector.scores(x), detector.scores(static.x_adv)[fooled]
        success = (fooled & ~seen) | adaptive_success(victim, detector, attack, x, y)
    return DetectionReport(
        float(refused.float().mean()),
        auc(clean, attacked),
        float(seen[fooled].float().mean()),
        float((fooled & ~seen).float().mean()),
        float(success.float().mean()),
        len(x),
        round(time.perf_counter() - start, 3),
    )


def adaptive_success(
    victim: Victim, detector: Detector, attack: Any, x: torch.Tensor, y: torch.Tensor, steps: int = 100
) -> torch.Tensor:
    """Whether an attack fools classifier and detector at once, `(B,)`: APGD to each of the likeliest other classes.

    Args:
        victim: The classifier.
        detector: The detector.
        attack: Its norm, epsilon, unit and seed are taken.
        x: Inputs `(B, ...)`.
        y: Labels `(B,)`.
        steps: For each class.
    """
    both = victim.around(Detected(victim.module, detector))  # type: ignore[arg-type]
    with torch.no_grad(), victim.undisturbed():
        others = victim.logits(x).scatter(1, y[:, None], -torch.inf)
    targets = others.topk(min(TARGETS, others.shape[1] - 1), dim=1).indices.T
    through: Attack = APGD(
        norm=attack.norm, epsilon=attack.epsilon, unit=attack.unit, seed=attack.seed, loss="margin", steps=steps
    )
    success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for target in targets:
        rows = torch.nonzero(~success)[:, 0]
        if len(rows):
            success[rows] = through(both, x[rows], y[rows], target[rows]).success
    return success


def auc(clean: torch.Tensor, attacked: torch.Tensor) -> float:
    """The probability that an attacked score is above a clean one, ties counting half; nan without scores.

    Args:
        clean: Scores `(n,)`.
        attacked: Scores `(m,)`.
    """
    above = (attacked[:, None] > clean).float() + 0.5 * (attacked[:, None] == clean).float()
    return float(above.mean()) if above.numel() else float("nan")


def make_detector(name: str, classifier: Any, false_positives: float = 0.05) -> Detector:
    """A detector for a classifier, calibrated on the examples that its training held out.

    Args:
        name: `squeezing` or `mahalanobis`.
        classifier: A `ClassifierLearner`.
        false_positives: Share of clean examples that may be refused.

    Raises:
        UserError: There is no such detector, or the rate is none.
    """
    if name not in DETECTORS:
        raise UserError(f"no detector {name!r}; choose one of {', '.join(DETECTORS)}")
    with evaluating(classifier.model):
        detector: Detector = DETECTORS[name](classifier)
        return detector.calibrate(classifier.examples[1][0], false_positives)


def _squeezing(classifier: Any) -> Detector:
    return FeatureSqueezing(classifier.model)


def _mahalanobis(classifier: Any) -> Detector:
    return Mahalanobis(Features(classifier.model), *classifier.examples[0])


DETECTORS: dict[str, Any] = {"squeezing": _squeezing, "mahalanobis": _mahalanobis}


def _straight_through(squeezer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    squeezed = squeezer(x)
    return squeezed if squeezer.differentiable else x + (squeezed - x).detach()
