"""Typed options of adaptation; free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rltool.supervised.config import ClassifierConfig, ClassifierRunConfig

Selection = Literal["risk", "entropy", "bnm", "dev", "last", "oracle"]
Augmentation = Literal["shift", "flip", "cutout", "affine", "random-conv"]
TeacherDecay = Annotated[
    float,
    Field(ge=0, lt=1, description="The teacher, which predicts, is a running mean of the weights, of this decay."),
]


class AdaptationConfig(ClassifierConfig):
    """Options of all methods; alone, those of `source-only` and `target-oracle`."""

    augment: tuple[Augmentation, ...] = Field(  # type: ignore[assignment]  # More than a classifier's.
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
    beta1: float = Field(
        0.9, ge=0, lt=1, description="(adam) Decay of the running mean of gradients, of both; games like it low."
    )
    domain_steps: PositiveInt = Field(1, description="Steps of the domain classifier for each of the features.")
    domain_penalty: NonNegativeFloat = Field(
        0.0, description="Weight of the squared gradient of the domain classifier, which keeps it smooth."
    )


class CDANConfig(DANNConfig):
    """Options of `cdan`: Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018."""

    entropy_weighting: bool = Field(
        True, description="Examples whose class is certain count more for the domain classifier (CDAN+E)."
    )


class ADDAConfig(DANNConfig):
    """Options of `adda`: Tzeng et al., "Adversarial discriminative domain adaptation", CVPR 2017."""

    weight_schedule: Literal["sigmoid", "linear", "constant"] = Field(
        "constant", description="How that weight grows: as in DANN's paper, evenly, or at once."
    )
    source_share: float = Field(
        0.5, gt=0, lt=1, description="Share of the training that learns the source, before the target's features do."
    )
    target_learning_rate: PositiveFloat = Field(2e-4, description="Step size of the target's features after that.")


class AlignmentConfig(WeightedConfig):
    """Options of `coral` and `mmd`, which draw statistics of the features together."""


class MCDConfig(WeightedConfig):
    """Options of `mcd`: Saito et al., "Maximum classifier discrepancy", CVPR 2018."""

    weight_schedule: Literal["sigmoid", "linear", "constant"] = Field(
        "constant", description="How that weight grows: as in DANN's paper, evenly, or at once."
    )
    generator_steps: PositiveInt = Field(4, description="Steps that make the features agree, for each that does not.")


class SelfTrainingConfig(WeightedConfig):
    """Options of `entropy`: certain predictions, taken for labels, of an average of the classifier."""

    ema: TeacherDecay = 0.99
    entropy_weight: NonNegativeFloat = Field(0.0, description="Weight of the entropy of the target's predictions.")
    diversity_weight: NonNegativeFloat = Field(
        1.0, description="Weight of the variety of the target's predictions, which keeps them from a collapse."
    )
    threshold: float = Field(
        0.9, ge=0, le=1, description="Certainty of the teacher from which its prediction is taken for a label."
    )


class UniversalConfig(WeightedConfig):
    """Options of `universal`: one-vs-all classifiers as in Saito & Saenko, "OVANet", ICCV 2021, with self-training."""

    ema: TeacherDecay = 0.99
    entropy_weight: NonNegativeFloat = Field(
        0.1, description="Weight of the entropy of each class's yes or no in the target."
    )
    mixed_weight: NonNegativeFloat = Field(
        0.1, description="Weight of rejecting mixtures of two of the source's classes, which are none."
    )
    threshold: float = Field(
        0.9, ge=0.5, le=1, description="Certainty of the teacher from which its yes or no is taken for a label."
    )


class DIRTTConfig(DANNConfig):
    """Options of `dirt-t`: Shu et al., "A DIRT-T approach to unsupervised domain adaptation", ICLR 2018."""

    domain_weight: NonNegativeFloat = Field(0.01, description="Weight of the domain classifier's confusion.")
    weight: NonNegativeFloat = Field(1.0, description="Weight of what keeps the target's examples off the boundary.")
    weight_schedule: Literal["sigmoid", "linear", "constant"] = Field(
        "linear", description="How that weight grows over the first stage: as in DANN's paper, evenly, or at once."
    )
    entropy_weight: NonNegativeFloat = Field(0.1, description="Weight of the entropy of the target's predictions.")
    smoothness_weight: NonNegativeFloat = Field(
        1.0, description="Weight of how far predictions move in the worst direction near an example."
    )
    radius: PositiveFloat = Field(
        0.1, description="How near, in standard deviations of an input's values, on average over them."
    )
    diversity_weight: NonNegativeFloat = Field(
        0.1, description="Weight of the variety of the target's predictions, which keeps them from a collapse."
    )
    first_stage: float = Field(
        0.7, gt=0, le=1, description="Share of the training that is VADA; the rest refines it by the target alone."
    )
    teacher_weight: NonNegativeFloat = Field(
        0.1, description="(Second stage) Weight of staying near the predictions that a teacher makes."
    )
    ema: TeacherDecay = 0.99


class BatchNormConfig(AdaptationConfig):
    """Options of `adabn`: Li et al., "Revisiting batch normalization for practical domain adaptation", 2016."""

    batch_norm: bool = Field(True, description="Normalize each hidden feature over the minibatch (batch norm).")
    resnet_norm: Literal["layer", "batch", "none"] = Field(
        "batch", description="Normalization in the resnet, whose statistics are adapted where it is batch."
    )
    prior: NonNegativeInt = Field(
        0, description="The source's statistics count as so many examples of the target, where it has few."
    )


class TentConfig(BatchNormConfig):
    """Options of `tent`: Wang et al., "Tent: fully test-time adaptation by entropy minimization", ICLR 2021."""

    test_batch: PositiveInt = Field(64, description="Examples of the target that come at once; 1: one at a time.")
    test_learning_rate: PositiveFloat = Field(1e-3, description="Step size at test time.")
    prior: NonNegativeInt = Field(
        16, description="The source's statistics count as so many examples of the target beside those of a batch."
    )


class FineTuneConfig(AdaptationConfig):
    """Options of `fine-tune`: the source first, then a few examples of the target with their labels."""

    labels_per_class: PositiveInt = Field(5, description="Examples of each class of the target whose labels are known.")
    tune: Literal["full", "head", "l2-sp"] = Field(
        "l2-sp",
        description="What changes: all weights (full), the last layer alone (head), or all, drawn to where they were "
        "(l2-sp).",
    )
    l2_sp_weight: NonNegativeFloat = Field(0.01, description="(l2-sp) How strongly.")
    source_share: float = Field(0.7, gt=0, lt=1, description="Share of the training that learns the source.")
    target_learning_rate: PositiveFloat = Field(3e-4, description="Step size after that.")


class GeneralizationConfig(WeightedConfig):
    """Options of `erm`, `irm`, `vrex`, `group-dro` and `mixstyle`: several sources, and a target nobody has seen."""

    group_step: PositiveFloat = Field(0.01, description="(group-dro) How fast the hardest source counts more.")
    style_alpha: PositiveFloat = Field(0.1, description="(mixstyle) Shares of two styles are drawn from Beta(a, a).")


class AdaptationRunConfig(ClassifierRunConfig):
    """A run whose timesteps are examples of the source."""

    total_timesteps: PositiveInt = Field(60_000, description="Budget: examples of the source, again and again.")
