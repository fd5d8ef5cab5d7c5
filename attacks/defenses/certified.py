"""Randomized smoothing: a classifier whose answers come with a radius in which no attack changes them.

Cohen et al., "Certified adversarial robustness via randomized smoothing", 2019.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rltool.attacks.attack import check_positive, generator
from rltool.errors import UserError

ABSTAIN = -1
BATCH = 1_000  # Noisy copies that the classifier sees together.


@dataclass(frozen=True)
class Certificate:
    """Answers of a smoothed classifier, and how far they hold.

    Attributes:
        label: Its classes, `(B,)`; -1 where it abstains.
        radius: Distance in l2 within which the class stays the same, `(B,)`; 0 where it abstains.
    """

    label: torch.Tensor
    radius: torch.Tensor


class SmoothedClassifier:
    """The class that a classifier most probably gives to an input with Gaussian noise.

    Each input sees the same noise, whatever others stand beside it.

    Args:
        module: Inputs `(B, ...)` to logits `(B, K)`, in evaluation mode.
        sigma: Standard deviation of the noise.
        alpha: Probability that an answer, or a radius, is wrong.
        seed: Of the noise.

    Raises:
        UserError: `sigma` is not above 0, or `alpha` not between 0 and 1.

    Example:
        >>> smoothed = SmoothedClassifier(classifier, sigma=0.25)  # doctest: +SKIP
        >>> smoothed.certify(x, n=10_000).radius  # doctest: +SKIP
    """

    def __init__(
        self, module: Callable[[torch.Tensor], torch.Tensor], sigma: float, *, alpha: float = 0.001, seed: int = 0
    ) -> None:
        check_positive(sigma=sigma)
        if not 0 < alpha < 1:
            raise UserError(f"alpha is the probability of a wrong certificate, between 0 and 1, not {alpha}")
        self.module, self.sigma, self.alpha, self.seed = module, sigma, alpha, seed

    def predict(self, x: torch.Tensor, n: int = 1_000) -> torch.Tensor:
        """Classes `(B,)`; -1 where the two most frequent ones of `n` draws are too close to tell.

        Args:
            x: Inputs `(B, ...)`.
            n: Noisy copies of each.
        """
        from scipy.stats import binomtest

        check_positive(n=n)
        counts = self._counts(x, n, self.seed)
        first, second = counts.topk(2, dim=1).values.T.tolist()
        certain = [binomtest(a, a + b, 0.5).pvalue <= self.alpha for a, b in zip(first, second, strict=True)]
        return torch.where(torch.tensor(certain, device=x.device), counts.argmax(1), ABSTAIN)

    def certify(self, x: torch.Tensor, n: int = 10_000, n0: int = 100) -> Certificate:
        """Classes, and radii sigma * Phi^-1(p) with a lower bound p of the class's probability (Clopper & Pearson).

        Args:
            x: Inputs `(B, ...)`.
            n: Noisy copies of each that bound the probability.
            n0: Others, that choose the class.
        """
        from scipy.stats import beta, norm

        check_positive(n=n, n0=n0)
        label = self._counts(x, n0, self.seed).argmax(1)
        hits = self._counts(x, n, self.seed + 1).gather(1, label[:, None])[:, 0].cpu().numpy()
        lower = np.where(hits > 0, beta.ppf(self.alpha, np.maximum(hits, 1), n - hits + 1), 0.0)
        holds = torch.from_numpy(lower > 0.5).to(x.device)
        radius = torch.from_numpy(self.sigma * norm.ppf(np.maximum(lower, 0.5))).to(x)
        return Certificate(torch.where(holds, label, ABSTAIN), torch.where(holds, radius, 0.0))

    @torch.no_grad()
    def _counts(self, x: torch.Tensor, n: int, seed: int) -> torch.Tensor:
        """How often each class is given to noisy copies, `(B, K)`."""
        counts = []
        for each in x:
            draw, answers = generator(seed, x.device), torch.zeros((), device=x.device)
            for start in range(0, n, BATCH):
                size = min(BATCH, n - start)
                noise = torch.randn((size, *each.shape), generator=draw, device=x.device, dtype=x.dtype)
                logits = self.module(each + self.sigma * noise)
                answers = answers + logits.argmax(1).bincount(minlength=logits.shape[1])
            counts.append(answers)
        return torch.stack(counts).long()


@dataclass(frozen=True)
class CertifiedReport:
    """Certificates of a classifier's test examples.

    Attributes:
        sigma: Deviation of the noise.
        clean: Accuracy without noise.
        smoothed: Accuracy of the smoothed classifier; where it abstains, it is wrong.
        abstained: Share of the examples where it does.
        mean_radius: Mean certified radius, 0 where it is wrong (ACR).
        radii: Of the curve.
        certified_accuracy: Share of the examples that are right, and certified to be so within each radius.
        examples: How many.
        n: Draws for each.
        alpha: Probability that a certificate is wrong.
        seconds: Duration.
    """

    sigma: float
    clean: float
    smoothed: float
    abstained: float
    mean_radius: float
    radii: list[float]
    certified_accuracy: list[float]
    examples: int
    n: int
    alpha: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures that `rltool defend --certify --json` prints."""
        return dict(vars(self))

    def plot(self, path: str | Path) -> None:
        """Draw certified accuracy against the radius.

        Raises:
            UserError: There is no such place, or kind of picture.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.radii, self.certified_accuracy, drawstyle="steps-post", label=f"sigma {self.sigma:g}")
        axes.set(xlabel="radius (l2)", ylabel="certified accuracy", ylim=(0, 1), xlim=(0, None))
        axes.legend()
        try:
            figure.savefig(path, dpi=120)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be drawn ({error}); give a file, as certified.png") from None


def certify_classifier(
    classifier: Any,
    sigma: float,
    *,
    examples: int = 100,
    n: int = 1_000,
    alpha: float = 0.001,
    seed: int = 0,
    radii: Sequence[float] | None = None,
) -> CertifiedReport:
    """Certify test examples of a classifier's data.

    Args:
        classifier: A `ClassifierLearner`, best one trained on noise of this deviation (`--robust noise`).
        sigma: Standard deviation of the noise.
        examples: How many of the test examples, the first ones.
        n: Noisy copies of each.
        alpha: Probability that a certificate is wrong.
        seed: Of the noise.
        radii: Where certified accuracy is given; by default, from 0 to the largest that `n` draws can certify.

    Raises:
        UserError: An option is out of range.
    """
    smoothed = SmoothedClassifier(classifier.logits, sigma, alpha=alpha, seed=seed)
    part = classifier.dataset.test
    x, y = (torch.from_numpy(array[:examples]).to(classifier.device) for array in (part.x, part.y))
    start = time.perf_counter()
    certificate = smoothed.certify(x, n)
    right = certificate.label == y
    radius = torch.where(right, certificate.radius, -1.0)  # Below every radius of the curve.
    if radii is None:
        # What it comes to where all n copies agree: p = alpha^(1/n).
        largest = sigma * float(torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64) ** (1 / n)))
        radii = [math.floor(k * max(largest, 0.0) * 1e3) / 1e4 for k in range(11)]  # The last is one that can be had.
    return CertifiedReport(
        sigma,
        float((classifier.logits(x).argmax(1) == y).float().mean()),
        float((smoothed.predict(x, n) == y).float().mean()),
        float((certificate.label == ABSTAIN).float().mean()),
        float(radius.clamp_min(0).mean()),
        list(radii),
        [float((radius >= r).float().mean()) for r in radii],
        len(x),
        n,
        alpha,
        round(time.perf_counter() - start, 3),
    )
