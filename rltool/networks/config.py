"""Typed options of backbones. Free of torch, so that help and validation stay instant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from rltool.registry import Registry

BACKBONES = Registry("backbone", group="rltool.backbones")
BACKBONES.add("mlp", "rltool.networks.mlp:MLP", "fully connected layers, for vectors")
BACKBONES.add("cnn", "rltool.networks.cnn:CNN", "the convolutional network of Nature-DQN, for images from 36 pixels")
BACKBONES.add(
    "impala", "rltool.networks.cnn:IMPALA", "the residual convolutional network of IMPALA, for images of any size"
)

Activation = Literal["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"]


class BackboneConfig(BaseModel):
    """What `build_backbone` needs to know; every method's config is one of these, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    backbone: str = Field(
        "auto",
        description="Network that reads observations (see `rltool list backbones`); auto: cnn for images, else mlp.",
    )
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (64, 64), description="Widths of the hidden layers of the mlp."
    )
    activation: Activation = Field("tanh", description="Nonlinearity of the mlp's hidden layers.")
    layer_norm: bool = Field(False, description="Normalize each hidden layer's features (layer norm).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a hidden feature while updating.")
    init: Literal["orthogonal", "default"] = Field(
        "orthogonal", description="Weight initialization: orthogonal, or PyTorch's default."
    )
