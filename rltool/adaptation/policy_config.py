"""Options of agents that adapt to another look of their environment while they learn; free of torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveInt, model_validator

from rltool.agents.extensions import ExtensionKind


class PolicyAdaptationConfig(BaseModel):
    """Options of adapting."""

    panel: ClassVar[str] = "Adaptation"

    adapt: Literal["dann", "mcd", "coral", "mmd"] | None = Field(
        None,
        description="Make the policy's features of two looks of the environment alike, while it learns in one of them: "
        "dann (a domain classifier cannot tell them apart), mcd (two networks agree on what the action head does), "
        "coral (the same covariance), mmd (the same moments).",
    )
    target: str | None = Field(
        None, description="The other look, as ENV~inverted; nothing but what is seen there is used, no reward."
    )
    adapt_weight: NonNegativeFloat = Field(0.1, description="Weight of what adapts, beside the policy's loss.")
    adapt_batch: PositiveInt = Field(256, description="Observations of each domain that are compared at a time.")

    @model_validator(mode="after")
    def _target_has_a_use(self) -> PolicyAdaptationConfig:
        if self.adapt is not None and self.target is None:
            raise ValueError("adapt needs to know what to adapt to; add --target, as --target rltool/Catch-v0~inverted")
        if self.adapt is None and self.target is not None:
            raise ValueError("target does nothing without --adapt; add --adapt dann")
        return self


adapt = ExtensionKind(PolicyAdaptationConfig, "rltool.adaptation.policies:Adapting")
