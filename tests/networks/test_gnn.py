"""Graph networks: by hand on five nodes, invariances, empty graphs, and what only they can learn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import GraphInstance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rltool.networks import BackboneConfig, GraphBatch, build_backbone
from rltool.networks.gnn import GNN, join, max_at, mean_at, sum_at
from rltool.networks.observations import as_tensors
from rltool.training.optimizers import Adam

MESSAGES = ["nn4g", "dcnn", "mean", "max"]
NUMBERS = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
SPACE = gym.spaces.Graph(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,)))
# A triangle 0, 1, 2 with a tail 3, 4.
LINKS = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4]])


def make(space: gym.Space, **options: Any) -> GNN:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(**options), space)
    assert isinstance(backbone, GNN)
    return backbone


def batch(*graphs: GraphInstance) -> GraphBatch:
    objects = np.empty(len(graphs), object)
    for i, graph in enumerate(graphs):
        objects[i] = graph
    return as_tensors(objects)


def numbered(links: np.ndarray = LINKS) -> GraphInstance:
    return GraphInstance(np.arange(1, 6, dtype=np.float32)[:, None], None, links)


def random_graph(rng: np.random.Generator, nodes: int, edges: int) -> GraphInstance:
    return GraphInstance(
        rng.uniform(-1, 1, (nodes, 3)).astype(np.float32),
        rng.uniform(-1, 1, (edges, 2)).astype(np.float32) if edges else None,
        rng.integers(0, nodes, (edges, 2)).astype(np.int32) if edges else None,
    )


def set_weights(layers: nn.ModuleList, *weights: float) -> None:
    for layer, weight in zip(layers, weights, strict=True):
        nn.init.constant_(layer.weight, weight)


def layers_of(backbone: GNN, graphs: GraphBatch) -> list[list[float]]:
    layers = backbone.messages(join(graphs, backbone.read_nodes, backbone.read_edges))
    return [layer.flatten().tolist() for layer in layers]


def test_nn4g_by_hand() -> None:
    backbone = make(gym.spaces.Graph(NUMBERS, None), gnn_size=1, gnn_rounds=2, activation="relu")
    set_weights(backbone.messages.from_input, 2, 1, 3)
    set_weights(backbone.messages.from_neighbors, 0.5, 1)
    backbone.readout.weight.data = torch.tensor([[1.0, 10.0, 100.0]])
    assert layers_of(backbone, batch(numbered())) == [
        [2, 4, 6, 8, 10],
        [6, 6, 10, 12, 9],  # node 2: 0.5 (2 + 4 + 8) + 1 * 3
        [19, 22, 33, 31, 27],  # node 2: 1 (6 + 6 + 12) + 3 * 3
    ]
    assert backbone(batch(numbered())).item() == pytest.approx(6 + 10 * 43 / 5 + 100 * 132 / 5)


def test_dcnn_by_hand() -> None:
    backbone = make(gym.spaces.Graph(NUMBERS, None), gnn_size=1, gnn_rounds=4, activation="relu", gnn_message="dcnn")
    set_weights(backbone.messages.at_distance, 1, 6, 2, 2, 1)
    backbone.readout.weight.data = torch.tensor([[1.0, 1.0, 10.0, 100.0, 1.0]])
    expected = [
        [1, 2, 3, 4, 5],
        [15, 12, 14, 24, 24],  # node 2: 6 (1 + 2 + 4) / 3
        [8, 8, 10, 3, 6],  # node 3: 2 (1 + 2) / 2
        [10, 10, 0, 0, 3],  # node 4: 2 (1 + 2) / 2; nothing is three links from nodes 2 and 3
        [0, 0, 0, 0, 0],
    ]
    for layer, values in zip(layers_of(backbone, batch(numbered())), expected, strict=True):
        assert layer == pytest.approx(values)
    assert backbone(batch(numbered())).item() == pytest.approx(15 / 5 + 89 / 5 + 10 * 35 / 5 + 100 * 23 / 5)


@pytest.mark.parametrize(("message", "received"), [("mean", [7 / 3, 4]), ("max", [4, 4])])
def test_neighborhoods_by_hand(message: str, received: list[float]) -> None:
    backbone = make(gym.spaces.Graph(NUMBERS, None), gnn_size=1, gnn_rounds=1, activation="relu", gnn_message=message)
    set_weights(nn.ModuleList([backbone.messages.first, *backbone.messages.messages]), 1, 2)
    backbone.messages.updates[0].weight.data = torch.tensor([[10.0, 0.5]])
    _, second = layers_of(backbone, batch(numbered()))
    assert [second[2], second[4]] == pytest.approx([10 * 3 + received[0], 10 * 5 + received[1]])


def test_aggregates_by_hand() -> None:
    index, values = torch.tensor([2, 0, 2]), torch.tensor([[-1.0], [5.0], [-3.0]])
    assert sum_at(index, values, 3).flatten().tolist() == [5, 0, -4]
    assert mean_at(index, values, 3).flatten().tolist() == [5, 0, -2]
    assert max_at(index, values, 3).flatten().tolist() == [5, 0, -1]  # The 0 of no message is no message.


def test_features_of_edges_travel_with_messages() -> None:
    space = gym.spaces.Graph(NUMBERS, gym.spaces.Discrete(2))
    backbone = make(space, gnn_size=1, gnn_rounds=1, activation="relu")
    set_weights(backbone.messages.from_input, 1, 0)
    backbone.messages.from_neighbors[0].weight.data = torch.tensor([[1.0, 100.0, 1000.0]])
    graph = GraphInstance(numbered().nodes, np.array([0, 1, 1, 0, 0]), LINKS)
    # Node 2: neighbors 1 + 2 + 4 over links of kinds 1, 1 and 0.
    assert layers_of(backbone, batch(graph))[1] == [1105, 1104, 2107, 208, 104]


@pytest.mark.parametrize("message", MESSAGES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 8), edges=st.integers(0, 15), seed=st.integers(0, 2**16))
def test_order_and_padding_do_not_matter(message: str, nodes: int, edges: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    backbone = make(SPACE, gnn_message=message)
    graph = random_graph(rng, nodes, edges)
    permuted = graph
    if edges:
        new_place, link_order = rng.permutation(nodes), rng.permutation(edges)
        permuted = GraphInstance(
            graph.nodes[np.argsort(new_place)], graph.edges[link_order], new_place[graph.edge_links][link_order]
        )
    larger = random_graph(rng, 12, 30)
    features = backbone(batch(graph))
    torch.testing.assert_close(backbone(batch(permuted)), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone(batch(larger, graph, larger))[1:2], features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("message", MESSAGES)
def test_directions_do_not_matter(message: str) -> None:
    backbone = make(gym.spaces.Graph(NUMBERS, None), gnn_message=message)
    features = backbone(batch(numbered()))
    torch.testing.assert_close(backbone(batch(numbered(LINKS[:, ::-1]))), features)
    torch.testing.assert_close(backbone(batch(numbered(np.concatenate([LINKS, LINKS[:, ::-1]])))), features)
    assert (backbone(batch(numbered(LINKS[:-1]))) - features).abs().max() > 1e-3  # but links do


@pytest.mark.parametrize("message", MESSAGES)
def test_graphs_may_lack_links_and_nodes(message: str) -> None:
    rng = np.random.default_rng(0)
    backbone = make(SPACE, gnn_message=message)
    empty = GraphInstance(np.zeros((0, 3), np.float32), None, None)
    graphs = [random_graph(rng, 5, 6), empty, random_graph(rng, 3, 0), random_graph(rng, 1, 0)]
    together = backbone(batch(*graphs))
    together.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())
    alone = torch.cat([backbone(batch(graph)) for graph in graphs])
    torch.testing.assert_close(together, alone)
    assert together.isfinite().all()


def rings(rng: np.random.Generator, sizes: list[int]) -> np.ndarray:
    """Links of separate rings over nodes in random order."""
    order, links = rng.permutation(sum(sizes)), []
    for size in sizes:
        ring, order = order[:size], order[size:]
        links.append(np.stack([ring, np.roll(ring, 1)], 1))
    return np.concatenate(links)


def test_distances_tell_a_ring_from_two() -> None:
    """Neighbors of neighbors look the same in both (Xu et al., 2019), whatever the weights; distance 3 does not."""
    rng, nodes = np.random.default_rng(0), np.ones((6, 1), np.float32)
    graphs = batch(*(GraphInstance(nodes, None, rings(rng, sizes)) for sizes in ([6], [3, 3])))
    for message in MESSAGES:
        one, two = make(gym.spaces.Graph(NUMBERS, None), gnn_message=message)(graphs)
        assert ((one - two).abs().max() > 0.01) == (message == "dcnn"), message


def marked_rings(rng: np.random.Generator, count: int) -> tuple[GraphBatch, torch.Tensor]:
    """Two rings of four nodes, two nodes marked: whether both are in the same ring."""
    graphs, labels = [], []
    for _ in range(count):
        links = rings(rng, [4, 4])
        a, b = rng.choice(4, 2, replace=False)
        same = bool(rng.integers(2))
        nodes = np.zeros((8, 1), np.float32)
        nodes[[links[a, 0], links[b if same else 4 + b, 0]]] = 1
        graphs.append(GraphInstance(nodes, None, links))
        labels.append(same)
    return batch(*graphs), torch.tensor(labels)


def accuracy(message: str | None) -> float:
    """On new graphs, after training; without messages, an mlp over all nodes."""
    rng = np.random.default_rng(0)
    if message is None:
        space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (8,))
        torch.manual_seed(0)
        backbone = build_backbone(BackboneConfig(), space)
    else:
        backbone = make(gym.spaces.Graph(NUMBERS, None), gnn_message=message, gnn_size=16, gnn_rounds=2)
    network = nn.Sequential(backbone, nn.Linear(backbone.out_features, 1))
    optimizer = Adam(network, 1e-2)

    def logits(graphs: GraphBatch) -> torch.Tensor:
        return network(graphs if message else graphs.nodes.flatten(1))[:, 0]

    graphs, labels = marked_rings(rng, 256)
    for _ in range(150):
        optimizer.step(nn.functional.binary_cross_entropy_with_logits(logits(graphs), labels.float()))
    graphs, labels = marked_rings(rng, 500)
    return ((logits(graphs) > 0) == labels).float().mean().item()


@pytest.mark.parametrize("message", ["nn4g", "mean", "max"])
def test_who_is_connected_is_learned(message: str) -> None:
    assert accuracy(message) > 0.97


def test_who_is_connected_is_not_in_the_nodes() -> None:
    assert accuracy(None) < 0.6
