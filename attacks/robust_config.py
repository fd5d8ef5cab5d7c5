"""Options of agents that are hardened against attacks on what they see; free of torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from rltool.agents.extensions import ExtensionKind
from rltool.attacks.units import feature_units
from rltool.errors import UserError


class RobustConfig(BaseModel):
    """Options of hardening."""

    panel: ClassVar[str] = "Robustness"

    robust: Literal["persistent", "sa", "pgd", "atla"] | None = Field(
        None,
        description="Harden the policy: persistent (it learns from observations that adversaries drawn at random "
        "attack, each for a while), sa (a penalty on how far its actions can be moved within epsilon), pgd (it learns "
        "from observations that are attacked anew in every step), atla (from those that a learned adversary attacks, "
        "which learns with it).",
    )
    epsilon: PositiveFloat | None = Field(None, description="How far each feature of an observation may be moved.")
    epsilon_unit: str = Field(
        "raw",
        description="Unit of epsilon: raw, the observation's own; std, standard deviations of what was seen so far; or "
        "a number for each feature, as 1,1,0.1.",
    )
    robust_ramp: float = Field(
        0.5, ge=0, le=1, description="Part of the training in which epsilon grows from 0 to its full size."
    )
    robust_steps: PositiveInt = Field(5, description="Steps of the attack that the policy is trained against.")
    robust_kappa: NonNegativeFloat = Field(
        1.0, description="(sa) Weight of the penalty, the divergence of the policy from itself under attack."
    )
    robust_replay: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="(persistent) Share of the adversaries that did harm before, and come back changed.",
    )
    robust_share: PositiveFloat = Field(
        1.0, description="(atla) Timesteps that the adversary learns from for each of the policy's."
    )

    @field_validator("epsilon_unit")
    @classmethod
    def _unit_is_one(cls, unit: str) -> str:
        try:
            feature_units(unit)
        except UserError as error:
            raise ValueError(str(error)) from None
        return unit

    @model_validator(mode="after")
    def _epsilon_has_a_use(self) -> RobustConfig:
        if self.robust is not None and self.epsilon is None:
            raise ValueError("robust needs to know how far observations may be moved; add --epsilon, as --epsilon 0.1")
        if self.robust is None and (self.epsilon is not None or self.epsilon_unit != "raw"):
            raise ValueError("epsilon does nothing without --robust; add --robust persistent")
        if self.epsilon_unit == "std" and not getattr(self, "normalize_observations", False):
            raise ValueError("epsilon-unit std is that of the running statistics; add --normalize-observations")
        return self


robust = ExtensionKind(RobustConfig, "rltool.attacks.robust:harden")
