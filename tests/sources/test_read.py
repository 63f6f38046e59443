"""Reading files: every form gives the same readings; every fault is named by file, field, value and remedy."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stgraph.errors import InputError
from stgraph.sources.read import ReadOptions, read_readings

VALUES = np.array([[1.5, 20.25, 3], [4, np.nan, 6], [7, 8, 9.125], [10, 11, 12]], np.float32)  # [T, N]
IDS = ["001", "773869", "b"]
TIMES = pd.date_range("2020-05-01T00:00", periods=4, freq="5min")
UTC = TIMES.to_numpy().astype("datetime64[s]").astype(np.int64)
FRAME = pd.DataFrame(VALUES.astype(float), index=TIMES, columns=IDS)
LONG = FRAME.rename_axis("time").reset_index().melt("time", var_name="sensor", value_name="speed")


def wide_csv(path: Path) -> Path:
    FRAME.to_csv(path, index_label="when")
    return path


def same(found, ids=IDS) -> None:
    assert found.readings.ids == ids
    assert np.array_equal(found.readings.values[..., 0], VALUES, equal_nan=True)
    assert found.readings.values.dtype == np.float32
    assert np.array_equal(found.readings.utc, UTC)


# -------------------------------------------------------------------- forms
def test_wide_csv_plain_gzipped_and_with_other_separators_are_the_same(tmp_path):
    plain = wide_csv(tmp_path / "a.csv")
    same(read_readings(plain))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    same(read_readings(tmp_path / "b.csv.gz"))
    for name, mark in (("c.csv", ";"), ("d.tsv", "\t")):
        (tmp_path / name).write_text("﻿" + plain.read_text().replace(",", mark), encoding="utf-8")
        same(read_readings(tmp_path / name))


def test_the_time_column_need_not_be_the_first(tmp_path):
    FRAME.assign(when=TIMES).to_csv(tmp_path / "a.csv", index=False)
    same(read_readings(tmp_path / "a.csv", ReadOptions(time_key="when")))


def test_parquet_with_a_pandas_index_or_a_column_is_the_same(tmp_path):
    FRAME.to_parquet(tmp_path / "index.parquet")
    same(read_readings(tmp_path / "index.parquet"))
    FRAME.rename_axis("when").reset_index().to_parquet(tmp_path / "column.parquet", index=False)
    same(read_readings(tmp_path / "column.parquet"))


@pytest.mark.parametrize("order", [["sensor", "time"], ["time", "sensor"]])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_long_tables_are_the_same_in_either_order(tmp_path, order, ending):
    path = tmp_path / f"a.{ending}"
    table = LONG.sort_values(order, kind="stable")
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    found = read_readings(path)
    same(found)
    assert found.form == "long"
    assert found.readings.channels == ["speed"]


def test_long_tables_with_other_names_and_several_channels(tmp_path):
    table = LONG.rename(columns={"sensor": "site", "time": "at"}).assign(flow=LONG["speed"] * 2, note="fine")
    table.to_csv(tmp_path / "a.csv", index=False)
    found = read_readings(tmp_path / "a.csv", ReadOptions(sensor_key="site", time_key="at",
                                                          value_keys=("flow", "speed")))
    assert found.readings.channels == ["flow", "speed"]
    assert np.array_equal(found.readings.values[..., 0], 2 * found.readings.values[..., 1], equal_nan=True)
    assert np.array_equal(found.readings.values[..., 1], VALUES, equal_nan=True)


def test_a_long_table_may_miss_rows(tmp_path):
    LONG.dropna().to_csv(tmp_path / "a.csv", index=False)
    same(read_readings(tmp_path / "a.csv"))


def test_names_that_are_whole_numbers_are_the_same_name_however_written(tmp_path):
    pd.DataFrame({"sensor": [773869.0, 773869.0], "time": TIMES[:2], "v": [1, 2]}).to_csv(tmp_path / "a.csv",
                                                                                         index=False)
    assert read_readings(tmp_path / "a.csv").readings.ids == ["773869"]


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_pandas_hdf5_in_the_form_of_metr_la(tmp_path, unit):
    frame = FRAME.copy()
    frame.index = frame.index.as_unit(unit)
    frame["773869"] = [1, 2, 3, 4]  # an integer column makes a second block
    frame.to_hdf(tmp_path / "a.h5", key="df")
    found = read_readings(tmp_path / "a.h5", ReadOptions(key="df"))
    assert found.readings.ids == IDS
    assert np.array_equal(found.readings.values[:, [0, 2], 0], VALUES[:, [0, 2]])
    assert found.readings.values[:, 1, 0].tolist() == [1, 2, 3, 4]
    assert np.array_equal(found.readings.utc, UTC)
    assert found.on_clock


def test_pandas_hdf5_with_numbers_for_names_and_a_zone(tmp_path):
    frame = FRAME.set_axis([1, 22, 3], axis=1).tz_localize("UTC").tz_convert("Asia/Shanghai")
    frame.to_hdf(tmp_path / "a.h5", key="df")
    found = read_readings(tmp_path / "a.h5", ReadOptions(tz="America/Los_Angeles"))
    same(found, ["1", "22", "3"])
    assert not found.on_clock


def test_hdf5_that_only_unpickling_could_read_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FRAME.set_axis(np.array(["a", 1, (2,)], dtype=object), axis=1).to_hdf(tmp_path / "object.h5", key="df")
    with pytest.raises(InputError, match="unpickled") as error:
        read_readings(tmp_path / "object.h5")
    assert error.value.field == "/df/axis0"
    FRAME.to_hdf(tmp_path / "table.h5", key="df", format="table")
    with pytest.raises(InputError, match="unpickled") as error:
        read_readings(tmp_path / "table.h5")
    assert "format='fixed'" in error.value.remedy


def test_hdf5_faults(tmp_path):
    FRAME.to_hdf(tmp_path / "two.h5", key="a")
    FRAME.to_hdf(tmp_path / "two.h5", key="b")
    for key, value in ((None, "several"), ("c", "no such data frame")):
        with pytest.raises(InputError, match=value) as error:
            read_readings(tmp_path / "two.h5", ReadOptions(key=key))
        assert "a" in str(error.value)
        assert "b" in str(error.value)
    (tmp_path / "broken.h5").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not readable as HDF5"):
        read_readings(tmp_path / "broken.h5")
    with pytest.raises(InputError, match="times of its own"):
        read_readings(tmp_path / "two.h5", ReadOptions(key="a", no_times=True))


def test_npz_and_npy(tmp_path):
    np.savez(tmp_path / "a.npz", speed=VALUES, sensor=np.array(IDS), t=UTC)
    same(read_readings(tmp_path / "a.npz", ReadOptions(ids_key="sensor", time_key="t")))
    np.save(tmp_path / "a.npy", np.stack([VALUES, 2 * VALUES], axis=2))
    found = read_readings(tmp_path / "a.npy", ReadOptions(no_times=True))
    assert found.readings.ids == []
    assert found.readings.utc is None
    assert np.array_equal(found.readings.values[..., 1], 2 * VALUES, equal_nan=True)


# -------------------------------------------------------------------- faults
def refused(path, options=None, *, problem, field=None, value=None, remedy=None):
    with pytest.raises(InputError, match=problem) as error:
        read_readings(path, options)
    fault = error.value
    assert str(path) == fault.file
    assert fault.remedy
    for part, wanted in ((fault.field, field), (fault.value, value), (fault.remedy, remedy)):
        assert wanted is None or (part is not None and wanted in part)


@pytest.mark.parametrize(("row", "problem"), [
    ("2020-05-01T00:10,7,8", "row 3 has 3 fields where the first line has 4"),
    ("2020-05-01T00:10,7,8,9,10", "row 3 has 5 fields where the first line has 4")])
def test_ragged_csv(tmp_path, row, problem):
    lines = wide_csv(tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join([*lines[:3], row, *lines[4:]]))
    refused(tmp_path / "a.csv", problem=problem, field="row 3", value=row, remedy="same fields")


@pytest.mark.parametrize("word", ["fast", "1,5", "2020-05-01", "true", "0x1F"])
def test_a_reading_that_is_not_a_number_is_named_by_row_and_column(tmp_path, word):
    table = FRAME.astype(object)
    table.iloc[2, 1] = word
    table.to_csv(tmp_path / "a.csv", index_label="when")
    refused(tmp_path / "a.csv", problem="not a number in row 3 of column 773869", field="773869", value=word)
    table["773869"] = table["773869"].astype(str)
    table.astype({"001": float, "b": float}).to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", problem="not a number in row 3 of column 773869", field="773869", value=word)


@pytest.mark.parametrize(("name", "entry", "kind"), [
    ("speed", [1.0], "list"), ("speed", {"a": 1.0}, "struct"), ("sensor", ["a"], "list"), ("time", [0], "list"),
    ("sensor", b"\xff", "binary"), ("speed", pd.Timedelta("1h"), "duration")])
def test_a_column_that_is_not_plain_is_named_with_its_type(tmp_path, name, entry, kind):
    table = LONG.astype(object)
    table[name] = [entry] * len(table)
    table.to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", problem=f"the column {name} does not hold one", field=name, value=kind)


@pytest.mark.filterwarnings("error")
def test_what_is_too_large_for_32_bits_is_infinite_without_a_warning(tmp_path):
    FRAME.assign(b=1e300).to_parquet(tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", v=np.full((4, 2), 1e300))
    assert np.isinf(read_readings(tmp_path / "a.parquet").readings.values[:, 2]).all()
    assert np.isinf(read_readings(tmp_path / "a.npz", ReadOptions(no_times=True)).readings.values).all()


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "N/A", "null", "None"])
def test_words_for_missing_are_missing(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"time,a,b\n2020-05-01T00:00,{word},1\n2020-05-01T00:05,2,3\n")
    values = read_readings(tmp_path / "a.csv").readings.values[..., 0]
    assert np.array_equal(values, [[np.nan, 1], [2, 3]], equal_nan=True)


def test_two_sensors_with_one_id(tmp_path):
    (tmp_path / "a.csv").write_text("time,a,b,a\n2020-05-01T00:00,1,2,3\n")
    refused(tmp_path / "a.csv", problem="two sensors have one id", field="first line", value="a")
    (tmp_path / "b.csv").write_text("time,7,7.0\n2020-05-01T00:00,1,2\n")
    refused(tmp_path / "b.csv", problem="two sensors have one id", value="7")
    np.savez(tmp_path / "c.npz", v=VALUES, site=np.array([5, 9, 5]))
    refused(tmp_path / "c.npz", ReadOptions(ids_key="site", no_times=True), problem="two sensors have one id",
            field="site", value="5")


def test_npz_faults(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, speed=VALUES, flow=VALUES, t=UTC, ids=np.array(IDS), word=np.array([["a"]]),
             objects=np.array([[{}, 1]], dtype=object), flat=np.zeros(3), deep=np.zeros((1, 1, 1, 1)))
    none = ReadOptions(no_times=True)
    refused(path, none, problem="several arrays could be meant", field="key", value="speed, flow")
    refused(path, ReadOptions(key="sped", no_times=True), problem="no such key", field="sped", remedy="speed [4, 3]")
    refused(path, ReadOptions(key="objects", no_times=True), problem="unpickled", field="objects", value="object")
    refused(path, ReadOptions(key="word", no_times=True), problem="not numeric", field="word", value="<U1")
    refused(path, ReadOptions(key="deep", no_times=True), problem="must have 2 or 3 axes", value="(1, 1, 1, 1)")
    refused(path, ReadOptions(key="speed", ids_key="t", no_times=True), problem="may be transposed", field="t",
            value="(4,)")
    refused(path, ReadOptions(key="speed"), problem="no times", field="time_key", remedy="perhaps t")
    refused(path, ReadOptions(key="speed", time_key="ids"), problem="does not go with 4 steps", field="ids")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, none, problem="not readable as NPZ")


def test_npy_of_objects_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object))
    refused(tmp_path / "a.npy", ReadOptions(no_times=True), problem="unpickled")


def test_files_that_are_not_there_empty_or_of_another_kind(tmp_path):
    refused(tmp_path / "gone.csv", problem="no such file")
    refused(tmp_path, problem="is a folder")
    for name in ("a.csv", "a.npz", "a.parquet", "a.h5"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, problem="the file is empty", value="0 bytes")
    (tmp_path / "b.csv").write_text("time,a,b\n")
    refused(tmp_path / "b.csv", problem="no rows")
    (tmp_path / "a.xlsx").write_bytes(b"x")
    refused(tmp_path / "a.xlsx", problem="ending is not known", value=".xlsx", remedy=".parquet")
    (tmp_path / "a.pkl").write_bytes(b"x")
    refused(tmp_path / "a.pkl", problem="pickle can run code")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but no more")
    refused(tmp_path / "c.parquet", problem="not readable as Parquet")


def test_a_column_that_is_not_there_and_a_row_without_a_sensor(tmp_path):
    LONG.to_csv(tmp_path / "a.csv", index=False)
    refused(tmp_path / "a.csv", ReadOptions(sensor_key="sensor", time_key="time", value_keys=("sped",)),
            problem="no such column", field="sped", remedy="speed")
    holed = LONG.astype({"sensor": object})
    holed.loc[1, "sensor"] = None
    holed.to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", problem="row 2 has no sensor", field="sensor")


def test_a_file_without_times_takes_every_column_for_a_sensor(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)  # the form of T-GCN's los_speed.csv
    found = read_readings(tmp_path / "a.csv", ReadOptions(no_times=True))
    assert found.readings.ids == IDS
    assert np.array_equal(found.readings.values[..., 0], VALUES, equal_nan=True)
    refused(tmp_path / "a.csv", problem="not a time in row 1", field="001", value="1.5", remedy="--start")
