"""Typed options of backbones. Free of torch, so that help and validation stay instant."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from rltool.registry import Registry

BACKBONES = Registry("backbone", group="rltool.backbones")
BACKBONES.add("mlp", "rltool.networks.mlp:MLP", "fully connected layers, for vectors")
BACKBONES.add(
    "cnn", "rltool.networks.cnn:CNN", "the convolutional network of Nature-DQN, smaller kernels for small images"
)
BACKBONES.add(
    "impala", "rltool.networks.cnn:IMPALA", "the residual convolutional network of IMPALA, for images of any size"
)
BACKBONES.add("rnn", "rltool.networks.memory:RNN", "a simple recurrent network (Elman or Jordan), with memory")
BACKBONES.add("lstm", "rltool.networks.memory:LSTM", "long short-term memory, over time or over rows")
BACKBONES.add("gru", "rltool.networks.memory:GRU", "gated recurrent unit, over time or over rows")
BACKBONES.add(
    "transformer", "rltool.networks.transformer:Transformer", "self-attention over past observations, rows or patches"
)
BACKBONES.add(
    "resnet", "rltool.networks.resnet:ResNet", "a residual network that ends in averages, for images of any size"
)
BACKBONES.add("gnn", "rltool.networks.gnn:GNN", "message passing between the nodes of graphs")
BACKBONES.add(
    "combined", "rltool.networks.combined:Combined", "images, graphs and vectors of Dict and Tuple spaces together"
)

Activation = Literal["tanh", "relu", "elu", "gelu", "silu", "leaky_relu"]


class BackboneConfig(BaseModel):
    """What `build_backbone` needs to know; every method's config is one of these, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    panel: ClassVar[str] = "Backbone"  # Where help shows these options.

    backbone: str = Field(
        "auto",
        description="Network that reads observations (see `rltool list backbones`); auto: cnn for images, gnn for "
        "graphs, combined for dictionaries with either, else mlp.",
    )
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=32)] = Field(
        (64, 64), description="Widths of the hidden layers of the mlp, and of combined."
    )
    activation: Activation = Field("tanh", description="Nonlinearity of the mlp's hidden layers.")
    layer_norm: bool = Field(False, description="Normalize each hidden layer's features (layer norm).")
    batch_norm: bool = Field(
        False,
        description="Normalize each hidden feature over the minibatch (batch norm); agents act by its running averages "
        "but update by the minibatch's, so layer norm is safer for them.",
    )
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
    shortcut: bool = Field(
        False, description="Features of rnn, lstm and gru over time hold what was seen last beside the memory of it."
    )
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
    noisy: bool = Field(
        False, description="Hidden layers of the mlp have learned noise in their weights while training."
    )
    spectral_norm: bool = Field(
        False, description="Divide the weights of linear and convolutional layers by their largest singular value."
    )
    resnet_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)] = Field(
        (16, 32, 64), description="Channels of the resnet's stages; each halves the image."
    )
    resnet_blocks: PositiveInt = Field(2, description="Residual blocks in each stage of the resnet.")
    resnet_norm: Literal["layer", "batch", "none"] = Field(
        "layer",
        description="Normalization in the resnet; layer is the safe one for agents, as batch makes them act by running "
        "averages but update by the minibatch's.",
    )
    resnet_pool: Literal["max", "average"] = Field("max", description="How the resnet halves images.")
    gnn_message: Literal["nn4g", "dcnn", "mean", "max"] = Field(
        "nn4g",
        description="What a node of the gnn receives: the sum over its neighbors and its input (NN4G), the mean input "
        "of the nodes at each distance (DCNN), or the mean or maximum of its neighbors' messages.",
    )
    gnn_rounds: PositiveInt = Field(3, description="Rounds of messages in the gnn: how many links far a node sees.")
    gnn_size: PositiveInt = Field(64, description="Features of a node, and of a graph, in the gnn.")
