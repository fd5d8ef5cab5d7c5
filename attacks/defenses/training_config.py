"""Options of classifiers that are trained to be robust; free of torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rltool.supervised.config import ClassifierConfig


class RobustConfig(BaseModel):
    """How a classifier is made robust while it learns."""

    panel: ClassVar[str] = "Robustness"

    robust: Literal["none", "pgd", "trades", "fast", "noise"] = Field(
        "none",
        description="Learn from attacked examples (pgd: Madry et al.), from clean ones and from how far an attack "
        "moves the answer (trades), from ones attacked in a single step (fast), or from noisy ones, for "
        "certificates (noise).",
    )
    epsilon: NonNegativeFloat = Field(
        0.1, description="Radius of the attacks that it learns from; of noise, the standard deviation."
    )
    robust_norm: Literal["linf", "l2"] = Field("linf", description="Norm of epsilon.")
    robust_steps: PositiveInt = Field(7, description="Steps of the attack that it learns from (fast has one).")
    robust_beta: PositiveFloat = Field(6.0, description="Weight of what an attack moves (trades).")
    robust_ramp: float = Field(
        0.0, ge=0, le=1, description="Share of the training in which epsilon grows from 0 to its full size."
    )
    robust_probe: NonNegativeInt = Field(
        50,
        description="(fast) Updates between two probes by a strong attack; where that finds robustness gone, the "
        "weights of the probe before are taken and training ends (0: no probes).",
    )

    @model_validator(mode="after")
    def _refuse_idle_options(self) -> RobustConfig:
        if self.robust == "none":
            for name, field in RobustConfig.model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"{name.replace('_', '-')} does nothing without --robust")
        return self


class RobustClassifierConfig(RobustConfig, ClassifierConfig):
    """Options of a classifier, and of its robustness."""
