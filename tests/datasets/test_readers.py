"""Readers of the sets that are not at hand, on small files of the same form with known content."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from stgraph.datasets import card, read, registry
from stgraph.errors import InputError

pytest.importorskip("tables", reason="pandas needs tables to write HDF5")


def reader(name: str) -> ModuleType:
    return registry._reader(name)


def frame(rows: int, ids: list[object], start: str, step: str = "5min") -> pd.DataFrame:
    values = np.arange(rows * len(ids), dtype=np.float64).reshape(rows, len(ids))
    return pd.DataFrame(values, index=pd.date_range(start, periods=rows, freq=step), columns=ids)


@pytest.mark.parametrize("header", [True, False])
def test_dcrnn_keeps_times_places_and_the_distances_within_the_set(tmp_path: Path, header: bool):
    ids = ["773869", "767541"] if header else [400001, 400017]
    table = frame(4, ids, "2012-03-11T01:50")
    table.to_hdf(tmp_path / "s.h5", key="df", mode="w")
    places = pd.DataFrame({"sensor_id": ids, "latitude": [34.1, 34.2], "longitude": [-118.3, -118.4]})
    places.to_csv(tmp_path / "p.csv", header=header, index=False)
    near, far = ids
    edges = pd.DataFrame({"from": [near, near, far, 1], "to": [near, far, 2, far], "cost": [0.0, 512.5, 1.0, 2.0]})
    edges.to_csv(tmp_path / "d.csv", header=header, index=False)
    files = {name: tmp_path / name for name in ("s.h5", "p.csv", "d.csv")}
    readings = reader("dcrnn").read(files, speeds="s.h5", locations="p.csv", distances="d.csv", header=header)
    assert readings.ids == [str(one) for one in ids]
    assert np.array_equal(readings.values[..., 0], table.to_numpy(np.float32))
    assert pd.to_datetime(readings.clock, unit="s").equals(table.index.as_unit(pd.to_datetime(readings.clock,
                                                                                              unit="s").unit))
    assert readings.locations.loc[str(near)].tolist() == [-118.3, 34.1]
    assert readings.edges.to_numpy().tolist() == [[str(near), str(far), 512.5]]


def test_pems_gives_flow_and_metres(tmp_path: Path):
    data = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
    np.savez(tmp_path / "r.npz", data=data)
    (tmp_path / "d.csv").write_text("from,to,distance\n317842,318711,0.5\n")
    (tmp_path / "i.txt").write_text("317842\n318711\n")
    files = {name: tmp_path / name for name in ("r.npz", "d.csv", "i.txt")}
    readings = reader("pems").read(files, readings="r.npz", distances="d.csv", metres=1609.344, ids="i.txt")
    assert np.array_equal(readings.values, data[..., :1].astype(np.float32))
    assert readings.ids == ["317842", "318711"]
    assert readings.edges.to_numpy().tolist() == [["317842", "318711", 804.672]]
    assert readings.clock is None


def test_pems_refuses_a_pickled_file(tmp_path: Path):
    np.savez(tmp_path / "r.npz", data=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        reader("pems").read({"r.npz": tmp_path / "r.npz"}, readings="r.npz", distances="", metres=1.0)


@pytest.fixture
def california(tmp_path: Path) -> dict[str, Path]:
    """Four sensors of two districts, whose columns stand in another order than in the sensor table."""
    table = frame(7, ["30", "10", "40", "20"], "2019-03-10T01:45")
    table.iloc[0:2, 0] = np.nan
    table.iloc[3:6, 1] = np.nan
    table.to_hdf(tmp_path / "ca_his_raw_2019.h5", key="t", mode="w")
    meta = pd.DataFrame({"ID": [10, 20, 30, 40], "Lat": [1.0, 2.0, 3.0, 4.0], "Lng": [5.0, 6.0, 7.0, 8.0],
                         "District": [11, 4, 11, 4], "ID2": [0, 1, 2, 3]})
    meta.to_csv(tmp_path / "ca_meta.csv", index=False)
    weights = np.eye(4, dtype=np.float32)
    weights[0, 2], weights[2, 0], weights[0, 1] = 0.5, 0.25, 0.9
    np.save(tmp_path / "ca_rn_adj.npy", weights)
    return {name: tmp_path / name for name in ("ca_his_raw_2019.h5", "ca_meta.csv", "ca_rn_adj.npy")}


def test_largest_cuts_the_district_and_takes_the_mean_of_what_was_observed(california):
    readings = reader("largest").read(california, districts=[11])
    assert readings.ids == ["10", "30"]
    # sensor 30 is column 0: rows NaN, NaN, 8 and then 12, 16, 20; sensor 10 is column 1: 1, 5, 9 and then NaN
    expected = np.array([[5.0, 8.0], [np.nan, 16.0]], dtype=np.float32)
    assert np.array_equal(readings.values[..., 0], expected, equal_nan=True)
    assert pd.to_datetime(readings.clock, unit="s").tolist() == [pd.Timestamp("2019-03-10T01:45"),
                                                                 pd.Timestamp("2019-03-10T02:00")]
    assert readings.locations.loc["30"].tolist() == [7.0, 3.0]
    assert readings.edges.to_numpy().tolist() == [["10", "30", 0.5], ["30", "10", 0.25]]


def test_largest_in_pieces_is_largest_at_once(california, monkeypatch):
    module = reader("largest")
    whole = module.read(california, districts=[])
    monkeypatch.setattr(module, "_ROWS", 3)
    assert np.array_equal(module.read(california, districts=[]).values, whole.values, equal_nan=True)
    assert len(whole.edges) == 3


def test_the_districts_of_the_cards_are_those_of_the_sensor_tables(shared_data: Path):
    for part in ("sd", "gba", "gla", "ca"):
        table = pd.read_csv(shared_data / "sensor_graphs" / f"largest_{part}_meta.csv.gz")
        one = card(f"largest_{part}")
        districts = one.build["reader_options"]["districts"]
        assert len(table) == one.nodes
        assert sorted(table["District"].unique()) == sorted(districts) or not districts


def test_a_file_of_another_form_is_named(known, tmp_path: Path):
    content = b"not a set"
    known({"name": "speed.npz", "content": content}, build={"reader": "seattle_i5"})
    (tmp_path / "speed.npz").write_bytes(content)
    with pytest.raises(InputError, match="not of the form its card describes") as caught:
        read(card("toy"), tmp_path)
    assert caught.value.file == str(tmp_path)
    assert hashlib.sha256(content).hexdigest() == card("toy").files[0].sha256


def test_a_set_without_a_reader_says_how_to_build_it():
    with pytest.raises(InputError, match="has no reader") as caught:
        read(card("los_loop"), "data/los_loop")
    assert "stgraph build sensors" in (caught.value.remedy or "")


def test_readers_are_found_without_an_installed_package(monkeypatch):
    monkeypatch.setattr(registry, "_PACKAGE", "no_such_package")
    assert importlib.util.find_spec("no_such_package") is None
    assert callable(registry._reader("pems").read)
    with pytest.raises(InputError, match="no such reader"):
        registry._reader("nonsense")
