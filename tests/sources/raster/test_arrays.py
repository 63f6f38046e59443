"""Rasters in NPZ and NPY files: cells, stencil, places, times, masks; nothing is lost and nothing is turned."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stgraph.cli.build import app
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load
from stgraph.graph.time import instant
from stgraph.sources.raster import blocks, build_raster, to_raster
from stgraph.sources.raster.grid import stencil
from stgraph.sources.raster.reshape import ADJACENT, CELL, READINGS

NYC = {"key": ("taxi", "bike"), "mask_key": "mask", "cell_size": 1000, "quantity": "count", "unit": "count",
       "start": "2015-10-24T00:00", "interval": "30min", "tz": "Etc/GMT+5", "neighbours": 8}
OPTIONS = {"cell_size": 500, "start": "2020-01-01T00:00", "interval": "1h"}


def made(steps=6, rows=4, columns=3, channels=2) -> np.ndarray:
    """Values that tell their own place: step, row, column, channel as digits."""
    t, r, c, k = np.meshgrid(*(np.arange(n) for n in (steps, rows, columns, channels)), indexing="ij")
    return (1000 * t + 100 * r + 10 * c + k).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "grid.npz", flow=made(), mask=np.array([[0, 1], [3, 2]]),
             t=instant("2020-01-01T00:00") + 3600 * np.arange(6), lat=np.array([52.0, 51.9, 51.8, 51.7]),
             lon=np.array([4.0, 4.2, 4.4]))
    np.save(tmp_path / "grid.npy", made())
    return tmp_path


# -------------------------------------------------------------------- real data
@pytest.mark.parametrize(("name", "shape", "masked"), [("nyc", (4800, 16, 8, 4), 15), ("dc", (2400, 9, 12, 4), 0)])
def test_jonas_comes_back_exactly(shared_data, tmp_path, name, shape, masked):
    path = shared_data / "jonas_grid" / f"jonas_{name}.npz"
    options = NYC | {"interval": "30min" if name == "nyc" else "1h"}
    graph, report = build_raster(path, out=tmp_path / "grid.stg", **options)
    with np.load(path) as archive:
        expected = np.concatenate([archive["taxi"], archive["bike"]], axis=-1).astype(np.float32)
        cells = archive["mask"].reshape(-1, 2).astype(int)
    expected[:, cells[:, 0], cells[:, 1]] = np.nan
    for one in (graph, load(tmp_path / "grid.stg")):
        assert np.array_equal(to_raster(one), expected, equal_nan=True)
    assert expected.shape == shape
    assert (report["cells"], report["left_out"]) == (shape[1] * shape[2] - masked, masked)
    assert report["channels"] == ["taxi_0", "taxi_1", "bike_0", "bike_1"]
    assert not {(int(row), int(column)) for row, column in cells} & {
        tuple(int(part) for part in name.split(",")) for name in graph[CELL].node_id}


def test_the_command_makes_the_bundle_and_prints_one_object(shared_data, tmp_path):
    words = (f"raster {shared_data}/jonas_grid/jonas_nyc.npz --key taxi --key bike --mask-key mask --cell-size 1000 "
             "--start 2015-10-24T00:00 --interval 30min --tz Etc/GMT+5 --quantity count --neighbours 8 --interpolate "
             f"--coarsen 4 -o {tmp_path}/nyc.stg --json")
    result = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    report = json.loads(result.stdout)
    assert (report["cells"], report["edges"], report["coarse_cells"]) == (113, 752, 8)
    assert report["data_sha256"] == data_sha256(tmp_path / "nyc.stg")
    assert report["interpolated_share"] == 0
    assert "Next: stgraph info" in result.stderr


# -------------------------------------------------------------------- the stencil
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([4, 8]), st.booleans())
def test_a_full_grid_has_the_edges_of_the_closed_formula(rows, columns, neighbours, wrap):
    wrap = wrap and columns > 2
    row, column = np.divmod(np.arange(rows * columns), columns)
    index = stencil(row, column, rows, columns, neighbours, wrap)
    across = columns if wrap else columns - 1
    expected = 2 * (rows * across + (rows - 1) * columns) + (4 * (rows - 1) * across if neighbours == 8 else 0)
    assert index.shape == (2, expected)
    assert len({tuple(pair) for pair in index.T.tolist()}) == expected


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([4, 8]), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_cells_are_joined_as_by_looking_at_every_pair(rows, columns, neighbours, wrap, seed):
    wrap = wrap and columns > 2
    there = np.random.default_rng(seed).random((rows, columns)) < 0.7
    row, column = np.nonzero(there)
    found = {tuple(pair) for pair in stencil(row, column, rows, columns, neighbours, wrap).T.tolist()}
    expected = set()
    for i, j in itertools.permutations(range(len(row)), 2):
        down, right = abs(row[i] - row[j]), abs(column[i] - column[j])
        right = min(right, columns - right) if wrap else right
        if (down + right == 1) if neighbours == 4 else (max(down, right) == 1):
            expected.add((i, j))
    assert found == expected


def test_edges_are_as_long_as_cells_are_apart(files):
    graph, report = build_raster(files / "grid.npz", key="flow", neighbours=8, cell_size="300,400",
                                 start="2020-01-01", interval="1h")
    source, target = graph[ADJACENT].edge_index
    down = (graph[CELL].row[source] - graph[CELL].row[target]).abs()
    right = (graph[CELL].column[source] - graph[CELL].column[target]).abs()
    assert np.allclose(graph[ADJACENT].distance, np.hypot(300 * down, 400 * right))
    assert report["edges"] == 2 * (4 * 2 + 3 * 3) + 4 * 3 * 2


# -------------------------------------------------------------------- rows, columns, axes, places
def test_rows_and_columns_keep_their_sides(files):
    graph, _ = build_raster(files / "grid.npz", key="flow", **OPTIONS)
    cell = graph[CELL]
    assert cell.node_id.tolist()[:4] == ["0,0", "0,1", "0,2", "1,0"]
    first = graph.signal(CELL).values[0, :, 0]
    assert np.array_equal(first, 100 * cell.row.numpy() + 10 * cell.column.numpy())
    assert cell.pos[0].tolist() == [250, -250]  # row 0 is the northern edge
    assert cell.pos[-1].tolist() == [1250, -1750]


@pytest.mark.parametrize("axes", list(itertools.permutations(("time", "row", "column", "channel"))))
def test_axes_may_stand_in_any_order(tmp_path, axes):
    order = [("time", "row", "column", "channel").index(word) for word in axes]
    np.save(tmp_path / "a.npy", made().transpose(order))
    graph, _ = build_raster(tmp_path / "a.npy", axes=",".join(axes), **OPTIONS)
    assert np.array_equal(to_raster(graph), made())


def test_three_axes_are_one_channel(tmp_path):
    np.save(tmp_path / "a.npy", made()[..., 1])
    graph, report = build_raster(tmp_path / "a.npy", **OPTIONS)
    assert np.array_equal(to_raster(graph), made()[..., 1:])
    assert report["channels"] == ["value"]


def test_coordinates_give_places_in_degrees(files):
    graph, _ = build_raster(files / "grid.npz", key="flow", latitude_key="lat", longitude_key="lon",
                            start="2020-01-01", interval="1h")
    cell = graph[CELL]
    assert cell.lonlat[4].tolist() == [4.2, 51.9]
    assert "pos" not in cell
    from pyproj import Geod

    a, b = graph[ADJACENT].edge_index[:, 0].tolist()
    expected = Geod(ellps="WGS84").inv(*cell.lonlat[a].tolist(), *cell.lonlat[b].tolist())[2]
    assert float(graph[ADJACENT].distance[0]) == pytest.approx(expected, rel=1e-6)


def test_a_mask_may_be_a_grid_or_a_list(files):
    picture = np.zeros((4, 3))
    picture[0, 1] = picture[3, 2] = 7
    np.savez(files / "other.npz", flow=made(), mask=picture)
    one, _ = build_raster(files / "grid.npz", key="flow", mask_key="mask", **OPTIONS)
    other, _ = build_raster(files / "other.npz", key="flow", mask_key="mask", **OPTIONS)
    assert one[CELL].node_id.tolist() == other[CELL].node_id.tolist()
    assert len(one[CELL].node_id) == 10
    assert np.isnan(to_raster(one)[:, [0, 3], [1, 2]]).all()


# -------------------------------------------------------------------- time, units, missing
def test_times_of_the_file_or_of_the_options_are_the_same(files):
    one, _ = build_raster(files / "grid.npz", key="flow", **OPTIONS)
    other, _ = build_raster(files / "grid.npz", key="flow", time_key="t", cell_size=500)
    assert one.time == other.time
    late, _ = build_raster(files / "grid.npz", key="flow", time_key="t", local_clock=True, tz="America/New_York",
                           cell_size=500)
    assert late.time.start == one.time.start + 5 * 3600


def test_a_missing_step_is_a_row_that_was_not_observed(files):
    with np.load(files / "grid.npz") as archive:
        np.savez(files / "gap.npz", flow=np.delete(archive["flow"], 2, 0), t=np.delete(archive["t"], 2))
    graph, report = build_raster(files / "gap.npz", key="flow", time_key="t", cell_size=500)
    expected = made()
    expected[2] = np.nan
    assert np.array_equal(to_raster(graph), expected, equal_nan=True)
    assert (report["gaps"], report["missing_steps"]) == (1, 1)


def test_units_become_si_and_codes_become_missing(tmp_path):
    values = np.array([36.0, -1.0, np.nan, 72.0], np.float32).reshape(1, 2, 2, 1).repeat(3, 0)
    np.save(tmp_path / "a.npy", values)
    graph, report = build_raster(tmp_path / "a.npy", quantity="speed", unit="km/h", missing_value=[-1], **OPTIONS)
    signal = graph.signal(CELL)
    assert signal.values[0, :, 0].tolist() == [10, 0, 0, 20]
    assert signal.mask[0, :, 0].tolist() == [True, False, False, True]
    assert report["observed_share"] == 0.5
    np.testing.assert_allclose(to_raster(graph, source_unit=True)[0, [0, 1], [0, 1], 0], [36, 72], rtol=1e-6)


# -------------------------------------------------------------------- lazy
def test_what_stays_on_disk_gives_the_same_bundle(files, monkeypatch):
    build_raster(files / "grid.npy", out=files / "eager.stg", name="g", **OPTIONS)
    monkeypatch.setattr(blocks, "EAGER_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 24 * 4)  # four rows
    lazy, _ = build_raster(files / "grid.npy", out=files / "lazy.stg", name="g", coarsen=2, interpolate=True, **OPTIONS)
    assert not isinstance(lazy.signal(CELL, READINGS).values, np.ndarray)
    assert np.array_equal(to_raster(lazy), made())
    assert np.array_equal(lazy.signal(CELL, READINGS).values[3:6], made()[3:6].reshape(3, 12, 2))
    monkeypatch.undo()
    build_raster(files / "grid.npy", out=files / "eager.stg", name="g", coarsen=2, interpolate=True, **OPTIONS)
    assert data_sha256(files / "lazy.stg") == data_sha256(files / "eager.stg")


def test_blocks_are_asked_for_and_kept_one_at_a_time():
    asked = []

    def make(start, stop):
        asked.append((start, stop))
        values = np.arange(start, stop, dtype=np.float32)[:, None, None]
        return values, values % 2 == 0

    made_of = blocks.Blocks((10, 1, 1), make, rows=4)
    assert made_of.read(0, 3, 0).ravel().tolist() == [0, 1, 2]
    assert made_of.read(1, 4, 1).ravel().tolist() == [False, True, False]
    assert asked == [(0, 4)]
    assert made_of.read(2, 9, 0).ravel().tolist() == list(range(2, 9))
    assert asked == [(0, 4), (4, 8), (8, 10)]
    assert made_of.read(5, 5, 0).shape == (0, 1, 1)


def test_provenance_names_files_and_not_folders(files):
    graph, _ = build_raster(files / "grid.npz", key="flow", mask_key="mask", out=files / "city.stg",
                            licence="CC0-1.0", attribution="nobody", **OPTIONS)
    metadata = load(files / "city.stg").metadata
    assert metadata["command"] == ("stgraph build raster grid.npz --key flow --mask-key mask --start 2020-01-01T00:00 "
                                   "--interval 1h --cell-size 500 --licence CC0-1.0 --attribution nobody "
                                   "--out city.stg")
    assert metadata["sources"][0]["licence"] == "CC0-1.0"
    assert str(files) not in str(metadata)
    assert metadata["grid"] == graph.metadata["grid"]


# -------------------------------------------------------------------- faults
def save(**arrays):
    return lambda files: np.savez(files / "grid.npz", **arrays)


def bomb(files):
    np.savez_compressed(files / "grid.npz", flow=np.zeros((136, 500, 500), np.float64))


def lying(files):
    with (files / "grid.npz").open("wb") as stream:
        import zipfile

        with zipfile.ZipFile(stream, "w") as archive, archive.open("flow.npy", "w") as entry:
            np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False,
                                                         "shape": (10**6, 10**4, 10**4, 1)})


def pickled(files):
    np.savez(files / "grid.npz", flow=np.array([{"a": 1}] * 8, dtype=object).reshape(2, 2, 2))


INF = made()
INF[4, 2, 1, 0] = np.inf


@pytest.mark.parametrize(("break_it", "options", "problem", "field", "value", "remedy"), [
    (save(flow=np.zeros((4, 4))), {}, "no array has the axes", "key", None, "flow [4, 4]"),
    (save(flow=np.zeros((2, 2, 2, 2, 2))), {"key": "flow"}, "three or four axes", "axes", "5 axes", "reshape"),
    (None, {"axes": "time,row,column"}, "3 axes are named, but the array has 4", "axes", None, "every axis once"),
    (None, {"axes": "time,row,row,channel"}, "not the axes of a raster", "axes", None, "time,row,column,channel"),
    (None, {"cell_size": None}, "the cells have no place", "cell_size", None, "--cell-size"),
    (None, {"cell_size": "-5"}, "not the size of a cell", "cell_size", "-5", "metres"),
    (None, {"cell_size": "1,2,3"}, "not the size of a cell", "cell_size", "1,2,3", "metres"),
    (save(flow=made(), mask=np.zeros((3, 4))), {"mask_key": "mask"}, "another shape", "mask", "(3, 4)", "4 x 3"),
    (save(flow=made(), mask=np.array([[4, 0]])), {"mask_key": "mask"}, "not in the raster", "mask", "[4, 0]", "0 to 3"),
    (save(flow=made(), mask=np.ones((4, 3))), {"mask_key": "mask"}, "leaves no cell", "mask", None, "turn it around"),
    (save(flow=made(), lat=np.arange(4) * 30 + 40, lon=np.arange(3)), {"latitude_key": "lat", "longitude_key": "lon",
     "cell_size": None}, "look exchanged", "latitude", "latitude 40..130", "swap"),
    (save(flow=made(), lat=np.arange(4), lon=np.arange(3) * 300), {"latitude_key": "lat", "longitude_key": "lon",
     "cell_size": None}, "out of range", "longitude", "600", "degrees"),
    (save(flow=made(), lat=np.arange(3), lon=np.arange(3)), {"latitude_key": "lat", "longitude_key": "lon",
     "cell_size": None}, "do not go with the raster", "latitude", "(3,)", "4 rows"),
    (save(flow=made(), t=np.array([0, 1, 2, 2, 4, 5]) * 3600 + 1_600_000_000), {"time_key": "t", "start": None},
     "row 4 is not after row 3", "t", "2020-09-13", "keep each once"),
    (save(flow=made(), t=np.array([0, 2, 1, 3, 4, 5]) * 3600 + 1_600_000_000), {"time_key": "t", "start": None},
     "do not increase", "t", None, "sort"),
    (save(flow=made(), t=np.arange(5)), {"time_key": "t", "start": None}, "do not go with", "t", "(5,)", "6 steps"),
    (save(flow=INF), {}, "infinite reading in row 5 of cell 2,1", "value0", "inf", "NaN"),
    (save(flow=np.full((3, 2, 2), np.nan)), {}, "not a single reading", "raster", None, "--missing-value"),
    (save(flow=made(), other=made()[:3]), {"key": ("flow", "other")}, "different steps", "other", None, "one by one"),
    (save(flow=made(), other=made()), {"key": None}, "several arrays", "key", "flow, other", "--key"),
    (None, {"key": "nothing"}, "no such key", "nothing", None, "flow"),
    (None, {"start": None}, "no times", "start", None, "--start"),
    (None, {"interval": None}, "do not go together", "interval", None, "--interval"),
    (None, {"wrap_longitude": True}, "only columns with longitudes", "wrap_longitude", None, "leave out"),
    (None, {"latitude_key": "lat", "longitude_key": "lon", "cell_size": None, "wrap_longitude": True},
     "do not reach around", "wrap_longitude", "359.6", "leave out"),
    (None, {"neighbours": 6}, "out of range", "neighbours", "6", "4 or 8"),
    (None, {"coarsen": 1}, "out of range", "coarsen", "1", "2 or more"),
    (None, {"tz": "Mars/Olympus"}, "unknown time zone", "tz", None, "IANA"),
    (None, {"out": "grid.zip"}, "saved as a .stg", "out", "grid.zip", ".stg"),
    (bomb, {}, "unfold to 272,000,128", "max_bytes", None, "--max-bytes"),
    (lying, {}, "unfold to", "max_bytes", None, "--max-bytes"),
    (pickled, {"key": "flow"}, "can run code", "flow", None, "numeric")])
def test_faults_name_their_parts_and_write_nothing(files, monkeypatch, break_it, options, problem, field, value,
                                                   remedy):
    monkeypatch.chdir(files)
    if break_it is not None:
        break_it(files)
    before = sorted(path.name for path in files.rglob("*"))
    given = {name: one for name, one in ({"key": "flow"} | OPTIONS | {"out": "grid.stg"} | options).items()
             if one is not None}
    if options.get("key", "flow") is None or problem.startswith("no array"):
        given.pop("key", None)
    if "start" in options and options["start"] is None and "interval" in given:
        given.pop("interval")
    with pytest.raises(InputError, match=problem) as error:
        build_raster("grid.npz", **given)
    assert error.value.field == field
    assert value is None or value in str(error.value.value)
    assert remedy in error.value.remedy
    assert sorted(path.name for path in files.rglob("*")) == before


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("a.npy", b"not an array", "not readable as NPY"), ("a.npz", b"not an archive", "not readable as NPZ"),
    ("a.pkl", b"pickle", "ending is not known"), ("a.npy", b"", "empty")])
def test_what_is_no_raster_is_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        build_raster(tmp_path / name, **OPTIONS)
    with pytest.raises(InputError, match="no such file"):
        build_raster(tmp_path / "gone.npz", **OPTIONS)
