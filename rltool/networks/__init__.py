"""Backbones, heads and layers: pure modules over spaces and shapes that know nothing of any task."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.networks.backbone import Backbone as Backbone
    from rltool.networks.backbone import build_backbone as build_backbone
    from rltool.networks.backbone import list_backbones as list_backbones
    from rltool.networks.backbone import register_backbone as register_backbone
    from rltool.networks.cnn import CNN as CNN
    from rltool.networks.cnn import IMPALA as IMPALA
    from rltool.networks.combined import Combined as Combined
    from rltool.networks.config import BackboneConfig as BackboneConfig
    from rltool.networks.decoder import Decoder as Decoder
    from rltool.networks.decoder import ImageDecoder as ImageDecoder
    from rltool.networks.decoder import VectorDecoder as VectorDecoder
    from rltool.networks.decoder import build_decoder as build_decoder
    from rltool.networks.distributions import Bernoulli as Bernoulli
    from rltool.networks.distributions import Categorical as Categorical
    from rltool.networks.distributions import DiagonalGaussian as DiagonalGaussian
    from rltool.networks.distributions import Distribution as Distribution
    from rltool.networks.distributions import MultiCategorical as MultiCategorical
    from rltool.networks.distributions import SquashedGaussian as SquashedGaussian
    from rltool.networks.gnn import GNN as GNN
    from rltool.networks.heads import ActionFunction as ActionFunction
    from rltool.networks.heads import ActionHead as ActionHead
    from rltool.networks.heads import BernoulliHead as BernoulliHead
    from rltool.networks.heads import CategoricalHead as CategoricalHead
    from rltool.networks.heads import GaussianHead as GaussianHead
    from rltool.networks.heads import GSDEHead as GSDEHead
    from rltool.networks.heads import MultiCategoricalHead as MultiCategoricalHead
    from rltool.networks.heads import SquashedHead as SquashedHead
    from rltool.networks.heads import ValueHead as ValueHead
    from rltool.networks.heads import build_action_head as build_action_head
    from rltool.networks.initialization import initialize as initialize
    from rltool.networks.layers import GradientReversal as GradientReversal
    from rltool.networks.layers import NoisyLinear as NoisyLinear
    from rltool.networks.layers import add_spectral_norm as add_spectral_norm
    from rltool.networks.layers import resample_noise as resample_noise
    from rltool.networks.mlp import MLP as MLP
    from rltool.networks.normalization import RunningNorm as RunningNorm
    from rltool.networks.observations import Flatten as Flatten
    from rltool.networks.observations import GraphBatch as GraphBatch
    from rltool.networks.observations import is_image as is_image
    from rltool.networks.resnet import ResNet as ResNet

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "backbone": ["Backbone", "build_backbone", "list_backbones", "register_backbone"],
        "cnn": ["CNN", "IMPALA"],
        "combined": ["Combined"],
        "config": ["BackboneConfig"],
        "decoder": ["Decoder", "ImageDecoder", "VectorDecoder", "build_decoder"],
        "distributions": [
            "Bernoulli",
            "Categorical",
            "DiagonalGaussian",
            "Distribution",
            "MultiCategorical",
            "SquashedGaussian",
        ],
        "gnn": ["GNN"],
        "heads": [
            "ActionFunction",
            "ActionHead",
            "BernoulliHead",
            "CategoricalHead",
            "GSDEHead",
            "GaussianHead",
            "MultiCategoricalHead",
            "SquashedHead",
            "ValueHead",
            "build_action_head",
        ],
        "initialization": ["initialize"],
        "layers": ["GradientReversal", "NoisyLinear", "add_spectral_norm", "resample_noise"],
        "mlp": ["MLP"],
        "normalization": ["RunningNorm"],
        "observations": ["Flatten", "GraphBatch", "is_image"],
        "resnet": ["ResNet"],
    },
)
