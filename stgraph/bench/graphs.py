"""The graphs that are timed: real sensor networks and streets where the data folder has them, else made ones.

Places of sensors are real, and so are the edges of PEMS-BAY, PEMS07 and Beijing. The other sensor networks have edges
between the pairs of sensors that are nearest to each other, as many as were published, because their road distances
cannot be had. Every graph says where it comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.graph.order import hilbert_key
from stgraph.io import sha256

SEED = 4
MADE = "made"
TINY = "tiny"
_METR, _BAY, _PEMS07 = "metr_la_sensor_osm_edge.csv", "pems_bay_adj.npz", "pems07_distances.csv"
# name: file of places under sensor_graphs, names of its columns, sensors, published directed edges
_PLACES = {
    "sensor": ("largest_sd_meta.csv.gz", ("Lng", "Lat"), 716, 17_319),
    "METR-LA": (_METR, ("lng", "lat"), 207, 1_515),
    "GLA": ("largest_gla_meta.csv.gz", ("Lng", "Lat"), 3_834, 98_703),
    "CA": ("largest_ca_meta.csv.gz", ("Lng", "Lat"), 8_600, 201_363),
}
# name: rows and columns of junctions, directed edges, order of the nodes
_STREETS = {
    "road 100k": (250, 400, 260_000, "hilbert"),
    "road 200k": (400, 500, 600_000, "hilbert"),
    "road 200k, line by line": (400, 500, 600_000, "lines"),
    "road 200k, shuffled": (400, 500, 600_000, "shuffled"),
    "road 1M": (1_000, 1_000, 2_600_000, "hilbert"),
}
_RANDOM_NODES, _POWER_NODES, _POWER_EDGES, _POWER = 512, 1_000_000, 5_000_000, 0.6


@dataclass(frozen=True, eq=False)
class BenchGraph:
    """Directed edges in the order of their destinations.

    Args:
        name: Of the graph.
        nodes: Number of nodes.
        source: ``[E]`` int64.
        destination: ``[E]`` int64, rising.
        origin: Where nodes and edges come from; begins with ``made`` where nothing is real.
        files: SHA-256 of the files it was read from, by name.
    """

    name: str
    nodes: int
    source: np.ndarray
    destination: np.ndarray
    origin: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def edges(self) -> int:
        """Number of directed edges."""
        return len(self.source)

    @property
    def rowptr(self) -> np.ndarray:
        """Where the edges of each destination begin, ``[N + 1]`` int64."""
        return np.searchsorted(self.destination, np.arange(self.nodes + 1))

    def describe(self) -> dict[str, object]:
        """For the record."""
        return {"nodes": self.nodes, "edges": self.edges, "origin": self.origin, "files": self.files}


class Graphs:
    """Graphs by name, each made or read once.

    Args:
        data: Folder of real data sets (``sensor_graphs``, ``beijing_sparsetaxi``); None: all graphs are made.
        shrink: Divide the sizes of all graphs, which are made then: to see that everything runs.
        seed: Of what is made.
    """

    def __init__(self, data: Path | None, shrink: int = 1, seed: int = SEED) -> None:
        if shrink < 1:
            raise InputError("sizes are divided by a whole number", field="--shrink", value=shrink,
                             remedy="give 1 or more")
        self.data = data if shrink == 1 else None
        self.shrink, self.seed = shrink, seed
        self.known: dict[str, BenchGraph] = {}

    def __getitem__(self, name: str) -> BenchGraph:
        """The graph of a name; ``random 0.05`` has 512 nodes and edges at random, of that density.

        Raises:
            InputError: for a name that is not known, or a file that is not as described.
        """
        if name not in self.known:
            self.known[name] = self._make(name)
        return self.known[name]

    def _make(self, name: str) -> BenchGraph:
        chance = np.random.default_rng([self.seed, *name.encode()])
        if name == TINY:
            return _graph(name, 8, chance.integers(0, 8, 16), np.repeat(np.arange(8), 2), f"{MADE}: 2 edges a node")
        if name in _PLACES:
            return self._sensors(name, chance)
        if name in _STREETS:
            return self._streets(name, chance)
        if name == "PEMS-BAY":
            return self._pems_bay(chance)
        if name == "PEMS07":
            return self._pems07(chance)
        if name == "Beijing":
            return self._beijing(chance)
        if name == "power law 1M":
            return self._power_law(name, chance)
        if name.startswith("random "):
            return self._random(name, chance)
        raise InputError("no such graph", field="graph", value=name)

    # ---------------------------------------------------------------- real ones, or made of the same shape
    def _file(self, folder: str, name: str) -> Path | None:
        if self.data is None:
            return None
        path = self.data / folder / name
        return path if path.exists() else None

    def _sensors(self, name: str, chance: np.random.Generator) -> BenchGraph:
        file, (x, y), nodes, edges = _PLACES[name]
        path = self._file("sensor_graphs", file)
        if path is None:
            return self._scattered(name, nodes, edges, chance)
        import pandas as pd

        from stgraph.roads import LocalProjection

        lonlat = pd.read_csv(path)[[x, y]].to_numpy(float)
        if len(lonlat) != nodes:
            raise InputError("another number of sensors than published", file=path, value=len(lonlat),
                             remedy=f"expected {nodes}")
        source, destination = nearest_pairs(LocalProjection.around(lonlat).metres(lonlat), edges)
        return _graph(name, nodes, source, destination,
                      f"real places of sensors; edges made: the {edges:,} nearest pairs", {file: sha256(path)})

    def _scattered(self, name: str, nodes: int, edges: int, chance: np.random.Generator) -> BenchGraph:
        nodes, edges = max(nodes // self.shrink, 4), max(edges // self.shrink, 4)
        edges = min(edges, nodes * (nodes - 1))
        source, destination = nearest_pairs(chance.random((nodes, 2)), edges)
        return _graph(name, nodes, source, destination, f"{MADE}: places at random, the {edges:,} nearest pairs")

    def _pems_bay(self, chance: np.random.Generator) -> BenchGraph:
        path = self._file("sensor_graphs", _BAY)
        if path is None:
            return self._scattered("PEMS-BAY", 325, 2_694, chance)
        with np.load(path, allow_pickle=False) as arrays:
            source, destination = np.nonzero(arrays["adj"])
            nodes = len(arrays["adj"])
        return _graph("PEMS-BAY", nodes, source, destination, "real: published adjacency with self loops",
                      {_BAY: sha256(path)})

    def _pems07(self, chance: np.random.Generator) -> BenchGraph:
        path = self._file("sensor_graphs", _PEMS07)
        if path is None:
            return self._scattered("PEMS07", 883, 866, chance)
        table = np.loadtxt(path, delimiter=",", skiprows=1)
        return _graph("PEMS07", 883, table[:, 0].astype(int), table[:, 1].astype(int), "real: published edges",
                      {_PEMS07: sha256(path)})

    def _beijing(self, chance: np.random.Generator) -> BenchGraph:
        path = self._file("beijing_sparsetaxi", "network.npz")
        if path is None:
            lines = max(163 // math.isqrt(self.shrink), 2)
            return _grid("Beijing", lines, max(200 // math.isqrt(self.shrink), 2), 70_310 // self.shrink, "hilbert",
                         chance)
        with np.load(path, allow_pickle=False) as arrays:
            source, destination = arrays["edge_from"], arrays["edge_to"]
            nodes = len(arrays["node_xy"])
        return _graph("Beijing", nodes, source, destination, "real: streets of OpenStreetMap, nodes as in the file",
                      {"network.npz": sha256(path)})

    # ---------------------------------------------------------------- made ones
    def _streets(self, name: str, chance: np.random.Generator) -> BenchGraph:
        lines, across, edges, order = _STREETS[name]
        side = math.isqrt(self.shrink)
        return _grid(name, max(lines // side, 2), max(across // side, 2), edges // self.shrink, order, chance)

    def _power_law(self, name: str, chance: np.random.Generator) -> BenchGraph:
        nodes, edges = _POWER_NODES // self.shrink, _POWER_EDGES // self.shrink
        places = chance.permutation(nodes)
        # node of rank r has a share that falls with r to the power of -0.6; both ends are drawn so
        source, destination = (places[np.minimum((nodes * chance.random(edges) ** (1 / (1 - _POWER))).astype(int),
                                                 nodes - 1)] for _ in range(2))
        return _graph(name, nodes, source, destination, f"{MADE}: both ends drawn by a power law of -{_POWER:g}")

    def _random(self, name: str, chance: np.random.Generator) -> BenchGraph:
        nodes = max(_RANDOM_NODES // math.isqrt(self.shrink), 4)
        edges = round(float(name.removeprefix("random ")) * nodes * nodes)
        place = chance.choice(nodes * nodes, edges, replace=False)
        return _graph(name, nodes, place % nodes, place // nodes, f"{MADE}: pairs at random")


def _graph(name: str, nodes: int, source: np.ndarray, destination: np.ndarray, origin: str,
           files: dict[str, str] | None = None) -> BenchGraph:
    order = np.lexsort((source, destination))
    return BenchGraph(name, nodes, source[order].astype(np.int64), destination[order].astype(np.int64), origin,
                      files or {})


def nearest_pairs(xy: np.ndarray, edges: int) -> tuple[np.ndarray, np.ndarray]:
    """The ordered pairs of different points that are nearest to each other, ``edges`` of them.

    Args:
        xy: ``[N, 2]``.
        edges: At most N (N - 1).
    """
    tree = cKDTree(xy)
    radius = float(np.ptp(xy, axis=0).max()) / len(xy)
    pairs = tree.query_pairs(radius, output_type="ndarray")
    while 2 * len(pairs) < edges:
        radius *= 1.25
        pairs = tree.query_pairs(radius, output_type="ndarray")
    length = np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1)
    both = np.concatenate([pairs, pairs[:, ::-1]])[np.argsort(np.tile(length, 2), kind="stable")[:edges]]
    return both[:, 0], both[:, 1]


def _grid(name: str, lines: int, across: int, edges: int, order: str, chance: np.random.Generator) -> BenchGraph:
    """A grid of junctions in which as many streets of two ways are kept, at random, as there are edges: planar."""
    place = np.arange(lines * across).reshape(lines, across)
    streets = np.concatenate([np.stack([place[:, :-1].ravel(), place[:, 1:].ravel()], 1),
                              np.stack([place[:-1].ravel(), place[1:].ravel()], 1)])
    streets = streets[np.sort(chance.choice(len(streets), min(edges // 2, len(streets)), replace=False))]
    rank = place.ravel()
    if order == "hilbert":
        xy = np.stack([place.ravel() % across, place.ravel() // across], 1).astype(float)
        rank = np.argsort(np.argsort(hilbert_key(xy), kind="stable"))
    elif order == "shuffled":
        rank = chance.permutation(place.size)
    words = {"hilbert": "nodes along a Hilbert curve", "lines": "nodes line by line", "shuffled": "node ids shuffled"}
    both = rank[np.concatenate([streets, streets[:, ::-1]])]
    return _graph(name, place.size, both[:, 0], both[:, 1], f"{MADE}: grid of streets with gaps, {words[order]}")
