"""Road networks as arrays: places, nearest segments, turns, shortest ways, edits. Nothing here needs torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgraph.roads.attach import attach_sensors
    from stgraph.roads.nearest import SegmentIndex
    from stgraph.roads.network import Roads
    from stgraph.roads.paths import shortest_distances, shortest_path
    from stgraph.roads.projection import LocalProjection

_HOME = {"LocalProjection": "projection", "Roads": "network", "SegmentIndex": "nearest", "attach_sensors": "attach",
         "shortest_distances": "paths", "shortest_path": "paths"}
__all__ = ["LocalProjection", "Roads", "SegmentIndex", "attach_sensors", "shortest_distances", "shortest_path"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stgraph.roads' has no attribute '{name}'")
    return getattr(importlib.import_module(f"stgraph.roads.{_HOME[name]}"), name)
