"""Data cards: what each public set is, where it comes from, under what terms, and how to get, check and read it."""

from stgraph.datasets.fetch import UnpinnedWarning, get, verify
from stgraph.datasets.registry import (
    build_line,
    build_source,
    card,
    cards,
    edges_per_step,
    read,
    sensor_build_arguments,
)
from stgraph.datasets.schema import Card, DataFile, Licence, Missing, Source

__all__ = ["Card", "DataFile", "Licence", "Missing", "Source", "UnpinnedWarning", "build_line", "build_source", "card",
           "cards", "edges_per_step", "get", "read", "sensor_build_arguments", "verify"]
