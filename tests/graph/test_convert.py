"""There and back: PyG, networkx, GeoPandas, scipy; and DGL, which is not always there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import geopandas
import networkx
import numpy as np
import pytest
import scipy.sparse
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from stgraph.errors import InputError
from stgraph.graph import DynamicHeteroGraph

MakeGraph = Callable[..., DynamicHeteroGraph]
Same = Callable[[DynamicHeteroGraph, DynamicHeteroGraph], None]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")


def silent(graph: DynamicHeteroGraph) -> DynamicHeteroGraph:
    """The graph without its signals, which other libraries do not hold."""
    graph._signals.clear()
    return graph


@given(st.integers(0, 1000), st.sampled_from(["networkx", "geopandas"]))
def test_there_and_back_is_the_same(make_graph: MakeGraph, same: Same, seed: int, library: str) -> None:
    graph = silent(make_graph(seed))
    there = getattr(graph, f"to_{library}")()
    back = getattr(DynamicHeteroGraph, f"from_{library}")(there)
    same(back, graph)
    assert back.validate()


@pytest.mark.parametrize("library", ["networkx", "geopandas"])
def test_types_without_members_come_back(same: Same, library: str) -> None:
    graph = DynamicHeteroGraph(metadata={"name": "empty"})
    graph["sensor"].node_id = np.array([], dtype=str)
    graph["sensor"].lonlat = torch.zeros(0, 2, dtype=torch.float64)
    graph[NEAR].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    graph[NEAR].edge_weight = torch.zeros(0)
    same(getattr(DynamicHeteroGraph, f"from_{library}")(getattr(graph, f"to_{library}")()), graph)


def test_pyg_there_and_back(make_graph: MakeGraph) -> None:
    graph = make_graph(2)
    data = graph.to_pyg()
    assert type(data) is HeteroData
    back = DynamicHeteroGraph.from_pyg(data)
    assert back[NEAR].edge_index is graph[NEAR].edge_index
    assert back["sensor"].node_id is graph["sensor"].node_id
    assert back.validate()
    assert back["station"].num_nodes == 3


def test_networkx_has_the_edges_with_the_users_ids(make_graph: MakeGraph) -> None:
    graph = make_graph(2)
    there = graph.to_networkx()
    ids = graph["sensor"].node_id
    expected = {(ids[a], ids[b], e) for e, (a, b) in enumerate(graph[NEAR].edge_index.t().tolist())}
    found = {(a[1], b[1], key[1]) for a, b, key in there.edges(keys=True) if key[0] == "near"}
    assert found == expected
    assert there.nodes["station", 1]["height"] == graph["station"].height[1].item()
    assert there.number_of_nodes() == 10


def test_any_networkx_graph_can_be_read() -> None:
    source = networkx.path_graph(4)
    networkx.set_edge_attributes(source, 2.5, "distance")
    networkx.set_node_attributes(source, {i: f"street {i}" for i in source}, "name")
    graph = DynamicHeteroGraph.from_networkx(source)
    assert graph["node"].node_id.tolist() == ["0", "1", "2", "3"]
    assert graph["node"].name.tolist()[3] == "street 3"
    ends = graph["node", "near", "node"].edge_index.t().tolist()
    assert sorted(map(tuple, ends)) == sorted([(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)])
    assert graph["node", "near", "node"].distance.tolist() == [2.5] * 6
    assert graph.validate()
    del source.nodes[2]["name"]
    with pytest.raises(InputError, match="missing in 1 of 4"):
        DynamicHeteroGraph.from_networkx(source)
    networkx.set_node_attributes(source, {i: {"a": 1} for i in source}, "name")
    with pytest.raises(InputError, match="neither numbers nor texts"):
        DynamicHeteroGraph.from_networkx(source)
    networkx.set_node_attributes(source, {0: "a", 1: "b", 2: 3.0, 3: "d"}, "name")
    with pytest.raises(InputError, match="neither numbers nor texts"):
        DynamicHeteroGraph.from_networkx(source)


def test_tables_have_places_and_lines(make_graph: MakeGraph) -> None:
    graph = make_graph(2)
    tables = graph.to_geopandas()
    sensors, near = tables["sensor"], tables[NEAR]
    assert sensors.crs.to_epsg() == near.crs.to_epsg() == 4326
    known = ~graph["sensor"].lonlat.isnan().any(1).numpy()
    assert sensors.geometry.notna().tolist() == known.tolist()
    np.testing.assert_array_equal(shapely.get_coordinates(sensors.geometry[known]), graph["sensor"].lonlat[known])
    source, target = graph[NEAR].edge_index.numpy()
    assert near.geometry.notna().tolist() == (known[source] & known[target]).tolist()
    edge = int(np.flatnonzero(known[source] & known[target])[0])
    np.testing.assert_array_equal(np.array(near.geometry[edge].coords), graph["sensor"].lonlat[[source[edge],
                                                                                              target[edge]]])
    assert near.source.tolist() == graph["sensor"].node_id[source].tolist()
    assert tables[SERVES].geometry.isna().all()


def test_any_tables_can_be_read() -> None:
    places = geopandas.GeoDataFrame({"level": [1.5, 2.5]}, index=["a", "b"], crs="EPSG:3857",
                                    geometry=[shapely.Point(111319.49079327357, 0), None])
    edges = geopandas.GeoDataFrame({"source": ["a"], "target": ["b"], "lanes": [2]}, geometry=[None], crs="EPSG:4326")
    graph = DynamicHeteroGraph.from_geopandas({"well": places, ("well", "feeds", "well"): edges})
    assert graph["well"].node_id.tolist() == ["a", "b"]
    assert graph["well"].lonlat[0].tolist() == pytest.approx([1, 0])
    assert graph["well"].lonlat[1].isnan().all()
    assert graph["well", "feeds", "well"].edge_index.tolist() == [[0], [1]]
    assert graph.validate()
    edges.loc[0, "target"] = "c"
    with pytest.raises(InputError, match="no node of type 'well'") as caught:
        DynamicHeteroGraph.from_geopandas({"well": places, ("well", "feeds", "well"): edges})
    assert (caught.value.field, caught.value.value) == ("well__feeds__well.target", "c")
    places.geometry = [shapely.LineString([(0, 0), (1, 1)]), None]
    with pytest.raises(InputError, match="points"):
        DynamicHeteroGraph.from_geopandas({"well": places})


@given(st.integers(0, 1000))
def test_a_matrix_there_and_back(make_graph: MakeGraph, seed: int) -> None:
    graph = make_graph(seed)
    matrix = graph.to_scipy(NEAR)
    back = DynamicHeteroGraph.from_scipy(matrix, node_id=graph["sensor"].node_id)
    assert torch.equal(back[NEAR].edge_index, graph[NEAR].edge_index)
    assert torch.equal(back[NEAR].edge_weight, graph[NEAR].edge_weight)
    assert back["sensor"].node_id.tolist() == graph["sensor"].node_id.tolist()
    assert back.validate()


def test_matrices_of_other_weights_and_shapes(make_graph: MakeGraph) -> None:
    graph = make_graph(2)
    assert graph.to_scipy(SERVES).shape == (3, 7)
    assert graph.to_scipy(NEAR, "distance").data.tolist() == graph[NEAR].distance.tolist()
    assert set(graph.to_scipy(NEAR, None).data.tolist()) == {1.0}
    dense = DynamicHeteroGraph.from_scipy(np.array([[0, 2.0], [0, 0]]), "zone", "adjoins")
    assert dense["zone", "adjoins", "zone"].edge_index.tolist() == [[0], [1]]
    with pytest.raises(InputError, match="edge_weight, distance"):
        graph.to_scipy(NEAR, "hops")
    with pytest.raises(InputError, match="square"):
        DynamicHeteroGraph.from_scipy(scipy.sparse.coo_array((2, 3)))
    with pytest.raises(InputError, match="1 ids"):
        DynamicHeteroGraph.from_scipy(scipy.sparse.coo_array((2, 2)), node_id=["a"])


def test_dgl_there(make_graph: MakeGraph) -> None:
    try:
        import dgl  # noqa: F401
    except Exception as error:
        pytest.skip(f"DGL cannot be imported: {error}")
    graph = make_graph(2)
    there = graph.to_dgl()
    assert there.num_nodes("station") == 3
    torch.testing.assert_close(torch.stack(there.edges(etype=NEAR)), graph[NEAR].edge_index)


def test_dgl_is_asked_for_the_right_graph(make_graph: MakeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frames(dict):
        def __missing__(self, kind: object) -> SimpleNamespace:
            self[kind] = SimpleNamespace(data={})
            return self[kind]

    def heterograph(edges: dict, num_nodes_dict: dict) -> SimpleNamespace:
        return SimpleNamespace(given=edges, count=num_nodes_dict, nodes=Frames(), edges=Frames())

    monkeypatch.setitem(sys.modules, "dgl", SimpleNamespace(heterograph=heterograph))
    graph = make_graph(2)
    there = graph.to_dgl()
    assert there.count == {"sensor": 7, "station": 3}
    assert torch.equal(torch.stack(there.given[NEAR]), graph[NEAR].edge_index)
    assert set(there.edges[NEAR].data) == {"edge_weight", "distance", "valid_from", "valid_to"}
    assert set(there.nodes["sensor"].data) == {"lonlat", "lanes", "profile", "ramp", "valid_from", "valid_to"}


def test_without_dgl_it_says_what_to_do(make_graph: MakeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(InputError, match="DGL cannot be imported") as caught:
        make_graph(2).to_dgl()
    assert "to_pyg()" in caught.value.remedy
