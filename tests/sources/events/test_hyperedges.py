"""Groups and counts: incidence and counts agree, order does not matter, nothing is ever as large as places x bins."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph.plain import numbers
from stgraph.graph.time import instant
from stgraph.sources.events import hyperedges
from stgraph.sources.events.build import build_events
from stgraph.sources.events.hyperedges import event_counts, group_events, time_bins

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1)


@given(ROWS, st.booleans(), st.sampled_from([1, 2**40]))
def test_groups_are_what_counting_gives(rows, sequences, factor):
    place, row, kind, sequence = (np.array(part) * factor for part in zip(*rows, strict=True))  # 2^40: keys overflow
    groups = group_events(place, row, kind, sequence if sequences else None)
    own = groups.sequence if groups.sequence is not None else np.zeros(len(groups), int)
    keys = list(zip(own.tolist(), groups.row.tolist(), groups.place.tolist(), groups.type.tolist(), strict=True))
    expected = Counter(((int(s) if sequences else 0), int(r), int(p), int(t))
                       for p, r, t, s in zip(place, row, kind, sequence, strict=True))
    assert keys == sorted(expected)
    assert groups.count.tolist() == [expected[key] for key in keys]
    assert np.bincount(groups.of_event, minlength=len(groups)).tolist() == groups.count.tolist()
    assert np.array_equal(groups.place[groups.of_event], place)
    assert np.array_equal(groups.type[groups.of_event], kind)


def test_incidence_of_a_graph_agrees_with_its_groups(roads, events):
    tables, report = build_events(events, on=roads.tables(), bin="1h")
    member, at = tables.edges["event", "in", "group"], tables.edges["event", "at", "segment"]
    group, nodes = numbers(member["target_index"]), tables.nodes["group"]
    assert np.array_equal(numbers(member["source_index"]), np.arange(report["events"]))
    assert np.bincount(group).tolist() == nodes["count"].to_pylist()
    assert np.array_equal(numbers(nodes["place"])[group], numbers(at["target_index"]))
    assert np.array_equal(numbers(tables.edges["group", "of", "segment"]["target_index"]), numbers(nodes["place"]))
    time, start = numbers(tables.nodes["event"]["time"]), numbers(nodes["bin_start"])[group]
    assert ((time >= start) & (time < start + 3600)).all()
    assert np.array_equal(numbers(nodes["type"])[group], numbers(tables.nodes["event"]["type"]))
    keys = set(zip(nodes["place"].to_pylist(), nodes["bin_start"].to_pylist(), nodes["type"].to_pylist(), strict=True))
    assert len(keys) == report["groups"] == len(nodes)


def test_sparse_and_dense_counts_agree_with_counting(roads, events):
    tables, report = build_events(events, on=roads.tables())
    counts = event_counts(tables, "6h")
    signal = counts.signal()
    assert signal.channel_names == ["crash", "fire", "theft"]
    assert signal.shape == (counts.axis.length, len(roads.tail), 3)
    assert signal.values.sum() == report["events"] == sum(counts.table()["count"].to_pylist())
    expected = np.zeros(signal.shape)
    time = numbers(tables.nodes["event"]["time"])
    place = numbers(tables.edges["event", "at", "segment"]["target_index"])
    for when, where, what in zip(time, place, numbers(tables.nodes["event"]["type"]), strict=True):
        expected[(when - counts.axis.start) // 21_600, where, what] += 1
    assert np.array_equal(signal.values, expected)
    assert event_counts(tables.graph(), "6h").table() == counts.table()


def test_counts_of_a_bundle_are_those_of_the_graph(roads, events, tmp_path):
    tables, _ = build_events(events, on=roads.tables(), out=tmp_path / "events.stg")
    assert event_counts(tmp_path / "events.stg", "1D").table() == event_counts(tables, "1D").table()


def test_a_year_of_minutes_on_all_of_porto_is_never_laid_out():
    random = np.random.default_rng(3)
    count, places = 20_000, 122_899
    utc = random.integers(1_483_228_800, 1_514_764_800, count)
    tracemalloc.start()
    axis, row = time_bins(utc, "1min", "Europe/Lisbon")
    groups = group_events(random.integers(0, places, count), row, random.integers(0, 5, count))
    table = hyperedges.EventCounts("segment", places, axis, list("abcde"), groups)
    assert len(table.table()) == len(groups) <= count
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 1000 * count < axis.length * places  # bytes; a bit for each place and bin would be 8 GB
    with pytest.raises(InputError, match="too large"):
        table.signal()


def test_bins_start_at_midnight_and_days_follow_the_clock():
    utc = np.array([instant(text, "America/New_York") for text in
                    ("2017-03-11T13:00", "2017-03-12T23:30", "2017-03-13T00:30", "2017-11-05T00:10",
                     "2017-11-05T23:50", "2017-11-06T00:00")])
    axis, row = time_bins(utc, "1D", "America/New_York")
    assert axis.start == instant("2017-03-11", "America/New_York")
    assert row.tolist() == [0, 1, 2, 239, 239, 240]
    assert axis.length == 241
    axis, row = time_bins(utc[:3], "1h", "America/New_York")
    assert row.tolist() == [13, 46, 47]  # 2017-03-12 has 23 hours
    with pytest.raises(InputError, match="several days"):
        time_bins(utc, "7D", "America/New_York")
    assert time_bins(utc[:1], "7D", "America/New_York")[1].tolist() == [0]
    assert time_bins(np.array([instant("2017-10-15T05:00", "America/Sao_Paulo"),
                               instant("2017-10-16T00:00", "America/Sao_Paulo")]), "1D",
                     "America/Sao_Paulo")[1].tolist() == [1, 2]  # midnight of the 15th does not exist


def test_sequences_have_groups_of_their_own(roads, events):
    table = pa.Table.from_pandas(events.assign(time=events["time"] - 1_500_000_000, walk=np.arange(len(events)) % 3))
    tables, report = build_events(table, on=roads.tables(), sequence_key=["walk"], time_unit="s", bin="1D")
    assert report["sequences"] == 3
    walk = np.array(tables.nodes["event"]["sequence"].to_pylist())
    group = numbers(tables.edges["event", "in", "group"]["target_index"])
    assert np.array_equal(np.array(tables.nodes["group"]["sequence"].to_pylist())[group], walk)
    counts = event_counts(tables, "1D")
    with pytest.raises(InputError, match="clock of its own"):
        counts.signal()
    one = event_counts(tables, "1D", sequence="1")
    assert one.signal().values.sum() == (walk == "1").sum()
    with pytest.raises(InputError, match="no such sequence"):
        event_counts(tables, "1D", sequence="9")


def test_a_graph_without_events_is_refused(roads):
    with pytest.raises(InputError, match="no events in this graph"):
        event_counts(roads.tables(), "1h")
