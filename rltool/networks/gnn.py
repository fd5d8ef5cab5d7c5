"""Graph neural networks: message passing and a readout, for observations of Graph spaces.

The graphs of a batch are read as one graph without padding, so what a graph's features are cannot depend on the graphs
beside it. Neighbors are the two ends of a link: messages pass both ways, whichever end Gymnasium calls its source, and
where a space has features of edges they go with the messages. A pair that is linked in both directions is linked once
each way; any other link that is given twice counts twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import nn

from rltool.errors import UserError
from rltool.networks.backbone import Backbone, automatic_backbone
from rltool.networks.config import BackboneConfig
from rltool.networks.initialization import initialize
from rltool.networks.mlp import ACTIVATIONS
from rltool.networks.observations import Flatten, GraphBatch


class Graphs(NamedTuple):
    """B graphs of N nodes in all, joined by L links, each way of a link on its own.

    Attributes:
        nodes: Input features of the nodes, `(N, F)`.
        edges: Features of the links, `(L, G)`.
        sources: The node that each link leads from, `(L,)`.
        targets: The node that each link leads to, `(L,)`.
        graph: The graph that each node is of, `(N,)`.
        place: Where in its graph each node stands, `(N,)`.
        shape: B, and the number of nodes in the largest graph.
    """

    nodes: torch.Tensor
    edges: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    graph: torch.Tensor
    place: torch.Tensor
    shape: torch.Size


def join(batch: GraphBatch, read_nodes: Flatten, read_edges: Flatten | None) -> Graphs:
    """A padded batch as one graph without padding."""
    counts = batch.node_mask.sum(1)
    offsets = counts.cumsum(0) - counts
    links = (batch.links + offsets[:, None, None])[batch.edge_mask]
    forward, backward = links.unbind(1), links.flip(1).unbind(1)
    n = max(int(counts.sum()), 1)
    added = ~torch.isin(backward[0] * n + backward[1], forward[0] * n + forward[1])
    nodes = _read(read_nodes, batch.nodes, batch.node_mask)
    edges = nodes.new_zeros(len(links), 0) if read_edges is None else _read(read_edges, batch.edges, batch.edge_mask)
    graph, place = batch.node_mask.nonzero().unbind(1)
    return Graphs(
        nodes=nodes,
        edges=torch.cat([edges, edges[added]]),
        sources=torch.cat([forward[0], backward[0][added]]),
        targets=torch.cat([forward[1], backward[1][added]]),
        graph=graph,
        place=place,
        shape=batch.node_mask.shape,
    )


def _read(flatten: Flatten, parts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if not mask.any():  # Then parts may lack their last axis.
        return torch.zeros(0, flatten.out_features, device=mask.device)
    return flatten(parts[mask])


def sum_at(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Sums `(size, n)` of the rows of `values` `(L, n)` that have the same index `(L,)`."""
    return values.new_zeros(size, values.shape[1]).index_add(0, index, values)


def mean_at(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Means instead of sums; 0 where there is no row."""
    return sum_at(index, values, size) / torch.bincount(index, minlength=size).clamp(min=1)[:, None]


def max_at(index: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Maxima instead of sums; 0 where there is no row."""
    where = index[:, None].expand_as(values)
    return values.new_zeros(size, values.shape[1]).scatter_reduce(0, where, values, "amax", include_self=False)


class Messages(nn.Module):
    """Features of nodes at each of `rounds` + 1 layers.

    Args:
        nodes: Number F of input features of a node.
        edges: Number G of features of an edge.
        config: Options.
    """

    def __init__(self, nodes: int, edges: int, config: BackboneConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, graphs: Graphs) -> list[torch.Tensor]:
        """One `(N, gnn_size)` for each layer, the first without messages."""
        raise TypeError(f"{type(self).__name__} lacks its messages")


class NN4G(Messages):
    """Micheli, "Neural network for graphs: a contextual constructive approach", 2009.

    h_v^0 = f(W_0 x_v) and h_v^k = f(What_k (sum over neighbors u of h_u^{k-1}) + W_k x_v): every layer sees the input.
    Features of the links are summed beside those of the neighbors.
    """

    def __init__(self, nodes: int, edges: int, config: BackboneConfig) -> None:
        super().__init__(nodes, edges, config)
        size, rounds = config.gnn_size, range(config.gnn_rounds)
        self.from_input = nn.ModuleList(nn.Linear(nodes, size) for _ in range(config.gnn_rounds + 1))
        self.from_neighbors = nn.ModuleList(nn.Linear(size + edges, size, bias=False) for _ in rounds)

    def forward(self, graphs: Graphs) -> list[torch.Tensor]:
        first, *others = self.from_input
        layers = [self.activation(first(graphs.nodes))]
        for from_neighbors, from_input in zip(self.from_neighbors, others, strict=True):
            messages = torch.cat([layers[-1][graphs.sources], graphs.edges], 1)
            received = sum_at(graphs.targets, messages, len(graphs.nodes))
            layers.append(self.activation(from_neighbors(received) + from_input(graphs.nodes)))
        return layers


class DCNN(Messages):
    """Atwood & Towsley, "Diffusion-convolutional neural networks", NeurIPS 2016.

    h_v^k = f(W_k (mean of the inputs x_u of all nodes u at a distance of exactly k links from v)); at 0 that is x_v,
    and where there is no such node the mean is 0. The mean features of a node's links stand beside its input.
    """

    def __init__(self, nodes: int, edges: int, config: BackboneConfig) -> None:
        super().__init__(nodes, edges, config)
        self.at_distance = nn.ModuleList(
            nn.Linear(nodes + edges, config.gnn_size) for _ in range(config.gnn_rounds + 1)
        )

    def forward(self, graphs: Graphs) -> list[torch.Tensor]:
        n, (b, v) = len(graphs.nodes), graphs.shape
        x = torch.cat([graphs.nodes, mean_at(graphs.targets, graphs.edges, n)], 1)
        padded = x.new_zeros(b, v, x.shape[1])
        padded[graphs.graph, graphs.place] = x
        linked = x.new_zeros(b, v, v)
        linked[graphs.graph[graphs.targets], graphs.place[graphs.targets], graphs.place[graphs.sources]] = 1.0
        at_k = torch.eye(v, device=x.device).expand(b, v, v)  # 1 for the pairs of nodes at distance k.
        seen, layers = at_k, []
        for layer in self.at_distance:
            means = at_k @ padded / at_k.sum(2, keepdim=True).clamp(min=1)
            layers.append(self.activation(layer(means[graphs.graph, graphs.place])))
            at_k = ((linked @ at_k > 0) & (seen == 0)).float()
            seen = seen + at_k
        return layers


class Neighborhood(Messages):
    """Means or maxima of neighbors' messages, as GraphSAGE has it (Hamilton et al., NeurIPS 2017).

    h_v^0 = f(W_0 x_v) and h_v^k = f(W_k [h_v^{k-1}, aggregate over neighbors u of f(M_k [h_u^{k-1}, e_uv])]).
    """

    aggregate: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

    def __init__(self, nodes: int, edges: int, config: BackboneConfig) -> None:
        super().__init__(nodes, edges, config)
        size, rounds = config.gnn_size, range(config.gnn_rounds)
        self.first = nn.Linear(nodes, size)
        self.messages = nn.ModuleList(nn.Linear(size + edges, size) for _ in rounds)
        self.updates = nn.ModuleList(nn.Linear(2 * size, size) for _ in rounds)

    def forward(self, graphs: Graphs) -> list[torch.Tensor]:
        layers = [self.activation(self.first(graphs.nodes))]
        for message, update in zip(self.messages, self.updates, strict=True):
            h = layers[-1]
            messages = self.activation(message(torch.cat([h[graphs.sources], graphs.edges], 1)))
            received = self.aggregate(graphs.targets, messages, len(h))
            layers.append(self.activation(update(torch.cat([h, received], 1))))
        return layers


class MeanNeighborhood(Neighborhood):
    """Means of neighbors' messages."""

    aggregate = staticmethod(mean_at)


class MaxNeighborhood(Neighborhood):
    """Maxima of neighbors' messages."""

    aggregate = staticmethod(max_at)


MESSAGES: dict[str, type[Messages]] = {
    "nn4g": NN4G,
    "dcnn": DCNN,
    "mean": MeanNeighborhood,
    "max": MaxNeighborhood,
}


class GNN(Backbone):
    """Features of whole graphs: f(sum over layers k of R_k (mean over nodes v of h_v^k)), with h as `Messages` has it.

    Neither the order of nodes nor that of links matters. Discrete features of nodes and edges are one-hot.
    """

    def __init__(self, config: BackboneConfig, space: gym.Space) -> None:
        if not isinstance(space, gym.spaces.Graph):
            raise UserError(f"the gnn backbone reads graphs, not {space}; take --backbone {automatic_backbone(space)}")
        super().__init__(space, config.gnn_size)
        self.read_nodes = Flatten(space.node_space)
        self.read_edges = None if space.edge_space is None else Flatten(space.edge_space)
        edges = 0 if self.read_edges is None else self.read_edges.out_features
        self.messages = MESSAGES[config.gnn_message](self.read_nodes.out_features, edges, config)
        # One matrix over the means of all layers side by side is the sum of a matrix R_k times each.
        self.readout = nn.Linear((config.gnn_rounds + 1) * config.gnn_size, config.gnn_size)
        self.activation = ACTIVATIONS[config.activation]()
        initialize(self, config.init)

    @classmethod
    def reads(cls, space: gym.Space) -> bool:
        return isinstance(space, gym.spaces.Graph)

    def forward(self, observations: GraphBatch) -> torch.Tensor:
        graphs = join(observations, self.read_nodes, self.read_edges)
        layers = torch.cat(self.messages(graphs), 1)
        return self.activation(self.readout(mean_at(graphs.graph, layers, graphs.shape[0])))
