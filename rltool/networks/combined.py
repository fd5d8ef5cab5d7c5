"""Dict and Tuple spaces that hold images or graphs: each part has a backbone of its own."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import nn

from rltool.networks.backbone import Backbone, automatic_backbone
from rltool.networks.config import BACKBONES, BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.mlp import MLP, build_hidden_layers
from rltool.networks.observations import Flatten, at, check_observation_space, space_leaves
from rltool.trees import Tree


class Combined(Backbone):
    """Features of all parts side by side, through the hidden layers of an mlp.

    Each image and each graph, however deep in Dict and Tuple spaces, is read by the backbone that the config names if
    it is for such a part, else by the one that `auto` takes; all other parts are flattened together.
    """

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        check_observation_space(space)
        named = BACKBONES["combined" if config.backbone == "auto" else config.backbone].load()
        parts: list[Backbone] = []
        paths, vectors, vector_paths = [], [], []
        for path, leaf in space_leaves(space):
            part = named if named.reads(leaf) else BACKBONES[automatic_backbone(leaf)].load()
            if part is MLP:
                vectors.append(leaf)
                vector_paths.append(path)
            else:
                parts.append(part(config, leaf))
                paths.append(path)
        flatten = Flatten(gym.spaces.Tuple(vectors)) if vectors else None
        features = sum(part.out_features for part in parts) + (flatten.out_features if flatten else 0)
        layers, out_features = build_hidden_layers(config, features, config.hidden_sizes)
        super().__init__(space, out_features)
        self.parts, self.paths = nn.ModuleList(parts), paths
        self.flatten, self.vector_paths = flatten, vector_paths
        self.layers = initialize(layers, config.init)

    def forward(self, observations: Tree) -> torch.Tensor:
        features = [part(at(observations, path)) for part, path in zip(self.parts, self.paths, strict=True)]
        if self.flatten is not None:
            features.append(self.flatten(tuple(at(observations, path) for path in self.vector_paths)))
        return self.layers(torch.cat(features, 1))
