"""The graph is PyG's, and more: types, signals, copies, batches, transforms, pickles."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import HeteroConv, SAGEConv
from torch_geometric.transforms import ToUndirected

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal

MakeGraph = Callable[..., DynamicHeteroGraph]
Same = Callable[[DynamicHeteroGraph, DynamicHeteroGraph], None]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")


def test_signals_by_type_and_name(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    only = graph.signal("sensor")
    assert graph.signal("sensor", "traffic") is only
    assert graph.signals("sensor") == {"traffic": only}
    assert graph.signals("station") == {}
    assert graph.signal(NEAR).channel_names == ["travel_time"]
    graph.add_signal("sensor", "again", only)
    for kind, name, words in (("sensor", None, "traffic, again"), ("sensor", "rain", "traffic, again"),
                              ("station", None, "add_signal"), ("bus", None, "sensor, station")):
        with pytest.raises(InputError) as caught:
            graph.signal(kind, name)
        assert words in caught.value.remedy
    assert "bus" not in graph.node_types  # asking does not create


def test_a_signal_must_fit(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    wrong = Signal(np.zeros((9, 3, 1)), None, [Channel("value")])
    with pytest.raises(InputError, match=r"\[9, 7, channels\]"):
        graph.add_signal("sensor", "level", wrong)
    with pytest.raises(InputError, match="no such type"):
        graph.add_signal("bus", "level", wrong)
    graph.time = None
    with pytest.raises(InputError, match="time axis"):
        graph.add_signal("station", "level", wrong)


def test_sizes_are_known_without_warnings(make_graph: MakeGraph, recwarn: pytest.WarningsRecorder) -> None:
    graph = DynamicHeteroGraph()
    graph["sensor"].lonlat = torch.zeros(4, 2, dtype=torch.float64)
    assert graph.size_of("sensor") == 4
    assert not recwarn.list
    graph["empty"]
    with pytest.raises(InputError, match="num_nodes"):
        graph.size_of("empty")


def test_provenance_is_a_dictionary_and_answers_pyg(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    assert graph.metadata["name"] == "random 0"
    assert graph.metadata() == (["sensor", "station"], [NEAR, SERVES])
    assert graph.simulated
    graph.metadata = {"name": "other"}
    assert not graph.simulated
    graph.metadata["simulated"] = True
    assert graph.simulated
    twin = copy.deepcopy(graph)
    twin.metadata["name"] = "twin"
    assert graph.metadata["name"] == "other"
    assert twin.metadata() == graph.metadata()


@pytest.mark.parametrize("make_copy", [
    copy.copy, copy.deepcopy, DynamicHeteroGraph.clone, lambda graph: pickle.loads(pickle.dumps(graph)),
    lambda graph: graph.to("cpu"), lambda graph: DynamicHeteroGraph.contiguous(graph),
])
def test_copies_hold_the_same(make_graph: MakeGraph, same: Same,
                              make_copy: Callable[[DynamicHeteroGraph], DynamicHeteroGraph]) -> None:
    graph = make_graph(1)
    twin = make_copy(graph)
    assert type(twin) is DynamicHeteroGraph
    same(twin, graph)


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, DynamicHeteroGraph.clone])
def test_a_copy_can_be_changed(make_graph: MakeGraph, same: Same,
                               make_copy: Callable[[DynamicHeteroGraph], DynamicHeteroGraph]) -> None:
    graph = make_graph(1)
    twin = make_copy(graph)
    twin.time = None
    twin.metadata["name"] = "twin"
    twin._signals["sensor"].clear()
    twin["sensor"].extra = torch.zeros(7)
    twin.declare("sensor", "extra", unit="m")
    del twin["station", "serves", "sensor"]
    same(graph, make_graph(1))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, DynamicHeteroGraph.clone])
def test_a_deep_copy_shares_no_memory(make_graph: MakeGraph,
                                      make_copy: Callable[[DynamicHeteroGraph], DynamicHeteroGraph]) -> None:
    graph = make_graph(1)
    twin = make_copy(graph)
    assert not np.shares_memory(twin.signal("sensor").values, graph.signal("sensor").values)
    assert twin["sensor"].profile.data_ptr() != graph["sensor"].profile.data_ptr()


def test_two_in_a_batch_and_back(make_graph: MakeGraph) -> None:
    graphs = [make_graph(1), make_graph(2, sensors=5)]
    batch = next(iter(DataLoader(graphs, batch_size=2)))
    assert isinstance(batch, Batch)
    assert batch["sensor"].num_nodes == 12
    assert batch["sensor"].batch.tolist() == [0] * 7 + [1] * 5
    assert torch.equal(batch[NEAR].edge_index, torch.cat([graphs[0][NEAR].edge_index,
                                                          graphs[1][NEAR].edge_index + 7], 1))
    for graph, twin in zip(graphs, batch.to_data_list(), strict=True):
        assert isinstance(twin, DynamicHeteroGraph)
        assert torch.equal(twin[SERVES].edge_index, graph[SERVES].edge_index)
        assert twin["sensor"].node_id.tolist() == graph["sensor"].node_id.tolist()


def test_as_one_kind_of_node(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    data = graph.to_homogeneous()
    assert data.num_nodes == 10
    assert data.node_type.tolist() == [0] * 7 + [1] * 3
    served = data.edge_index[:, data.edge_type == 1]
    assert torch.equal(served - torch.tensor([[7], [0]]), graph[SERVES].edge_index)


def test_transforms_and_layers_of_pyg_run(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    del graph[NEAR]
    both = ToUndirected()(graph)
    assert isinstance(both, DynamicHeteroGraph)
    back = both["sensor", "rev_serves", "station"]
    assert torch.equal(back.edge_index, graph[SERVES].edge_index.flip(0))
    assert both.validate()
    assert both.time == graph.time
    assert graph.edge_types == [SERVES]
    torch.manual_seed(0)
    layer = HeteroConv({kind: SAGEConv((1, 3), 4) if kind == SERVES else SAGEConv((3, 1), 4)
                        for kind in both.edge_types})
    x = {"sensor": both["sensor"].profile.nan_to_num(), "station": both["station"].height[:, None].float()}
    out = layer(x, both.edge_index_dict)
    assert {kind: tuple(value.shape) for kind, value in out.items()} == {"sensor": (7, 4), "station": (3, 4)}


def test_merging_directions_of_edges_with_lives_is_caught(make_graph: MakeGraph) -> None:
    merged = ToUndirected()(make_graph(1))
    with pytest.raises(InputError) as caught:
        merged.validate()
    assert caught.value.field.startswith("sensor__near__sensor")


def test_edge_signals_refuse_what_would_lose_them(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    for change in (graph.sort, graph.coalesce):
        with pytest.raises(InputError, match="edge_subgraph"):
            change()
    graph._signals.pop(NEAR)
    assert graph.sort().is_sorted()


def test_renaming_and_deleting_take_signals_and_schema_along(make_graph: MakeGraph) -> None:
    graph = make_graph(1)
    graph.rename("sensor", "detector")
    assert graph.signal("detector").shape == (9, 7, 2)
    assert graph.signal(("detector", "near", "detector")).shape[0] == 9
    assert graph.schema.nodes["detector"]["profile"].unit == "m/s"
    assert graph.validate()
    part = graph.node_type_subgraph(["station"])
    assert part.validate()
    assert part._signals == {}
    del graph["detector", "near", "detector"]
    assert list(graph._signals) == ["detector"]
    with pytest.raises(InputError):
        graph.signal(("detector", "near", "detector"))


def test_it_is_made_as_pyg_makes_its_own() -> None:
    graph = DynamicHeteroGraph({"sensor": {"x": torch.ones(2, 1)}}, station={"x": torch.ones(3, 1)})
    assert isinstance(graph, HeteroData)
    assert {kind: len(x) for kind, x in graph.x_dict.items()} == {"sensor": 2, "station": 3}
    assert "TimeAxis" not in repr(graph)


def test_it_shows_its_time_and_signals(make_graph: MakeGraph) -> None:
    shown = repr(make_graph(0))
    assert "TimeAxis(start=1330588800" in shown
    assert "sensor: traffic=[9, 7, 2]" in shown
