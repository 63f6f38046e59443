"""The bundle: the same bits back, one hash for one content, and nothing broken is ever read or left behind."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import BundleError, InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, data_sha256, load, save
from stgraph.graph import bundle as module
from stgraph.io import sha256

MakeGraph = Callable[..., DynamicHeteroGraph]
Same = Callable[[DynamicHeteroGraph, DynamicHeteroGraph], None]
NEAR = ("sensor", "near", "sensor")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, make_graph: MakeGraph) -> Path:
    """A good bundle; tests work on copies."""
    path = tmp_path_factory.mktemp("bundle") / "city.stg"
    make_graph(6).save(path)
    return path


@pytest.fixture
def bundle(stored: Path, tmp_path: Path) -> Path:
    """A copy of a good bundle, to be broken."""
    return Path(shutil.copytree(stored, tmp_path / "city.stg"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change graph.json and sign it again, as somebody would who knows the format."""
    document = json.loads((path / "graph.json").read_text())
    document.pop("document_sha256")
    given = document["data_sha256"]
    change(document)
    if document["data_sha256"] == given and "files" in document:
        document["data_sha256"] = module._data_digest(document)
    document["document_sha256"] = module._digest(document)
    (path / "graph.json").write_text(json.dumps(document))


def resign(path: Path, name: str) -> None:
    """Enter the present hash of a file into graph.json."""
    rewrite(path, lambda document: document["files"].__setitem__(
        name, {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}))


def refused(path: Path, **parts: str) -> BundleError:
    """Loading is refused as a fault of the bundle, with a remedy."""
    with pytest.raises(BundleError) as caught:
        load(path)
    assert caught.value.remedy
    assert str(path) in caught.value.file
    for name, expected in parts.items():
        assert expected in str(getattr(caught.value, name)), caught.value
    return caught.value


# ---------------------------------------------------------------- the same bits back
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([True, False, "auto"]))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, make_graph: MakeGraph, same: Same,
                                 seed: int, length: int, in_memory: bool | str) -> None:
    graph = make_graph(seed, length=length)
    path = tmp_path_factory.mktemp("round") / "a.stg"
    save(graph, path)
    back = load(path, in_memory)
    same(back, graph)
    assert isinstance(back.signal("sensor").values, np.ndarray) is bool(in_memory)
    assert back.signal(NEAR).mask is None
    assert back.validate()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
                                   torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3), (0, 2)])
def test_every_type_and_shape_of_attribute(tmp_path: Path, same: Same, dtype: torch.dtype,
                                           shape: tuple[int, ...]) -> None:
    graph = DynamicHeteroGraph()
    bits = np.random.default_rng(0).integers(0, 256, (int(np.prod(shape)), dtype.itemsize), np.uint8)
    if dtype == torch.bool:
        bits &= 1
    name = str(dtype).removeprefix("torch.")
    graph["thing"].num_nodes = shape[0]
    graph["thing"].value = torch.from_numpy(bits.view(name).reshape(shape))
    graph.save(tmp_path / "a.stg")
    same(DynamicHeteroGraph.load(tmp_path / "a.stg"), graph)


def test_signs_of_zero_and_kinds_of_nan_survive(tmp_path: Path, same: Same) -> None:
    odd = np.array([0x80000000, 0x7FC00001, 0xFFC00000, 0x7F800000, 1], np.uint32).view(np.float32)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 60, 5))
    graph["thing"].value = torch.from_numpy(odd)
    graph["thing"].num_nodes = 5
    for name, values in (("zeros", np.full((5, 5, 1), -0.0, np.float32)), ("odd", np.tile(odd[:, None], (5, 1, 1)))):
        graph.add_signal("thing", name, Signal(values, np.isfinite(values), [Channel("value")]))
    graph.save(tmp_path / "a.stg")
    same(load(tmp_path / "a.stg"), graph)


def test_graphs_of_nothing(tmp_path: Path, same: Same) -> None:
    graph = DynamicHeteroGraph(time=TimeAxis(0, 60, 0))
    graph["bare"].num_nodes = 3
    graph["none"].node_id = np.array([], dtype=str)
    graph["none", "to", "bare"].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    graph.add_signal("none", "level", Signal(np.zeros((0, 0, 2)), None, [Channel("a"), Channel("b")]))
    graph.save(tmp_path / "a.stg")
    back = load(tmp_path / "a.stg")
    same(back, graph)
    assert back["bare"].num_nodes == 3
    DynamicHeteroGraph().save(tmp_path / "b.stg")
    assert load(tmp_path / "b.stg").node_types == []


def test_the_users_order_survives(tmp_path: Path, make_graph: MakeGraph, same: Same) -> None:
    graph = make_graph(6)
    graph.reorder("hilbert").save(tmp_path / "a.stg")
    same(load(tmp_path / "a.stg").undo_reorder(), graph)


def test_chunks_cut_long_signals_in_time(tmp_path: Path, same: Same) -> None:
    graph = DynamicHeteroGraph(time=TimeAxis(0, 60, 3000))
    graph["sensor"].num_nodes = 500
    values = np.random.default_rng(0).integers(0, 99, (3000, 500, 1)).astype(np.float32)
    graph.add_signal("sensor", "level", Signal(values, values > 5, [Channel("value")]))
    graph.save(tmp_path / "a.stg")
    lazy = load(tmp_path / "a.stg", in_memory=False)
    chunk = lazy.signal("sensor").values.chunks
    assert chunk[1:] == (500, 1)
    assert 1e6 < np.prod(chunk) * 4 < 4e6
    same(lazy, graph)
    window = lazy.window(60 * 1000, 60 * 1010)  # through a view of a view, on disk still
    np.testing.assert_array_equal(window.signal("sensor").read(2, 4)[0], values[1002:1004])


def test_other_tools_open_the_parts(stored: Path, make_graph: MakeGraph) -> None:
    import geopandas

    graph = make_graph(6)
    table = geopandas.read_parquet(stored / "nodes" / "sensor.parquet")
    assert table.crs.is_geographic
    known = ~graph["sensor"].lonlat.isnan().any(1).numpy()
    np.testing.assert_array_equal(table.geometry[known].x, graph["sensor"].lonlat[known, 0])
    assert table.geometry.notna().tolist() == known.tolist()
    assert table.node_id.tolist() == graph["sensor"].node_id.tolist()
    array = zarr.open_array(stored / "signals" / "sensor" / "traffic" / "values", mode="r")
    np.testing.assert_array_equal(array[:], graph.signal("sensor").values)
    assert array.metadata.dimension_names == ("time", "node", "channel")


def test_licences_travel_with_the_data(stored: Path) -> None:
    document = json.loads((stored / "graph.json").read_text())
    assert (document["licences"], document["attribution"]) == (["CC-BY-4.0"], ["City of A"])
    assert document["metadata"]["simulated"] is True


def test_a_small_city_is_loaded_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 300, 2016))
    graph["sensor"].node_id = np.array([str(i) for i in range(207)])
    graph["sensor"].lonlat = torch.from_numpy(rng.uniform(-80, 80, (207, 2)))
    graph[NEAR].edge_index = torch.from_numpy(rng.integers(0, 207, (2, 1515)))
    values = rng.normal(size=(2016, 207, 1)).astype(np.float32)
    graph.add_signal("sensor", "speed", Signal(values, values > -2, [Channel("speed", "speed", "mph")]))
    graph.save(tmp_path / "a.stg")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        load(tmp_path / "a.stg")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


# ---------------------------------------------------------------- one hash for one content
class Later(datetime):
    """A clock that is ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Later:
        return cls(2050, 1, 1, tzinfo=tz)


def test_the_hash_is_of_the_content(tmp_path: Path, make_graph: MakeGraph, stored: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph(6)
    graph.metadata["name"] = "another name"
    monkeypatch.setattr(module, "datetime", Later)
    graph.save(tmp_path / "elsewhere.stg")
    assert data_sha256(tmp_path / "elsewhere.stg") == data_sha256(stored)
    changes: list[Callable[[DynamicHeteroGraph], Any]] = [
        lambda graph: graph.signal("sensor").values.__setitem__((0, 0, 0), 99),
        lambda graph: graph["sensor"].lanes.add_(1), lambda graph: graph.declare("sensor", "lanes", unit="1"),
        lambda graph: setattr(graph, "time", TimeAxis(60, 300, 9)),
    ]
    seen = {data_sha256(stored)}
    for i, change in enumerate(changes):
        graph = make_graph(6)
        change(graph)
        graph.save(tmp_path / f"{i}.stg")
        seen.add(data_sha256(tmp_path / f"{i}.stg"))
    assert len(seen) == 1 + len(changes)


# ---------------------------------------------------------------- tampering
def test_every_file_is_guarded(stored: Path, tmp_path: Path) -> None:
    names = [file.relative_to(stored).as_posix() for file in stored.rglob("*") if file.is_file()]
    assert len(names) > 8
    for name in names:
        for fault in ("flip", "truncate", "grow", "remove"):
            path = Path(shutil.copytree(stored, tmp_path / "city.stg", dirs_exist_ok=True))
            content = bytearray((path / name).read_bytes())
            if fault == "flip":
                content[len(content) // 2] ^= 1
            elif fault == "truncate":
                content = content[:-1 if name != "graph.json" else -2]  # its last byte is a line end
            elif fault == "grow":
                content += b"x"
            (path / name).write_bytes(content)
            if fault == "remove":
                (path / name).unlink()
            with pytest.raises(BundleError) as caught:
                load(path)
            assert Path(caught.value.file) in ((path / name), path), (name, fault)
            assert caught.value.remedy


def test_what_the_hash_guards_the_chunk_guards_too(bundle: Path) -> None:
    chunk = next(file for file in (bundle / "signals" / "sensor" / "traffic" / "values" / "c").rglob("*")
                 if file.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(BundleError, match="chunk"):
        load(bundle, verify=False)
    content.pop()
    chunk.write_bytes(content)
    with pytest.raises(BundleError, match="size"):
        load(bundle, verify=False)


@pytest.mark.parametrize(("change", "parts"), [
    (lambda document: document.update(version=2), {"problem": "newer", "field": "version", "value": "2",
                                                   "remedy": "upgrade"}),
    (lambda document: document.update(version="1"), {"field": "version"}),
    (lambda document: document.update(format="zip"), {"field": "format", "value": "zip"}),
    (lambda document: document.pop("files"), {"field": "files"}),
    (lambda document: document.update(data_sha256="0" * 64), {"field": "data_sha256"}),
    (lambda document: document.update(signals={}), {"field": "signals"}),
    (lambda document: document["schema"]["nodes"]["sensor"]["lanes"].update(dtype="object"),
     {"field": "sensor.lanes", "value": "object"}),
    (lambda document: document["schema"]["nodes"]["sensor"]["lanes"].update(dtype="int32"), {"field": "lanes"}),
    (lambda document: document["schema"]["nodes"]["sensor"]["profile"].update(shape=["N", 4]), {"field": "profile"}),
    (lambda document: document["schema"]["nodes"]["sensor"].update(
        wings=document["schema"]["nodes"]["sensor"]["lanes"]), {"field": "wings"}),
    (lambda document: document["schema"]["nodes"]["sensor"].pop("lanes"), {"field": "lanes"}),
    (lambda document: document["counts"]["nodes"].update(sensor=8), {"value": "7"}),
    (lambda document: document["counts"]["nodes"].update({"../../sensor": 7}), {"value": "../../sensor"}),
    (lambda document: document["counts"]["nodes"].update(absent=1), {"file": "absent"}),
    (lambda document: document["counts"]["edges"][0].update(type=["sensor", "..", "sensor"]), {"value": ".."}),
    (lambda document: document["files"].update({"nodes/../../x": {"sha256": "", "bytes": 1}}), {"field": "files"}),
    (lambda document: document["files"].update({"/etc/hosts": {"sha256": "", "bytes": 1}}), {"field": "files"}),
    (lambda document: document["files"].update({"nodes/more": {"sha256": "", "bytes": 1}}), {"file": "nodes/more"}),
    (lambda document: document["files"].pop("nodes/sensor.parquet"), {"problem": "do not belong"}),
    (lambda document: document["signals"][0].update(name="../traffic"), {"value": "../traffic"}),
    (lambda document: document["signals"][0].update(of="../sensor"), {"value": "../sensor"}),
    (lambda document: document["signals"][0].update(dtype="object"), {"field": "data_type"}),
    (lambda document: document["signals"][0].update(dtype="float64"), {"field": "data_type"}),
    (lambda document: document["signals"][0].update(shape=[9, 7, 3]), {"field": "shape"}),
    (lambda document: document["signals"][0].pop("channels"), {"value": "channels"}),
    (lambda document: document["time"].update(tz="Mars/Base"), {"field": "tz"}),
    (lambda document: document["time"].update(length=8), {"field": "traffic"}),
    (lambda document: document["time"].update(colour="red"), {"value": "colour"}),
])
def test_a_description_that_was_changed_and_signed_again(bundle: Path, change: Callable[[dict[str, Any]], Any],
                                                         parts: dict[str, str]) -> None:
    rewrite(bundle, change)
    refused(bundle, **parts)


def test_a_description_that_was_changed_and_not_signed(bundle: Path) -> None:
    text = (bundle / "graph.json").read_text()
    (bundle / "graph.json").write_text(text.replace("CC-BY-4.0", "CC-BY-9.0"))
    refused(bundle, field="document_sha256")
    (bundle / "graph.json").write_text("[" * 100_000)
    refused(bundle, problem="JSON")
    (bundle / "graph.json").write_text("[1]")
    refused(bundle, field="format")
    with pytest.raises(BundleError):
        data_sha256(bundle)


@pytest.mark.parametrize("change", [
    lambda described: described.update(data_type="object"),
    lambda described: described["codecs"].append({"name": "numcodecs.pickle", "configuration": {}}),
    lambda described: described.update(storage_transformers=[{"name": "x"}]),
    lambda described: described.update(zarr_format=2), lambda described: described.update(shape=[1 << 40, 7, 2]),
])
def test_arrays_that_could_do_more_than_hold_numbers(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    name = "signals/sensor/traffic/values/zarr.json"
    described = json.loads((bundle / name).read_text())
    change(described)
    (bundle / name).write_text(json.dumps(described))
    resign(bundle, name)
    refused(bundle, file="zarr.json")


def test_tables_that_are_none_or_have_gaps(bundle: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = "nodes/sensor.parquet"
    table = pq.read_table(bundle / name)
    lanes = table.column_names.index("lanes")
    pq.write_table(table.set_column(lanes, "lanes", pa.array([None] * 7, pa.int16())), bundle / name)
    resign(bundle, name)
    refused(bundle, field="lanes")
    (bundle / name).write_bytes(b"PAR1 no table PAR1")
    resign(bundle, name)
    refused(bundle, problem="Parquet", file=name)


def test_links_and_strangers(bundle: Path, tmp_path: Path) -> None:
    table = bundle / "nodes" / "sensor.parquet"
    shutil.copy(table, tmp_path / "outside.parquet")
    table.unlink()
    table.symlink_to(tmp_path / "outside.parquet")
    refused(bundle, problem="links", file="sensor.parquet")
    table.unlink()
    shutil.copy(tmp_path / "outside.parquet", table)
    (tmp_path / "link.stg").symlink_to(bundle)
    refused(tmp_path / "link.stg", problem="links")
    (bundle / "notes.txt").write_text("mine")  # beside the folders of the bundle: nobody reads it
    assert load(bundle).size_of("sensor") == 7
    (bundle / "signals" / "sensor" / "traffic" / "values" / "c" / "1").mkdir()
    (bundle / "signals" / "sensor" / "traffic" / "values" / "c" / "1" / "0").write_bytes(b"")
    refused(bundle, problem="do not belong")


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "none.stg", problem="no such bundle")
    (tmp_path / "half.stg" / "nodes").mkdir(parents=True)
    refused(tmp_path / "half.stg", problem="graph.json is missing")
    (tmp_path / "file.stg").write_text("{}")
    refused(tmp_path / "file.stg", problem="graph.json is missing")


# ---------------------------------------------------------------- writing whole or not at all
@pytest.mark.parametrize("where", ["fsync", "zarr", "parquet", "interrupt"])
def test_a_full_disk_leaves_what_was_there(bundle: Path, make_graph: MakeGraph, same: Same,
                                           monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt if where == "interrupt" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"fsync": "os.fsync", "zarr": "zarr.Array.__setitem__", "parquet": "pyarrow.parquet.write_table",
              "interrupt": "zarr.Array.__setitem__"}[where]
    with monkeypatch.context() as patched:
        patched.setattr(target, full)
        for path in (bundle, bundle.parent / "new.stg"):
            with pytest.raises(KeyboardInterrupt if where == "interrupt" else InputError) as caught:
                make_graph(7).save(path)
            if where != "interrupt":
                assert "No space left" in str(caught.value)
                assert caught.value.file == str(path)
                assert caught.value.remedy
    assert [entry.name for entry in bundle.parent.iterdir()] == ["city.stg"]
    same(load(bundle), make_graph(6))
    make_graph(7).save(bundle)
    same(load(bundle), make_graph(7))


def test_a_graph_that_is_broken_is_not_written(tmp_path: Path, make_graph: MakeGraph) -> None:
    graph = make_graph(6)
    graph[NEAR].edge_index[0, 0] = 99
    with pytest.raises(InputError):
        graph.save(tmp_path / "a.stg")
    graph = make_graph(6)
    graph.note = torch.zeros(1)
    with pytest.raises(InputError, match="metadata") as caught:
        graph.save(tmp_path / "a.stg")
    assert caught.value.field == "note"
    graph = make_graph(6)
    graph["sensor"].geometry = torch.zeros(7)
    with pytest.raises(InputError, match="rename") as caught:
        graph.save(tmp_path / "a.stg")
    assert caught.value.field == "sensor.geometry"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, make_graph: MakeGraph) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "file", "link"):
        with pytest.raises(InputError) as caught:
            make_graph(6).save(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    make_graph(6).save(tmp_path / "empty")
    assert load(tmp_path / "empty").size_of("sensor") == 7


def test_a_graph_is_not_written_over_what_it_is_read_from(bundle: Path, same: Same, make_graph: MakeGraph) -> None:
    part = load(bundle, in_memory=False).window(1_330_588_800, 1_330_588_800 + 900)
    with pytest.raises(InputError, match="in_memory=True") as caught:
        part.save(bundle)
    assert caught.value.field == "sensor.traffic"
    part.save(bundle.parent / "part.stg")
    same(load(bundle.parent / "part.stg"), make_graph(6).window(1_330_588_800, 1_330_588_800 + 900))


def test_a_graph_on_disk_goes_to_workers_and_into_copies(bundle: Path, same: Same, make_graph: MakeGraph) -> None:
    lazy = load(bundle, in_memory=False)
    window = (1_330_588_800 + 300, 1_330_588_800 + 1200)
    for twin in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy), lazy.clone()):
        same(twin, make_graph(6))
        same(pickle.loads(pickle.dumps(twin.window(*window))), make_graph(6).window(*window))
    lazy.reorder("degree").save(bundle.parent / "moved.stg")
    same(load(bundle.parent / "moved.stg").undo_reorder(), make_graph(6))
