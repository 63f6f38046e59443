"""The map of a simulated city says what its network is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import osmium
import pytest

from stgraph.sources.simulate.layout import lay_out, plan_of
from stgraph.sources.simulate.network import RoadNetwork, to_metres
from stgraph.sources.simulate.osm import HIGHWAY, first_nodes, write_osm


@pytest.fixture(scope="module")
def network() -> RoadNetwork:
    return lay_out(plan_of("small"), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["map.osm.pbf", "map.osm.gz"])
def test_ways_are_the_segments(network: RoadNetwork, tmp_path: Path, name: str) -> None:
    path = write_osm(network, tmp_path / name)
    places: dict[int, np.ndarray] = {}
    directions: dict[tuple[int, int], tuple[str, float]] = {}
    for thing in osmium.FileProcessor(str(path)):
        if thing.is_node():
            places[thing.id] = to_metres(*np.array([[thing.location.lon], [thing.location.lat]]))[0]
        elif thing.is_way():
            nodes = [node.ref for node in thing.nodes]
            line = np.array([places[node] for node in nodes])
            length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
            directions[nodes[0], nodes[-1]] = thing.tags["highway"], length
            if thing.tags.get("oneway") != "yes":
                directions[nodes[-1], nodes[0]] = thing.tags["highway"], length
    first = first_nodes(network)
    expected = {(first[row.from_junction], row.to_junction + 1): (HIGHWAY[row.road_class], row.length_m)
                for row in network.segments.itertuples()}
    assert directions.keys() == expected.keys()
    for ends, (kind, length) in expected.items():
        assert directions[ends][0] == kind
        assert abs(directions[ends][1] - length) < 0.1  # OpenStreetMap keeps seven digits of a degree


def test_every_turn_the_simulation_lacks_is_a_restriction(network: RoadNetwork, tmp_path: Path) -> None:
    write_osm(network, tmp_path / "map.osm.pbf")
    found = [dict((member.role, member.ref) for member in thing.members)
             for thing in osmium.FileProcessor(str(tmp_path / "map.osm.pbf")) if thing.is_relation()]
    assert found
    starts, ends = (network.segments[f"{end}_junction"].to_numpy() for end in ("from", "to"))
    allowed = set(zip(network.turns["from_segment"], network.turns["to_segment"], strict=True))
    for one in found:
        via = one["via"] - 1
        for start in (s for s in (one["from"] - 1,) if ends[s] == via):
            for end in (s for s in (one["to"] - 1,) if starts[s] == via):
                assert (start, end) not in allowed


def test_the_same_network_gives_the_same_file(network: RoadNetwork, tmp_path: Path) -> None:
    one, other = write_osm(network, tmp_path / "a.osm.pbf"), write_osm(network, tmp_path / "b.osm.pbf")
    assert one.read_bytes() == other.read_bytes()
