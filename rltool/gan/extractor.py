"""What examples are seen through before they are compared: features, and predictions of their classes if there are any.

A distance between images is only as good as what it is measured in, and numbers from two extractors cannot be compared:
every report states which one it used.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rltool.data.examples import Dataset
from rltool.data.published import data_folder
from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import device_of, evaluating
from rltool.supervised.classifier import Classifier
from rltool.supervised.config import ClassifierConfig
from rltool.supervised.learner import ClassifierLearner
from rltool.training.run import Run, sanitize

Seen = tuple[np.ndarray, np.ndarray | None]
COMPONENTS = 64  # Of pixels, where there are no labels to learn features from.
MOST_LEARNED_FROM = 20_000  # Images that these come from.
# The averages of a residual network's last 64 channels, as FID takes them of Inception: few enough for a covariance.
OPTIONS = ClassifierConfig(
    backbone="resnet", resnet_blocks=1, resnet_norm="batch", resnet_pool="average", learning_rate=3e-3
)
PASSES, LEAST_BUDGET, LARGEST_BUDGET = 10, 40_000, 150_000
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True)
class Extractor:
    """Turns examples into what is compared.

    Attributes:
        name: What it is, for reports.
        see: From examples `(n, ...)` to features `(n, d)`, and to probabilities `(n, classes)` or None.
    """

    name: str
    see: Callable[[np.ndarray], Seen]

    def __call__(self, x: np.ndarray) -> Seen:
        return self.see(x)


def find_extractor(data: Dataset, choice: str = "auto") -> Extractor:
    """The extractor for a data set.

    Args:
        data: What is to be seen.
        choice: `auto` takes points as they are, a classifier that is trained on labeled images once and kept in the
            data folder, and principal components of images without labels; `pixels` always takes these; `inception` is
            that of torch-fidelity, where its weights are; all else is a classifier's run.

    Raises:
        UserError: There is none of that name, or it does not read such examples.
    """
    images = data.train.x.ndim == 4
    if choice == "pixels" or (choice == "auto" and images and len(data.classes) < 2):
        return principal_components(data)
    if choice == "inception":
        return inception(data)
    if choice != "auto":
        return of_run(choice, data)
    if not images:
        return Extractor("the points themselves", lambda x: (x.astype(np.float64), None))
    if data.channels is not None:
        return each_channel(find_extractor(data.channels))
    return trained_classifier(data)


def of_classifier(model: Classifier, name: str) -> Extractor:
    """A classifier's last features, and its probabilities."""

    def see(x: np.ndarray) -> Seen:
        with torch.no_grad(), evaluating(model):
            features = model.backbone((torch.from_numpy(x).to(device_of(model)) - model.mean) / model.std)
            probabilities = model.head(features).double().softmax(1)
        return features.double().cpu().numpy(), probabilities.cpu().numpy()

    return Extractor(name, see)


def of_run(run: str, data: Dataset) -> Extractor:
    """The classifier of a run.

    Raises:
        UserError: There is no such run, it is of another kind, or it reads other examples.
    """
    model = Run(run).model
    if not isinstance(model, Classifier):
        raise UserError(f"{run} is no classifier's run; an extractor is auto, pixels, inception, or such a run")
    shape, wanted = model.input_space.shape, data.train.x.shape[1:]
    if shape != wanted or model.num_classes != len(data.classes or " " * model.num_classes):
        raise UserError(
            f"the classifier of {run} tells {model.num_classes} classes of {shape} apart; {data.name} has "
            f"{len(data.classes)} of {wanted}"
        )
    return of_classifier(model, f"the classifier of {run}")


def trained_classifier(data: Dataset) -> Extractor:
    """A classifier of these data, always the same; trained when it is first needed, and kept in the data folder."""
    content = hashlib.sha256(OPTIONS.model_dump_json().encode())
    for array in (data.train.x, data.train.y):
        content.update(repr((PASSES, LEAST_BUDGET, LARGEST_BUDGET, array.shape)).encode())
        content.update(np.ascontiguousarray(array).data)
    file = data_folder() / "extractors" / f"{sanitize(data.name)}-{content.hexdigest()[:16]}.safetensors"
    learner = _kept(file)
    if learner is None:
        print(f"training a classifier of {data.name} to see samples through; kept in {file.parent}", file=sys.stderr)
        learner = ClassifierLearner(data.name, OPTIONS, shape=(data.train.x.shape[1:], len(data.classes)))
        learner.dataset = data
        learner.model.normalize_by(learner.examples[0][0])
        learner.learn(min(max(PASSES * len(data.train), LEAST_BUDGET), LARGEST_BUDGET))
        with suppress(OSError, TrainingError):  # Where nothing can be kept, it is trained again.
            file.parent.mkdir(parents=True, exist_ok=True)
            learner.save(file)
    learner.dataset = data
    return of_classifier(
        learner.model, f"a classifier of {data.name} (resnet, {learner.test()['accuracy']:.1%} of test examples right)"
    )


def _kept(file: Path) -> ClassifierLearner | None:
    try:
        return ClassifierLearner.load(file)
    except UserError:  # There is none, or it is damaged.
        return None


def each_channel(extractor: Extractor) -> Extractor:
    """An extractor of gray images, for images whose channels are such: features side by side, classes combined."""

    def see(x: np.ndarray) -> Seen:
        n, channels = x.shape[:2]
        features, probabilities = extractor(x.reshape(n * channels, 1, *x.shape[2:]))
        features = features.reshape(n, -1)
        if probabilities is None:
            return features, None
        each = probabilities.reshape(n, channels, -1)
        combined = each[:, 0]
        for k in range(1, channels):
            combined = (combined[:, :, None] * each[:, k, None, :]).reshape(n, -1)
        return features, combined

    return Extractor(f"{extractor.name}, of each channel", see)


def principal_components(data: Dataset) -> Extractor:
    """The directions in which training images vary most, as features: no labels are needed."""
    x = data.train.x[:MOST_LEARNED_FROM].reshape(-1, int(np.prod(data.train.x.shape[1:])))
    mean = x.mean(0)
    count = min(COMPONENTS, *x.shape)
    with torch.random.fork_rng(devices=[]):  # Randomized: images have too many pixels for a covariance.
        torch.manual_seed(0)
        basis = torch.pca_lowrank(torch.from_numpy(x - mean), q=count, center=False, niter=4)[2].double().numpy()
    return Extractor(
        f"{count} principal components of pixels",
        lambda images: ((images.reshape(len(images), -1) - mean).astype(np.float64) @ basis, None),
    )


def inception(data: Dataset) -> Extractor:
    """Inception-v3 as FID was defined with it, through torch-fidelity.

    Raises:
        UserError: It is not installed, its weights are not there, or the data are no images.
    """
    if data.train.x.ndim != 4:
        raise UserError(f"{data.name} holds points, and inception reads images; take the extractor auto")
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UserError("the extractor inception needs torch-fidelity: pip install torch-fidelity") from None
    if not weights.is_file():
        raise UserError(f"the weights of inception are not there; put them into {weights.parent} as {weights.name}")
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))

    def see(x: np.ndarray) -> Seen:
        with torch.no_grad():
            pixels = torch.from_numpy(x).expand(-1, 3, -1, -1).mul(255).round().byte()
            features, logits = network(pixels)
        return features.double().numpy(), logits.double().softmax(1).numpy()

    return Extractor("inception-v3 of torch-fidelity", see)
