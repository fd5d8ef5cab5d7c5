"""What `pix2pix` and `cyclegan` share: a pair of domains, translators, and how a translation is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rltool.data.examples import Dataset
from rltool.data.pairs import DomainPair, load_pair
from rltool.gan.learner import LARGE_BATCH, Batch, GANLearner
from rltool.gan.metrics.sums import Estimate, mean_estimate
from rltool.gan.recognition import recognized
from rltool.gan.report import GenerationReport, evaluate_samples
from rltool.gan.translation_config import TranslationConfig
from rltool.networks.backbone import evaluating
from rltool.networks.translator import Translator

SHOWN = 12  # Images in the picture of a run.


class TranslationLearner(GANLearner):
    """Learns to turn images of a source domain into images of a target domain.

    In a `Batch`, `x` are images of the target and `condition` are those of the source.
    """

    config: TranslationConfig

    @cached_property
    def pair(self) -> DomainPair:
        """Both domains; loaded when first needed."""
        return load_pair(self.data, labeled=False)

    @cached_property
    def dataset(self) -> Dataset:
        """What translations should look like: the target domain."""
        return self.pair.target

    @cached_property
    def sources(self) -> torch.Tensor:
        """Training images of the source `(n, channels, height, width)`."""
        return torch.from_numpy(self.pair.source.train.x).to(self.device)

    def normalize(self) -> None:
        """Images are in [0, 1]; there is nothing to tell."""

    def build_translator(self) -> Translator:
        """A fresh translator for images of these domains."""
        config = self.config
        return Translator(
            gym.spaces.Box(0, 1, self.shape, np.float32),
            config.translator_channels,
            config.translator_blocks,
            config.translator_norm,
            config.skip_connections,
            config.init,
        )

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.model.generator(batch.condition)

    def fit(self, x: np.ndarray, translator: Any) -> np.ndarray:
        """What a translator makes of images `(n, channels, height, width)`, in evaluation mode."""
        images = torch.from_numpy(np.asarray(x, np.float32)).to(self.device)
        with torch.no_grad(), evaluating(translator):
            return torch.cat([translator(part) for part in images.split(LARGE_BATCH)]).cpu().numpy()

    def translate(self, x: np.ndarray) -> np.ndarray:
        """Translate images `(n, channels, height, width)` in [0, 1] from the source to the target."""
        return self.fit(x, self.averaged)

    def sample(self, n: int, seed: int = 0, condition: torch.Tensor | None = None) -> np.ndarray:
        """Translations of test images of the source, drawn at random; or of those given as the condition."""
        if condition is not None:
            return self.translate(condition.cpu().numpy())
        test = self.pair.source.test.x
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(test))[:n] if n <= len(test) else rng.integers(len(test), size=n)
        return self.translate(test[rows])

    # Measuring

    def measure(self, extractor: str = "auto") -> dict[str, Estimate]:
        """Figures of translated test images.

        Returns:
            `class_kept`, the share that a classifier of the target domain takes for the class that they had in the
            source, and `class_untranslated`, what it makes of the source's images as they are (both where the domains
            have the same classes); `l1`, the mean absolute difference to the right image (where the test parts are
            paired).
        """
        source, target = self.pair.source, self.pair.target
        translated = self.translate(source.test.x)
        figures: dict[str, Estimate | None] = {}
        if len(target.classes) > 1 and source.classes == target.classes:
            figures["class_kept"] = recognized(target, translated, source.test.y, extractor)
            figures["class_untranslated"] = recognized(target, source.test.x, source.test.y, extractor)
        if np.array_equal(source.test.y, target.test.y):
            figures["l1"] = mean_difference(translated, target.test.x)
        return {name: each for name, each in figures.items() if each is not None}

    def evaluate(self, episodes: int = 2_500, seed: int = 0) -> dict[str, float]:
        """The figures of `measure`; none of them chooses weights (`score` is 0): the last ones are kept."""
        return {**{name: each.value for name, each in self.measure().items()}, "score": 0.0}

    def test(self, n: int | None = None, seed: int = 0, extractor: str = "auto") -> GenerationReport:
        """The figures of `measure`, and how much translations of test images look like the target, as of samples."""
        count = len(self.pair.source.test)
        report = evaluate_samples(self.sample, self.dataset, n=min(n or count, count), seed=seed, extractor=extractor)
        return replace(report, figures={**report.figures, **self.measure(extractor)})

    def rows(self, x: np.ndarray) -> list[np.ndarray]:
        """What a picture shows of source images, row under row."""
        return [x, self.translate(x)]

    def conclude(self, run: Any, progress: Any) -> dict[str, Any]:
        """Draw test images over their translations into the run's folder, and measure the weights that were kept."""
        run.agent.pair = self.pair  # There is no need to load it twice.
        figures = {name: each.value for name, each in run.agent.measure().items()}
        return {**(super().conclude(run, progress) or {}), **figures}

    def draw(self, run: Any) -> None:
        """`translations.png`, and the film of the training."""
        from rltool.gan.pictures import save_image, tile, write_film

        rows = run.agent.rows(self.pair.source.test.x[:SHOWN])
        save_image(tile(np.concatenate(rows), SHOWN), run.path / "translations.png")
        if self.film:
            write_film(run.agent, self.film, run.path / "training.gif")


def mean_difference(one: np.ndarray, two: np.ndarray) -> Estimate:
    """The mean absolute difference of images `(n, ...)`."""
    return mean_estimate(np.abs(one - two).reshape(len(one), -1).mean(1), (0, 1))
