"""Places of sensors: matched by name or by order, unknown where unknown, refused where impossible."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stgraph.errors import InputError
from stgraph.graph.time import instant
from stgraph.sources.locations import place_sensors, read_locations, zone_warning

TABLE = pd.DataFrame({"sensor_id": ["773869", "b", "c"], "latitude": [34.1, 34.2, 34.3],
                      "longitude": [-118.1, -118.2, -118.3]})


def written(tmp_path, table=TABLE, name="sensors.csv"):
    path = tmp_path / name
    table.to_parquet(path) if name.endswith(".parquet") else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("words", [["sensor_id", "latitude", "longitude"], ["ID", "Lat", "Lng"],
                                   ["sid", "LAT", "lon"], ["station_id", "Latitude", "long"]])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_columns_are_known_by_their_usual_names(tmp_path, words, name):
    found = read_locations(written(tmp_path, TABLE.set_axis(words, axis=1), name))
    assert found.ids == ["773869", "b", "c"]
    assert np.array_equal(found.lonlat, TABLE[["longitude", "latitude"]])


def test_matching_by_name_reports_both_sides(tmp_path):
    placed = place_sensors(["c", "773869", "zz"], 3, read_locations(written(tmp_path)))
    assert placed.matched == "by id"
    assert (placed.without, placed.unused) == (["zz"], ["b"])
    assert np.array_equal(placed.lonlat, [[-118.3, 34.3], [-118.1, 34.1], [np.nan, np.nan]], equal_nan=True)


def test_a_name_is_the_same_as_number_or_text(tmp_path):
    table = TABLE.assign(sensor_id=[773869.0, 5.0, 6.0])
    for name in ("a.csv", "a.parquet"):
        assert read_locations(written(tmp_path, table, name)).ids == ["773869", "5", "6"]


def test_readings_without_names_take_those_of_the_table_in_order(tmp_path):
    placed = place_sensors(None, 3, read_locations(written(tmp_path)))
    assert (placed.ids, placed.matched) == (["773869", "b", "c"], "by order")


def test_a_column_that_says_the_order_is_followed(tmp_path):
    table = TABLE.drop(columns="sensor_id").assign(column=[2, 0, 1])
    placed = place_sensors(None, 3, read_locations(written(tmp_path, table)))
    assert placed.ids == ["0", "1", "2"]
    assert placed.lonlat[:, 1].tolist() == [34.2, 34.3, 34.1]


def test_zero_and_half_places_are_unknown(tmp_path):
    table = TABLE.assign(latitude=[0, None, 34.3], longitude=[0.0, -118.2, -118.3])
    placed = place_sensors(["773869", "b", "c"], 3, read_locations(written(tmp_path, table)))
    assert placed.without == ["773869", "b"]
    assert placed.zero == ["773869"]
    assert np.isnan(placed.lonlat[:2]).all()


def test_no_table():
    placed = place_sensors(None, 2, None)
    assert (placed.ids, placed.without, placed.matched) == (["0", "1"], ["0", "1"], "none")


@pytest.mark.parametrize(("change", "problem", "field", "value", "remedy"), [
    ({"latitude": TABLE["longitude"], "longitude": TABLE["latitude"]}, "longitude and latitude look exchanged",
     "latitude", "longitude 34.1, latitude -118.1", "swap"),
    ({"latitude": [34.1, 340.0, 34.3]}, r"first in row 2 \(b\)", "latitude", "latitude 340.0", "-90..90"),
    ({"longitude": [-118.1, -118.2, 361.0]}, "out of range", "longitude", "361", "-180..180"),
    ({"latitude": [34.1, "north", 34.3]}, "not a number in row 2 of column latitude", "latitude", "north", "correct"),
    ({"sensor_id": ["a", "b", "a"]}, "two sensors have one id", "sensor_id", "a", "id of its own"),
    ({"sensor_id": ["x", "y", "z"]}, "no sensor of the readings is in the table", "locations", "places x, y, z",
     "--locations-key")])
def test_faulty_tables(tmp_path, change, problem, field, value, remedy):
    path = written(tmp_path, TABLE.assign(**change))
    with pytest.raises(InputError, match=problem) as error:
        place_sensors(["773869", "b", "c"], 3, read_locations(path))
    assert error.value.file == str(path)
    assert error.value.field == field
    assert value in error.value.value
    assert remedy in error.value.remedy


def test_a_table_without_a_column_and_one_that_cannot_be_matched(tmp_path):
    path = written(tmp_path, TABLE.rename(columns={"longitude": "easting"}))
    with pytest.raises(InputError, match="no column of the longitude") as error:
        read_locations(path)
    assert error.value.value == "sensor_id, latitude, easting"
    with pytest.raises(InputError, match="cannot be matched") as error:
        place_sensors(None, 5, read_locations(written(tmp_path)))
    assert error.value.value == "3 rows for 5 sensors"


@pytest.mark.parametrize(("longitude", "latitude", "tz"), [
    (-8.6, 41.1, "Europe/Lisbon"), (116.4, 39.9, "Asia/Shanghai"), (-74.0, 4.6, "America/Bogota"),
    (-0.1, 51.5, "Europe/London")])
def test_places_far_from_their_zone_are_warned_of_where_exchanging_helps(longitude, latitude, tz):
    """Within range either way, so this is a warning and no error."""
    january = instant("2014-01-15T00:00")
    assert zone_warning(np.array([[longitude, latitude]]), tz, january) is None
    assert "exchanged" in str(zone_warning(np.array([[latitude, longitude]]), tz, january))
    assert zone_warning(np.array([[latitude, longitude]]), "UTC", january) is None


def test_a_place_where_the_sun_is_three_hours_off_is_not_warned_of():
    assert zone_warning(np.array([[75.99, 39.47]]), "Asia/Shanghai", 0) is None  # Kashgar
