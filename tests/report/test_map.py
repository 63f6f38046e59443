"""The map: north is up and the scale holds, everything is drawn where it is, and the attribution stands under it."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
import torch
from pyproj import Geod

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Geometry, GraphTables, Signal, TimeAxis, save
from stgraph.graph.plain import categories, column
from stgraph.report.map import POINTS, STREET, attribution, draw_map
from stgraph.roads import LocalProjection, Roads

OSM = {"file": "x.osm.pbf", "licence": "ODbL-1.0", "attribution": "(c) OpenStreetMap contributors"}


def roads_of(lines: list[list[tuple[float, float]]], metric: bool = False, **attributes: Any) -> GraphTables:
    """Roads with a segment for each line, from junctions of its own."""
    ptr = np.cumsum([0, *map(len, lines)])
    xy = np.array([point for line in lines for point in line], float)
    tail = 2 * np.arange(len(lines))
    tables = Roads(np.arange(2 * len(lines)), xy[np.column_stack([ptr[:-1], ptr[1:] - 1]).ravel()], tail, tail + 1,
                   np.ones(len(lines)), ptr, xy, metric=metric, attributes=attributes).tables()
    tables.metadata = {"name": "town", "sources": [OSM]}
    return tables


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path)[..., :3] * 255).round().astype(int)


def ink(picture: np.ndarray, colour: str, near: int = 40) -> np.ndarray:
    """Rows and columns of the pixels that have a colour, inside the map."""
    wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    top, bottom = int(0.75 * 200), picture.shape[0] - int(0.95 * 200)
    return np.argwhere(np.abs(picture[top:bottom] - wanted).max(2) < near)


def square(longitude: float, latitude: float, side: float = 1000.0) -> list[list[tuple[float, float]]]:
    """The outline of a square of so many metres, as one line."""
    plane = LocalProjection(longitude, latitude)
    corners = np.array([(0, 0), (side, 0), (side, side), (0, side), (0, 0)], float)
    return [[(float(x), float(y)) for x, y in plane.lonlat(corners)]]


# -------------------------------------------------------------------- geometry
@pytest.mark.parametrize("place", [(8.6, 0.0), (24.9, 60.2), (-179.999, 65.0), (18.4, -69.0)])
def test_a_square_is_a_square_at_any_latitude(tmp_path: Path, place: tuple[float, float]) -> None:
    draw_map(roads_of(square(*place)), tmp_path / "map.png")
    found = ink(pixels(tmp_path / "map.png"), STREET)
    height, width = np.ptp(found, axis=0)
    assert abs(height - width) <= 2
    assert width > 500


def test_north_is_up_and_east_is_right(tmp_path: Path) -> None:
    tables = roads_of([[(10.0, 50.0), (10.0, 50.01)]])  # a street to the north, with a sensor at its north end
    tables.nodes["sensor"] = pa.table({"node_id": ["s"], "lonlat": column(np.array([[10.0, 50.01]]))})
    tables.nodes["event"] = pa.table({"node_id": ["e"], "lonlat": column(np.array([[10.02, 50.0]]))})
    draw_map(tables, tmp_path / "map.png", layers="segments,sensors,events")
    picture = pixels(tmp_path / "map.png")
    street = ink(picture, STREET).mean(0)
    sensor, event = (ink(picture, POINTS[i][0]).mean(0) for i in (0, 1))
    assert sensor[0] < street[0] - 50  # rows count downwards
    assert abs(sensor[1] - street[1]) < 10
    assert event[1] > street[1] + 200


def test_the_scale_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    """A street of 3 km is six times as long as the bar of 500 m."""
    east = Geod(ellps="WGS84").fwd(8.0, 47.0, 90, 3000.0)[:2]
    draw_map(roads_of([[(8.0, 47.0), east]]), tmp_path / "map.png")
    picture = pixels(tmp_path / "map.png")
    street = np.ptp(ink(picture, STREET)[:, 1])
    foot = picture[-int(0.86 * 200):-int(0.34 * 200)]
    dark = np.abs(foot - [0x22, 0x26, 0x2e]).max(2) < 60
    row = int(dark[:, :700].sum(1).argmax())
    columns = np.flatnonzero(dark[row, :700])
    bar = np.flatnonzero(np.diff(columns, append=9999) > 1)[0]  # up to the first gap: beyond it is the arrow
    assert street / bar == pytest.approx(3000 / 500, rel=0.02)


def test_regions_and_plain_metres(tmp_path: Path) -> None:
    tables = roads_of([[(0.0, 0.0), (900.0, 0.0)]], metric=True)
    shapes = [shapely.box(100, 100, 400, 400), shapely.MultiPolygon([shapely.box(500, 100, 600, 300)])]
    tables.nodes["region"] = pa.table({"node_id": ["a", "b"], "pos": column(np.array([[250.0, 250], [550, 200]])),
                                       "share": [0.1, 0.9], "geometry": Geometry.from_shapely(shapes).wkb})
    found = draw_map(tables, tmp_path / "map.png", color="share")
    assert found["layers"] == {"region": 2, "segment": 1}
    assert found["color"] == "region.share"


# -------------------------------------------------------------------- what is drawn
def test_a_two_way_street_is_drawn_once_unless_its_ways_differ(tmp_path: Path) -> None:
    line = [(10.0, 50.0), (10.01, 50.0)]
    both = roads_of([line, line[::-1]], speed=np.array([10.0, 10.0]))
    assert draw_map(both, tmp_path / "a.png", "speed")["layers"] == {"segment": 2}
    from stgraph.report.map import _one_direction, _Plane

    shape = _Plane(both, ["segment"]).shape(both, "segment")
    assert _one_direction(shape, np.array([10.0, 10.0])).tolist() == [True, False]
    assert _one_direction(shape, np.array([10.0, 12.0])).tolist() == [True, True]
    assert _one_direction(shape, np.array([np.nan, np.nan])).tolist() == [True, False]


def test_colours_of_numbers_words_and_signals(tmp_path: Path) -> None:
    lines = [[(10.0, 50.0 + i / 1000), (10.01, 50.0 + i / 1000)] for i in range(12)]
    tables = roads_of(lines, speed=np.linspace(5, 30, 12), bridge=np.arange(12) < 3,
                      road_class=categories(np.arange(12) % 11, list("abcdefghijk")))
    found = draw_map(tables, tmp_path / "speed.png", "speed")
    assert (found["color"], found["unit"]) == ("segment.speed", "km/h")
    slow = ink(pixels(tmp_path / "speed.png"), "#fc9065", 60)
    fast = ink(pixels(tmp_path / "speed.png"), "#0c0a22", 60)
    assert slow[:, 0].mean() > fast[:, 0].mean()  # slow in the south, dark and fast in the north
    assert draw_map(tables, tmp_path / "words.png", "road_class")["unit"] is None
    assert draw_map(tables, tmp_path / "flag.png", "segment.bridge")["color"] == "segment.bridge"
    tables.time = TimeAxis(0, 300, 4)
    mask = np.ones((4, 12, 1), bool)
    mask[:, 5] = False
    tables.signals["segment"] = {"traffic": Signal(np.arange(48, dtype=np.float32).reshape(4, 12, 1), mask,
                                                   [Channel("flow", "flow", "veh/h")])}
    found = draw_map(tables, tmp_path / "flow.png", "traffic")
    assert (found["color"], found["unit"]) == ("segment.flow", "veh/h")


def test_the_mean_of_a_signal_is_in_the_unit_of_the_source() -> None:
    from stgraph.report.map import _of_signal

    values = np.array([[[10.0], [1.0]], [[20.0], [5.0]]], np.float32)
    mask = np.array([[[True], [False]], [[True], [False]]])
    shown = _of_signal("sensor", Signal(values, mask, [Channel("speed", "speed", "km/h")]), "speed")
    np.testing.assert_allclose(shown.values, [54.0, np.nan])
    assert shown.unit == "km/h"


def test_layers_are_those_asked_for(tmp_path: Path) -> None:
    tables = roads_of([[(10.0, 50.0), (10.01, 50.0)]])
    tables.nodes["sensor"] = pa.table({"node_id": ["s", "t"], "lonlat": column(np.array([[10, 50], [np.nan, np.nan]]))})
    assert draw_map(tables, tmp_path / "a.png")["layers"] == {"segment": 1, "sensor": 1}  # junctions are quiet
    assert draw_map(tables, tmp_path / "b.png", layers="junctions,sensor")["layers"] == {"junction": 2, "sensor": 1}
    many = np.random.default_rng(0).normal((10, 50), 0.01, (5000, 2))
    tables.nodes["event"] = pa.table({"lonlat": column(many)})
    assert draw_map(tables, tmp_path / "c.png", layers="events")["layers"] == {"event": 5000}


def test_a_bundle_and_a_graph_give_the_same_picture(tmp_path: Path) -> None:
    tables = roads_of([[(10.0, 50.0), (10.01, 50.0)]], speed=np.array([10.0]))
    save(tables, tmp_path / "roads.stg")
    for name, source in (("a", tables), ("b", tmp_path / "roads.stg"), ("c", tables.graph())):
        draw_map(source, tmp_path / f"{name}.png", "speed")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abc"}) == 1


def test_roads_without_lines_are_drawn_from_junction_to_junction(tmp_path: Path) -> None:
    graph = DynamicHeteroGraph()
    graph["junction"].lonlat = torch.tensor([[10.0, 50.0], [10.01, 50.0]], dtype=torch.float64)
    graph["segment"].lonlat = torch.tensor([[10.005, 50.0]], dtype=torch.float64)
    graph["junction", "segment", "junction"].edge_index = torch.tensor([[0], [1]])
    draw_map(graph, tmp_path / "a.png")
    assert np.ptp(ink(pixels(tmp_path / "a.png"), STREET)[:, 1]) > 1500


def test_one_sensor_alone_is_drawn(tmp_path: Path) -> None:
    graph = DynamicHeteroGraph(metadata={"name": "one"})
    graph["sensor"].lonlat = torch.tensor([[10.0, 50.0]], dtype=torch.float64)
    assert draw_map(graph, tmp_path / "a.png")["layers"] == {"sensor": 1}


# -------------------------------------------------------------------- attribution
def test_the_attribution_stands_on_the_picture(tmp_path: Path) -> None:
    found = draw_map(roads_of([[(10.0, 50.0), (10.01, 50.0)]]), tmp_path / "a.png")
    assert found["attribution"] == "© OpenStreetMap contributors, ODbL-1.0"
    assert b"OpenStreetMap contributors, ODbL-1.0" in (tmp_path / "a.png").read_bytes()  # in the file's own notes
    foot = pixels(tmp_path / "a.png")[-int(0.3 * 200):]
    assert (np.abs(foot - [0x22, 0x26, 0x2e]).max(2) < 60).sum() > 500


@pytest.mark.parametrize(("metadata", "said"), [
    ({}, "Source not stated"),
    ({"simulated": True}, "Simulated data"),
    ({"sources": [{"file": "a.csv"}, {"file": "a.csv"}, {"file": "b.npz"}]}, "Source: a.csv, b.npz"),
    ({"sources": [OSM, OSM, {"attribution": "City of A"}, {"licence": "CC0"}], "simulated": True},
     "© OpenStreetMap contributors, ODbL-1.0 · City of A · CC0 · Simulated data")])
def test_everybody_is_named_once(metadata: dict[str, Any], said: str) -> None:
    assert attribution(metadata) == said


def test_a_long_attribution_takes_two_lines(tmp_path: Path) -> None:
    tables = roads_of([[(10.0, 50.0), (10.01, 50.0)]])
    tables.metadata["sources"] = [{"attribution": f"Office number {i} of the city"} for i in range(12)]
    assert draw_map(tables, tmp_path / "a.png")["attribution"].count("Office") == 12


# -------------------------------------------------------------------- faults
@pytest.mark.parametrize(("options", "problem", "field"), [
    ({"out": "map.jpg"}, "as PNG", "picture"), ({"layers": "rivers"}, "no such layer", "layers"),
    ({"color": "taste"}, "no layer on the map has this", "color"),
    ({"color": "segment.geometry"}, "one number or word", "color")])
def test_faults_name_their_parts_and_write_nothing(tmp_path: Path, options: dict[str, Any], problem: str,
                                                   field: str) -> None:
    out = tmp_path / options.pop("out", "map.png")
    with pytest.raises(InputError, match=problem) as error:
        draw_map(roads_of([[(10.0, 50.0), (10.01, 50.0)]]), out, **options)
    assert error.value.field == field
    assert not list(tmp_path.iterdir())


def test_nothing_with_a_place_is_refused(tmp_path: Path) -> None:
    graph = DynamicHeteroGraph()
    graph["sensor"].lonlat = torch.full((3, 2), float("nan"), dtype=torch.float64)
    with pytest.raises(InputError, match="has a place"):
        draw_map(graph, tmp_path / "a.png")


def test_without_matplotlib_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="matplotlib") as error:
        draw_map(roads_of([[(10.0, 50.0), (10.01, 50.0)]]), tmp_path / "a.png")
    assert "picture" in (error.value.remedy or "")
