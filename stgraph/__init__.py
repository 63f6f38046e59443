"""stgraph: any spatio-temporal data becomes one dynamic heterogeneous graph, read by one family of models.

    import stgraph
    city = stgraph.load("los.stg")
    forecaster = stgraph.fit(city, model="stid", minutes=2)
    print(forecaster.evaluate()["horizons"]["12"])
    forecaster.forecast().to_parquet("forecast.parquet")

Names are imported when first used, so ``import stgraph`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stgraph.version import __version__

if TYPE_CHECKING:
    from stgraph import build, ops, roads
    from stgraph.errors import InputError
    from stgraph.facade import Run, fit, load
    from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
    from stgraph.windows import City, Forecast, Window

_HOME = {
    "InputError": "stgraph.errors",
    "Channel": "stgraph.graph",
    "DynamicHeteroGraph": "stgraph.graph",
    "Signal": "stgraph.graph",
    "TimeAxis": "stgraph.graph",
    "City": "stgraph.windows",
    "Forecast": "stgraph.windows",
    "Window": "stgraph.windows",
    "Run": "stgraph.facade",
    "fit": "stgraph.facade",
    "load": "stgraph.facade",
}
__all__ = ["Channel", "City", "DynamicHeteroGraph", "Forecast", "InputError", "Run", "Signal", "TimeAxis", "Window",
           "__version__", "build", "fit", "load", "ops", "roads"]


def __getattr__(name: str) -> Any:
    if name in ("build", "ops", "roads"):  # modules, imported when first used
        return importlib.import_module(f"stgraph.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'stgraph' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
