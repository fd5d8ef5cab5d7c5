"""How good generated samples are: every figure with its interval, beside what held-out real examples score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rltool.data.examples import Dataset
from rltool.errors import UserError
from rltool.gan.extractor import Extractor, find_extractor
from rltool.gan.metrics import frechet, inception, modes
from rltool.gan.metrics.kernel import kernel_distance
from rltool.gan.metrics.neighbors import compare_manifolds, memorization, support_size
from rltool.gan.metrics.sums import GROUPS, REPLICATES, Estimate, GroupedSums, estimate
from rltool.gan.metrics.verdicts import judge

Sample = Callable[[int, int], np.ndarray]
AskedSample = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
COUNTS = ("modes", "modes_once")  # Figures that are whole numbers.
LEAST = 2  # Examples, and samples, that there must be.
BATCH = 500  # Samples that are drawn, seen and forgotten together.
LEAST_DRAWN, DRAWN_PER_MODE = 2_500, 50
KEPT = 2_000  # Samples, and real examples, that are kept for comparing them in pairs.
COMPARED = 1_000  # Samples whose nearest training example is looked for; fewer where that takes ...
PRODUCTS = 4e10  # ... more multiplications than these.
SURE = 0.9  # Probability of its class from which an image, or each channel of a stack, counts as good.
STANDARD_DEVIATIONS = 3.0  # Distance from its center within which a point counts as good.
WIDE = 1_024  # Features above which FID has no interval: that takes a covariance for each group.


@dataclass(frozen=True)
class GenerationReport:
    """What samples are worth.

    Attributes:
        data: Name of the data set.
        extractor: What examples were seen through.
        n_real: Training examples that samples were compared with.
        n_fake: Samples.
        n_held_out: Test examples that were measured like samples.
        figures: Estimates by name: modes, modes_once, high_quality, kl, jsd (of points from a known mixture, and of
            labeled images), condition_accuracy (of samples whose classes were asked for: how many a classifier takes
            for them), fid, kid, inception_score, precision, recall, density, coverage, memorized.
        held_out: The same figures of the test examples.
        fid_floor: Distance between the two halves of the training examples.
        num_modes: How many modes the data have; None where that is unknown.
        missing: Names of the modes that were not found.
        support: How many different samples there seem to be, and how many real examples, measured alike.
        verdicts: What the figures say, in words.
        warnings: What is wrong with the figures themselves.
        seconds: Duration.
    """

    data: str
    extractor: str
    n_real: int
    n_fake: int
    n_held_out: int
    figures: dict[str, Estimate]
    held_out: dict[str, float]
    fid_floor: float
    num_modes: int | None
    missing: tuple[str, ...]
    support: tuple[float, float] | None
    verdicts: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float = field(compare=False)

    def __getitem__(self, name: str) -> float:
        """The value of a figure."""
        return self.figures[name].value

    @property
    def score(self) -> float:
        """One number to choose between weights by, larger for better.

        That is the high-quality share minus the divergence for points whose mixture is known, else minus the FID.
        """
        if self.num_modes is not None and "inception_score" not in self.figures:
            return self["high_quality"] - self["kl"]
        return -self["fid"]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        numbers = {name: int(each.value) if name in COUNTS else each.value for name, each in self.figures.items()}
        intervals = {name: [each.low, each.high] for name, each in self.figures.items() if each.has_interval}
        support = {} if self.support is None else {"support": self.support[0], "support_real": self.support[1]}
        known = {} if self.num_modes is None else {"num_modes": self.num_modes, "missing": list(self.missing)}
        return {
            "data": self.data,
            "extractor": self.extractor,
            "n_real": self.n_real,
            "n_fake": self.n_fake,
            **numbers,
            **known,
            **support,
            "fid_floor": self.fid_floor,
            "intervals": intervals,
            "held_out": {**self.held_out, "n_fake": self.n_held_out},
            "verdicts": list(self.verdicts),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.data}: {self.n_fake:,} samples against {self.n_real:,} training examples, seen through "
            f"{self.extractor}",
            f"{'':22}{'samples':>10}  {'95% interval':<20}{f'{self.n_held_out:,} held-out examples':>24}",
        ]
        half = self.n_real // 2
        for name, each in self.figures.items():
            title = f"{name} of {self.num_modes}" if name in COUNTS else name
            interval = f"{each.low:.4g} to {each.high:.4g}" if each.has_interval else ""
            beside = f"{self.held_out[name]:.4g}" if name in self.held_out else ""
            lines.append(f"{title:22}{each.value:>10.4g}  {interval:<20}{beside:>24}")
        lines.append(f"{'fid of halves':22}{self.fid_floor:>10.4g}  of the training examples, {half:,} each")
        if self.support is not None:
            mine, theirs = self.support
            lines.append(f"{'support':22}{mine:>10,.0f}  different samples, of the data {theirs:,.0f} or more")
        return "\n".join([*lines, *(f"warning: {each}" for each in self.warnings), *self.verdicts])


class Seen:
    """Sums over examples that passed through an extractor, and the first ones themselves.

    Args:
        reference: What they are compared with.
        groups: Of the sums.
    """

    def __init__(self, reference: Reference, groups: int) -> None:
        self.reference = reference
        self.moments = GroupedSums(frechet.moments, groups if reference.size <= WIDE else 2)
        self.predictions = GroupedSums(inception.prediction_sums, groups)
        self.modes = GroupedSums(lambda index, good: modes.mode_sums(index, good, reference.num_modes or 0), groups)
        self.asked = GroupedSums(lambda right: {"n": np.array(len(right)), "right": right.sum()}, groups)
        self._features: list[np.ndarray] = []
        self._examples: list[np.ndarray] = []
        self.count = 0

    def update(self, x: np.ndarray, asked: np.ndarray | None = None) -> None:
        """Take in examples `(n, ...)`, and the classes `(n,)` that they were asked to be of."""
        features, probabilities = self.reference.extractor(x)
        self.moments.update(features - self.reference.center)
        if probabilities is not None:
            self.predictions.update(probabilities)
        if self.reference.num_modes is not None:
            index, good = self.reference.find_modes(x, probabilities)
            self.modes.update(index, good)
            if asked is not None:
                self.asked.update(index == asked)
        room = max(KEPT - self.count, 0)
        if room:
            self._features.append(features[:room])
            self._examples.append(x[:room].reshape(min(room, len(x)), -1))
        self.count += len(x)

    @property
    def features(self) -> np.ndarray:
        """Features of the first ones `(up to KEPT, d)`."""
        return np.concatenate(self._features)

    @property
    def examples(self) -> np.ndarray:
        """The first ones `(up to KEPT, ...)`, flat."""
        return np.concatenate(self._examples)


class Reference:
    """The real examples, seen once, so that samples can be compared with them again and again.

    Args:
        data: What samples are to be like: training examples to compare with, test examples to measure alike.
        extractor: What examples are seen through, or its name as `find_extractor` takes it.

    Raises:
        UserError: Examples are too few or no finite numbers, or there is no such extractor.
    """

    def __init__(self, data: Dataset, extractor: Extractor | str = "auto") -> None:
        if min(len(data.train), len(data.test)) < LEAST:
            raise UserError(
                f"{data.name} has {len(data.train)} training and {len(data.test)} test examples, too few to compare "
                f"samples with; {LEAST} of each are the least"
            )
        self.data = data
        self.shape = data.train.x.shape[1:]
        for part in (data.train.x, data.test.x):
            self.check(part, "examples")
        self.extractor = find_extractor(data, extractor) if isinstance(extractor, str) else extractor
        features, probabilities = self.extractor(data.train.x[:BATCH])
        self.center, self.size = features.mean(0), features.shape[1]
        classes = len(data.classes)
        self.num_modes: int | None = None
        if data.modes is not None:
            self.num_modes = len(data.modes.centers)
        elif probabilities is not None and classes > 1 and probabilities.shape[1] == classes:
            self.num_modes = classes

    def check(self, x: np.ndarray, what: str = "samples") -> None:
        """Refuse examples `(n, ...)` that are no such as the data.

        Raises:
            UserError: Their shape differs, or they are no finite numbers, or pixels outside of [0, 1].
        """
        if x.shape[1:] != self.shape:
            raise UserError(f"the {what} are {x.shape[1:]}, but those of {self.data.name} are {self.shape}")
        if not np.isfinite(x).all():
            raise UserError(f"the {what} of {self.data.name} have values that are not finite numbers")
        if x.ndim == 4 and (x.min() < -1e-4 or x.max() > 1 + 1e-4):
            raise UserError(
                f"the {what} of {self.data.name} have pixels from {x.min():.3g} to {x.max():.3g}; images are in [0, 1]"
            )

    def see(self, batches: Iterable[np.ndarray]) -> Seen:
        """Pass examples through the extractor, some at a time."""
        seen = Seen(self, GROUPS)
        for x in batches:
            seen.update(x)
        return seen

    def find_modes(self, x: np.ndarray, probabilities: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The mode of each example, and whether it is a good one of that mode, `(n,)` each."""
        if self.data.modes is not None:
            index, distance = modes.nearest_mode(x, self.data.modes.centers)
            return index, distance < STANDARD_DEVIATIONS * self.data.modes.std
        assert probabilities is not None
        index = probabilities.argmax(1)
        return index, probabilities[np.arange(len(x)), index] >= SURE ** (
            1 if self.data.channels is None else x.shape[1]
        )

    @cached_property
    def shares(self) -> np.ndarray:
        """How probable each mode is `(k,)`: all alike in a mixture, else as often as in the training examples."""
        if self.data.modes is not None:
            return np.full(self.num_modes or 1, 1 / (self.num_modes or 1))
        if self.data.channels is not None:
            each = np.bincount(self.data.channels.train.y) / len(self.data.channels.train)
            combined = each
            while len(combined) < len(self.data.classes):
                combined = np.outer(combined, each).reshape(-1)
            return combined
        return np.bincount(self.data.train.y, minlength=len(self.data.classes)) / len(self.data.train)

    @cached_property
    def train(self) -> Seen:
        """Training examples, in an order of chance."""
        rows = np.random.default_rng(0).permutation(len(self.data.train))
        return self.see(self.data.train.x[part] for part in _batches(rows))

    @cached_property
    def test(self) -> Seen:
        """Test examples."""
        rows = np.random.default_rng(0).permutation(len(self.data.test))
        return self.see(self.data.test.x[part] for part in _batches(rows))

    @cached_property
    def held_out(self) -> dict[str, float]:
        """What test examples score; modes are left out where they are too few to find them."""
        figures = measure(self, self.test, replicates=0)
        if self.test.count < 2 * modes.LEAST * (self.num_modes or 0):
            del figures["modes"], figures["modes_once"]
        return _values(figures)

    @cached_property
    def floor(self) -> float:
        """FID between the two halves of the training examples."""
        halves = ({n: value[k::2].sum(0) for n, value in self.train.moments.sums.items()} for k in range(2))
        return frechet.fid(*halves)


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def evaluate_samples(
    sample: Sample | AskedSample,
    data: Dataset | Reference,
    *,
    n: int | None = None,
    seed: int = 0,
    extractor: Extractor | str = "auto",
    quick: bool = False,
) -> GenerationReport:
    """Measure samples.

    They are drawn some at a time and forgotten again: memory does not grow with their number.

    Args:
        sample: Draws samples: from how many, and a seed, to `(n, ...)` in the range of the data; or to these and the
            classes `(n,)` that they were asked to be of.
        data: What they are to be like; a `Reference` where this is asked again and again.
        n: How many are drawn; by default 2,500, or 50 for each mode if that is more.
        seed: Decides which.
        extractor: What images are seen through, as `find_extractor` takes it; a `Reference` has one.
        quick: Leave out intervals, and what compares examples in pairs.

    Raises:
        UserError: Samples are no such as the data, or there are too few real examples or samples.

    Example:
        >>> from rltool.data import load_dataset
        >>> ring = load_dataset("ring8")
        >>> report = evaluate_samples(lambda n, seed: ring.test.x[:n], ring, n=500)
        >>> report["modes"], report["high_quality"] > 0.95, report.verdicts
        (8.0, True, ('no sign of collapse, dropped modes or copying',))
    """
    start = time.perf_counter()
    reference = data if isinstance(data, Reference) else Reference(data, extractor)
    n = n or max(LEAST_DRAWN, DRAWN_PER_MODE * (reference.num_modes or 0))
    if n < LEAST:
        raise UserError(f"{n} samples are too few to measure; draw at least {LEAST}")
    fake = Seen(reference, 1 if quick else GROUPS)
    for k, first in enumerate(range(0, n, BATCH)):
        drawn = sample(min(BATCH, n - first), (seed << 20) + k)  # Each time with another seed.
        x, asked = drawn if isinstance(drawn, tuple) else (drawn, None)
        reference.check(x)
        fake.update(x, asked)
    support: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()
    shares: np.ndarray | None = None
    if quick:
        figures = measure(reference, fake, pairs=False, replicates=0)
        held_out = _values(measure(reference, reference.test, pairs=False, replicates=0))
    else:
        figures, held_out = measure(reference, fake), reference.held_out
        figures["memorized"] = _memorized(reference, fake)
        both = min(len(fake.examples), len(reference.train.examples))
        support = support_size(reference.train.examples[:both], fake.examples[:both])
    if reference.num_modes is not None:
        counts = fake.modes.totals["good"]
        names = reference.data.classes or tuple(map(str, range(reference.num_modes)))
        missing = tuple(names[k] for k in np.flatnonzero(counts < modes.LEAST))
        shares = modes.mode_shares(fake.modes.totals)
    return GenerationReport(
        reference.data.name,
        reference.extractor.name,
        len(reference.data.train),
        fake.count,
        len(reference.data.test),
        figures,
        held_out,
        reference.floor,
        reference.num_modes,
        missing,
        support,
        judge(figures, held_out, shares, missing, support),
        _warnings(reference, n),
        time.perf_counter() - start,
    )


def measure(reference: Reference, seen: Seen, pairs: bool = True, replicates: int = REPLICATES) -> dict[str, Estimate]:
    """The figures of examples.

    Args:
        reference: What they are compared with.
        seen: The examples.
        pairs: Also compare them with real examples one by one.
        replicates: Draws of the bootstrap; 0 for no intervals.
    """
    figures: dict[str, Estimate] = {}

    def add(name: str, statistic: Callable[..., float], *parts: GroupedSums, most: float = math.inf) -> None:
        least = 1.0 if name == "inception_score" else 0.0
        figures[name] = estimate(statistic, *parts, bounds=(least, most), replicates=replicates)

    if reference.num_modes is not None:
        expected = reference.shares
        add("modes", modes.modes_found, seen.modes, most=reference.num_modes)
        add("modes_once", lambda sums: modes.modes_found(sums, 1), seen.modes, most=reference.num_modes)
        add("high_quality", modes.high_quality, seen.modes, most=1)
        add("kl", lambda sums: modes.kl_divergence(modes.mode_shares(sums), expected), seen.modes)
        add("jsd", lambda sums: modes.jensen_shannon(modes.mode_shares(sums), expected), seen.modes, most=math.log(2))
    if seen.asked.count:
        add("condition_accuracy", lambda sums: float(sums["right"] / max(sums["n"], 1)), seen.asked, most=1)
    add("fid", frechet.fid, reference.train.moments, seen.moments)
    if seen.predictions.count:
        classes = len(seen.predictions.totals["probabilities"])
        add("inception_score", inception.inception_score, seen.predictions, most=classes)
    if pairs:
        figures["kid"] = kernel_distance(reference.train.features, seen.features, replicates=replicates)
        figures |= compare_manifolds(reference.train.features, seen.features)
    return figures


def _values(figures: dict[str, Estimate]) -> dict[str, float]:
    return {name: each.value for name, each in figures.items()}


def _memorized(reference: Reference, fake: Seen) -> Estimate:
    train, test = (part.x.reshape(len(part), -1) for part in (reference.data.train, reference.data.test))
    affordable = int(PRODUCTS / ((len(train) + len(test)) * train.shape[1]))
    return memorization(train, test, fake.examples[: max(min(COMPARED, affordable), 100)])


def _warnings(reference: Reference, n: int) -> tuple[str, ...]:
    warnings = [
        f"{count} {what} are fewer than the {reference.size} features: their covariance is singular and FID far too "
        f"large; {remedy}"
        for count, what, remedy in (
            (len(reference.data.train), "training examples", "go by KID, or take an extractor with fewer features"),
            (n, "samples", "draw more"),
        )
        if count < reference.size
    ]
    if reference.num_modes is not None and n < 2 * modes.LEAST * reference.num_modes:
        warnings.append(
            f"{n} samples are few for {reference.num_modes} modes, found by {modes.LEAST} good ones each; draw "
            f"{DRAWN_PER_MODE * reference.num_modes:,}"
        )
    return tuple(warnings)
