"""Typed options of classifiers; free of torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

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
    augment: tuple[Literal["shift", "flip", "cutout"], ...] = Field(
        (),
        description="(Images) Random changes while learning: shift (by up to an eighth), flip (left to right), cutout "
        "(cover a square).",
    )
    mixup: NonNegativeFloat = Field(
        0.0, description="Blend pairs of examples and their labels, by shares from Beta(a, a) with this a; 0: never."
    )
    augment_with: str | None = Field(
        None, description="GAN run whose samples are learned from, too; they have the classes that it was asked for."
    )
    augment_share: float = Field(
        0.5, gt=0, lt=1, description="Share of these samples among what is learned from (--augment-with)."
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training examples that chooses the best weights instead."
    )
    patience: NonNegativeInt = Field(0, description="Evaluations without a better one that end training (0: none do).")
    epochs: PositiveInt | None = Field(
        None, description="Budget as passes through the training examples, instead of --total-timesteps."
    )
    folds: NonNegativeInt = Field(
        0, description="Cross-validation: train so many times, each time held out is another one of so many parts."
    )
    fold: NonNegativeInt | None = Field(
        None, description="The part, from 0, that is held out; without it all are, one after the other."
    )

    @model_validator(mode="after")
    def _share_is_of_something(self) -> Self:
        if self.augment_with is None and self.augment_share != type(self).model_fields["augment_share"].default:
            raise ValueError("augment-share does nothing without --augment-with")
        return self

    @model_validator(mode="after")
    def _folds_fit(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds must be 2 or more: what is held out is not learned from")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be less than folds, which is {self.folds}; the first is 0")
        return self


class ClassifierRunConfig(RunConfig):
    """A run whose timesteps are examples."""

    total_timesteps: PositiveInt = Field(30_000, description="Budget: examples learned from, again and again.")
    log_freq: PositiveInt = Field(1_000, description="Examples between two rows of metrics.csv.")
    eval_freq: NonNegativeInt = Field(5_000, description="Examples between two evaluations; 0: never.")
    save_freq: NonNegativeInt = Field(10_000, description="Examples between two checkpoints; 0: only at the end.")
