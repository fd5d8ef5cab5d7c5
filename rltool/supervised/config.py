"""Typed options of classifiers; free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rltool.networks.config import Activation, BackboneConfig
from rltool.training.config import RunConfig


class ClassifierConfig(BackboneConfig):
    """Options of a classifier."""

    activation: Activation = Field("relu", description="Nonlinearity of the mlp's hidden layers.")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field("adam", description="Gradient descent.")
    learning_rate: PositiveFloat = Field(1e-3, description="Largest step size of the optimizer.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="How the step size falls to 0 over the training."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the training in which the step size grows from 0.")
    weight_decay: NonNegativeFloat = Field(
        0.0, description="Weights shrink by this much: in the gradient, or, with adamw, apart from it."
    )
    batch_size: PositiveInt = Field(64, description="Examples in a minibatch.")
    max_grad_norm: PositiveFloat = Field(5.0, description="Gradients are scaled down to this norm.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target that goes to all classes alike.")
    augment: tuple[Literal["shift", "flip"], ...] = Field(
        (), description="(Images) Random changes while learning: shift (by up to an eighth), flip (left to right)."
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training examples that chooses the best weights instead."
    )
    patience: NonNegativeInt = Field(0, description="Evaluations without a better one that end training (0: none do).")


class ClassifierRunConfig(RunConfig):
    """A run whose timesteps are examples."""

    total_timesteps: PositiveInt = Field(30_000, description="Budget: examples learned from, again and again.")
    log_freq: PositiveInt = Field(1_000, description="Examples between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(5_000, description="Examples between two evaluations; 0: never.")
    save_freq: NonNegativeInt = Field(10_000, description="Examples between two checkpoints; 0: only at the end.")
