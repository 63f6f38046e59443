"""Orders of nodes: the curve is a Hilbert curve, undoing gives the same bits, relabelling permutes every result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph
from stgraph.graph.order import BITS, hilbert_key

MakeGraph = Callable[..., DynamicHeteroGraph]
Same = Callable[[DynamicHeteroGraph, DynamicHeteroGraph], None]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")
ORDERS = st.sampled_from(["hilbert", "degree"]) | st.permutations(range(7)).map(np.array)


def weighted_sum(graph: DynamicHeteroGraph, x: torch.Tensor) -> torch.Tensor:
    """One step of message passing over the compressed rows, ``[N, F]``."""
    csr = graph.csr(NEAR)
    out = torch.zeros_like(x)
    rows = torch.repeat_interleave(torch.arange(csr.rows), csr.degree)
    return out.index_add(0, rows, x[csr.col] * graph[NEAR].edge_weight[csr.edge_id, None].double())


@given(st.integers(0, 1000), ORDERS, ORDERS)
def test_undoing_gives_the_same_bits(make_graph: MakeGraph, same: Same, seed: int, one: object, other: object) -> None:
    graph = make_graph(seed)
    twice = graph.reorder(one, "sensor").reorder(other, "sensor")
    assert twice.validate()
    same(twice.undo_reorder(), graph)
    same(make_graph(seed), graph)  # reordering has not touched the graph itself


@given(st.integers(0, 1000), ORDERS)
def test_everything_follows_its_node(make_graph: MakeGraph, seed: int, order: object) -> None:
    graph = make_graph(seed)
    moved = graph.reorder(order, "sensor")
    where = {name: i for i, name in enumerate(moved["sensor"].node_id.tolist())}
    for i, name in enumerate(graph["sensor"].node_id.tolist()):
        j = where[name]
        assert torch.equal(graph["sensor"].profile[i].view(torch.int32), moved["sensor"].profile[j].view(torch.int32))
        assert graph["sensor"].road[i] == moved["sensor"].road[j]
        np.testing.assert_array_equal(graph.signal("sensor").values[:, i], moved.signal("sensor").values[:, j])
    names = graph["sensor"].node_id[graph[NEAR].edge_index]
    np.testing.assert_array_equal(moved["sensor"].node_id[moved[NEAR].edge_index], names)
    assert moved.signal(NEAR).values is graph.signal(NEAR).values


@given(st.integers(0, 1000), ORDERS)
def test_results_come_back_in_the_users_order(make_graph: MakeGraph, seed: int, order: object) -> None:
    graph = make_graph(seed)
    moved = graph.reorder(order, "sensor")
    x = torch.rand(7, 3, dtype=torch.float64)
    x_moved = x[moved["sensor"].user_index]
    back = moved.to_user_order("sensor", weighted_sum(moved, x_moved), 0)
    torch.testing.assert_close(back, weighted_sum(graph, x))
    series = np.random.default_rng(seed).normal(size=(2, 7, 1))
    np.testing.assert_array_equal(
        moved.to_user_order("sensor", series[:, moved["sensor"].user_index.numpy()], -2), series)
    moment = 1_330_588_800 + 700
    part, part_moved = graph.at(moment), moved.at(moment)
    assert moved.to_user_order("sensor", x_moved).tolist() == x.tolist()
    assert part_moved.to_user_order("sensor", part_moved["sensor"].node_id).tolist() == part["sensor"].node_id.tolist()
    undone = part_moved.undo_reorder()
    np.testing.assert_array_equal(undone.signal("sensor").values, part.signal("sensor").values)
    assert undone[NEAR].edge_index.tolist() == part[NEAR].edge_index.tolist()


@given(st.integers(0, 1000), st.permutations(range(7)))
def test_relabelling_does_not_change_the_curve(make_graph: MakeGraph, seed: int, permutation: list[int]) -> None:
    graph = make_graph(seed)
    graph["sensor"].lonlat = torch.from_numpy(np.random.default_rng(seed).uniform(-80, 80, (7, 2)))
    one = graph.reorder("hilbert")
    other = graph.subgraph({"sensor": torch.tensor(permutation)}).reorder("hilbert")
    assert one["sensor"].node_id.tolist() == other["sensor"].node_id.tolist()


@pytest.mark.parametrize("side", [1, 2, 8, 32])
def test_the_curve_visits_every_cell_and_steps_to_neighbours(side: int) -> None:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    # two corners that fix the bounding square put every point into the middle of its own cell of a side x side grid
    places = np.concatenate([np.stack([x.ravel(), y.ravel()], 1) + 0.5, [[0, 0], [side, side]]])
    key = hilbert_key(places)[:-2]
    assert len(np.unique(key * side * side >> 2 * BITS)) == side * side
    path = places[:-2][np.argsort(key)]
    assert (np.abs(np.diff(path, axis=0)).sum(1) == 1).all()


def test_unknown_places_come_last_and_ties_keep_their_order() -> None:
    nan = float("nan")
    assert np.argsort(hilbert_key(np.array([[nan, nan], [5.0, 5.0], [nan, 1.0], [5.0, 5.0]])),
                      kind="stable").tolist() == [1, 3, 0, 2]
    assert hilbert_key(np.full((2, 2), nan)).tolist() == [1 << 2 * BITS] * 2
    assert hilbert_key(np.zeros((0, 2))).shape == (0,)


def test_the_most_connected_come_first(make_graph: MakeGraph) -> None:
    graph = make_graph(2)
    ends = torch.cat([graph[NEAR].edge_index.flatten(), graph[SERVES].edge_index[1]])
    degree = torch.bincount(ends, minlength=7).tolist()
    expected = sorted(range(7), key=lambda i: (-degree[i], i))
    assert graph.reorder("degree", "sensor")["sensor"].user_index.tolist() == expected


@pytest.mark.parametrize(("order", "kind", "field"), [
    ("spiral", "sensor", "order"), (np.array([0, 1, 2, 3, 4, 5, 5]), "sensor", "order"),
    (np.arange(6), "sensor", "order"), (np.arange(7.0), "sensor", "order"), (np.arange(7), None, "type"),
    ("hilbert", "station", "station"), ("degree", "bus", "type"),
])
def test_orders_that_are_refused(make_graph: MakeGraph, order: object, kind: str | None, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_graph(0).reorder(order, kind)
    assert caught.value.field == field


def test_a_result_of_another_size_is_refused(make_graph: MakeGraph) -> None:
    with pytest.raises(InputError, match="axis"):
        make_graph(0).to_user_order("sensor", torch.zeros(6))
