"""Classifiers as a method of `rltool train`."""

from rltool.supervised.config import ClassifierConfig, ClassifierRunConfig
from rltool.supervised.presets import PRESETS
from rltool.training.methods import Method

classifier = Method(
    ClassifierConfig,
    "rltool.supervised.learner:ClassifierLearner",
    data="DATASET",
    presets=PRESETS,
    run=ClassifierRunConfig,
    training_metric="train/accuracy",
    evaluation_metric="accuracy",
)
