"""Classifiers as a method of `rltool train`, with what makes them robust."""

from dataclasses import replace

from rltool.attacks.defenses.training_config import RobustClassifierConfig
from rltool.supervised.methods import classifier as plain
from rltool.supervised.presets import HARDENED

classifier = replace(
    plain,
    config=RobustClassifierConfig,
    learner="rltool.attacks.defenses.training:RobustClassifierLearner",
    variants=HARDENED,
)
