"""Compressed rows: equal to scipy, stable, kept until the edge index changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import CSR, DynamicHeteroGraph
from stgraph.graph.csr import build_csr

MakeGraph = Callable[..., DynamicHeteroGraph]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_rows_are_those_of_scipy(rows: int, columns: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 30))
    row = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=count, max_size=count)), dtype=np.int64)
    col = np.array(data.draw(st.lists(st.integers(0, columns - 1), min_size=count, max_size=count)), dtype=np.int64)
    found = build_csr(torch.from_numpy(row), torch.from_numpy(col), rows, columns)
    value = np.random.default_rng(0).integers(1, 100, count)
    reference = scipy.sparse.coo_array((value, (row, col)), shape=(rows, columns))
    ours = scipy.sparse.csr_array((value[found.edge_id.numpy()], found.col, found.rowptr), shape=(rows, columns))
    np.testing.assert_array_equal(ours.toarray(), reference.toarray())
    np.testing.assert_array_equal(found.col, col[found.edge_id])
    for i in range(rows):
        entries = found.edge_id[found.rowptr[i]:found.rowptr[i + 1]].tolist()
        assert entries == np.flatnonzero(row == i).tolist()
    np.testing.assert_array_equal(found.degree, np.bincount(row, minlength=rows))
    assert found.rows == rows


def test_no_nodes_no_rows() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert build_csr(nothing, nothing, 0, 0).rowptr.tolist() == [0]


@pytest.mark.parametrize("transpose", [False, True])
@given(seed=st.integers(0, 1000))
def test_a_product_is_that_of_scipy(make_graph: MakeGraph, transpose: bool, seed: int) -> None:
    graph = make_graph(seed)
    for kind in (NEAR, SERVES):
        csr = graph.csr(kind, transpose)
        weight = graph[kind].edge_weight[csr.edge_id].double()
        matrix = scipy.sparse.csr_array((weight, csr.col, csr.rowptr), shape=(csr.rows, csr.columns))
        x = np.random.default_rng(seed).normal(size=(csr.columns, 2))
        reference = graph.to_scipy(kind).astype(np.float64)
        np.testing.assert_allclose(matrix @ x, (reference if transpose else reference.T) @ x, atol=1e-12)


def test_the_cache_lives_until_the_edge_index_changes(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    first = graph.csr(NEAR)
    assert graph.csr(NEAR) is first
    assert graph.csr(NEAR, transpose=True) is not first
    graph[NEAR].edge_weight = graph[NEAR].edge_weight * 2  # weights are not part of it
    assert graph.csr(NEAR) is first
    graph[NEAR].edge_index[1] = 0
    in_place = graph.csr(NEAR)
    assert in_place is not first
    assert int(in_place.degree[0]) == graph[NEAR].edge_index.shape[1]
    graph[NEAR].edge_index = graph[NEAR].edge_index.clone()
    assert graph.csr(NEAR) is not in_place
    assert pickle.loads(pickle.dumps(graph))._csr == {}


def test_indices_out_of_range_are_refused(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    for side, value in ((0, 7), (1, 7), (0, -1), (1, -1)):
        broken = graph.clone()
        broken[NEAR].edge_index[side, 0] = value
        with pytest.raises(InputError, match="out of range"):
            broken.csr(NEAR)
    with pytest.raises(InputError, match="no such type"):
        graph.csr(("sensor", "far", "sensor"))


@pytest.mark.parametrize(("rowptr", "col", "edge_id"), [
    ([0, 1], [0, 1], [0, 1]), ([1, 2], [0, 1], [0, 1]), ([0, 2], [0, 1], [0]), ([], [], []), ([0, 2], [0, 2], [0, 1]),
])
def test_parts_that_do_not_fit(rowptr: list[int], col: list[int], edge_id: list[int]) -> None:
    with pytest.raises(InputError):
        CSR(*(torch.tensor(part, dtype=torch.int64) for part in (rowptr, col, edge_id)), columns=2)
