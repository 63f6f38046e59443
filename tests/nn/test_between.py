"""Relations at the origins of windows, against every edge looked at by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stgraph.graph import DynamicHeteroGraph
from stgraph.nn.between import Between
from stgraph.windows import AttributeWindow, Layer

SIZES = {"event": 30, "work": 6, "segment": 5}
MOMENTS = np.array([50, 120, 10, 200])
KINDS = {("event", "at", "segment"): {}, ("event", "follows", "event"): {"edge_weight"}, ("work", "on", "segment"): {},
         ("event", "near", "work"): {"edge_weight", "valid_from", "valid_to"},
         ("segment", "then", "segment"): {"valid_from", "valid_to", "count"},
         ("segment", "beside", "segment"): {"edge_weight", "valid_to"}, ("segment", "turn", "segment"): {}}


@pytest.fixture
def graph() -> DynamicHeteroGraph:
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph()
    for kind, size in SIZES.items():
        graph[kind].node_id = np.array([f"{kind}{i}" for i in range(size)])
    graph["event"].time = torch.from_numpy(rng.integers(0, 220, SIZES["event"]))
    graph["work"].valid_from = torch.from_numpy(rng.integers(0, 100, SIZES["work"]))
    graph["work"].valid_to = graph["work"].valid_from + torch.from_numpy(rng.integers(20, 90, SIZES["work"]))
    for kind, attributes in KINDS.items():
        store = graph[kind]
        store.edge_index = torch.from_numpy(np.stack([rng.integers(0, SIZES[end], 60) for end in (kind[0], kind[2])]))
        begins = torch.from_numpy(rng.integers(0, 200, 60))
        made = {"edge_weight": torch.from_numpy(rng.uniform(0.5, 2, 60)).float(), "valid_from": begins,
                "valid_to": begins + torch.from_numpy(rng.integers(5, 60, 60)), "count": torch.ones(60).long()}
        for name in attributes:
            store[name] = made[name]
    return graph


def counts(graph: DynamicHeteroGraph, kind: tuple[str, str, str], edge: int, moment: int, layers: dict[str, Layer]
           ) -> bool:
    """Whether an edge counts at a moment, by the words of the class."""
    store, infinite = graph[kind], 10**9
    source, target = store.edge_index[:, edge].tolist()
    if kind[0] == kind[2] and source == target:
        return False
    for end, name in ((source, kind[0]), (target, kind[2])):
        if name == "event" and not moment - 60 <= int(graph["event"].time[end]) < moment:
            return False
        work = graph["work"]
        if name == "work" and not int(work.valid_from[end]) < moment <= int(work.valid_to[end]):
            return False
    begins = int(store.valid_from[edge]) if "valid_from" in store else -infinite
    ends = int(store.valid_to[edge]) if "valid_to" in store else infinite
    if "count" in store:  # known from its end on, for as long as it lasted
        return ends <= moment < ends + (ends - begins)
    return begins < moment <= ends


def test_every_edge_counts_when_it_should(graph: DynamicHeteroGraph) -> None:
    layers = {kind: Layer(graph, kind, 60, 100) for kind in ("event", "work")}
    windows = {kind: layer.window(MOMENTS) for kind, layer in layers.items()}
    found = Between(graph, SIZES, layers).at(torch.from_numpy(MOMENTS), windows)
    some = 0
    for kind in KINDS:
        for key, turned in ((kind, False), ((kind[2], f"reversed {kind[1]}", kind[0]), True)):
            dense = torch.zeros(len(MOMENTS), SIZES[kind[2]], SIZES[kind[0]])
            for edge in range(60):
                for place, moment in enumerate(MOMENTS.tolist()):
                    if counts(graph, kind, edge, moment, layers):
                        source, target = graph[kind].edge_index[:, edge].tolist()
                        weight = graph[kind].edge_weight[edge] if "edge_weight" in graph[kind] else 1.0
                        dense[place, target, source] += weight
            dense = dense.transpose(1, 2) if turned else dense
            torch.testing.assert_close(as_dense(found[key], key, windows), dense)
            some += int((dense != 0).sum())
    assert some > 100


def as_dense(relation, key: tuple[str, str, str], windows: dict[str, AttributeWindow]) -> torch.Tensor:
    """Weights ``[B, N_target, N_source]`` in the numbers of the graph."""
    adjacency, batch = relation.adjacency, len(MOMENTS)
    edge = torch.arange(adjacency.edges) if adjacency.edge is None else adjacency.edge.long()
    row, column = adjacency.row.long(), adjacency.col.long()
    dense = torch.zeros(batch, SIZES[key[2]], SIZES[key[0]])
    weight = torch.ones(adjacency.edges) if relation.weight is None else relation.weight
    for place in range(batch):
        ends = [windows[kind].nodes[place][end] if kind in windows else end
                for kind, end in ((key[2], row), (key[0], column))]
        each = weight[edge] if weight.dim() == 1 else weight[edge, place, 0]
        dense[place].index_put_(tuple(ends), each, accumulate=True)
    return dense


def test_what_no_window_knows_is_no_relation(graph: DynamicHeteroGraph) -> None:
    layers = {kind: Layer(graph, kind, 60, 100) for kind in ("event", "work")}
    moments = np.array([-100])
    windows = {kind: layer.window(moments) for kind, layer in layers.items()}
    found = Between(graph, SIZES, layers, pooled=["segment"]).at(torch.from_numpy(moments), windows)
    assert {key[1].removeprefix("reversed ") for key in found} == {"beside"}  # which never began


def test_a_type_that_is_not_wanted_has_no_relations(graph: DynamicHeteroGraph) -> None:
    between = Between(graph, ["segment"])
    assert set(between.living) == {("segment", "then", "segment"), ("segment", "beside", "segment")}
    assert set(between.fixed) == {("segment", "turn", "segment"), ("segment", "reversed turn", "segment")}
