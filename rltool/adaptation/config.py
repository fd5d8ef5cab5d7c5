"""Typed options of adaptation; free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rltool.supervised.config import ClassifierConfig, ClassifierRunConfig

Selection = Literal["risk", "entropy", "bnm", "dev", "last", "oracle"]
Augmentation = Literal["shift", "flip", "cutout", "affine", "random-conv"]


class AdaptationConfig(ClassifierConfig):
    """Options of all methods; alone, those of `source-only` and `target-oracle`."""

    augment: tuple[Augmentation, ...] = Field(
        (),
        description="(Images) Random changes while learning, in both domains: shift (by up to an eighth), flip (left "
        "to right), cutout (cover a square), affine (turn, scale, slant), random-conv (other textures and contrasts by "
        "random filters).",
    )
    select: Selection = Field(
        "risk",
        description="What chooses the best weights, without a label of the target: accuracy in the source (risk), "
        "certainty (entropy) or certainty and variety (bnm) of predictions in the target, deep embedded validation "
        "(dev), nothing (last); or the target's labels (oracle), which is no adaptation any more.",
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Predictions are made by a running mean of the weights, of this decay; 0: by them."
    )
    controls: bool = Field(
        True, description="Also train what adapts nothing, and what is told the target's labels, to compare with."
    )


class WeightedConfig(AdaptationConfig):
    """Options of methods that add a term to the loss."""

    weight: NonNegativeFloat = Field(1.0, description="Weight of what adapts, beside the loss of labels.")
    weight_schedule: Literal["sigmoid", "linear", "constant"] = Field(
        "sigmoid", description="How that weight grows over the training: as in DANN's paper, evenly, or at once."
    )


class DANNConfig(WeightedConfig):
    """Options of `dann`: Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016."""

    domain_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=8)] = Field(
        (64, 64), description="Widths of the domain classifier's hidden layers."
    )
    domain_learning_rate: PositiveFloat | None = Field(
        None, description="Step size of the domain classifier (adam); by default that of the rest."
    )
    domain_steps: PositiveInt = Field(1, description="Steps of the domain classifier for each of the features.")
    domain_penalty: NonNegativeFloat = Field(
        0.0, description="Weight of the squared gradient of the domain classifier, which keeps it smooth."
    )


class AdaptationRunConfig(ClassifierRunConfig):
    """A run whose timesteps are examples of the source."""

    total_timesteps: PositiveInt = Field(60_000, description="Budget: examples of the source, again and again.")
