"""NetCDF and Zarr: dimensions, places and times by the CF conventions; other calendars and codecs that run code not."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import zarr

from stgraph.errors import InputError
from stgraph.graph import bundle, data_sha256, load, validate
from stgraph.graph.time import instant
from stgraph.sources.raster import blocks, build_raster, gridded, to_raster
from stgraph.sources.raster.reshape import ADJACENT, CELL, READINGS

xr = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

LAT, LON = np.array([30.0, 20.0, 10.0]), np.array([0.0, 90.0, 180.0, 270.0])
VALUES = np.random.default_rng(5).normal(280, 9, (8, 3, 4)).astype(np.float32)
VALUES[2, 1, 3] = VALUES[5, 0] = np.nan


def dataset(values=VALUES, **attributes) -> xr.Dataset:
    """A field as the conventions want it: hours, latitudes falling, longitudes from 0 to 360."""
    return xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
                      {"time": ("time", np.arange(len(values)) * 6.0,
                                {"units": "hours since 2021-03-01 00:00", "standard_name": "time"} | attributes),
                       "lat": ("lat", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
                       "lon": ("lon", LON, {"units": "degrees_east", "standard_name": "longitude"})})


@pytest.fixture
def field(tmp_path):
    dataset().to_netcdf(tmp_path / "field.nc", engine="h5netcdf")
    return tmp_path


# -------------------------------------------------------------------- what is read
def test_a_netcdf_file_comes_back_exactly(field):
    graph, report = build_raster(field / "field.nc", out=field / "field.stg", quantity="temperature")
    assert np.array_equal(to_raster(load(field / "field.stg"))[..., 0], VALUES, equal_nan=True)
    assert graph[CELL].lonlat[:4].tolist() == [[0, 30], [90, 30], [180, 30], [-90, 30]]
    assert graph.time.times().tolist() == [instant("2021-03-01") + 21600 * i for i in range(8)]
    assert (report["channels"], report["unit"], report["form"]) == (["t2m"], ["K"], "netcdf")
    assert (report["rows"], report["columns"], report["edges"]) == (3, 4, 2 * (3 * 3 + 2 * 4))


@pytest.mark.parametrize("form", ["nc3", "packed", "zarr2", "zarr3", "transposed"])
def test_other_files_of_the_same_field_give_the_same_graph(field, form):
    held, path = dataset(), field / "other.nc"
    if form == "nc3":
        held.to_netcdf(path, engine="scipy")
    elif form == "packed":  # 16 bits with a code for missing
        held.to_netcdf(path, engine="h5netcdf", encoding={"t2m": {"dtype": "int16", "scale_factor": 0.01,
                                                                  "add_offset": 280.0, "_FillValue": -32768}})
    elif form == "transposed":
        held.transpose("lon", "time", "lat").to_netcdf(path, engine="h5netcdf")
    else:
        path = field / "other.zarr"
        held.to_zarr(path, zarr_format=int(form[-1]), consolidated=False, encoding={"t2m": {"chunks": (3, 2, 4)}})
    one, _ = build_raster(field / "field.nc")
    other, _ = build_raster(path)
    found = to_raster(other)[..., 0]
    assert np.array_equal(np.isnan(found), np.isnan(VALUES))
    np.testing.assert_allclose(found, VALUES, atol=0.0051 if form == "packed" else 0)
    assert one.time == other.time
    assert np.array_equal(one[CELL].lonlat, other[CELL].lonlat)


def test_variables_and_levels_stand_side_by_side(tmp_path):
    held = dataset()
    held["wind"] = held.t2m * 2
    held.wind.attrs["units"] = "m s-1"
    held["area"] = (("lat", "lon"), np.ones((3, 4)))
    held.to_netcdf(tmp_path / "two.nc", engine="h5netcdf")
    graph, report = build_raster(tmp_path / "two.nc")
    assert (report["channels"], report["unit"]) == (["t2m", "wind"], ["K", "m/s"])
    assert np.array_equal(to_raster(graph)[..., 1], VALUES * 2, equal_nan=True)
    _, report = build_raster(tmp_path / "two.nc", key="wind")
    assert report["channels"] == ["wind"]
    high = xr.concat([held.t2m, held.t2m + 1], pd.Index([500.0, 850.0], name="level")).to_dataset()
    high.to_netcdf(tmp_path / "levels.nc", engine="h5netcdf")
    graph, report = build_raster(tmp_path / "levels.nc")
    assert report["channels"] == ["t2m_500", "t2m_850"]
    assert np.array_equal(to_raster(graph)[..., 1], VALUES + 1, equal_nan=True)


def test_units_of_the_file_are_taken_or_said(tmp_path):
    for said, expected, unit, warned in (
            ("degC", 283.15, "degC", False), ("degrees_F", 260.92777, "degF", False), ("hPa", 1000, "hPa", False),
            ("millibars", 1000, "hPa", False), ("mm", 0.01, "mm", False), ("furlong", 10, "1", True)):
        held = dataset(np.full((4, 3, 4), 10, np.float32))
        held.t2m.attrs["units"] = said
        held.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        graph, report = build_raster(tmp_path / "a.nc")
        assert graph.signal(CELL).values[0, 0, 0] == pytest.approx(expected)
        assert (report["unit"], bool(report["warnings"])) == ([unit], warned)
    assert build_raster(tmp_path / "a.nc", unit="km")[0].signal(CELL).values[0, 0, 0] == 10_000


def test_places_of_every_cell_or_on_a_plane(tmp_path):
    lat, lon = np.meshgrid(LAT, LON - 170, indexing="ij")
    held = xr.Dataset({"v": (("t", "j", "i"), VALUES)},
                      {"nav_lat": (("j", "i"), lat), "nav_lon": (("j", "i"), lon + 1)})
    held.to_netcdf(tmp_path / "curved.nc", engine="h5netcdf")
    graph, _ = build_raster(tmp_path / "curved.nc", start="2021-01-01", interval="1h")
    assert np.array_equal(graph[CELL].lonlat, np.stack([lon.ravel() + 1, lat.ravel()], 1))
    held = xr.Dataset({"v": (("time", "y", "x"), VALUES)},
                      {"x": ("x", np.arange(4) * 2.0, {"units": "km"}),
                       "y": ("y", -np.arange(3) * 2000.0, {"units": "m"})})
    held.to_netcdf(tmp_path / "plane.nc", engine="h5netcdf")
    graph, _ = build_raster(tmp_path / "plane.nc", start="2021-01-01", interval="1h")
    assert graph[CELL].pos[[0, 3, -1]].tolist() == [[0, 0], [6000, 0], [6000, -4000]]
    assert set(graph[ADJACENT].distance.tolist()) == {2000.0}


def test_dimensions_with_other_names_are_said(tmp_path):
    held = dataset().rename(time="when", lat="up", lon="right")
    for name in ("when", "up", "right"):
        held[name].attrs.pop("standard_name")
    held.to_netcdf(tmp_path / "odd.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="which dimension is the time") as error:
        build_raster(tmp_path / "odd.nc")
    assert "--axes" in error.value.remedy
    graph, _ = build_raster(tmp_path / "odd.nc", axes="time=when,row=up,column=right", latitude_key="up",
                            longitude_key="right")
    assert np.array_equal(to_raster(graph)[..., 0], VALUES, equal_nan=True)
    assert graph[CELL].lonlat[0].tolist() == [0, 30]


def test_a_globe_closes(field):
    graph, _ = build_raster(field / "field.nc", wrap_longitude=True, neighbours=8)
    assert graph[ADJACENT].edge_index.shape[1] == 2 * (3 * 4 + 2 * 4) + 4 * 2 * 4
    pairs = {tuple(pair) for pair in graph[ADJACENT].edge_index.T.tolist()}
    assert {(3, 0), (0, 3), (3, 4), (0, 7)} <= pairs
    assert float(graph[ADJACENT].distance.max()) < 15_000_000


def test_local_clocks_and_masks(tmp_path):
    held = dataset(units="hours since 2021-01-01")
    held["sea"] = (("lon", "lat"), (np.arange(12).reshape(4, 3) == 5).astype("i1"))
    held.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    graph, report = build_raster(tmp_path / "a.nc", key="t2m", mask_key="sea", local_clock=True, tz="America/New_York")
    assert graph.time.start == instant("2021-01-01T05:00")
    assert report["left_out"] == 1
    assert "2,1" not in graph[CELL].node_id


# -------------------------------------------------------------------- memory
def chunked(tmp_path, steps, side=60):
    path = tmp_path / "big.zarr"
    array = zarr.create_array(str(path), shape=(steps, side, side), chunks=(50, side, side), dtype="f4")
    for start in range(0, steps, 50):
        array[start:start + 50] = (np.arange(start, start + 50) % 97)[:, None, None]
    return path


def test_memory_does_not_grow_with_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "EAGER_BYTES", 1 << 20)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(bundle, "IN_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(validate, "_BLOCK", 100_000)
    peaks = []
    for steps in (1000, 4000):
        folder = tmp_path / str(steps)
        folder.mkdir()
        path = chunked(folder, steps)
        tracemalloc.start()
        build_raster(path, cell_size=1000, start="2020-01-01", interval="1h", max_bytes=1 << 30,
                     out=folder / "big.stg")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        made = load(folder / "big.stg", in_memory=False).signal(CELL, READINGS)
        assert np.array_equal(made.values[990:1000, 17, 0], np.arange(990, 1000) % 97)
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 4000 * 60 * 60 * 5 / 3  # a third of values and mask


def test_lazy_variables_give_the_same_bundle_and_read_each_block_once_a_pass(field, monkeypatch):
    held = xr.concat([dataset().drop_vars("time")] * 20, "time").assign_coords(
        time=("time", np.arange(160) * 6.0, {"units": "hours since 2021-03-01"}))
    held.to_netcdf(field / "long.nc", engine="h5netcdf", encoding={"t2m": {"chunksizes": (16, 3, 4)}})
    build_raster(field / "long.nc", out=field / "eager.stg", name="x")
    asked: list[tuple[int, int]] = []
    real = gridded._raster

    def counted(*args):
        raster = real(*args)
        read = raster.read
        raster.read = lambda start, stop: asked.append((start, stop)) or read(start, stop)
        return raster

    monkeypatch.setattr(gridded, "_raster", counted)
    monkeypatch.setattr(blocks, "EAGER_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 40 * 12 * 4)
    build_raster(field / "long.nc", out=field / "lazy.stg", name="x")
    assert data_sha256(field / "lazy.stg") == data_sha256(field / "eager.stg")
    assert {stop - start for start, stop in asked} == {32}  # two whole chunks, not 40 rows
    assert len(asked) <= 6 * 5 + 1  # observed, checked twice, all there?, values, mask; and the head


# -------------------------------------------------------------------- faults
def netcdf(change=lambda held: held, **attributes):
    return lambda path: change(dataset(**attributes)).to_netcdf(path / "field.nc", engine="h5netcdf")


def raw_times(values):
    return netcdf(lambda held: held.assign_coords(time=("time", values, held.time.attrs)))


def swapped(path):
    held = dataset().rename(lat="lon", lon="lat").assign_coords(lon=("lon", LAT, {"standard_name": "longitude"}),
                                                                lat=("lat", LON, {"standard_name": "latitude"}))
    held.to_netcdf(path / "field.nc", engine="h5netcdf")


@pytest.mark.parametrize(("break_it", "options", "problem", "field_name", "value", "remedy"), [
    (netcdf(calendar="360_day"), {}, "not the civil one", "time", "360_day", "convert_calendar"),
    (netcdf(calendar="noleap"), {}, "not the civil one", "time", "noleap", "--start"),
    (netcdf(calendar="mayan"), {}, "calendar is not known", "time", "mayan", "--start"),
    (netcdf(units="hours"), {}, "since when", "time", "hours", "hours since"),
    (netcdf(units="fortnights since 2020-01-01"), {}, "not readable as times", "time", "fortnights", "--start"),
    (raw_times([0, 6, 12, 12, 24, 30, 36, 42]), {}, "do not increase: row 4", "time", "2021-03-01T12",
     "keep each once"),
    (raw_times([0, 12, 6, 18, 24, 30, 36, 42]), {}, "do not increase: row 3", "time", None, "sort"),
    (raw_times([0, 6, 12, 18, 24, 30, 36, np.nan]), {}, "no time", "time", "row 8", "leave the step out"),
    (raw_times([0, 6, 12, 18, 24, 30, 36, 43]), {}, "off the grid", "time", None, "--interval"),
    (swapped, {}, "look exchanged", "latitude", "latitude 0..270", "swap"),
    (netcdf(lambda held: held.isel(time=0)), {}, "no variable has the axes", "key", None, "t2m [lat, lon]"),
    (netcdf(lambda held: held.expand_dims(a=1, b=1)), {"key": "t2m"}, "three or four axes", "t2m", None, "--key"),
    (netcdf(lambda held: held.drop_vars(["lat", "lon"])), {}, "no place", "cell_size", None, "--cell-size"),
    (None, {"key": "t3m"}, "no such variable", "t3m", None, "t2m"),
    (None, {"mask_key": "lat"}, "another shape", "lat", "(3,)", "3 x 4"),
    (None, {"axes": "time=zeit"}, "no such dimension", "axes", "zeit", "time, lat, lon"),
    (None, {"axes": "time,row,column"}, "have names", "axes", None, "row=lat"),
    (lambda path: (path / "field.nc").write_bytes(b"hello world"), {}, "not a NetCDF", None, "hell", "again"),
    (lambda path: (path / "field.nc").write_bytes((path / "field.nc").read_bytes()[:3000]), {}, "not readable", None,
     None, "again")])
def test_faults_name_their_parts_and_write_nothing(field, monkeypatch, break_it, options, problem, field_name, value,
                                                   remedy):
    monkeypatch.chdir(field)
    if break_it is not None:
        break_it(field)
    before = sorted(path.name for path in field.rglob("*"))
    with pytest.raises(InputError, match=problem) as error:
        build_raster("field.nc", out="field.stg", **options)
    assert error.value.field == field_name
    assert value is None or value in str(error.value.value)
    assert remedy in error.value.remedy
    assert error.value.file == "field.nc"
    assert sorted(path.name for path in field.rglob("*")) == before


def test_start_replaces_a_calendar_that_is_not_known(field):
    netcdf(calendar="mayan")(field)
    graph, report = build_raster(field / "field.nc", start="2000-01-01", interval="6h")
    assert graph.time.start == instant("2000-01-01")
    assert "not used" in report["warnings"][0]


@pytest.mark.parametrize("form", [2, 3])
def test_a_store_that_could_run_code_is_not_opened(tmp_path, form):
    path = tmp_path / "bad.zarr"
    dataset().to_zarr(path, zarr_format=form, consolidated=False)
    name = path / "t2m" / ("zarr.json" if form == 3 else ".zarray")
    described = json.loads(name.read_text())
    if form == 2:
        described["filters"] = [{"id": "pickle", "protocol": 5}]
    else:
        described["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    name.write_text(json.dumps(described))
    with pytest.raises(InputError, match="not known to be harmless") as error:
        build_raster(path)
    assert "pickle" in str(error.value.value)


def test_a_store_that_unfolds_without_end_is_refused(tmp_path):
    path = tmp_path / "bomb.zarr"
    zarr.create_array(str(path), shape=(10**9, 100, 100), chunks=(1, 100, 100), dtype="f4")
    with pytest.raises(InputError, match="unfold to") as error:
        build_raster(path, cell_size=1, start="2020-01-01", interval="1h")
    assert "--max-bytes" in error.value.remedy
    path = tmp_path / "chunk.zarr"
    huge = xr.Dataset({"v": (("time", "y", "x"), np.zeros((1, 2, 2), np.float32))})
    huge.to_zarr(path, zarr_format=2, consolidated=False)
    described = json.loads((path / "v" / ".zarray").read_text())
    described["chunks"] = [10**6, 10**3, 10**3]
    (path / "v" / ".zarray").write_text(json.dumps(described))
    with pytest.raises(InputError, match="one chunk unfolds"):
        build_raster(path, cell_size=1, start="2020-01-01", interval="1h")


def test_without_xarray_the_message_says_what_to_install(field, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match="not installed") as error:
        build_raster(field / "field.nc")
    assert "[raster]" in error.value.remedy
