"""Events of every form become the same graph; what cannot be read is refused, with the row."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stgraph.errors import InputError
from stgraph.graph import load_tables, save
from stgraph.graph.plain import numbers
from stgraph.sources.events import files
from stgraph.sources.events.build import build_events
from stgraph.sources.events.read import Wanted, read_events

OPTIONS = {"grid": "200m", "type_key": "kind", "id_key": "event", "mark": ["depth:km", "premise"], "bin": "1h"}


def as_geo(events):
    places = geopandas.points_from_xy(events["longitude"], events["latitude"])
    return geopandas.GeoDataFrame(events.drop(columns=["longitude", "latitude"]), geometry=places, crs="EPSG:4326")


def geojson(events, path):
    columns = events.drop(columns=["longitude", "latitude"]).to_dict("records")
    features = [{"type": "Feature", "properties": one, "geometry": {"type": "Point", "coordinates": [x, y, 0.0]}}
                for one, x, y in zip(columns, events["longitude"], events["latitude"], strict=True)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


FORMS = {
    "events.csv": lambda events, path: events.to_csv(path, index=False),
    "semicolons.csv": lambda events, path: events.to_csv(path, index=False, sep=";"),
    "events.csv.gz": lambda events, path: events.to_csv(path, index=False),
    "events.parquet": lambda events, path: events.astype({"kind": "category"}).to_parquet(path, index=False),
    "places.parquet": lambda events, path: as_geo(events).to_parquet(path),
    "metres.parquet": lambda events, path: as_geo(events).to_crs("EPSG:3763").to_parquet(path),
    "events.geojson": geojson,
    "events.npz": lambda events, path: np.savez(path, **{name: events[name].to_numpy(
        str if events[name].dtype.kind == "O" or pd.api.types.is_string_dtype(events[name]) else None)
        for name in events})}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("block", [1 << 18, 64])
def test_every_form_becomes_the_same_graph(events, tmp_path, monkeypatch, name, block):
    monkeypatch.setattr(files, "BLOCK", block)
    expected, _ = build_events(events, **OPTIONS)
    FORMS[name](events, tmp_path / name)
    graph, report = build_events(tmp_path / name, **OPTIONS)
    places = graph.nodes["event"]["lonlat"], expected.nodes["event"]["lonlat"]
    np.testing.assert_allclose(numbers(places[0]), numbers(places[1]), atol=1e-9)
    if name != "metres.parquet":
        assert np.array_equal(numbers(places[0]), numbers(places[1]))
    for column in ("node_id", "time", "type", "depth", "premise"):
        assert graph.nodes["event"][column].to_pylist() == expected.nodes["event"][column].to_pylist()
    for kind in ("group", ("event", "in", "group"), ("event", "at", "cell")):
        assert graph.of(kind) == expected.of(kind)
    assert report["columns"]["time"] == "time"
    assert graph.schema.nodes["event"]["depth"].unit == "m"
    np.testing.assert_allclose(sorted(graph.nodes["event"]["depth"].to_pylist()), sorted(1000 * events["depth"]))


def test_the_events_of_a_bundle_can_be_read_again(events, tmp_path):
    tables, _ = build_events(events, out=tmp_path / "one.stg", **OPTIONS)
    again, _ = build_events(tmp_path / "one.stg" / "nodes" / "event.parquet",
                            **{**OPTIONS, "type_key": "type", "id_key": "node_id", "mark": []})
    assert again.of(("event", "at", "cell")) == tables.of(("event", "at", "cell"))


def test_a_projected_file_and_degrees_are_the_same(events):
    metres = as_geo(events).to_crs("EPSG:3763").geometry
    table = events.drop(columns=["longitude", "latitude"]).assign(x=metres.x, y=metres.y)
    found = read_events(table, Wanted(crs="EPSG:3763"))
    np.testing.assert_allclose(found.xy, events[["longitude", "latitude"]], atol=1e-9)
    np.testing.assert_allclose(read_events(as_geo(events).to_crs("EPSG:3763"), Wanted()).xy, found.xy, atol=1e-9)
    with pytest.raises(InputError, match="in which reference system") as error:
        read_events(table, Wanted())
    assert error.value.field == "crs"
    for crs in ("EPSG:99999", "here"):
        with pytest.raises(InputError, match="not a reference system"):
            read_events(table, Wanted(crs=crs))


def test_marks_are_numbers_or_words(events, tmp_path):
    table = events.assign(whole=np.arange(len(events)), some=pd.Series([1, None] * 200, dtype="Int64"),
                          late=events["depth"] > 4, word=["a", " b "] * 200, text=["1", "x"] * 200,
                          **{"Primary Type": "q"})
    marks = ["whole", "some", "late", "word", "text", "Primary Type", "depth:km"]
    table.to_csv(tmp_path / "events.csv", index=False)
    table.to_parquet(tmp_path / "events.parquet")
    for name, late in (("events.csv", "dictionary"), ("events.parquet", "bool")):
        tables, _ = build_events(tmp_path / name, grid="1km", mark=marks)
        event = tables.nodes["event"].take(pa.array(np.argsort(tables.nodes["event"]["whole"].to_numpy())))
        assert event["whole"].type == pa.int64()
        assert event["some"].type == pa.float64()
        assert np.isnan(event["some"].to_numpy()[1::2]).all()
        assert str(event["late"].type).startswith(late)
        assert event["word"].to_pylist()[:2] == ["a", "b"]
        assert event["text"].to_pylist()[:2] == ["1", "x"]
        assert set(event["Primary_Type"].to_pylist()) == {"q"}
        assert tables.schema.nodes["event"]["depth"].unit == "m"
        save(tables, tmp_path / "events.stg")
        assert load_tables(tmp_path / "events.stg").nodes["event"]["text"].to_pylist() == \
            tables.nodes["event"]["text"].to_pylist()


def test_missing_places_are_kept_apart_and_types_may_be_missing(events, tmp_path):
    table = events.astype(object)
    table.loc[3, "longitude"] = None
    table.loc[4, "latitude"] = "NA"
    table.loc[5, ["longitude", "latitude"]] = 0
    table.loc[6, "latitude"] = 123.0
    table.loc[7, "kind"] = None
    table.loc[8, "time"] = None
    table.to_csv(tmp_path / "events.csv", index=False)
    tables, report = build_events(tmp_path / "events.csv", **OPTIONS)
    assert report["reasons"] == {"no coordinates": 3, "coordinates out of range": 1, "no time": 1}
    assert report["zero_coordinates"] == 1
    apart = tables.tables["unattached"].to_pylist()
    assert {one["node_id"]: one["reason"] for one in apart} == {
        "e3": "no coordinates", "e4": "no coordinates", "e5": "no coordinates", "e6": "coordinates out of range",
        "e8": "no time"}
    assert [one["row"] for one in apart] == [3, 4, 5, 6, 8]
    assert apart[0]["lonlat"] is None
    assert apart[3]["lonlat"][1] == 123.0
    assert apart[4]["time"] is None
    assert report["by_type"][""] == 1


PLACED = {"type": "Point", "coordinates": [-8.6, 41.1]}


def points(path, *shapes):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"time": 1_500_000_000 + row}, "geometry": shape}
        for row, shape in enumerate(shapes)]}))
    return path


@pytest.mark.filterwarnings("ignore:OGRGeoJSON")  # geopandas says it of an empty point
@pytest.mark.parametrize("place", [
    {"grid": "1km"}, {"regions": "regions.geojson", "limit": "1km"}, {"on": "roads.stg"}])
def test_points_without_a_place_are_kept_apart(roads, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    save(roads.tables(), "roads.stg")
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=geopandas.points_from_xy([-8.6], [41.1]).buffer(1),
                           crs="EPSG:4326").to_file("regions.geojson")
    first = {"type": "Point", "coordinates": roads.junction_xy[0].tolist()}
    source = points(tmp_path / "events.geojson", first, None, {"type": "Point", "coordinates": []})
    tables, report = build_events(source, **place)
    assert (report["events"], report["reasons"]) == (1, {"no coordinates": 2})
    assert tables.tables["unattached"]["lonlat"].to_pylist() == [None, None]
    frame = geopandas.read_file(source)  # the same in memory: nothing, and an empty point
    assert build_events(frame, **place)[1]["reasons"] == {"no coordinates": 2}


@pytest.mark.parametrize("place", [[-8.6], ["west", 41.1], [None, None], 5, None])
def test_a_point_of_anything_but_two_numbers_is_refused(tmp_path, place):
    source = points(tmp_path / "events.geojson", PLACED, {"type": "Point", "coordinates": place})
    with pytest.raises(InputError, match="feature 2 is not a point") as error:
        build_events(source, grid="1km")
    assert error.value.field == "geometry"


@pytest.mark.parametrize("column", ["kind", "time", "longitude", "event", "depth", "premise"])
@pytest.mark.parametrize(("entry", "kind"), [([1.5], "list"), ({"a": 1}, "struct"), (b"\xff", "binary")])
def test_columns_that_are_not_plain_are_refused_by_name_and_type(events, tmp_path, column, entry, kind):
    table = pa.Table.from_pandas(events.head(3))
    table = table.set_column(table.column_names.index(column), column, pa.array([entry] * 3))
    pq.write_table(table, tmp_path / "events.parquet")
    with pytest.raises(InputError, match=f"the column {column} does not hold one") as error:
        build_events(tmp_path / "events.parquet", sequence_key=["premise"], time_unit="s", grid="1km", type_key="kind",
                     id_key="event", mark=["depth"])
    assert error.value.field == column
    assert error.value.value.startswith(kind)


def test_bytes_of_texts_are_texts(events):
    table = pa.Table.from_pandas(events.head(9))
    expected, _ = build_events(table, **OPTIONS)
    for name, kind in (("kind", pa.binary()), ("premise", pa.large_binary()), ("event", pa.binary(2))):
        held = pa.array([one.encode() for one in table[name].to_pylist()], kind)
        table = table.set_column(table.column_names.index(name), name, held)
    found, _ = build_events(table, **OPTIONS)
    assert found.nodes["event"] == expected.nodes["event"]


@pytest.mark.parametrize(("change", "options", "problem", "field"), [
    ({}, {"type_key": "sort"}, "no such column", "sort"),
    ({}, {"time_key": "when"}, "no such column", "when"),
    ({}, {"mark": ["weight:kg"]}, "no such column", "mark"),
    ({}, {"mark": ["depth:parsec"]}, "unknown unit", "unit"),
    ({}, {"mark": ["premise:m"]}, "made of numbers", "mark"),
    ({}, {"mark": ["type"]}, "no such column", "mark"),
    ({"type": 1}, {"mark": ["type"]}, "name is taken", "mark"),
    ({}, {"lon_key": "longitude", "crs": "EPSG:3763"}, "do not go together", "lon_key"),
    ({"longitude": None}, {}, "no two columns", "lon_key, lat_key"),
    ({"time": None}, {}, "no column of times", "time"),
    ({"longitude": "west"}, {}, "not a number in row 1 of column longitude", "longitude"),
    ({"event": "twice"}, {"id_key": "event"}, "more than one node", "event.node_id")])
def test_what_cannot_be_read_is_refused(events, tmp_path, change, options, problem, field):
    table = events.assign(**{name: value for name, value in change.items() if value is not None})
    table = table.drop(columns=[name for name, value in change.items() if value is None])
    table.to_csv(tmp_path / "events.csv", index=False)
    with pytest.raises(InputError, match=problem) as error:
        build_events(tmp_path / "events.csv", grid="1km", out=tmp_path / "events.stg", **options)
    assert error.value.field == field
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("events.csv", b"", "is empty"),
    ("events.csv", b"time,lon,lat\n", "no rows"),
    ("events.csv", b"time,lon,lat\n1500000000,1,2\n1500000000,1\n", "ragged: row 2"),
    ("events.csv", b"time,lon,lat\n" + b"1500000000,1,2\n" * 9 + b"1500000000,x,2\n", "not a number in row 10"),
    ("events.parquet", b"nothing", "not readable as Parquet"),
    ("events.npz", b"nothing", "not readable as NPZ"),
    ("events.geojson", b"[1, 2]", "not readable as GeoJSON"),
    ("events.geojson", b'{"features": [{"properties": {"time": 1500000000}, "geometry": {"type": "LineString", '
                       b'"coordinates": [[1, 2], [3, 4]]}}]}', "feature 1 is not a point"),
    ("events.geojson", b'{"features": []}', "no column of times|no rows"),
    ("events.xlsx", b"nothing", "events are a CSV")])
def test_broken_files_are_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        build_events(tmp_path / name, grid="1km", out=tmp_path / "events.stg")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_arrays_of_objects_and_of_several_lengths_are_refused(tmp_path):
    np.savez(tmp_path / "events.npz", time=np.array([1.5e9, 1.5e9]), lon=np.zeros(2), lat=np.zeros(3))
    with pytest.raises(InputError, match="several lengths"):
        build_events(tmp_path / "events.npz", grid="1km")
    np.savez(tmp_path / "events.npz", time=np.array([1.5e9]), lon=np.array([{}], dtype=object), lat=np.zeros(1))
    with pytest.raises(InputError, match="no two columns"):
        build_events(tmp_path / "events.npz", grid="1km")
