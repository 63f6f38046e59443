"""The roads of a simulated city as an OpenStreetMap file, so that they enter by the same door as a real map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stgraph.io import atomic_path
from stgraph.sources.simulate.network import RoadNetwork, to_degrees

HIGHWAY = {"freeway": "motorway", "freeway_arm": "motorway", "connector": "motorway_link", "on_ramp": "motorway_link",
           "off_ramp": "motorway_link", "avenue": "primary", "arterial": "secondary"}
"""The highway tag of each class of road."""

GENERATOR = "stgraph simulated city"


def write_osm(network: RoadNetwork, path: Path | str) -> Path:
    """Write the network as ``.osm.pbf`` (or what the ending says); the two directions of a street are one way.

    Node ``i + 1`` is junction ``i``. The map ends at gates, so what leaves a gate starts at a node of its own (see
    :func:`first_nodes`); points between junctions have the ids after those. Way ``s + 1`` is segment ``s``,
    tagged ``highway``, ``lanes`` (of both directions together), ``maxspeed`` (km/h, whole), and ``oneway`` where it has
    no other direction. Turns that the simulation does not allow are restrictions.

    Raises:
        InputError: where the folder cannot be written to.
    """
    import osmium
    from osmium.osm.mutable import Node, Relation, Way

    segments = network.segments
    places = np.column_stack(to_degrees(network.junctions[["x", "y"]].to_numpy()))
    way_of, both = _ways(network)
    first = first_nodes(network)
    path = Path(path)
    with atomic_path(path) as work:
        header = osmium.io.Header()
        header.set("generator", GENERATOR)
        with osmium.SimpleWriter(str(work), overwrite=True, header=header) as writer:
            nodes_of = sorted({*zip(range(1, len(places) + 1), range(len(places)), strict=True),
                               *zip(first.tolist(), range(len(places)), strict=True)})
            for number, junction in nodes_of:
                writer.add_node(Node(id=number, location=tuple(places[junction]), version=1))
            following = nodes_of[-1][0] + 1
            ways = []
            for segment in np.flatnonzero(way_of == np.arange(len(segments))):
                row = segments.iloc[segment]
                inner = np.column_stack(to_degrees(network.lines[segment][1:-1]))
                for place in inner:
                    writer.add_node(Node(id=following, location=tuple(place), version=1))
                    following += 1
                nodes = [int(first[row["from_junction"]]), *range(following - len(inner), following),
                         int(row["to_junction"]) + 1]
                tags = {"highway": HIGHWAY[row["road_class"]], "maxspeed": f"{row['free_speed'] * 3.6:.0f}",
                        "lanes": str(int(row["lanes"]) * (2 if both[segment] else 1)),
                        **({} if both[segment] else {"oneway": "yes"})}
                ways.append(Way(id=int(segment) + 1, nodes=nodes, tags=tags, version=1))
            for way in ways:
                writer.add_way(way)
            for number, (start, via, end) in enumerate(_forbidden(network)):
                members = [("w", int(way_of[start]) + 1, "from"), ("n", via + 1, "via"),
                           ("w", int(way_of[end]) + 1, "to")]
                writer.add_relation(Relation(id=number + 1, members=members, version=1, tags={
                    "type": "restriction", "restriction": "no_straight_on"}))
    return path


def first_nodes(network: RoadNetwork) -> np.ndarray:
    """Node of the map at which the segments out of each junction start, ``[J]``."""
    gates = np.flatnonzero(network.junctions["kind"] == "gate")
    first = np.arange(1, len(network.junctions) + 1)
    first[gates] = len(first) + 1 + np.arange(len(gates))
    return first


def _ways(network: RoadNetwork) -> tuple[np.ndarray, np.ndarray]:
    """The segment that stands for each street, ``[S]``, and whether that street is driven both ways, ``[S]``."""
    segments = network.segments
    way_of, both = np.arange(len(segments)), np.zeros(len(segments), bool)
    first: dict[tuple[int, int, str], int] = {}
    ends = zip(segments["from_junction"], segments["to_junction"], segments["road_class"], strict=True)
    for segment, (start, end, kind) in enumerate(ends):
        twin = first.get((end, start, kind))
        if twin is not None and np.array_equal(network.lines[segment], network.lines[twin][::-1]):
            way_of[segment] = twin
            both[[segment, twin]] = True
        else:
            first[start, end, kind] = segment
    return way_of, both


def _forbidden(network: RoadNetwork) -> list[tuple[int, int, int]]:
    """Ways on that the map suggests and the simulation does not allow, U-turns aside: (segment, junction, segment)."""
    segments, way_of = network.segments, _ways(network)[0]
    starts, ends = segments["from_junction"].to_numpy(), segments["to_junction"].to_numpy()
    allowed = set(zip(network.turns["from_segment"], network.turns["to_segment"], strict=True))
    gates = set(network.junctions.index[network.junctions["kind"] == "gate"])
    return [(one, int(ends[one]), int(other)) for one in range(len(segments)) if ends[one] not in gates
            for other in np.flatnonzero(starts == ends[one])
            if (one, other) not in allowed and way_of[one] != way_of[other] and ends[other] != starts[one]]
