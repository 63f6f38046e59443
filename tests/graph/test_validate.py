"""Every broken promise is named: the field, the value, the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis

MakeGraph = Callable[..., DynamicHeteroGraph]
NEAR, SERVES = ("sensor", "near", "sensor"), ("station", "serves", "sensor")
NAN = float("nan")


def set_(kind: Any, name: str, value: Any) -> Callable[[DynamicHeteroGraph], None]:
    """Set an attribute."""
    return lambda graph: setattr(graph[kind], name, value)


def place(kind: Any, name: str, position: Any, value: Any) -> Callable[[DynamicHeteroGraph], None]:
    """Change an entry of an attribute."""
    def change(graph: DynamicHeteroGraph) -> None:
        graph[kind][name][position] = value
    return change


def life(start: int, end: int) -> Callable[[DynamicHeteroGraph], None]:
    """Give the first edge a life."""
    def change(graph: DynamicHeteroGraph) -> None:
        graph[NEAR].valid_from[0], graph[NEAR].valid_to[0] = start, end
    return change


def dead_end(graph: DynamicHeteroGraph) -> None:
    """An edge that lives only after its source does."""
    source = int(graph[NEAR].edge_index[0, 0])
    graph["sensor"].valid_from[source], graph["sensor"].valid_to[source] = 0, 10
    graph[NEAR].valid_from[0], graph[NEAR].valid_to[0] = 10, 20


def with_signal(**parts: Any) -> Callable[[DynamicHeteroGraph], None]:
    """Replace the signal of the sensors behind the back of add_signal."""
    def change(graph: DynamicHeteroGraph) -> None:
        old = graph.signal("sensor")
        given = {"values": old.values, "mask": old.mask, "channels": old.channels, **parts}
        graph._signals["sensor"]["traffic"] = Signal(**given)
    return change


def unfinite(graph: DynamicHeteroGraph) -> None:
    """An observed value that is no number, behind the first block."""
    signal = graph.signal("sensor")
    signal.values[8, 2, 1], signal.mask[8, 2, 1] = np.inf, True


CASES = {
    "index_out_of_range": (place(NEAR, "edge_index", (1, 2), 7), "sensor__near__sensor.edge_index", "7 at edge 2"),
    "index_negative": (place(SERVES, "edge_index", (0, 0), -1), "station__serves__sensor.edge_index", "-1 at edge 0"),
    "index_dtype": (set_(NEAR, "edge_index", torch.zeros(2, 3)), "sensor__near__sensor.edge_index", "torch.float32"),
    "index_shape": (set_(NEAR, "edge_index", torch.zeros(3, 2, dtype=torch.int64)),
                    "sensor__near__sensor.edge_index", "[3, 2]"),
    "index_missing": (lambda graph: graph[NEAR].pop("edge_index"), "sensor__near__sensor.edge_index", "NoneType"),
    "length_node": (set_("sensor", "lanes", torch.zeros(6)), "sensor.lanes", "[6]"),
    "length_edge": (set_(NEAR, "distance", torch.zeros(1)), "sensor__near__sensor.distance", "[1]"),
    "kind_of_value": (set_("sensor", "names", ["a"] * 7), "sensor.names", "list"),
    "numbers_as_numpy": (set_("sensor", "names", np.zeros(7)), "sensor.names", "float64"),
    "ids_twice": (place("sensor", "node_id", slice(0, 2), "same"), "sensor.node_id", "same"),
    "ids_of_objects": (set_("sensor", "node_id", np.array(list("abcdefg"), dtype=object)), "sensor.node_id", "object"),
    "swapped": (place("sensor", "lonlat", 3, torch.tensor([34.0, -118.0])), "sensor.lonlat", "-118.0] at node 3"),
    "out_of_range": (place("sensor", "lonlat", 3, torch.tensor([6_400_000.0, 12.0])), "sensor.lonlat", "at node 3"),
    "infinite_place": (place("sensor", "lonlat", 3, torch.tensor([float("inf"), 12.0])), "sensor.lonlat", "inf"),
    "half_a_place": (place("sensor", "lonlat", 3, torch.tensor([NAN, 12.0])), "sensor.lonlat", "at node 3"),
    "place_dtype": (set_("sensor", "lonlat", torch.zeros(7, 2)), "sensor.lonlat", "torch.float32"),
    "place_shape": (set_("sensor", "lonlat", torch.zeros(7, 3, dtype=torch.float64)), "sensor.lonlat", "[7, 3]"),
    "infinite_pos": (set_("sensor", "pos", torch.full((7, 2), float("inf"))), "sensor.pos", None),
    "life_backwards": (life(20, 10), "sensor__near__sensor.valid_from", "[20, 10) at 0"),
    "life_empty": (life(20, 20), "sensor__near__sensor.valid_from", "[20, 20) at 0"),
    "life_of_an_edge_without_ends": (dead_end, "sensor__near__sensor.valid_from", "edge 0 from"),
    "life_dtype": (set_("sensor", "valid_from", torch.zeros(7)), "sensor.valid_from", "torch.float32"),
    "signal_steps": (with_signal(values=np.zeros((8, 7, 2)), mask=None), "sensor.traffic", "(8, 7, 2)"),
    "signal_places": (with_signal(values=np.zeros((9, 6, 2)), mask=None), "sensor.traffic", "(9, 6, 2)"),
    "signal_dtype": (with_signal(values=np.zeros((9, 7, 2), int)), "sensor.traffic.values", "int64"),
    "mask_dtype": (with_signal(mask=np.ones((9, 7, 2))), "sensor.traffic.mask", "float64"),
    "channels_twice": (with_signal(channels=[Channel("a"), Channel("a")]), "sensor.traffic.channels", "['a', 'a']"),
    "unfinite": (unfinite, "sensor.traffic.values", "inf at row 8, place 2, channel flow"),
    "no_time": (lambda graph: setattr(graph, "time", None), "time", None),
    "no_such_node_type": (lambda graph: graph.__delitem__("station"), "station__serves__sensor", "station"),
    "name_of_a_type": (lambda graph: setattr(graph["../up"], "num_nodes", 1), "node type", "../up"),
    "name_of_a_relation": (set_(("sensor", "a/b", "sensor"), "edge_index", torch.zeros(2, 0, dtype=torch.int64)),
                           "relation", "a/b"),
    "name_of_an_attribute": (set_("sensor", "a b", torch.zeros(7)), "attribute", "a b"),
    "name_of_a_signal": (lambda graph: graph.add_signal("sensor", "..", graph.signal("sensor")), "signal", ".."),
    "schema": (set_("sensor", "profile", torch.zeros(7, 4)), "sensor.profile", "float32 ['N', 4]"),
    "metadata": (lambda graph: graph.metadata.update(when=object()), "metadata.when", "object"),
    "metadata_number": (lambda graph: graph.metadata.update(score=NAN), "metadata.score", "nan"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_promise_is_named(make_graph: MakeGraph, case: str) -> None:
    change, field, value = CASES[case]
    graph = make_graph(4)
    assert graph.validate()
    change(graph)
    with pytest.raises(InputError) as caught:
        graph.validate()
    assert caught.value.field == field
    assert value is None or value in caught.value.value
    assert caught.value.remedy
    assert graph.validate(raise_on_error=False) is False


def test_swapped_columns_are_called_swapped(make_graph: MakeGraph) -> None:
    graph = make_graph(4)
    graph["sensor"].lonlat[0] = torch.tensor([34.0, -118.0])
    with pytest.raises(InputError, match="swap the columns"):
        graph.validate()
    graph["sensor"].lonlat[0] = torch.tensor([500.0, -118.0])
    with pytest.raises(InputError, match="WGS 84"):
        graph.validate()


def test_what_was_not_observed_may_be_anything(make_graph: MakeGraph) -> None:
    graph = make_graph(4)
    signal = graph.signal("sensor")
    signal.values[~signal.mask] = NAN
    assert graph.validate()


def test_an_edge_that_outlives_its_ends_is_clipped_not_refused(make_graph: MakeGraph) -> None:
    graph = DynamicHeteroGraph()
    graph["sensor"].valid_from, graph["sensor"].valid_to = torch.tensor([0, 10]), torch.tensor([20, 30])
    graph[NEAR].edge_index = torch.tensor([[0], [1]])
    graph[NEAR].valid_from, graph[NEAR].valid_to = torch.tensor([5]), torch.tensor([25])
    assert graph.validate()
    assert [graph.at(t)[NEAR].edge_index.shape[1] for t in (5, 9, 10, 19, 20, 24)] == [0, 0, 1, 1, 0, 0]


def test_empty_graphs_are_fine() -> None:
    assert DynamicHeteroGraph().validate()
    graph = DynamicHeteroGraph(time=TimeAxis(0, 60, 0))
    graph["sensor"].node_id = np.array([], dtype=str)
    graph.add_signal("sensor", "level", Signal(np.zeros((0, 0, 1)), None, [Channel("value")]))
    assert graph.validate()
