"""Minimal bytes and operations by hand, and the graphs that are timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stgraph.bench.case import BACKWARD, BOTH, FORWARD, MOST_NUMBERS, WEIGHTS, Case, bars, choose, sizes
from stgraph.bench.costs import cost
from stgraph.bench.graphs import BenchGraph, Graphs, nearest_pairs
from stgraph.errors import InputError

NODES, EDGES = 3, 4


def case(operator: str, run: str = FORWARD, dtype: str = "float32", heads: int = 1) -> Case:
    return Case("spmm", operator, "by hand", 2, 6, heads, run, dtype)


@pytest.mark.parametrize(("wanted", "moved", "operations"), [
    # 3 nodes x 2 slabs x 6 channels x 4 bytes = 144 in and out; 4 weights of 4 bytes; 4 columns and 4 row pointers
    (case("spmm"), 144 + 144 + 16 + 16 + 16, 2 * 4 * 12),
    (case("spmm", dtype="bfloat16"), 72 + 72 + 8 + 16 + 16, 2 * 4 * 12),
    # the transposed graph has edge positions too
    (case("spmm", BACKWARD), 144 + 144 + 16 + 32 + 16, 2 * 4 * 12),
    # features are read again, gradients of 4 weights written, the graph read forward too
    (case("spmm", WEIGHTS), 144 + 144 + 16 + 32 + 16 + 144 + 16 + 32, 2 * 2 * 4 * 12),
    # scores of 3 nodes x 2 slabs x 2 heads x 4 bytes at both ends
    (case("gat_aggregate", heads=2), 144 + 144 + 2 * 48 + 32, 2 * 4 * 12),
    (case("graph_attention", heads=2), 4 * 144 + 32, 4 * 4 * 12),
    (case("sddmm", heads=2), 2 * 144 + 4 * 2 * 2 * 4 + 32, 2 * 4 * 12),
    (case("segment_reduce"), 4 * 12 * 4 + 144 + 16, 4 * 12),
    (case("gather_rows"), 144 + 4 * 12 * 4 + 16, 0),
])
def test_minimal_bytes_and_operations_by_hand(wanted: Case, moved: int, operations: int) -> None:
    found = cost(wanted, NODES, EDGES)
    assert (found.moved, found.operations) == (moved, operations)
    assert found.gathered == EDGES * 12 * (2 if wanted.dtype == "bfloat16" else 4)


@pytest.mark.parametrize("operator", ["spmm", "gat_aggregate", "graph_attention"])
def test_both_passes_cost_the_sum(operator: str) -> None:
    passes = [cost(case(operator, run), NODES, EDGES) for run in (FORWARD, WEIGHTS, BOTH)]
    assert passes[0] + passes[1] == passes[2]


def test_a_pass_without_a_count_is_refused() -> None:
    with pytest.raises(InputError, match="not timed in this pass"):
        cost(case("sddmm", WEIGHTS), NODES, EDGES)


# -------------------------------------------------------------------- graphs
def check(graph: BenchGraph, nodes: int, edges: int) -> None:
    assert (graph.nodes, graph.edges) == (nodes, edges)
    assert (np.diff(graph.destination) >= 0).all()
    assert graph.source.min() >= 0
    assert max(graph.source.max(), graph.destination.max()) < nodes
    degree = np.bincount(graph.destination, minlength=nodes)
    assert graph.rowptr.tolist() == [0, *np.cumsum(degree)]


def test_nearest_pairs_are_those_of_all_pairs_sorted() -> None:
    xy = np.random.default_rng(1).random((40, 2))
    source, destination = nearest_pairs(xy, 101)
    far = np.linalg.norm(xy[:, None] - xy, axis=2)
    pairs = far[~np.eye(40, dtype=bool)]
    np.testing.assert_allclose(np.sort(far[source, destination]), np.sort(pairs)[:101], rtol=1e-12)
    assert len({*zip(source.tolist(), destination.tolist(), strict=True)}) == 101


def test_made_graphs_have_the_sizes_of_the_real_ones() -> None:
    graphs = Graphs(None)
    check(graphs["sensor"], 716, 17_319)
    check(graphs["METR-LA"], 207, 1_515)
    check(graphs["road 200k"], 200_000, 600_000)
    assert all(graph.origin.startswith("made") for graph in graphs.known.values())
    assert np.array_equal(Graphs(None)["sensor"].source, graphs["sensor"].source), "not a function of the seed"


def test_orders_of_the_streets_are_one_graph_with_other_names() -> None:
    """Degrees agree as a multiset; the distance of the two ends in memory does not."""
    graphs = Graphs(None, shrink=100)
    apart = {}
    for name in ("road 200k", "road 200k, line by line", "road 200k, shuffled"):
        graph = graphs[name]
        apart[name] = np.median(np.abs(graph.source - graph.destination))
        both = set(zip(graph.source.tolist(), graph.destination.tolist(), strict=True))
        assert both == {(b, a) for a, b in both}, "streets go both ways"
    assert apart["road 200k"] < apart["road 200k, line by line"] < apart["road 200k, shuffled"]


def test_a_random_graph_has_its_density() -> None:
    graph = Graphs(None)["random 0.1"]
    assert graph.edges == round(0.1 * 512 * 512)
    assert len({*zip(graph.source.tolist(), graph.destination.tolist(), strict=True)}) == graph.edges


def test_a_real_sensor_graph_is_read_and_hashed(shared_data: Path) -> None:
    graph = Graphs(shared_data)["PEMS-BAY"]
    check(graph, 325, 2_694)  # as its README says
    assert graph.files == {"pems_bay_adj.npz": "e414cb6259652a6f7a970a4dfd4d54910c8793da220e11f864d71c233fef553c"}
    assert graph.origin.startswith("real")
    assert ((graph.source == graph.destination).sum()) == 325, "the published matrix has a full diagonal"


def test_places_of_sensors_are_real(shared_data: Path) -> None:
    graph = Graphs(shared_data)["sensor"]
    check(graph, 716, 17_319)
    assert graph.origin.startswith("real places")
    assert len(graph.files) == 1


def test_the_streets_of_beijing(shared_data: Path) -> None:
    check(Graphs(shared_data)["Beijing"], 32_552, 70_310)


# -------------------------------------------------------------------- suites
def test_every_case_can_be_counted_and_none_is_there_twice() -> None:
    cases = choose("full", None, "float32")
    assert len(set(cases)) == len(cases)
    assert all(cost(one, 10, 20).moved > 0 for one in cases)
    assert {one.graph for one in bars()} == {"sensor", "road 200k", "road 200k, shuffled", "CA", "tiny"}
    assert MOST_NUMBERS * 4 * 4 < 2**30, "inputs, results and the answer in float64 fit a small machine"
    assert {one.dtype for one in sizes("float64")} == {"float64"}


def test_groups_are_chosen_by_name_and_unknown_ones_refused() -> None:
    assert {one.family for one in choose("quick", ["spmm", "overhead"], "float32")} == {"spmm", "overhead"}
    with pytest.raises(InputError, match="no such group"):
        choose("full", ["spam"], "float32")
    with pytest.raises(InputError, match="full run only"):
        choose("quick", ["density"], "float32")
