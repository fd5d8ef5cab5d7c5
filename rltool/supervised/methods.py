"""Classifiers as a method of `rltool train`."""

from rltool.supervised.config import ClassifierConfig, ClassifierRunConfig
from rltool.training.methods import Method

classifier = Method(
    ClassifierConfig,
    "rltool.supervised.learner:ClassifierLearner",
    data="DATASET",
    run=ClassifierRunConfig,
    training_metric="train/accuracy",
    evaluation_metric="accuracy",
)
