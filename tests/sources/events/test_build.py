"""``build_events``: none lost, none doubled, whatever the order; real sets; faults write nothing."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.cli.main import main
from stgraph.errors import InputError
from stgraph.graph import data_sha256, load, load_tables
from stgraph.graph.plain import numbers
from stgraph.graph.time import instant
from stgraph.sources.events import build
from stgraph.sources.events.build import EventOptions, build_events
from stgraph.sources.events.hyperedges import event_counts


def facts(tables):
    """What a graph of events says, with events by their ids."""
    event = tables.nodes["event"].to_pylist()
    at = next(table for kind, table in tables.edges.items() if kind[1] == "at").to_pylist()
    group = numbers(tables.edges["event", "in", "group"]["target_index"]).tolist()
    return {one["node_id"]: (one | edge | {"source_index": None}, tables.nodes["group"].slice(number, 1).to_pylist())
            for one, edge, number in zip(event, at, group, strict=True)}


# -------------------------------------------------------------------- laws
@pytest.mark.parametrize("options", [{"on": True}, {"on": True, "to": "junction", "limit": "90m"}, {"grid": "150m"},
                                     {"h3": 9}, {"on": True, "grid": "150m"}])
def test_no_event_is_lost_or_doubled_and_their_order_does_not_matter(roads, events, options):
    options = {**options, "id_key": "event", "type_key": "kind", "mark": ["depth"], "bin": "6h"}
    if options.get("on"):
        options["on"] = roads.tables()
    holes = events.copy()
    holes.loc[:9, "longitude"] = np.nan
    holes.loc[5:19, "time"] = np.nan
    tables, report = build_events(holes, **options)
    apart = tables.tables["unattached"]["node_id"].to_pylist()
    ids = tables.nodes["event"]["node_id"].to_pylist()
    assert sorted(ids + apart) == sorted(events["event"])
    assert report["events"] + report["unattached"] == report["read"] == len(events)
    assert sum(report["reasons"].values()) == report["unattached"] == len(apart) >= 20
    assert sum(report["by_type"].values()) == report["events"] == sum(tables.nodes["group"]["count"].to_pylist())
    at = next(table for kind, table in tables.edges.items() if kind[1] == "at")
    assert numbers(at["source_index"]).tolist() == list(range(len(ids)))
    assert (np.diff(numbers(tables.nodes["event"]["time"])) >= 0).all()

    turned, again = build_events(holes.sample(frac=1, random_state=2), **options)
    assert facts(turned) == facts(tables)
    for kind in tables.nodes.keys() - {"event"}:
        assert turned.nodes[kind] == tables.nodes[kind]
    assert {**again, "seconds": 0} == {**report, "seconds": 0}


@given(st.permutations(range(6)))
def test_the_order_of_simultaneous_events_does_not_matter(order):
    table = pd.DataFrame({"id": list("abcdef"), "time": 1.5e9, "longitude": [0.1, 0.1, 0.1, 0.2, 0.2, 0.3],
                          "latitude": 0.1, "type": ["x", "x", "y", "x", "x", "x"]})
    tables, _ = build_events(table.iloc[list(order)], grid="1km", id_key="id")
    assert tables.nodes["group"]["count"].to_pylist() == [2, 1, 2, 1]
    group = numbers(tables.edges["event", "in", "group"]["target_index"])
    assert dict(zip(tables.nodes["event"]["node_id"].to_pylist(), group.tolist(), strict=True)) == dict(
        a=0, b=0, c=1, d=2, e=2, f=3)


def test_the_bundle_says_what_the_graph_said(roads, events, tmp_path):
    out = tmp_path / "events.stg"
    tables, report = build_events(events, on=roads.tables(), type_key="kind", mark=["depth:m", "premise"], out=out,
                                  tz="Europe/Lisbon", limit="100m")
    again = load_tables(out)
    for kind, table in tables.items():
        assert again.of(kind).to_pydict() == table.to_pydict()
    assert again.tables.keys() == {"unattached"}
    graph = load(out)
    graph.validate()
    assert report["data_sha256"] == data_sha256(out)
    assert graph.schema.of("event")["type"].categories == ("crash", "fire", "theft")
    assert graph.schema.of("event")["depth"].unit == "m"
    assert graph.table("unattached").num_rows == report["unattached"] > 0
    assert graph["event", "at", "segment"].offset.shape == (report["events"],)
    assert graph.metadata["tz"] == "Europe/Lisbon"
    assert graph.metadata["build"]["events"] == report["events"]
    assert graph.metadata["sources"] == []  # a table in memory has no file


def test_sources_of_the_map_travel_with_the_events(roads, events, tmp_path):
    tables = roads.tables()
    tables.metadata = {"sources": [{"file": "x.osm.pbf", "attribution": "(c) OpenStreetMap contributors"}]}
    from stgraph.graph import save
    save(tables, tmp_path / "roads.stg")
    events.to_csv(tmp_path / "events.csv", index=False)
    graph, _ = build_events(tmp_path / "events.csv", on=tmp_path / "roads.stg", out=tmp_path / "e.stg", licence="CC0")
    found = load_tables(tmp_path / "e.stg").metadata["sources"]
    assert [one["file"] for one in found] == ["events.csv", "roads.stg", "x.osm.pbf"]
    assert found[0]["licence"] == "CC0"
    assert found[2]["attribution"] == "(c) OpenStreetMap contributors"
    assert str(tmp_path) not in json.dumps(graph.metadata)
    assert graph.metadata["command"] == "stgraph build events events.csv --on roads.stg --licence CC0 --out e.stg"


def test_without_bins_there_are_no_groups(roads, events):
    tables, report = build_events(events, on=roads.tables(), bin="none")
    assert "group" not in tables.nodes
    assert report["groups"] == report["incidences"] == 0
    assert event_counts(tables, "1D").groups.count.sum() == report["events"]


def test_dates_alone_make_bins_of_days(events):
    days = events.assign(time=pd.to_datetime(events["time"], unit="s").dt.strftime("%Y-%m-%d"))
    assert build_events(days, grid="1km", tz="Europe/Lisbon")[1]["bin_s"] == 86_400
    assert build_events(events, grid="1km", tz="Europe/Lisbon")[1]["bin_s"] == 3600


# -------------------------------------------------------------------- real sets
def commands(shared_data):
    """The commands that the documentation of the builder gives."""
    text = build.__doc__.replace("\\\n", " ").replace("$D", str(shared_data))
    return [shlex.split(line)[1:] for line in re.findall(r"^    (stgraph build .*)$", text, re.MULTILINE)]


def run(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--json"])
    assert exit_.value.code == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("name", "read", "apart", "place", "types"), [
    ("chicago", 321_877, {"time skipped by the clock": 17}, "cell", 4),
    ("houston", 86_314, {"no coordinates": 5, "outside the map": 207}, "cell", 7),
    ("valencia", 10_929, {"time skipped by the clock": 2, "outside the map": 19}, "segment", 1),
    ("montreal", 347, {}, "segment", 1),
    ("japan", 91_897, {}, "cell", 1)])
def test_each_real_set_becomes_a_bundle_by_the_documented_command(shared_data, tmp_path, monkeypatch, capsys, name,
                                                                  read, apart, place, types):
    monkeypatch.chdir(tmp_path)
    for words in [words for words in commands(shared_data) if words[-1].split(".")[0].split("-")[0] == name]:
        report = run(words, capsys)
    assert (report["read"], report["reasons"], report["place"], report["types"]) == (read, apart, place, types)
    tables = load_tables(f"{name}.stg")
    assert len(tables.nodes["event"]) + tables.tables["unattached"].stat().st_size > 0
    assert len(tables.nodes["event"]) == report["events"] == read - sum(apart.values())
    assert numbers(tables.nodes["group"]["count"]).sum() == report["events"]
    assert event_counts(tables, "1D").groups.count.sum() == report["events"]


def test_houston_has_the_hours_and_the_days_that_the_file_also_gives(shared_data):
    table = pd.read_parquet(shared_data / "houston_crime" / "houston_crime.parquet")
    tables, _ = build_events(table, grid="1km", type_key="offense", mark=["hour", "date"], tz="America/Chicago")
    event = tables.nodes["event"]
    local = pd.to_datetime(event["time"].to_pandas(), unit="s", utc=True).dt.tz_convert("America/Chicago")
    skipped = (event["date"].to_pandas() == "3/14/2010") & (event["hour"].to_pandas() == 2)  # the file has 1 o'clock
    assert skipped.sum() == 9
    assert ((local.dt.hour == event["hour"].to_numpy()) | skipped).all()
    assert (local.dt.strftime("%-m/%-d/%Y") == event["date"].to_pandas().astype(str)).all()


def test_valencia_has_the_days_and_the_hours_that_the_file_also_gives(shared_data):
    table = pd.read_parquet(shared_data / "valencia_crime_network" / "crimes_2019.parquet")
    tables, _ = build_events(table, grid="1km", crs="none", time_key="t", mark=["day", "crime_hour"], time_unit="d",
                             start="2010-01-02", local_clock=True, tz="Europe/Madrid")
    event = tables.nodes["event"]
    local = pd.to_datetime(event["time"].to_pandas(), unit="s", utc=True).dt.tz_convert("Europe/Madrid")
    assert (local.dt.dayofyear == event["day"].to_numpy()).mean() > 0.999  # rounding to a second passes midnight
    assert (local.dt.hour == event["crime_hour"].to_numpy()).mean() > 0.999


def test_chicago_counts_are_those_of_pandas(shared_data):
    path = shared_data / "chicago_crime" / "chicago_crime.parquet"
    tables, _ = build_events(path, grid="1km", tz="America/Chicago", bin="none")
    counts = event_counts(tables, "1D")
    assert counts.axis.start == instant("2016-01-01", "America/Chicago")
    assert counts.axis.length == 731
    signal = counts.signal()
    table = pd.read_parquet(path)
    apart = tables.tables["unattached"]["row"].to_numpy()
    table = table.drop(index=apart)
    expected = table.groupby([table["time"].dt.floor("D"), "offense"], observed=True).size().unstack()
    assert np.array_equal(signal.values.sum(1), expected.to_numpy())
    assert signal.channel_names == list(expected.columns)


def test_sequences_of_earthquakes_keep_their_clocks(shared_data):
    path = shared_data / "earthquake_japan" / "earthquakes.parquet"
    tables, report = build_events(path, grid="100km", sequence_key=["split", "sequence"], time_unit="d", bin="none")
    event = tables.nodes["event"]
    assert report["sequences"] == 1050
    table = pd.read_parquet(path)
    one = table[(table["split"] == 2) & (table["sequence"] == 7)]
    found = event.filter(pa.compute.equal(event["sequence"].cast(pa.string()), "2-7"))
    assert found["time"].to_pylist() == np.floor(one["t"].sort_values() * 86_400 + 0.5).astype(int).tolist()


# -------------------------------------------------------------------- bad input
def moved(events):
    return events.assign(longitude=events["longitude"] + 3)


def swapped(events):
    return events.rename(columns={"longitude": "latitude", "latitude": "longitude"})


def local_times(events):
    return events.assign(time=pd.to_datetime(events["time"], unit="s").astype(str))


@pytest.mark.parametrize(("change", "options", "problem", "field", "remedy"), [
    (moved, {"on": "roads.stg"}, "no event is on the map", "place", "--limit"),
    (swapped, {"on": "roads.stg"}, "look exchanged", "place", "swap"),
    (lambda events: swapped(events.assign(longitude=events["longitude"] - 100)), {"grid": "1km"}, "look exchanged",
     "latitude", "swap"),
    (lambda events: events.assign(longitude=5e5, latitude=4e6), {"grid": "1km"}, "out of range", "latitude", "--crs"),
    (local_times, {"grid": "1km"}, "no time zone was given", "time", "--tz"),
    (lambda events: events.assign(time=np.nan), {"grid": "1km"}, "no event has both", None, "--time-key"),
    (None, {"grid": "1km", "type_key": "sort"}, "no such column", "sort", "choose among"),
    (None, {}, "do not go together", "on", "--grid"),
    (None, {"grid": "1km", "h3": 3}, "do not go together", "h3", "one of"),
    (None, {"grid": "1km", "to": "segment", "on": "roads.stg"}, "do not go together", "to", "--grid"),
    (None, {"grid": "wide"}, "not a length", "grid", "500m"),
    (None, {"grid": "0m"}, "not a length", "grid", "500m"),
    (None, {"grid": "5s"}, "not a length", "grid", "500m"),
    (None, {"grid": "1km", "neighbours": 6}, "do not go together", "neighbours", "4 or 8"),
    (None, {"h3": 16}, "do not go together", "h3", "0 to 15"),
    (None, {"on": "roads.stg", "full_grid": True}, "do not go together", "full_grid", "--grid"),
    (None, {"grid": "1km", "bin": "7min"}, "does not divide the day", "interval", "5min"),
    (None, {"grid": "1km", "bin": "often"}, "not an interval", "interval", "5min"),
    (None, {"grid": "1km", "tz": "Mars/Olympus"}, "unknown time zone", "tz", "IANA"),
    (None, {"grid": "1km", "out": "events.zip"}, "as a .stg bundle", "out", ".stg"),
    (None, {"on": "gone.stg"}, "no such bundle", None, "path"),
    (None, {"on": "roads.stg", "crs": "none", "x_key": "longitude", "y_key": "latitude"}, "have none", "crs", "EPSG")])
def test_faults_name_their_parts_and_write_nothing(roads, events, tmp_path, monkeypatch, change, options, problem,
                                                   field, remedy):
    from stgraph.graph import save

    monkeypatch.chdir(tmp_path)
    save(roads.tables(), "roads.stg")
    (change(events) if change else events).to_csv("events.csv", index=False)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=problem) as error:
        build_events("events.csv", **{"out": "events.stg", **options})
    assert error.value.field == field
    assert remedy in error.value.remedy
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_plain_map_takes_no_degrees(make_roads, events):
    with pytest.raises(InputError, match="plain metres, and the events have") as error:
        build_events(events, on=make_roads(metric=True).tables())
    assert error.value.field == "crs"


def test_the_command_line_says_what_happened(roads, events, tmp_path, monkeypatch, capsys):
    from stgraph.graph import save

    monkeypatch.chdir(tmp_path)
    save(roads.tables(), "roads.stg")
    events.to_csv("events.csv", index=False)
    report = run(["build", "events", "--on", "roads.stg", "events.csv", "--type-key", "kind", "--limit", "30m"], capsys)
    assert report["out"] == "events.stg"
    assert report["limit_m"] == 30
    assert 0 < report["reasons"]["outside the map"] < len(events)
    assert (tmp_path / "events.stg" / "graph.json").is_file()
    with pytest.raises(SystemExit) as exit_:
        main(["build", "events", "events.csv", "--on", "roads.stg", "--type-key", "sort", "-o", "two.stg", "--json"])
    assert exit_.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["field"] == "sort"
    assert not (tmp_path / "two.stg").exists()


def test_every_option_has_its_place_in_the_command():
    options = EventOptions(on="folder/roads.stg", mark=("a", "b:m"), local_clock=True, h3=8)
    assert options.command("folder/x.csv") == ("stgraph build events x.csv --mark a --mark b:m --local-clock "
                                               "--on roads.stg --h3 8")
