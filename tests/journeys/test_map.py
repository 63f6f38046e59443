"""From a map in a file to one graph with sensors, trips and incidents on it, and a road that closes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stgraph
from stgraph.roads import Roads, shortest_path
from stgraph.roads.edit import close_segment
from stgraph.sources.simulate import simulate_city, write_source_files
from stgraph.sources.simulate.osm import first_nodes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("city")
    city = simulate_city(seed=1, days=2, size="small", trips=60)
    write_source_files(city, folder)
    np.save(folder / "first.npy", first_nodes(city.network))
    return folder


@pytest.mark.journey
def test_a_map_with_all_that_happens_on_it(files: Path, tmp_path: Path) -> None:
    roads, _ = stgraph.build.osm(files / "roads.osm.pbf", out=tmp_path / "roads.stg", simulated=True)
    sensors, attached = stgraph.build.sensors(
        files / "readings.npz", key="speed", ids_key="sensor_id", time_key="timestamp", quantity="speed", unit="m/s",
        locations=files / "sensors.csv", heading_key="heading", roads=tmp_path / "roads.stg", simulated=True,
        out=tmp_path / "sensors.stg")
    assert attached["attached"] == 16
    _on_their_segments(sensors, roads, files)
    _, driven = stgraph.build.trips(files / "trips.parquet", tmp_path / "roads.stg", out=tmp_path / "trips.stg")
    assert driven["matched"] == driven["points"] > 1000
    _as_driven(tmp_path / "trips.stg" / "matches.parquet", roads, files)
    _, happened = stgraph.build.events(files / "events.parquet", on=tmp_path / "roads.stg", time_key="start",
                                       type_key="kind", out=tmp_path / "events.stg")
    assert happened["events"] + happened["unattached"] == len(pd.read_parquet(files / "events.parquet"))

    names = ("roads", "sensors", "trips", "events")
    city, _ = stgraph.build.merge([tmp_path / f"{name}.stg" for name in names], out=tmp_path / "city.stg")
    assert city.size_of("segment") == len(roads.tail)
    assert city.size_of("sensor") == 16
    assert city.size_of("trip") == 60
    assert city.size_of(("sensor", "on", "segment")) == 16
    assert city.simulated
    assert stgraph.load(tmp_path / "city.stg").graph.validate()


def _on_their_segments(graph: stgraph.DynamicHeteroGraph, roads: Roads, files: Path) -> None:
    """Each sensor stands on the segment that leads the way it looks, where the table says it stands."""
    table = pd.read_csv(files / "sensors.csv")
    position = {name: at for at, name in enumerate(roads.tables().nodes["segment"]["node_id"].to_pylist())}
    segment = np.array([position[name] for name in graph["sensor"].segment_id])
    offset = graph["sensor"].offset.numpy()
    turned = (roads.heading(segment, offset) - table["heading"].to_numpy() + 180) % 360 - 180
    assert np.abs(turned).max() < 5
    away = roads.to_metres(roads.locate(segment, offset)) - roads.to_metres(table[["longitude", "latitude"]].to_numpy())
    assert np.linalg.norm(away, axis=1).max() < 1


def _as_driven(matches: Path, roads: Roads, files: Path) -> None:
    """Of the segments that both maps have, trips drove those that the simulation drove, nearly always."""
    found, truth = pd.read_parquet(matches), pd.read_parquet(files / "trip_segments.parquet")
    segments, first = pd.read_csv(files / "segments.csv"), np.load(files / "first.npy")
    ends = {row.segment_id: (int(first[row.from_junction]), row.to_junction + 1) for row in segments.itertuples()}
    both = set(ends.values()) & set(zip(roads.junction_id[roads.tail].tolist(), roads.junction_id[roads.head].tolist(),
                                        strict=True))
    ours = {(row.trip, way) for row in found.itertuples() if (way := (int(row.from_node), int(row.to_node))) in both}
    true = {(row.trip, way) for row in truth.itertuples() if (way := ends[row.segment_id]) in both}
    assert len(true) > 200
    assert len(ours & true) / len(ours | true) > 0.97


@pytest.mark.journey
def test_a_closed_road_is_driven_round(files: Path, tmp_path: Path) -> None:
    stgraph.build.osm(files / "roads.osm.pbf", out=tmp_path / "roads.stg", simulated=True)
    graph = stgraph.load(tmp_path / "roads.stg").graph
    roads = Roads.of(graph)
    origin, destination = 1, 9  # opposite corners of the grid of streets
    before = shortest_path(roads, origin, destination)
    assert before is not None
    middle = graph["segment"].node_id[before.segments[len(before.segments) // 2]]
    closed = close_segment(graph, [middle], "2024-03-05T06:00", "2024-03-05T18:00")
    for moment, same in (("2024-03-05T05:59", True), ("2024-03-05T06:00", False), ("2024-03-05T18:00", True)):
        now = Roads.of(closed.at(moment))
        way = shortest_path(now, origin, destination)
        assert way is not None
        assert (abs(way.length - before.length) < 1e-6) is same
        assert way.length >= before.length - 1e-6
