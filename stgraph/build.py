"""The builders in Python: ``stgraph.build.osm(...)`` does what ``stgraph build osm`` does.

    import stgraph
    roads, report = stgraph.build.osm("porto.osm.pbf", out="porto.stg")
    trips, report = stgraph.build.trips("points.parquet", "porto.stg", out="trips.stg")

Each takes the options of its verb as keywords, gives what it made and the report that ``--json`` prints, and with
``out`` saves the bundle. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgraph.sources.dynamic_edges import build_dynamic as dynamic
    from stgraph.sources.events.build import build_events as events
    from stgraph.sources.merge import build_merge as merge
    from stgraph.sources.moving import build_moving as moving
    from stgraph.sources.osm.build import build_osm as osm
    from stgraph.sources.raster import build_raster as raster
    from stgraph.sources.roads import build_roads as roads
    from stgraph.sources.sensors import build_sensors as sensors
    from stgraph.sources.trips.build import build_trips as trips

_HOME = {"dynamic": "dynamic_edges", "events": "events.build", "merge": "merge", "moving": "moving", "osm": "osm.build",
         "raster": "raster", "roads": "roads", "sensors": "sensors", "trips": "trips.build"}
__all__ = ["dynamic", "events", "merge", "moving", "osm", "raster", "roads", "sensors", "trips"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"stgraph.sources.{_HOME[name]}"), f"build_{name}")
    raise AttributeError(f"module 'stgraph.build' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)
