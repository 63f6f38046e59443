"""``stgraph info``: what it says of a bundle is what is in it, from small graphs to roads of a city."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from stgraph.cli.main import app
from stgraph.graph import (
    OPEN_END,
    Channel,
    DynamicHeteroGraph,
    GraphTables,
    Signal,
    TimeAxis,
    data_sha256,
    load,
    load_tables,
    save,
)
from stgraph.graph.info import describe, stretches
from stgraph.graph.plain import categories
from stgraph.graph.statistics import autocorrelation, morans_i, smirnov
from stgraph.roads import Roads
from stgraph.roads.turns import make_turns
from stgraph.sources.readings import Readings
from stgraph.sources.sensors import NEAR, build_sensors

DAYS, STEP = 15, 3600


def measured(seed: int = 0, sensors: int = 9, days: int = DAYS) -> DynamicHeteroGraph:
    """Hourly readings with a day, a weekend and gaps, on a grid of sensors, in mph."""
    chance = np.random.default_rng(seed)
    rows = np.arange(days * 24)
    level = 30 + 10 * np.sin(2 * np.pi * rows / 24)[:, None] - 8 * (rows // 24 % 7 >= 5)[:, None] + np.arange(sensors)
    values = (level + chance.normal(0, 1, (len(rows), sensors)))[..., None].astype(np.float32)
    mask = chance.random(values.shape) < 0.9
    mask[30:35] = False
    graph = DynamicHeteroGraph(time=TimeAxis(1_709_510_400, STEP, len(rows)), metadata={  # a Monday
        "name": "measured", "sources": [{"file": "a.csv", "licence": "CC0", "attribution": "City of A"},
                                        {"file": "b.csv", "licence": "CC0"}]})
    graph["sensor"].node_id = np.array([f"s{i}" for i in range(sensors)])
    here = np.arange(sensors - 1)
    graph[NEAR].edge_index = torch.from_numpy(np.concatenate([np.stack([here, here + 1]), np.stack([here + 1, here])],
                                                             axis=1))
    graph[NEAR].edge_weight = torch.from_numpy(chance.random(2 * len(here)).astype(np.float32) + 0.1)
    graph.add_signal("sensor", "readings", Signal(np.where(mask, values * 0.44704, 0).astype(np.float32), mask,
                                                  [Channel("speed", "speed", "mph")]))
    graph.validate()
    return graph


def channel_of(graph: DynamicHeteroGraph | GraphTables, **options: Any) -> dict[str, Any]:
    return describe(graph, **options)["signals"]["sensor/readings"]["channels"][0]


def gaps_by_hand(mask: np.ndarray) -> tuple[int, int, float]:
    runs = [(value, len(list(run))) for column in mask.T for value, run in itertools.groupby(column.tolist())]
    away = [size for value, size in runs if not value]
    return len(away), max(away, default=0), float(1 - mask.mean())


# -------------------------------------------------------------------- signals
def test_every_number_equals_its_definition() -> None:
    graph = measured()
    values, mask = (one[..., 0].astype(np.float64) for one in graph.signal("sensor").read(0, graph.time.length))
    mask = mask.astype(bool)
    mph = values / 0.44704
    found = describe(graph, distribution=True)
    signal, channel = found["signals"]["sensor/readings"], found["signals"]["sensor/readings"]["channels"][0]
    assert channel["observed_share"] == pytest.approx(mask.mean())
    assert (channel["min"], channel["max"], channel["mean"]) == pytest.approx(
        (mph[mask].min(), mph[mask].max(), mph[mask].mean()), rel=1e-5)
    number, longest, share = gaps_by_hand(mask)
    assert channel["gaps"] == {"number": number, "longest_steps": longest, "share": pytest.approx(share)}
    rows = ~mask.any(1)
    assert (signal["rows_without_reading"], signal["longest_gap_steps"]) == (rows.sum(), 5)
    assert signal["sample"] is None
    past = np.median(autocorrelation(values, mask, (1, 24, 168)), axis=1)
    assert list(channel["autocorrelation"]) == ["1 step", "1 hour", "1 day", "1 week"]
    assert list(channel["autocorrelation"].values()) == pytest.approx([past[0], *past], rel=1e-5)
    index, weight = graph[NEAR].edge_index.numpy(), graph[NEAR].edge_weight.numpy()
    mean = np.array([values[mask[:, i], i].mean() for i in range(9)])
    by_hand = morans_i(mean, index, weight)
    moran = channel["moran"]["sensor__near__sensor"]
    assert (moran["value"], moran["expected"], moran["z"]) == pytest.approx(
        (by_hand.value, by_hand.expected, by_hand.z), rel=1e-5)
    assert (moran["nodes"], moran["weighted"]) == (9, True)
    weekend = np.arange(len(values)) // 24 % 7 >= 5
    distribution = channel["distribution"]
    assert distribution["weekday_weekend"] == pytest.approx(smirnov(values[weekend][mask[weekend]],
                                                                    values[~weekend][mask[~weekend]]))
    half = len(values) // 2
    assert distribution["halves"] == pytest.approx(smirnov(values[:half][mask[:half]], values[half:][mask[half:]]))
    each = [smirnov(values[mask[:, i], i], values[mask]) for i in range(9)]
    assert distribution["places"] == {"median": pytest.approx(np.median(each)), "largest": pytest.approx(max(each)),
                                      "places": 9, "most_unlike": f"s{int(np.argmax(each))}"}


def test_the_daily_profile_is_taken_off() -> None:
    """All sensors share a day but for noise: the mean has a gradient, what remains is noise."""
    moran = channel_of(measured(sensors=30))["moran"]["sensor__near__sensor"]
    assert moran["value"] > 0.9
    residual = moran["residual"]
    assert residual["rows"] >= 30
    # a weekend moves all sensors alike; the mean over rows of I has the deviation of one row over the root of rows
    assert abs(residual["value"] - residual["expected"]) < 4 * 0.18 / np.sqrt(residual["rows"])


def test_a_graph_says_the_same_as_its_tables_and_its_bundle(tmp_path: Path) -> None:
    graph = measured()
    save(graph, tmp_path / "a.stg")
    one = describe(graph, distribution=True)
    assert one == describe(GraphTables.of_graph(graph), distribution=True)
    assert one == describe(load_tables(tmp_path / "a.stg", in_memory=False), distribution=True)


def test_a_large_signal_is_sampled_and_that_is_said() -> None:
    graph = measured(days=40)
    found = describe(graph, limit=9 * 480)["signals"]["sensor/readings"]
    parts = stretches(960, 480, 24)
    assert found["sample"] == {"rows": 480, "of_rows": 960, "series": 9, "of_series": 9}
    assert sum(stop - start for start, stop in parts) == 480
    assert parts[0][0] == 0
    assert parts[-1][1] == 960
    signal = graph.signal("sensor")
    blocks = [signal.read(*part) for part in parts]
    values, mask = (np.concatenate([block[i] for block in blocks]) for i in (0, 1))
    channel = found["channels"][0]
    assert channel["observed_share"] == pytest.approx(mask.mean())
    assert channel["mean"] == pytest.approx(values[mask].mean() / 0.44704, rel=1e-5)
    assert channel["gaps"]["share"] == pytest.approx(1 - mask.mean())


@pytest.mark.parametrize(("rows", "wanted", "per_day"), [
    (100, 100, 10), (1000, 300, 10), (10_000, 7000, 24), (5, 0, 2)])
def test_stretches_do_not_overlap(rows: int, wanted: int, per_day: int) -> None:
    parts = stretches(rows, wanted, per_day)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(parts))
    assert all(0 <= start < stop <= rows for start, stop in parts)
    assert sum(stop - start for start, stop in parts) <= max(wanted, 1)


def test_a_signal_without_a_reading_has_no_numbers() -> None:
    graph = measured()
    shape = graph.signal("sensor").shape
    graph.add_signal("sensor", "readings", Signal(np.zeros(shape, np.float32), np.zeros(shape, bool),
                                                  [Channel("speed", "speed", "mph")]))
    channel = channel_of(graph, distribution=True)
    assert (channel["min"], channel["mean"], channel["observed_share"]) == (None, None, 0.0)
    assert set(channel["autocorrelation"].values()) == {None}
    assert channel["moran"]["sensor__near__sensor"]["value"] is None
    assert channel["distribution"] == {"weekday_weekend": None, "halves": None, "places": None}
    json.dumps(describe(graph), allow_nan=False)


# -------------------------------------------------------------------- attributes
def test_attributes_words_extents_and_lives() -> None:
    tables = GraphTables()
    tables.nodes["road"] = pa.table({
        "node_id": ["a", "b", "c", "d"], "lonlat": pa.FixedSizeListArray.from_arrays(
            pa.array([179.5, 10.0, -179.0, 12.0, float("nan"), float("nan"), 179.0, 11.0]), 2),
        "length": [1.0, 2.0, float("nan"), 6.0], "bridge": [True, False, False, False],
        "kind": categories(np.array([2, 0, 2, 2]), ["street", "lane", "road"]),
        "valid_to": [OPEN_END, 5, 5, 9], "code": ["x", "y", "x", "z"]})
    tables.declare("road", "length", "m")
    found = describe(tables)
    road = found["attributes"]["road"]
    assert road["length"] == {"dtype": "float64", "unit": "m", "min": 1.0, "max": 6.0, "mean": 3.0, "known_share": 0.75}
    assert road["bridge"]["share"] == 0.25
    assert road["kind"] | {"words": list(road["kind"]["words"].items())} == {
        "dtype": "int32", "unit": None, "words": [("road", 3), ("street", 1)], "distinct": 2}
    assert road["code"]["distinct"] == 3
    assert found["extent"] == {"road": [179.0, 10.0, -179.0, 12.0]}  # across the 180th meridian
    assert found["lives"] == {"road": {"bounded": 3, "changes": 2}}


def test_words_name_the_most_frequent(tmp_path: Path) -> None:
    tables = GraphTables(nodes={"road": pa.table({"kind": categories(np.repeat(np.arange(9), np.arange(9) + 1),
                                                                     list("abcdefghi"))})})
    words = describe(tables)["attributes"]["road"]["kind"]
    assert list(words["words"]) == ["i", "h", "g", "f", "e"]
    assert words["distinct"] == 9


def test_licences_and_attributions_are_named_once() -> None:
    found = describe(measured())
    assert (found["licences"], found["attribution"]) == (["CC0"], ["City of A"])


# -------------------------------------------------------------------- the command
def run(*words: str) -> tuple[dict[str, Any], str]:
    done = CliRunner().invoke(app, ["info", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout), done.stderr


def test_the_command_prints_one_object_and_a_table(tmp_path: Path) -> None:
    save(measured(), tmp_path / "a.stg")
    found, people = run(str(tmp_path / "a.stg"), "--distribution")
    assert found["data_sha256"] == data_sha256(tmp_path / "a.stg")
    assert found["nodes"] == {"sensor": 9}
    assert found["time"]["steps"] == DAYS * 24
    for words in ("Moran's I", "autocorrelation", "speed in mph", "gaps", "weekday and weekend", "City of A"):
        assert words in " ".join(people.split())


def test_a_type_without_columns_keeps_its_number(tmp_path: Path) -> None:
    graph = DynamicHeteroGraph()
    graph["station"].num_nodes = 3
    save(graph, tmp_path / "a.stg")
    assert run(str(tmp_path / "a.stg"))[0]["nodes"] == {"station": 3}


def test_a_map_is_drawn_beside(tmp_path: Path) -> None:
    graph = measured()
    graph["sensor"].lonlat = torch.rand(9, 2, dtype=torch.float64) + 10
    save(graph, tmp_path / "a.stg")
    found, people = run(str(tmp_path / "a.stg"), "--picture", str(tmp_path / "map.png"), "--color", "speed")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert (found["map"]["layers"], found["map"]["unit"]) == ({"sensor": 9}, "mph")
    assert "City of A, CC0" in people


def test_colours_without_a_map_are_refused(tmp_path: Path) -> None:
    save(measured(), tmp_path / "a.stg")
    done = CliRunner().invoke(app, ["info", str(tmp_path / "a.stg"), "--color", "speed"])
    assert "no map" in str(done.exception)


def test_real_readings(shared_data: Path) -> None:
    """Loops of Los Angeles: neighbours are alike, also in what the day does not explain; the past helps for an hour."""
    with np.load(shared_data / "los_loop" / "speed.npz", allow_pickle=False) as archive:
        values, ids = archive["speed_mph"], archive["sensor_id"]
    with np.load(shared_data / "los_loop" / "adj.npz", allow_pickle=False) as archive:
        matrix = archive["adj_dcrnn"]
    stamps = 1_330_588_800 + 300 * np.arange(len(values))
    one, other = np.nonzero(matrix)
    edges = pd.DataFrame({"from": ids[one].astype(str), "to": ids[other].astype(str), "weight": matrix[one, other]})
    readings = Readings(values[..., None], ids.astype(str).tolist(), ["speed"], utc=stamps, edges=edges)
    graph, _ = build_sensors(readings, quantity="speed", unit="mph", tz="America/Los_Angeles")
    channel = channel_of(graph)
    moran = channel["moran"]["sensor__near__sensor"]
    assert moran["z"] > 5
    assert moran["residual"]["z"] > 3
    assert channel["autocorrelation"]["1 step"] > 0.9 > channel["autocorrelation"]["1 hour"] > 0.4


def test_roads_of_a_city_are_described_at_once(tmp_path: Path) -> None:
    """More than 100,000 segments in well under three seconds."""
    side = 190
    number = np.arange(side * side).reshape(side, side)
    one = np.concatenate([np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()]),
                          np.stack([number[:-1].ravel(), number[1:].ravel()])], axis=1)
    tail, head = np.concatenate([one, one[::-1]], axis=1)
    places = np.stack(np.unravel_index(np.arange(side * side), (side, side)), axis=1) * 1e-3
    ptr, xy = 2 * np.arange(len(tail) + 1), places[np.column_stack([tail, head]).reshape(-1)]
    half = len(tail) // 2
    turns, angle = make_turns(tail, head, ptr, xy, np.roll(np.arange(len(tail)), half))
    roads = Roads(np.arange(side * side), places, tail, head, np.full(len(tail), 111.0), ptr, xy,
                  attributes={"speed": np.full(len(tail), 13.9, np.float32)}, turn_index=turns, turn_angle=angle)
    save(roads.tables(), tmp_path / "roads.stg")
    started = time.process_time()
    found = describe(load_tables(tmp_path / "roads.stg"))
    assert time.process_time() - started < 3.0
    assert found["nodes"]["segment"] == len(tail) > 100_000
    assert found["edges"]["segment__turn__segment"] == turns.shape[1]
    assert load(tmp_path / "roads.stg").size_of("segment") == len(tail)
