"""Adaptation as methods of `rltool train`."""

from __future__ import annotations

from rltool.adaptation.config import AdaptationConfig, AdaptationRunConfig, DANNConfig
from rltool.adaptation.presets import PRESETS
from rltool.training.methods import Method


def make_method(name: str, config: type[AdaptationConfig], learner: str) -> Method:
    """A method that trains a classifier for a target domain."""
    return Method(
        config,
        learner,
        data="SOURCE:TARGET",
        presets=PRESETS.get(name, {}),
        run=AdaptationRunConfig,
        training_metric="train/accuracy",
        evaluation_metric="target_accuracy",
    )


source_only = make_method("source-only", AdaptationConfig, "rltool.adaptation.learner:SourceOnly")
target_oracle = make_method("target-oracle", AdaptationConfig, "rltool.adaptation.learner:TargetOracle")
dann = make_method("dann", DANNConfig, "rltool.adaptation.adversarial:DANN")
