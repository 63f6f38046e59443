"""The one graph type: nodes, edges, signals and time, in memory and on disk.

Names are imported when first used: the time axis costs no torch, a graph in memory no file libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgraph.graph.bundle import data_sha256, load, load_tables, save
    from stgraph.graph.csr import CSR
    from stgraph.graph.dynamic import DynamicHeteroGraph
    from stgraph.graph.geometry import Geometry
    from stgraph.graph.plain import GraphTables
    from stgraph.graph.schema import Attribute, Schema
    from stgraph.graph.signal import Channel, Signal
    from stgraph.graph.snapshot import OPEN_END, OPEN_START
    from stgraph.graph.time import TimeAxis

_HOME = {
    "Attribute": "schema", "CSR": "csr", "Channel": "signal", "DynamicHeteroGraph": "dynamic", "Geometry": "geometry",
    "GraphTables": "plain", "OPEN_END": "snapshot",
    "OPEN_START": "snapshot", "Schema": "schema", "Signal": "signal", "TimeAxis": "time", "data_sha256": "bundle",
    "load": "bundle", "load_tables": "bundle", "save": "bundle",
}
__all__ = ["CSR", "OPEN_END", "OPEN_START", "Attribute", "Channel", "DynamicHeteroGraph", "Geometry", "GraphTables",
           "Schema", "Signal", "TimeAxis", "data_sha256", "load", "load_tables", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stgraph.graph' has no attribute '{name}'")
    return getattr(importlib.import_module(f"stgraph.graph.{_HOME[name]}"), name)
