"""A graph for the kernels is made from edges, rows or a relation; it and its transpose hold the same edges."""

from __future__ import annotations

import pytest
import torch
from kernel_graphs import KINDS, graph

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.ops import Adjacency


def edges_of(made: Adjacency) -> list[tuple[int, int]]:
    """Source and destination of each edge, in the order of the edge list."""
    out = [(-1, -1)] * made.edges
    places = range(made.edges) if made.edge is None else made.edge.tolist()
    for place, source, destination in zip(places, made.col.tolist(), made.row.tolist(), strict=True):
        out[place] = (source, destination)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_edges_and_transpose(kind: str) -> None:
    edges, sources, destinations = graph(kind)
    made = Adjacency.of_edges(edges, sources, destinations)
    wanted = list(zip(*edges.tolist(), strict=True))
    assert (made.columns, made.rows, made.edges) == (sources, destinations, edges.shape[1])
    assert made.col.dtype == torch.int32
    assert edges_of(made) == wanted
    back = made.transpose
    assert edges_of(back) == [(j, i) for i, j in wanted]
    assert back.transpose is made
    assert (back.columns, back.rows) == (destinations, sources)
    for one, order in ((made, made.edge), (back, back.col)):  # rows in the order of edges, then of destinations
        for row in range(one.rows):
            inside = order[one.rowptr[row]:one.rowptr[row + 1]]
            assert torch.equal(inside, inside.sort().values)


def test_rows_without_edge_positions() -> None:
    made = Adjacency(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), columns=3)
    assert edges_of(made) == [(0, 0), (2, 0), (1, 1)]
    assert edges_of(made.transpose) == [(0, 0), (0, 2), (1, 1)]
    assert edges_of(made.to("cpu")) == edges_of(made)


def test_of_a_relation() -> None:
    made = DynamicHeteroGraph()
    made["a"].num_nodes, made["b"].num_nodes = 3, 2
    made["a", "to", "b"].edge_index = torch.tensor([[2, 0, 1], [1, 1, 0]])
    relation = Adjacency.of(made, ("a", "to", "b"))
    assert edges_of(relation) == [(2, 1), (0, 1), (1, 0)]
    assert (relation.columns, relation.rows) == (3, 2)


@pytest.mark.parametrize(("field", "call"), [
    ("rowptr", lambda: Adjacency(torch.tensor([0, 2, 1, 3]), torch.tensor([0, 0, 0]), columns=1)),
    ("rowptr", lambda: Adjacency(torch.tensor([0, 3], dtype=torch.int32), torch.tensor([0, 0, 0]), columns=1)),
    ("col", lambda: Adjacency(torch.tensor([0, 3]), torch.tensor([0, 1, 0]), columns=1)),
    ("edge", lambda: Adjacency(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([0, 1]), columns=1)),
    ("edge", lambda: Adjacency(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([5]), columns=1)),
    ("edge", lambda: Adjacency(torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([1, 1]), columns=1)),
    ("edge_index", lambda: Adjacency.of_edges(torch.zeros(3, 2, dtype=torch.int64), 1, 1)),
    ("edge_index", lambda: Adjacency.of_edges(torch.tensor([[0], [1]]), 1, 1)),
    ("edge_index", lambda: Adjacency.of_edges(torch.tensor([[1], [0]]), 1, 1)),
])
def test_bad_input_is_named(field: str, call: object) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
