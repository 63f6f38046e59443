"""Points of trips: all forms of files say the same, blocks hold whole trips, what cannot be read is refused."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from stgraph.errors import InputError
from stgraph.sources.trips import grouping, streams
from stgraph.sources.trips.read import TraceOptions, TraceReader, Traces

START = 1_700_000_000.0
SIZES = np.random.default_rng(1).integers(1, 9, 40)


def made() -> pd.DataFrame:
    """40 trips of 1 to 8 points, with parts of a second."""
    chance = np.random.default_rng(0)
    trip = np.repeat(np.arange(100, 140), SIZES)
    step = chance.integers(1, 40, len(trip)) / 4
    time = START + np.cumsum(step)
    return pd.DataFrame({"trip": trip, "time": time, "lon": -8.6 + chance.random(len(trip)) / 100,
                         "lat": 41.1 + chance.random(len(trip)) / 100})


def read(sources, rows=1 << 16, points=1 << 18, metric=False, **options) -> tuple[list[Traces], TraceReader]:
    sources = [sources] if isinstance(sources, (Path, pa.Table)) else sources
    reader = TraceReader(sources, TraceOptions(**options), metric)
    return list(reader.blocks(points, rows)), reader


def frame(blocks: list[Traces]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"trip": np.array(block.ids.to_pylist())[block.trip], "time": block.time,
                                    "lon": block.place[:, 0], "lat": block.place[:, 1]}) for block in blocks],
                     ignore_index=True)


def write(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: table[name].to_numpy() for name in table})
    else:
        table.to_csv(path, index=False, sep=";" if path.name.startswith("semicolon") else ",")
    return path


# -------------------------------------------------------------------- forms
@pytest.mark.parametrize("name", ["points.parquet", "points.csv", "points.csv.gz", "semicolon.csv", "points.npz",
                                  "table"])
def test_every_form_gives_the_same_points(tmp_path, name):
    source = pa.Table.from_pandas(made()) if name == "table" else write(tmp_path / name, made())
    blocks, reader = read(source)
    pd.testing.assert_frame_equal(frame(blocks), made(), check_exact=name != "points.csv")
    assert reader.notes.rows == len(made())
    assert blocks[0].ids.type == pa.int64()


def test_gpx_has_a_trip_for_each_track_segment(tmp_path):
    table = made().assign(time=np.round(made()["time"] * 1000) / 1000)
    parts = []
    for _, rows in table.groupby("trip"):
        points = "".join(f'<trkpt lat="{row.lat!r}" lon="{row.lon!r}"><ele>3</ele><time>'
                         f'{np.datetime64(round(row.time * 1000), "ms")}Z</time></trkpt>' for row in rows.itertuples())
        parts.append(f"<trkseg>{points}</trkseg>")
    text = ('<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><name>a</name>'
            f'{"".join(parts[:15])}</trk><trk>{"".join(parts[15:])}</trk></gpx>')
    (tmp_path / "ride.gpx").write_text(text)
    with gzip.open(tmp_path / "ride.gpx.gz", "wt") as stream:
        stream.write(text)
    expected = table.assign(trip=[f"ride/{trip - 100}" for trip in table["trip"]])
    for name in ("ride.gpx", "ride.gpx.gz"):
        found = frame(read(tmp_path / name, rows=17)[0])
        pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["s", "ms", "us", "ns", "float", "float ms", "zoned", "offset", "text Z",
                                  "text number", "local", "local text"])
def test_every_form_of_time_is_the_same_instant(form):
    table = made()
    exact = np.round(table["time"].to_numpy() * 4).astype(np.int64) * 250  # ms
    stamps = pd.DatetimeIndex(exact.astype("datetime64[ms]")).tz_localize("UTC")
    porto = stamps.tz_convert("Asia/Kolkata")
    whole = form == "s"
    column = {
        "s": exact // 1000, "ms": exact, "us": exact * 1000, "ns": exact * 10**6, "float": exact / 1000,
        "float ms": exact.astype(float), "zoned": stamps, "offset": [one.isoformat() for one in porto],
        "text Z": [one.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for one in stamps], "text number": (exact / 1000).astype(str),
        "local": porto.tz_localize(None), "local text": porto.tz_localize(None).astype(str)}[form]
    options = {"tz": "Asia/Kolkata"} if form.startswith("local") else {}
    source = pa.Table.from_pandas(table.assign(time=column))
    found = frame(read(source, repair=whole, **options)[0])["time"].to_numpy()
    expected = pd.DataFrame({"trip": table["trip"], "time": exact // 1000}).drop_duplicates()["time"] if whole \
        else exact / 1000
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_hour_that_autumn_doubles_is_told_apart_by_order():
    utc = np.datetime64("2023-10-29T00:30") + np.arange(0, 5400, 300).astype("timedelta64[s]")  # Lisbon: back at 01:00
    stamps = pd.DatetimeIndex(utc.astype("datetime64[s]")).tz_localize("UTC")
    local = stamps.tz_convert("Europe/Lisbon").tz_localize(None)
    assert (np.diff(local.to_numpy()) < np.timedelta64(0)).any()
    table = pd.DataFrame({"trip": 0, "time": local, "lon": 1.0, "lat": 2.0})
    found = frame(read(pa.Table.from_pandas(table), tz="Europe/Lisbon")[0])["time"]
    np.testing.assert_array_equal(found, stamps.astype("datetime64[s, UTC]").astype(np.int64))


@pytest.mark.parametrize(("times", "problem"), [
    ([1_700_000_000, 1_700_000_010, 1_700_000_020_000], "in ms, the ones before it in s (row 3)"),
    ([1_700_000_000_000, 1_700_000_010_000, 1_700_000_020], "in s, the ones before it in ms (row 3)"),
    (["1700000000.5", "1700000010", "1700000020000"], "in ms, the ones before it in s (row 3)"),
    ([0, 180, 360], "too small for seconds since 1970 (row 1)"),
    ([1_700_000_000, 17, 1_700_000_010], "too small for seconds since 1970 (row 2)"),
    ([202403011000, 202403011005, 202403011010], "dates written without separators"),
    ([20240301100000, 20240301100500, 20240301101000], "dates written without separators"),
    ([2024030110, 2024030111, 2024030112], "dates written without separators"),
    ([20240301, 20240302, 20240303], "too small for seconds"), ([1.7e12, 1.7e12 + 5, 9e12], "not a time since 1970"),
])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_numbers_that_are_no_times_since_1970_in_one_unit_are_refused(times, problem, rows):
    table = pa.table({"trip": [1, 1, 1], "time": times, "lon": [1.0, 1, 1], "lat": [2.0, 2, 2]})
    with pytest.raises(InputError) as error:
        read(table, rows)
    assert problem in error.value.problem
    assert error.value.field == "time"


def test_rows_that_are_left_out_may_have_any_times():
    table = pa.table({"trip": [1, 1, 2, 2], "time": [1.7e9, 1.7e9 + 1, 0.0, 60.0], "lon": [1.0] * 4, "lat": [2.0] * 4,
                      "set": ["a", "a", "b", "b"]})
    blocks, reader = read(table, where=("set=a",))
    assert frame(blocks)["time"].tolist() == [1.7e9, 1.7e9 + 1]
    assert (reader.notes.left_out, reader.notes.missing) == (2, 0)
    seconds = read(pa.table({"trip": [1, 1], "time": [1_931_536_860, 1_931_536_999], "lon": [1.0, 1], "lat": [2.0, 2]}))
    assert frame(seconds[0])["time"].tolist() == [1_931_536_860, 1_931_536_999]  # month 53 of 1931: no date


@pytest.mark.parametrize("names", [pa.array([[1], [1], [2]]), pa.array([{"a": 1}, {"a": 1}, {"a": 2}])])
@pytest.mark.parametrize("role", ["trip", "split"])
def test_columns_of_lists_are_refused_by_name(names, role):
    table = pa.table({"trip": names if role == "trip" else [1, 1, 2], "state": names, "time": [1.7e9, 1.7e9 + 1, 1.7e9],
                      "lon": [1.0, 1, 1], "lat": [2.0, 2, 2]})
    with pytest.raises(InputError, match="not a column of names") as error:
        read(table, split_key="state" if role == "split" else None)
    assert error.value.field == ("trip" if role == "trip" else "state")
    with pytest.raises(InputError, match="not a column of names"):
        read(table.rename_columns(["a", "trip", "time", "lon", "lat"]), trip_key=("trip", "a"))


@pytest.mark.parametrize("kind", [pa.uint64(), pa.float64()])
def test_names_beyond_64_bits_are_texts(kind):
    names = pa.array(np.array([2**63 + 4096, 2**63 + 4096, 7], np.uint64)).cast(kind, safe=False)
    table = pa.table({"trip": names, "time": [1.7e9, 1.7e9 + 1, 1.7e9], "lon": [1.0, 1, 1], "lat": [2.0, 2, 2]})
    for rows in (1, 100):
        blocks, _ = read(table, rows)
        ids = [name for block in blocks for name in block.ids.to_pylist()]
        assert len(ids) == 2
        assert float(ids[0]) == float(2**63 + 4096)
        assert float(ids[1]) == 7


# -------------------------------------------------------------------- blocks
@pytest.mark.parametrize(("rows", "points"), [(1, 1), (3, 10), (7, 50), (50, 7), (1000, 1000)])
def test_blocks_hold_whole_trips_whatever_the_batches(rows, points):
    blocks, _ = read(pa.Table.from_pandas(made()), rows, points)
    pd.testing.assert_frame_equal(frame(blocks), made())
    ids = [name for block in blocks for name in block.ids.to_pylist()]
    assert len(ids) == len(set(ids)) == 40
    assert max(len(block.trip) for block in blocks) <= points + rows + 2 * SIZES.max()
    for block in blocks:
        assert np.array_equal(np.unique(block.trip), np.arange(len(block.ids)))


@pytest.mark.parametrize("kind", [int, str])
def test_a_file_in_the_order_of_time_gives_the_same_trips(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(grouping, "_DEAL", 25)
    table = made()
    table["time"] = START + table.groupby("trip").cumcount() * 10 + table["trip"] / 256
    table["trip"] = table["trip"].map(lambda trip: trip if kind is int else f"cab {trip}")
    mixed = table.sort_values("time")
    blocks, reader = read(write(tmp_path / "live.parquet", mixed), rows=13, points=30)
    assert reader.notes.shuffled
    assert len(blocks) > 3
    ids = [name for block in blocks for name in block.ids.to_pylist()]
    assert len(ids) == len(set(ids)) == 40
    found = frame(blocks).sort_values(["trip", "time"], ignore_index=True)
    pd.testing.assert_frame_equal(found, table.sort_values(["trip", "time"], ignore_index=True))
    again = frame(read(tmp_path / "live.parquet", rows=29, points=30)[0])
    pd.testing.assert_frame_equal(frame(blocks), again)


def test_several_files_and_several_columns_name_trips(tmp_path):
    one, other = made().assign(day=1), made().assign(day=2, time=made()["time"] + 86400)
    paths = [write(tmp_path / "a.csv", one), write(tmp_path / "b.parquet", other)]
    found = frame(read(paths, trip_key=("day", "trip"))[0])
    expected = pd.concat([one, other], ignore_index=True)
    expected["trip"] = expected["day"].astype(str) + "/" + expected["trip"].astype(str)
    pd.testing.assert_frame_equal(found, expected[["trip", "time", "lon", "lat"]])


def test_a_trip_that_begins_in_one_file_and_comes_back_in_another_is_put_together(tmp_path):
    table = made()
    late = table["trip"].isin([101, 130]) & (table.groupby("trip").cumcount() >= 2)
    paths = [write(tmp_path / "a.csv", table[~late]), write(tmp_path / "b.parquet", table[late])]
    blocks, reader = read(paths, rows=9, points=20)
    assert reader.notes.shuffled
    pd.testing.assert_frame_equal(frame(blocks).sort_values("time", ignore_index=True), table)


def test_trips_that_are_named_by_text_keep_their_names(tmp_path):
    table = made().assign(trip=[f"{trip:06d}" for trip in made()["trip"]])
    assert frame(read(write(tmp_path / "a.csv", table))[0])["trip"].tolist() == table["trip"].tolist()


# -------------------------------------------------------------------- order
def test_repair_sorts_and_drops_what_stands_twice(tmp_path):
    table = made()
    twice = pd.concat([table, table.iloc[5:12].assign(lon=0.0)])
    messy = pd.concat([rows.sample(frac=1, random_state=3) for _, rows in twice.groupby("trip")])
    path = write(tmp_path / "messy.csv", messy)
    with pytest.raises(InputError, match="must increase"):
        read(path)
    blocks, reader = read(path, repair=True)
    found = frame(blocks)
    pd.testing.assert_series_equal(found["time"], table["time"])
    assert reader.notes.duplicates == 7
    assert reader.notes.decreasing == int((messy.groupby("trip")["time"].diff() < 0).sum()) > 0


@pytest.mark.parametrize(("swap", "row", "words"), [("decreasing", 9, "earlier than"), ("twice", 9, "there twice")])
def test_the_row_at_fault_is_named(tmp_path, swap, row, words):
    table = pd.DataFrame({"trip": np.repeat([1, 2], 6), "time": START + np.tile(np.arange(6.0), 2), "lon": 1.0,
                          "lat": 2.0})
    table.loc[row - 1, "time"] = table.loc[row - 2, "time"] - (1.5 if swap == "decreasing" else 0)
    with pytest.raises(InputError, match=rf"row {row} is {words}") as error:
        read(write(tmp_path / "a.csv", table), rows=2)
    assert error.value.field == "time"
    assert "trip 2" in error.value.value
    assert "--repair" in error.value.remedy


# -------------------------------------------------------------------- states, conditions, missing rows
def test_a_column_that_changes_splits_and_a_state_can_be_kept():
    table = made().assign(occupied=np.random.default_rng(4).integers(0, 2, len(made())))
    source = pa.Table.from_pandas(table)
    changed = (table["occupied"] != table.groupby("trip")["occupied"].shift()) & (
        table["trip"] == table["trip"].shift())
    whole = read(source, split_key="occupied", points=20)[0]
    assert np.array_equal(np.concatenate([block.cut for block in whole]), changed)
    kept, reader = read(source, split_key="occupied=1", points=20)
    pd.testing.assert_frame_equal(frame(kept), table[table["occupied"] == 1].drop(columns="occupied")
                                  .reset_index(drop=True))
    assert reader.notes.left_out == int((table["occupied"] == 0).sum())
    rows = np.flatnonzero(table["occupied"] == 1)
    parted = [table["trip"][a] == table["trip"][b] and b > a + 1 for a, b in pairwise(rows)]
    assert np.concatenate([block.cut for block in kept]).tolist() == [False, *parted]


def test_conditions_leave_rows_out(tmp_path):
    table = made().assign(mode=np.where(made()["trip"] % 3 == 0, "bus", "car"), night=made()["trip"] % 2)
    path = write(tmp_path / "a.parquet", table)
    blocks, reader = read(path, where=("mode=car", "night=0"))
    wanted = table[(table["mode"] == "car") & (table["night"] == 0)]
    pd.testing.assert_frame_equal(frame(blocks), wanted[["trip", "time", "lon", "lat"]].reset_index(drop=True))
    assert reader.notes.left_out == len(table) - len(wanted)


def test_rows_without_time_place_or_trip_are_counted(tmp_path):
    table = made().astype({"trip": "Int64"})
    for row, column in enumerate(["trip", "time", "lon", "lat"]):
        table.loc[3 * row, column] = None
    expected = made().drop(index=[0, 3, 6, 9]).reset_index(drop=True)
    for name in ("a.csv", "a.parquet"):
        blocks, reader = read(write(tmp_path / name, table))
        pd.testing.assert_frame_equal(frame(blocks), expected)
        assert (reader.notes.rows, reader.notes.missing) == (len(table), 4)


def test_points_without_times_take_an_interval(tmp_path):
    path = write(tmp_path / "ride.csv", made()[["lat", "lon"]])
    with pytest.raises(InputError, match="no column of times") as error:
        read(path)
    assert "--point-interval" in error.value.remedy
    blocks, reader = read(path, point_interval=2.5, rows=50, points=60)
    found = frame(blocks)
    assert found["trip"].unique().tolist() == ["ride"]
    assert reader.one_trip_files == 1
    np.testing.assert_array_equal(found["time"], 2.5 * np.arange(len(made())))


def test_metric_maps_take_x_and_y_in_their_unit(tmp_path):
    table = made().rename(columns={"lon": "x", "lat": "y"})
    blocks, _ = read(write(tmp_path / "a.csv", table), metric=True, unit="km")
    np.testing.assert_allclose(frame(blocks)[["lon", "lat"]], 1000 * table[["x", "y"]])
    with pytest.raises(InputError, match="no column of the x coordinate"):
        read(write(tmp_path / "b.csv", made()), metric=True)


# -------------------------------------------------------------------- faults
def text_file(text: str):
    return lambda path: path.write_text(text)


def csv_with(**columns):
    return lambda path: made().assign(**columns).to_csv(path, index=False)


def bad_npz(path):
    np.savez(path, trip=np.zeros(4), time=np.arange(4.0), lon=np.zeros(3), lat=np.zeros(4))


def truncated_parquet(path):
    made().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


BOMB = ('<?xml version="1.0"?><!DOCTYPE g [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><gpx><trk><name>&b;</name>'
        '<trkseg><trkpt lat="1" lon="2"/></trkseg></trk></gpx>')
NAIVE = [str(one) for one in (np.datetime64("2023-01-01") + np.arange(len(made())).astype("timedelta64[s]"))]
ISO = [f"{one}Z" for one in NAIVE]


@pytest.mark.parametrize(("name", "make", "options", "problem", "field", "remedy"), [
    ("a.csv", csv_with(time=NAIVE), {}, "carry no zone", "time", "--tz"),
    ("a.csv", csv_with(time=[*ISO[:50], *NAIVE[50:]]), {}, "some times carry an offset", "time", "in one way"),
    ("a.csv", csv_with(time=[*ISO[:50], "noon", *ISO[51:]]), {}, "some times carry an offset", "time", "in one way"),
    ("a.csv", csv_with(time=[*ISO[:50], "2023-13-41T00:00:00Z", *ISO[51:]]), {}, "not a time in row 51", "time", "Z"),
    ("a.csv", csv_with(time=20230101000000), {}, "dates written without separators", "time", "seconds since 1970"),
    ("a.csv", csv_with(lon="east"), {}, "not readable as CSV", None, "numbers"),
    ("a.csv", text_file("trip,time,lon,lat\n1,2,3,4\n1,3,3\n"), {}, "not readable as CSV", None, "same fields"),
    ("a.csv", text_file(""), {}, "the file is empty", None, "again"),
    ("a.csv", text_file("trip,time,lon,lat\n"), {}, "no usable point", "traces", "check"),
    ("a.csv", text_file("trip,time,lon,lat\n1,1700000000,,\n"), {}, "no usable point", "traces", "check"),
    ("a.csv", text_file("a,b,c\n1,2,3\n"), {}, "no column of the longitude", "lon_key", "--lon-key"),
    ("a.csv", csv_with(), {"trip_key": ("cab",)}, "no such column", "cab", "trip, time"),
    ("a.csv", csv_with(), {"split_key": "busy"}, "no such column", "busy", "trip, time"),
    ("a.csv", csv_with(), {"where": ("trip",)}, "not a condition", "where", "column=value"),
    ("a.csv", csv_with(), {"where": ("trip=999",)}, "no usable point", "traces", "conditions"),
    ("a.csv", csv_with(), {"point_interval": 1.0}, "times of their own", "point_interval", "leave out"),
    ("a.csv", csv_with(time=NAIVE), {"tz": "Mars/Olympus"}, "unknown time zone", "tz", "IANA"),
    ("a.parquet", truncated_parquet, {}, "not readable as Parquet", None, "again"),
    ("a.npz", bad_npz, {}, "do not go together", "lon", "one entry"),
    ("a.shp", text_file("x"), {}, "ending is not known", "traces", ".parquet"),
    ("a.gpx", text_file(BOMB), {"point_interval": 1.0}, "not readable as GPX", None, "entities"),
    ("a.gpx", text_file("<gpx><trk>"), {"point_interval": 1.0}, "not readable as GPX", None, "again"),
    ("a.gpx", text_file("<gpx/>"), {"point_interval": 1.0}, "no usable point", "traces", "check"),
    ("a.gpx", text_file('<gpx><trkseg><trkpt lat="1"/></trkseg></gpx>'), {}, "no usable lon and lat", "trkpt", "again"),
])
def test_faults_name_their_parts(tmp_path, name, make, options, problem, field, remedy):
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=problem) as error:
        read(path, **options)
    assert field is None or field in error.value.field
    assert remedy in error.value.remedy
    assert error.value.file == str(path) or field in ("where", "tz")


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_GPX_BYTES", 1 << 20)
    with gzip.open(tmp_path / "a.gpx.gz", "wb") as stream:
        stream.write(b"<gpx><trk><trkseg>" + b" " * (2 << 20) + b"</trkseg></trk></gpx>")
    assert (tmp_path / "a.gpx.gz").stat().st_size < 5000
    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        read(tmp_path / "a.gpx.gz", point_interval=1.0)


def test_files_whose_trips_would_share_a_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    paths = [write(tmp_path / name, made()[["lat", "lon"]]) for name in ("ride.csv", "b/ride.csv")]
    with pytest.raises(InputError, match="same name"):
        read(paths, point_interval=1.0)


# -------------------------------------------------------------------- real files
def test_cabs_split_into_fares(shared_data):
    path = shared_data / "cabspotting_5/cabspotting_5.parquet"
    table = pq.read_table(path).to_pandas().astype({"cab": str})
    blocks, _ = read(path, split_key="occupied=1", points=30_000)
    fares = sum(int(block.cut.sum()) + len(block.ids) for block in blocks)
    runs = (table["occupied"] == 1) & ((table["occupied"].shift() != 1) | (table["cab"] != table["cab"].shift()))
    assert fares == runs.sum()
    assert sum(len(block.trip) for block in blocks) == (table["occupied"] == 1).sum()


def test_geolife_needs_a_zone_and_takes_one(shared_data):
    path = shared_data / "geolife_sample/geolife_sample.parquet"
    with pytest.raises(InputError, match="carry no zone"):
        read(path)
    blocks, _ = read(path, tz="Asia/Shanghai")
    assert blocks[0].time[0] == np.datetime64("2008-10-22T21:53:05", "s").astype(int)
    assert sum(len(block.trip) for block in blocks) == pq.read_metadata(path).num_rows


def test_traces_of_denver_have_no_times(shared_data):
    folder = shared_data / "denver_traces"
    ride, _ = read(folder / "test_trace.gpx.gz", point_interval=1.0)
    assert len(ride[0].trip) == 778
    traces, reader = read([folder / f"sample_trace_{i}.csv" for i in (1, 2, 3)], point_interval=1.0)
    assert [len(traces[0].time[traces[0].trip == i]) for i in range(3)] == [1053, 799, 1466]
    assert reader.one_trip_files == 3


def test_taxis_of_beijing_repeat_points(shared_data):
    path = shared_data / "beijing_sparsetaxi/gps.parquet"
    options = {"trip_key": ("set", "trajectory"), "metric": True, "unit": "km"}
    with pytest.raises(InputError, match=r"too small for seconds since 1970 \(row 863\)"):
        read(path, **options)  # one of the sets counts from the start of each trip
    with pytest.raises(InputError, match="row 3 is there twice"):
        read(path, where=("set=set60",), **options)
    table = pq.read_table(path)
    kept = table.filter(pc.not_equal(table["set"], "sparse"))
    blocks, reader = read(kept, repair=True, **options)
    assert reader.notes.rows == 862
    assert reader.notes.duplicates == kept.to_pandas().duplicated(["set", "trajectory", "time"]).sum() > 10
    assert len(blocks[0].ids) == 18 + 17 + 15 + 16
