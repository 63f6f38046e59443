"""Time stamps to a regular axis: the laws of zones, summer time, order, gaps and service days."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph.time import DAY, TimeAxis, instant
from stgraph.sources.clock import (
    Service,
    Stamps,
    axis_from_start,
    fixed_zone,
    lay_out,
    parse_stamps,
    seconds_of_day,
    to_utc,
    usual_step,
)
from stgraph.sources.events.times import clock_to_utc

ZONES = ("America/Los_Angeles", "Europe/Budapest", "Australia/Melbourne", "Asia/Shanghai", "America/Havana",
         "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
CHANGES = (69, 70, 83, 84, 90, 91, 272, 273, 300, 301, 307, 308)  # days of 2017 from which two days see a change
WHERE = {"file": "speed.csv", "field": "time"}
LA = "America/Los_Angeles"


def clock_of(utc, tz):
    return TimeAxis(0, 1, 0, tz).local(np.asarray(utc))


def local(texts, tz=LA, repair=False, groups=None):
    stamps = parse_stamps(texts, False, **WHERE)
    return to_utc(stamps, tz, repair=repair, groups=groups, **WHERE)


# -------------------------------------------------------------------- reading stamps
def test_every_way_to_write_a_time_is_the_same_time():
    times = pd.date_range("2012-03-01T08:00", periods=4, freq="5min")  # UTC
    epoch = times.to_numpy().astype("datetime64[s]").astype(np.int64)
    for values in (epoch, epoch * 1000, epoch * 10**6, epoch * 10**9, epoch.astype(float), epoch.astype(str),
                   times.tz_localize("UTC"), times.tz_localize("UTC").tz_convert("Asia/Tokyo"),
                   times.tz_localize("UTC").strftime("%Y-%m-%dT%H:%M:%SZ"),
                   times.tz_localize("UTC").tz_convert(LA).strftime("%Y-%m-%d %H:%M:%S%z"),
                   times.tz_localize("UTC").tz_convert(LA).map(lambda stamp: stamp.isoformat())):
        found = parse_stamps(values, False, **WHERE)
        assert not found.on_clock
        assert np.array_equal(found.seconds, epoch)
        assert not found.fractional
    texts = times.strftime("%Y-%m-%d %H:%M")
    for values in (times, times.to_numpy(), texts, texts.to_numpy().astype("S"), times.strftime("%Y-%m-%dT%H:%M:%S")):
        found = parse_stamps(values, False, **WHERE)
        assert found.on_clock
        assert np.array_equal(found.seconds, epoch)
    assert parse_stamps(epoch, True, **WHERE).on_clock
    assert parse_stamps(["2012-03-01", "2012-03-02"], False, **WHERE).seconds.tolist() == [1330560000, 1330646400]


@pytest.mark.parametrize(("values", "local_clock", "problem", "value"), [
    (["2012-03-01T00:00", "soon"], False, "not a time in row 2", "soon"),
    (["2012-03-01T00:00", "2012-02-30T00:00"], False, "not a time in row 2", "2012-02-30"),
    (["03/01/2012 00:00"], False, "not a time in row 1", "03/01/2012"),
    (["2012-03-01T00:00", None], False, "row 2 has no time", None),
    (["2012-03-01T00:00", "2012-03-01T00:05Z"], False, "row 2 differs from row 1", "2012-03-01T00:05Z"),
    (["2012-03-01T00:00Z"], True, "carry an offset", "--local-clock"),
    (np.arange(5), False, "look like row numbers", "0 .. 4"),
    (np.array([201203010000, 201203010005]), False, "dates written without separators", "201203010000"),
    (np.array([1.3e9, np.inf]), False, "not finite", None)])
def test_stamps_that_are_no_times_are_refused(values, local_clock, problem, value):
    with pytest.raises(InputError, match=problem) as error:
        parse_stamps(values, local_clock, **WHERE)
    assert (error.value.file, error.value.field) == ("speed.csv", "time")
    assert value is None or value in error.value.value
    assert error.value.remedy


def test_parts_of_a_second_are_refused_or_rounded():
    texts = ["2020-01-01T00:00:00.4", "2020-01-01T00:05:00.6"]
    with pytest.raises(InputError, match="2 stamps have parts of a second"):
        local(texts, "UTC")
    utc, _, notes = local(texts, "UTC", repair=True)
    assert notes.fractional == 2
    assert utc.tolist() == [1577836800, 1577837101]


# -------------------------------------------------------------------- summer time
@settings(max_examples=120, deadline=None)
@given(zone=st.sampled_from(ZONES), start=st.sampled_from(CHANGES) | st.integers(0, 366),
       step=st.sampled_from((300, 900, 1800, 3600)), shift=st.integers(0, 11))
def test_a_regular_day_read_on_the_wall_clock_is_regular_again(zone, start, step, shift):
    """The hour skipped in spring makes no gap, the hour doubled in autumn no duplicate: order tells them apart."""
    utc = instant("2017-01-01T00:00") + start * DAY + shift * 300 + step * np.arange(2 * DAY // step)
    clock = clock_of(utc, zone)
    assume(not clock_to_utc(clock[[0, -1]], zone)[2].any())  # cut inside the doubled hour: not both of it are there
    assume(step <= 1800 or zone != "Australia/Lord_Howe")  # it doubles half an hour
    found, keep, notes = to_utc(Stamps(clock, True), zone, repair=False, **WHERE)
    assert np.array_equal(found, utc)
    assert keep.all()
    assert notes.ambiguous == 0


def test_the_doubled_hour_of_hourly_data_stands_still_once():
    utc, _, notes = local(["2017-11-05 00:00", "2017-11-05 01:00", "2017-11-05 01:00", "2017-11-05 02:00"])
    assert np.diff(utc).tolist() == [3600, 3600, 3600]
    assert notes.duplicates == 0


def test_one_half_of_the_doubled_hour_is_taken_for_the_first_and_counted():
    utc, _, notes = local(["2017-11-05 00:30", "2017-11-05 01:00", "2017-11-05 01:30", "2017-11-05 02:00"])
    assert notes.ambiguous == 2
    assert np.diff(utc).tolist() == [1800, 1800, 5400]


def test_the_second_hour_may_be_cut_short():
    texts = [f"2017-11-05 01:{minute:02}" for minute in (0, 15, 30, 45, 0, 15)] + ["2017-11-05 02:00"]
    utc, _, notes = local(texts)
    assert np.diff(utc).tolist() == [900] * 5 + [2700]
    assert notes.ambiguous == 0


def test_in_a_long_table_each_sensor_has_its_own_doubled_hour():
    hours = ["2017-11-05 00:30", "2017-11-05 01:00", "2017-11-05 01:30", "2017-11-05 01:00", "2017-11-05 01:30",
             "2017-11-05 02:00"]
    one = local(hours)[0]
    assert np.array_equal(local(hours * 2, groups=np.repeat([0, 1], 6))[0], np.tile(one, 2))
    woven = [hour for hour in hours for _ in range(2)]
    assert np.array_equal(local(woven, groups=np.tile([0, 1], 6))[0], np.repeat(one, 2))


def test_stamps_in_the_hour_that_spring_skips_are_left_out_and_counted():
    utc, keep, notes = local(["2017-03-12 01:30", "2017-03-12 02:00", "2017-03-12 02:30", "2017-03-12 03:00"])
    assert keep.tolist() == [True, False, False, True]
    assert (notes.nonexistent, notes.nonexistent_at) == (2, "2017-03-12T02:00:00")
    assert utc[3] - utc[0] == 1800


def test_the_zone_without_summer_time_keeps_the_standard_time():
    year = np.arange(0, 366 * DAY, DAY)
    for zone, fixed in ((LA, "Etc/GMT+8"), ("Australia/Melbourne", "Etc/GMT-10"), ("Europe/Lisbon", "Etc/GMT+0")):
        axis = TimeAxis(instant("2017-07-01T00:00"), 300, 1, zone)
        assert fixed_zone(axis) == fixed
        assert (clock_of(year, fixed) == np.minimum(clock_of(year, fixed), clock_of(year, zone))).all()


# -------------------------------------------------------------------- order
def test_duplicate_and_decreasing_stamps_are_refused_with_their_counts():
    texts = ["2020-01-01 00:00", "2020-01-01 00:10", "2020-01-01 00:05", "2020-01-01 00:05", "2020-01-01 00:10"]
    with pytest.raises(InputError, match="2 duplicate and 1 decreasing time stamps") as error:
        local(texts)
    assert error.value.value == "2020-01-01T00:05:00 in row 3"
    assert "--repair" in error.value.remedy
    _, keep, notes = local(texts, repair=True)
    assert keep.all()
    assert (notes.duplicates, notes.decreasing) == (2, 1)


def test_sensors_of_a_long_table_are_ordered_each_for_itself():
    texts = ["2020-01-01 00:00", "2020-01-01 00:05"] * 2
    assert local(texts, groups=np.array([0, 0, 1, 1]))[2].duplicates == 0
    with pytest.raises(InputError, match="1 duplicate and 1 decreasing"):
        local([*texts, "2020-01-01 00:00"], groups=np.array([0, 0, 1, 1, 1]))


# -------------------------------------------------------------------- the axis
@settings(max_examples=60, deadline=None)
@given(zone=st.sampled_from(ZONES), start=st.integers(0, 400 * 24), step=st.sampled_from((300, 600, 3600)),
       taken=st.sets(st.integers(0, 199), min_size=40), seed=st.integers(0, 99))
def test_rows_of_any_subset_of_an_axis_in_any_order_are_found(zone, start, step, taken, seed):
    utc = instant("2017-01-01T00:00") + start * 3600 + step * np.array(sorted(taken))
    shuffled = np.random.default_rng(seed).permutation(utc)
    found = lay_out(shuffled, zone, step, None, repair=False, **WHERE)
    assert np.array_equal(found.axis.times(found.rows), shuffled)
    assert found.axis.length == max(taken) - min(taken) + 1
    missing = sorted(set(range(min(taken), max(taken) + 1)) - taken)
    runs = np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1) if missing else []
    assert found.gaps() == {"gaps": len(runs), "longest_gap_steps": max(map(len, runs), default=0),
                            "missing_steps": len(missing)}


@settings(max_examples=40, deadline=None)
@given(zone=st.sampled_from(ZONES), weekdays=st.booleans(), first=st.integers(0, 300), days=st.integers(2, 40),
       seed=st.integers(0, 99))
def test_rows_of_service_days_are_found(zone, weekdays, first, days, seed):
    """Also across summer time, which is at night."""
    day = np.datetime64("2016-01-04") + first
    start = str(np.busday_offset(day, 0, roll="forward") if weekdays else day)
    axis = axis_from_start(start, 600, days * 108, zone, Service(108, 5 * 3600, weekdays))
    utc = np.random.default_rng(seed).permutation(axis.times())
    found = lay_out(utc, zone, 600, Service(108, 5 * 3600, weekdays), repair=False, **WHERE)
    assert found.axis == axis
    assert np.array_equal(axis.times(found.rows), utc)


def test_the_interval_is_the_most_common_difference():
    utc = instant("2020-01-01T00:00") + np.array([0, 300, 600, 900, 3000, 3300])
    assert usual_step(utc[::-1], **WHERE) == 300
    found = lay_out(utc, "UTC", None, None, repair=False, **WHERE)
    assert (found.axis.step, found.axis.length) == (300, 12)
    assert found.gaps() == {"gaps": 1, "longest_gap_steps": 6, "missing_steps": 6}
    with pytest.raises(InputError, match="one time alone") as error:
        lay_out(utc[:1], "UTC", None, None, repair=False, **WHERE)
    assert "--interval" in error.value.remedy


def test_times_off_the_grid_are_refused_or_rounded():
    utc = instant("2020-01-01T00:00") + np.array([7, 300, 600, 930, 1200])
    with pytest.raises(InputError, match="2 times are off the grid of 300 s; the first by 7 s") as error:
        lay_out(utc, "UTC", 300, None, repair=False, **WHERE)
    assert error.value.value == "2020-01-01T00:00:07"
    found = lay_out(utc, "UTC", 300, None, repair=True, **WHERE)
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.rounded == 2
    assert found.axis.start == instant("2020-01-01T00:00")


@pytest.mark.parametrize("step", ["6h", "1D"])
def test_long_steps_follow_the_clock_across_summer_time(step):
    clock = pd.date_range("2017-03-10", "2017-11-10", freq=step)
    utc = clock.tz_localize(LA).tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    found = lay_out(utc, LA, None, None, repair=False, **WHERE)
    assert np.array_equal(found.rows, np.arange(len(utc)))
    assert np.array_equal(found.axis.times(), utc)
    started = axis_from_start("2017-03-10", found.axis.step, len(utc), LA, None)
    assert np.array_equal(started.times(), utc)


def test_weeks_have_no_time_of_day_in_a_zone_with_summer_time():
    weeks = [str(day) for day in np.arange("2017-01-02", "2017-12-31", 7, dtype="datetime64[D]")]
    utc = local(weeks, "Europe/Budapest")[0]
    with pytest.raises(InputError, match="several days") as error:
        lay_out(utc, "Europe/Budapest", None, None, repair=False, **WHERE)
    assert "--tz UTC" in error.value.remedy
    assert lay_out(local(weeks, "UTC")[0], "UTC", None, None, repair=False, **WHERE).axis.length == len(weeks)


@pytest.mark.parametrize("step", [420, 25 * 3600, 7000])
def test_an_interval_that_does_not_divide_the_day_is_refused(step):
    utc = instant("2020-01-01T00:00") + step * np.arange(5)
    with pytest.raises(InputError, match="does not divide the day") as error:
        lay_out(utc, "UTC", None, None, repair=False, **WHERE)
    assert error.value.value == f"{step} s"
    assert "--steps-per-day" in error.value.remedy
    with pytest.raises(InputError, match="does not divide the day"):
        axis_from_start("2020-01-01", step, 5, "UTC", None)


def test_it_is_allowed_with_steps_per_day():
    axis = axis_from_start("2020-01-01", 420, 400, "UTC", Service(200))
    assert axis.times(np.array([199, 200])).tolist() == [instant("2020-01-01") + 199 * 420, instant("2020-01-02")]


def test_times_outside_service_and_on_weekends_are_refused():
    axis = axis_from_start("2016-03-04", 600, 216, "Asia/Shanghai", Service(108, 5 * 3600))  # Friday, Saturday
    with pytest.raises(InputError, match="108 times are on a weekend") as error:
        lay_out(axis.times(), "Asia/Shanghai", 600, Service(108, 5 * 3600, True), repair=False, **WHERE)
    assert error.value.value == "2016-03-05T05:00:00"
    with pytest.raises(InputError, match="12 times are outside the hours of service") as error:
        lay_out(axis.times(), "Asia/Shanghai", 600, Service(102, 5 * 3600), repair=False, **WHERE)
    assert error.value.value == "2016-03-04T22:00:00"


def test_the_start_of_service_days_is_checked():
    service = Service(108, 5 * 3600, True)
    at_five = axis_from_start("2016-02-29", 600, 2700, "Asia/Shanghai", service)
    assert at_five == axis_from_start("2016-02-29T05:00", 600, 2700, "Asia/Shanghai", service)
    assert clock_of(at_five.times(np.array([0, 2699])), "Asia/Shanghai").tolist() == [
        instant("2016-02-29T05:00"), instant("2016-04-01T22:50")]
    for start, problem in (("2016-02-29T06:00", "not at the start of a service day"), ("2016-02-28", "weekend")):
        with pytest.raises(InputError, match=problem) as error:
            axis_from_start(start, 600, 2700, "Asia/Shanghai", service)
        assert error.value.field == "start"
        assert error.value.value == start


def test_one_time_far_from_the_others_does_not_make_an_endless_axis():
    utc = np.append(instant("2020-01-01T00:00") + 300 * np.arange(10), instant("2090-01-01T00:00"))
    with pytest.raises(InputError, match="for 11 times") as error:
        lay_out(utc, "UTC", 300, None, repair=False, **WHERE)
    assert "2090-01-01" in error.value.value


def test_a_time_of_day():
    assert seconds_of_day("05:30") == 19800
    for text in ("5 am", "24:00", "05:60", "0500"):
        with pytest.raises(InputError, match="not a time of day"):
            seconds_of_day(text)
