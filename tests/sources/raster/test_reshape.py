"""Holes are filled as the law says and stay flagged; a coarse grid keeps sums and means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph import Channel, Signal, load
from stgraph.sources.raster import build_raster, coarsen, to_raster
from stgraph.sources.raster.fill import filled
from stgraph.sources.raster.grid import stencil
from stgraph.sources.raster.reshape import CELL, COARSE, FILLED, READINGS

OPTIONS = {"cell_size": 500, "start": "2020-01-01T00:00", "interval": "1h"}


def grid(tmp_path, values, **options):
    np.save(tmp_path / "a.npy", values)
    return build_raster(tmp_path / "a.npy", **(OPTIONS | options))


def holes(steps, rows, columns, share, seed):
    random = np.random.default_rng(seed)
    values = random.normal(10, 3, (steps, rows, columns)).astype(np.float32)
    values[random.random(values.shape) < share] = np.nan
    return values


# -------------------------------------------------------------------- filling
def test_a_plane_is_continued_exactly_inside_of_its_readings(tmp_path):
    row, column = np.meshgrid(np.arange(9), np.arange(11), indexing="ij")
    plane = np.stack([2.0 * row - column + step for step in range(3)]).astype(np.float32)
    broken = plane.copy()
    broken[:, 2:6, 3:8] = np.nan
    broken[1, 7, 9] = np.nan  # another pattern of holes in one step
    for neighbours in (4, 8):
        graph, report = grid(tmp_path, broken, interpolate=True, neighbours=neighbours)
        found = to_raster(graph, FILLED)
        np.testing.assert_allclose(found[..., 0], plane, atol=1e-4)
        assert np.array_equal(found[..., 1] == 1, np.isnan(broken))
        assert report["interpolated_share"] == pytest.approx(np.isnan(broken).mean(), abs=1e-6)
        assert report["interpolated_cells"] == 20
        assert np.array_equal(to_raster(graph)[..., 0], broken, equal_nan=True)  # the readings stay as they were


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 0.9), st.integers(0, 2**32 - 1))
def test_every_fill_is_the_mean_of_its_neighbours(rows, columns, share, seed):
    values = holes(3, rows, columns, share, seed)
    row, column = np.divmod(np.arange(rows * columns), columns)
    index = stencil(row, column, rows, columns, 4, False)
    flat = values.reshape(3, -1)
    mask = ~np.isnan(flat)
    made = filled(Signal(np.nan_to_num(flat)[..., None], mask[..., None], [Channel("x")]), index)
    assert made.channel_names == ["x", "x_interpolated"]
    for step in range(3):
        reached = made.mask[step, :, 0]
        assert reached.all() == mask[step].any()  # a full grid is in one piece
        assert np.array_equal(made.values[step, :, 1] == 1, reached & ~mask[step])
        assert np.array_equal(made.values[step, mask[step], 0], flat[step, mask[step]])
        for cell in np.flatnonzero(reached & ~mask[step]):
            around = index[1, index[0] == cell]
            assert made.values[step, cell, 0] == pytest.approx(made.values[step, around, 0].mean(), abs=1e-3)
        if mask[step].any():
            low, high = flat[step, mask[step]].min(), flat[step, mask[step]].max()
            assert (made.values[step, reached, 0] >= low - 1e-3).all()
            assert (made.values[step, reached, 0] <= high + 1e-3).all()


def test_what_no_reading_reaches_stays_missing(tmp_path):
    values = np.full((2, 3, 5), 4.0, np.float32)
    values[:, :, 3:] = np.nan
    np.savez(tmp_path / "a.npz", x=values, mask=np.array([[0, 2], [1, 2], [2, 2]]))  # water in between
    graph, _ = build_raster(tmp_path / "a.npz", key="x", mask_key="mask", interpolate=True, **OPTIONS)
    found = to_raster(graph, FILLED)
    assert (found[:, :, :2, 0] == 4).all()
    assert np.isnan(found[:, :, 2:]).all()


def test_the_flag_is_kept_on_disk_and_in_a_part(tmp_path):
    values = holes(4, 5, 6, 0.4, 1)
    values[:, 2, 2] = np.nan
    graph, _ = grid(tmp_path, values, interpolate=True, out=tmp_path / "g.stg")
    again = load(tmp_path / "g.stg")
    assert np.array_equal(again[CELL].interpolated.numpy(), np.isnan(values).all(0).reshape(-1))
    assert np.array_equal(to_raster(again, FILLED), to_raster(graph, FILLED))
    part = again.subgraph({CELL: torch.tensor([14, 3, 8])})
    assert part[CELL].interpolated.tolist() == [True, False, False]
    assert np.array_equal(part.signal(CELL, FILLED).values, graph.signal(CELL, FILLED).values[:, [14, 3, 8]])


# -------------------------------------------------------------------- back to arrays
def test_cells_come_back_whatever_their_order(tmp_path):
    values = holes(4, 6, 5, 0.3, 2)
    graph, _ = grid(tmp_path, values)
    order = np.random.default_rng(0).permutation(30)
    shuffled = graph.reorder(order, CELL)
    assert np.array_equal(to_raster(shuffled)[..., 0], values, equal_nan=True)
    forecast = shuffled.signal(CELL).values + 1
    assert np.array_equal(to_raster(shuffled, forecast)[..., 0], np.nan_to_num(values) + 1)
    some = graph.subgraph({CELL: torch.arange(10)})
    assert np.array_equal(to_raster(some)[:, :2, :, 0], values[:, :2], equal_nan=True)
    assert np.isnan(to_raster(some)[:, 2:]).all()


def test_what_is_not_of_these_cells_is_refused(tmp_path):
    graph, _ = grid(tmp_path, holes(4, 6, 5, 0, 2))
    with pytest.raises(InputError, match="not of the cells"):
        to_raster(graph, np.zeros((4, 29, 1)))
    with pytest.raises(InputError, match="no such grid"):
        to_raster(graph, kind="sensor")


# -------------------------------------------------------------------- coarse grids
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_sums_and_means_are_conserved(rows, columns, factor, seed):
    import tempfile
    from pathlib import Path

    values = np.abs(holes(2, rows, columns, 0.3, seed))
    values[:, 0, 0] = 1  # never without a reading
    with tempfile.TemporaryDirectory() as folder:
        fine, _ = grid(Path(folder), np.stack([values, values], axis=-1), quantity="count,concentration")
        graph = coarsen(fine, factor)
    known = ~np.isnan(values)
    coarse = graph.signal(COARSE)
    inside = graph[CELL, "inside", COARSE].edge_index.numpy()
    assert np.array_equal(inside[0], np.arange(rows * columns))
    seen = np.zeros(coarse.shape[:2])
    for step in range(2):
        np.add.at(seen[step], inside[1], known[step].reshape(-1))
    assert np.array_equal(coarse.mask[..., 0], seen > 0)
    total = np.where(known, values, 0).sum((1, 2))
    np.testing.assert_allclose(coarse.values[..., 0].sum(1), total, rtol=1e-5)
    np.testing.assert_allclose((coarse.values[..., 1] * seen).sum(1), total, rtol=1e-5)
    assert graph[COARSE].members.sum() == rows * columns
    assert np.array_equal(graph[COARSE].row.numpy()[inside[1]], graph[CELL].row.numpy() // factor)
    assert to_raster(graph, kind=COARSE).shape == (2, -(-rows // factor), -(-columns // factor), 2)


def test_coarse_cells_of_a_hand_computed_grid(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4).repeat(2, 0)
    values[1, 0, 0] = np.nan
    graph, report = grid(tmp_path, values, quantity="count", coarsen=2, out=tmp_path / "g.stg")
    graph = load(tmp_path / "g.stg")
    assert report["coarse_cells"] == 4
    assert to_raster(graph, kind=COARSE)[..., 0].tolist() == [[[10, 18], [17, 21]], [[10, 18], [17, 21]]]
    assert to_raster(coarsen(graph, 2, into="mean_cell", reduce="mean"),
                     kind="mean_cell")[1, 0, 0, 0] == pytest.approx(10 / 3)
    assert graph[COARSE].pos[0].tolist() == [500, -500]
    assert graph[COARSE, "adjacent", COARSE].edge_index.shape[1] == 8
    twice = coarsen(graph, 2, kind=COARSE, into="whole")
    assert to_raster(twice, kind="whole")[0, 0, 0, 0] == values[0].sum()
    assert twice.metadata["grid"]["whole"]["of"] == COARSE


def test_a_coarse_grid_of_the_globe_lies_across_the_date_line(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2, 4), np.float32), lat=np.array([10.0, -10.0]),
             lon=np.array([135.0, 225.0, 315.0, 45.0]))
    graph, _ = build_raster(tmp_path / "a.npz", key="x", latitude_key="lat", longitude_key="lon", start="2020-01-01",
                            interval="1h", wrap_longitude=True)
    assert graph[CELL].lonlat[:4, 0].tolist() == [135, -135, -45, 45]
    assert graph[CELL, "adjacent", CELL].edge_index.shape[1] == 2 * (2 * 4 + 4)
    coarse = coarsen(graph, 2)[COARSE].lonlat
    assert abs(coarse[0, 0]) == pytest.approx(180)
    assert coarse[1].tolist() == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize(("options", "field"), [({"factor": 1}, "factor"), ({"factor": 2, "reduce": "max"}, "reduce"),
                                                ({"factor": 2, "into": CELL}, "into"),
                                                ({"factor": 2, "kind": "sensor"}, "kind")])
def test_what_cannot_be_made_coarse_is_refused(tmp_path, options, field):
    graph, _ = grid(tmp_path, holes(2, 4, 4, 0, 3))
    with pytest.raises(InputError) as error:
        coarsen(graph, **options)
    assert error.value.field == field
    assert READINGS in graph.signals(CELL)
    assert COARSE not in graph.node_types
