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
BACKBONES.add("rnn", "rltool.networks.memory:build_rnn", "a simple recurrent network (Elman or Jordan), with memory")
BACKBONES.add("lstm", "rltool.networks.memory:LSTM", "long short-term memory, over time or over rows")
BACKBONES.add("gru", "rltool.networks.memory:GRU", "gated recurrent unit, over time or over rows")
BACKBONES.add(
    "transformer", "rltool.networks.transformer:Transformer", "self-attention over past observations, rows or patches"
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
    model_size: PositiveInt = Field(64, description="Width of rnn, lstm, gru and transformer.")
    num_layers: PositiveInt = Field(1, description="Layers of rnn, lstm, gru and transformer.")
    sequence: Literal["auto", "time", "tokens"] = Field(
        "auto",
        description="What rnn, lstm, gru and transformer run over: an episode's observations (time) or the rows, or "
        "patches, of one (tokens; auto: where it has two axes, or the transformer reads images).",
    )
    bidirectional: bool = Field(False, description="rnn, lstm and gru over tokens also run backwards.")
    rnn: Literal["elman", "jordan"] = Field(
        "elman", description="What the rnn reads back: its hidden layer, its output."
    )
    window: PositiveInt = Field(16, description="Timesteps that the transformer looks back on, this one included.")
    num_heads: PositiveInt = Field(4, description="Attention heads of the transformer.")
    attention: Literal["dot", "additive"] = Field("dot", description="Attention score of the transformer.")
    position: Literal["sinusoidal", "learned", "none"] = Field(
        "sinusoidal", description="Positional encoding of the transformer."
    )
    patch_size: PositiveInt = Field(8, description="Side of the transformer's image patches, in pixels.")
