"""The schema: inferred, declared, checked, written as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stgraph.errors import InputError
from stgraph.graph import Attribute, DynamicHeteroGraph, Schema
from stgraph.graph.schema import check_name, check_unit, infer, label

MakeGraph = Callable[..., DynamicHeteroGraph]


def test_plain_values_and_back(make_graph: MakeGraph) -> None:
    schema = make_graph(0).complete_schema()
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_every_attribute_is_declared_and_known_names_have_units(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    schema = graph.complete_schema()
    for kind in (*graph.node_types, *graph.edge_types):
        assert schema.of(kind).keys() == {name for name in graph._store(kind) if name != "num_nodes"}
    sensor, near = schema.nodes["sensor"], schema.edges["sensor", "near", "sensor"]
    assert (sensor["lonlat"].dtype, sensor["lonlat"].shape, sensor["lonlat"].unit) == ("float64", ("N", 2), "degree")
    assert sensor["profile"] == Attribute("float32", ("N", 3), "m/s", "mean speeds")
    assert (sensor["road"].dtype, sensor["road"].unit) == ("str", None)
    assert (near["edge_index"].shape, near["distance"].unit) == ((2, "E"), "m")


def test_declarations_of_what_is_gone_are_forgotten(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    graph.complete_schema()
    del graph["sensor"].profile
    del graph["station", "serves", "sensor"]
    schema = graph.complete_schema()
    assert "profile" not in schema.nodes["sensor"]
    assert list(schema.edges) == [("sensor", "near", "sensor")]


def test_an_attribute_that_changed_its_type_is_refused_until_declared_again(make_graph: MakeGraph) -> None:
    graph = make_graph(0)
    graph["sensor"].profile = graph["sensor"].profile.double()
    with pytest.raises(InputError, match="float32") as caught:
        graph.complete_schema()
    assert caught.value.field == "sensor.profile"
    graph.declare("sensor", "profile", unit="m/s")
    assert graph.complete_schema().nodes["sensor"]["profile"].dtype == "float64"


@pytest.mark.parametrize(("kind", "attribute", "unit", "field"), [
    ("bus", "lanes", None, "type"), ("sensor", "wings", None, "sensor.wings"), ("sensor", "profile", "mph", "unit"),
    ("sensor", "profile", "furlong", "unit"),
])
def test_declarations_that_are_refused(make_graph: MakeGraph, kind: str, attribute: str, unit: str | None,
                                       field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_graph(0).declare(kind, attribute, unit=unit)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("value", [
    torch.zeros(3, dtype=torch.complex64), torch.tensor(1.0), np.zeros(3), np.array(["a", None], dtype=object),
    ["a", "b", "c"], 4,
])
def test_values_a_graph_does_not_hold(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        infer("thing", value, "N")
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "a b", "two__lines", "ü", "a\n"])
def test_names_that_cannot_be_files(name: str) -> None:
    with pytest.raises(InputError):
        check_name(name, "relation")


def test_good_names_and_units() -> None:
    for name in ("sensor", "near_by", "v1.2-b", "_x"):
        check_name(name, "relation")
    for unit in (None, "m", "m/s", "veh/h", "1"):
        check_unit(unit)
    assert label(("a", "b", "c")) == "a__b__c"
