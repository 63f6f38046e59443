"""Cells: each event in the one that holds it, on either side of the 180th meridian; two years can share them."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from stgraph.errors import InputError
from stgraph.graph.plain import numbers
from stgraph.roads import LocalProjection
from stgraph.sources.events.build import build_events


def cells_of(tables):
    """Row and column of the cell of each event, by the row of the file."""
    place = numbers(tables.edges["event", "at", "cell"]["target_index"])
    rows = np.array(tables.nodes["event"]["node_id"].to_pylist(), int)
    cell = tables.nodes["cell"]
    return np.stack([numbers(cell["row"]), numbers(cell["column"])], 1)[place][np.argsort(rows)]


def test_cells_are_what_rounding_down_gives(make_events):
    events = make_events(500)
    tables, report = build_events(events, grid="100m")
    origin = tables.metadata["cells"]["origin"]
    assert origin == [round(events["longitude"].median(), 4), round(events["latitude"].median(), 4)]
    metres = LocalProjection(*origin).metres(events[["longitude", "latitude"]].to_numpy())
    expected = np.floor(metres[:, ::-1] / 100).astype(int)
    assert np.array_equal(cells_of(tables), expected)
    assert report["places"] == report["places_used"] == len(np.unique(expected, axis=0))
    assert tables.nodes["cell"]["node_id"].to_pylist() == [f"{row},{column}" for row, column
                                                           in np.unique(expected, axis=0)]
    shapes = tables.graph()["cell"].geometry.shapely()
    place = numbers(tables.edges["event", "at", "cell"]["target_index"])
    lonlat = numbers(tables.nodes["event"]["lonlat"])
    assert all(shape.buffer(1e-9).covers(point) for shape, point in
               zip(shapes[place], __import__("shapely").points(lonlat), strict=True))


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("full", [False, True])
def test_neighbours_are_what_looking_at_all_pairs_gives(make_events, neighbours, full):
    tables, report = build_events(make_events(60), grid="150m", neighbours=neighbours, full_grid=full)
    cells = np.stack([numbers(tables.nodes["cell"][name]) for name in ("row", "column")], 1)
    apart = np.abs(cells[:, None] - cells[None])
    near = (apart.sum(2) == 1) if neighbours == 4 else (apart.max(2) == 1)
    edges = tables.edges["cell", "adjacent", "cell"]
    assert np.array_equal(np.stack([numbers(edges["source_index"]), numbers(edges["target_index"])]),
                          np.stack(np.nonzero(near)))
    np.testing.assert_allclose(numbers(edges["distance"]),
                               150 * np.linalg.norm(apart[near], axis=1))
    high, low = cells.max(0), cells.min(0)
    assert full == (len(cells) == np.prod(high - low + 1))
    assert report["places_used"] < report["places"] if full else report["places_used"] == report["places"]


def test_both_sides_of_the_180th_meridian_are_one_place():
    lonlat = LocalProjection(180.0, -17.0).lonlat(np.random.default_rng(0).uniform(-900, 900, (200, 2)))
    assert (lonlat[:, 0] > 179).any()
    assert (lonlat[:, 0] < -179).any()
    events = pd.DataFrame({"longitude": lonlat[:, 0], "latitude": lonlat[:, 1], "time": 1.5e9})
    tables, _ = build_events(events, grid="300m")
    cells = cells_of(tables)
    assert np.ptp(cells, axis=0).max() <= 7
    assert abs(abs(tables.metadata["cells"]["origin"][0]) - 180) < 0.01


def test_outliers_are_kept_apart_by_a_limit_and_make_no_large_box(make_events):
    events = make_events(200)
    events.loc[:4, "latitude"] += 9.0
    wide, report = build_events(events, grid="100m")
    assert report["unattached"] == 0
    assert len(wide.nodes["cell"]) <= 200
    with pytest.raises(InputError, match="too many cells"):
        build_events(events, grid="1m", full_grid=True)
    tables, report = build_events(events, grid="100m", limit="5km")
    assert report["reasons"] == {"outside the map": 5}
    assert sorted(tables.tables["unattached"]["node_id"].to_pylist()) == ["0", "1", "2", "3", "4"]


def test_the_box_of_a_map_says_what_is_outside(roads, make_events):
    events = make_events(300)
    tables, report = build_events(events, on=roads.tables(), grid="200m", full_grid=True)
    found = roads.tables()
    middles = numbers(found.nodes["segment"]["lonlat"])
    plane = LocalProjection.around(middles)
    box = plane.metres(middles)
    metres = plane.metres(events[["longitude", "latitude"]].to_numpy())
    inside = ((metres >= box.min(0)) & (metres <= box.max(0))).all(1)
    assert 0 < report["unattached"] == (~inside).sum() < 300
    assert sorted(tables.nodes["event"]["node_id"].to_pylist()) == sorted(str(i) for i in np.flatnonzero(inside))
    assert build_events(events, on=roads.tables(), grid="200m", limit="1km")[1]["unattached"] == 0


@pytest.mark.parametrize("options", [{"grid": "200m", "neighbours": 8}, {"h3": 9}])
def test_two_years_share_their_cells(make_events, tmp_path, options):
    events = make_events(400)
    first, _ = build_events(events, out=tmp_path / "one.stg", **options)
    again, report = build_events(events, on=tmp_path / "one.stg")
    for kind in ("cell", ("cell", "adjacent", "cell"), ("event", "at", "cell")):
        assert again.of(kind) == first.of(kind)
    assert report["unattached"] == 0
    with pytest.raises(InputError, match="in a cell or in none"):
        build_events(events, on=tmp_path / "one.stg", limit="1km")
    later, report = build_events(make_events(400, seed=9, low=-900), on=tmp_path / "one.stg", out=tmp_path / "two.stg")
    assert later.nodes["cell"] == first.nodes["cell"]
    assert 0 < report["unattached"] < 400
    third, _ = build_events(events, on=tmp_path / "two.stg")
    assert third.of(("event", "at", "cell")) == first.of(("event", "at", "cell"))


def test_h3_cells_are_those_of_h3(make_events):
    h3 = pytest.importorskip("h3")
    events = make_events(200)
    tables, report = build_events(events, h3=9)
    ids = np.array(tables.nodes["cell"]["node_id"].to_pylist())
    at = numbers(tables.edges["event", "at", "cell"]["target_index"])
    rows = np.array(tables.nodes["event"]["node_id"].to_pylist(), int)
    for row, cell in zip(rows, ids[at], strict=True):
        assert cell == h3.latlng_to_cell(events["latitude"][row], events["longitude"][row], 9)
    edges = tables.edges["cell", "adjacent", "cell"]
    found = set(zip(ids[numbers(edges["source_index"])], ids[numbers(edges["target_index"])], strict=True))
    assert found == {(one, other) for one in ids for other in ids if one != other and h3.grid_distance(one, other) == 1}
    assert report["places"] == len(set(ids))


def test_h3_needs_the_package_and_the_globe(make_events, monkeypatch):
    with pytest.raises(InputError, match="on the globe"):
        build_events(make_events(5), h3=8, x_key="longitude", y_key="latitude", crs="none")
    monkeypatch.setitem(sys.modules, "h3.api.basic_int", None)
    with pytest.raises(InputError, match="not installed") as error:
        build_events(make_events(5), h3=8)
    assert "--grid" in error.value.remedy


def test_plain_metres_are_taken_as_they_are(make_events):
    events = make_events(50).assign(x=np.arange(50.0), y=-np.arange(50.0))
    tables, report = build_events(events, grid="10m", x_key="x", y_key="y", crs="none")
    assert np.array_equal(cells_of(tables), np.stack([-np.ceil(np.arange(50) / 10), np.arange(50) // 10], 1))
    assert "pos" in tables.nodes["cell"].column_names
    assert report["places"] == 10
