"""The ``.stg`` bundle: a graph on disk, that other tools can open and nobody can execute.

A folder with ``graph.json`` (time axis, schema, provenance, hashes), ``nodes/<type>.parquet`` (GeoParquet),
``edges/<source>__<relation>__<destination>.parquet`` and ``signals/<type>/<name>/{values,mask}`` (Zarr v3). It is
written whole or not at all, and read only if every file is what ``graph.json`` says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from stgraph.errors import BundleError, InputError
from stgraph.graph.plain import GraphTables
from stgraph.graph.schema import DTYPES, GEOMETRY, Attribute, EdgeType, GraphType, Schema, check_name, edge_type, label
from stgraph.graph.signal import Channel, Signal
from stgraph.graph.time import TimeAxis
from stgraph.io import atomic_path, sha256
from stgraph.version import __version__

if TYPE_CHECKING:
    from stgraph.graph.dynamic import DynamicHeteroGraph

Found = TypeVar("Found")
FORMAT = "stgraph-bundle"
VERSION = 1
GRAPH = "graph.json"
IN_MEMORY_BYTES = 1 << 30
_AGAIN = "make the bundle again, or take an unchanged copy"
_FOLDERS = ("nodes", "edges", "signals")
_PARTS = {"metadata": dict, "time": dict | None, "counts": dict, "schema": dict, "signals": list, "files": dict,
          "data_sha256": str}


# ---------------------------------------------------------------- writing
def save(graph: DynamicHeteroGraph | GraphTables, path: Path | str) -> None:
    """Write a graph as a bundle, whole or not at all; a bundle that stood there is replaced.

    Args:
        graph: The graph, or its tables; it is validated, which completes its schema.
        path: The folder, by custom with the ending ``.stg``.

    Raises:
        InputError: for a graph that does not validate, a path that is something else, or a full disk. What stood at
            the path stays as it was.
    """
    path = Path(path)
    if isinstance(graph, GraphTables):
        parts: GraphTables = graph
        _check_target(parts.signals, parts.tables, path)
        parts.validate()
        _check_plain(parts.metadata)
        sizes: dict[GraphType, int] = {kind: len(table) for kind, table in parts.items()}
    else:
        signals: dict[GraphType, dict[str, Signal]] = graph.__dict__["_signals"]
        _check_target(signals, graph.tables, path)
        graph.validate()
        if graph._global_store:
            raise InputError("graph-level attributes are not saved", field=next(iter(graph._global_store.keys())),
                             remedy="delete it, or put plain values into graph.metadata")
        sizes = {kind: graph.size_of(kind) for kind in (*graph.node_types, *graph.edge_types)}
        parts = GraphTables.of_graph(graph)
    with atomic_path(path, folder=True) as folder:
        document = _write_parts(parts, sizes, folder)
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        document["files"] = {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
                             for name in names}
        document["data_sha256"] = _data_digest(document)
        document["document_sha256"] = _digest(document)
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / GRAPH).write_text(text + "\n", encoding="utf-8")


def _check_plain(metadata: dict[str, Any]) -> None:
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"not plain values for JSON: {error}", field="metadata",
                         remedy="use texts, finite numbers, booleans, lists and dictionaries") from error


def _check_target(signals: dict[GraphType, dict[str, Signal]], tables: dict[str, Any], path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError("something else than a bundle is there", file=path, remedy="choose another place")
    if path.is_dir() and any(path.iterdir()) and not (path / GRAPH).is_file():
        raise InputError("the folder is not a bundle, and would be replaced", file=path,
                         remedy="choose a new name, such as city.stg")
    for name, table in tables.items():
        if isinstance(table, Path) and table.resolve().is_relative_to(path.resolve()):
            raise InputError("a table of this graph is still read from the bundle that would be replaced", file=path,
                             field=name, remedy="save it elsewhere, or put graph.table(name) in its place")
    if not signals:
        return
    from stgraph.graph.arrays import folder_of

    for kind, found in signals.items():
        for name, signal in found.items():
            for array in (signal.values, signal.mask):
                source = folder_of(array)
                if source is not None and source.is_relative_to(path.resolve()):
                    raise InputError("a signal of this graph is still read from the bundle that would be replaced",
                                     file=path, field=f"{label(kind)}.{name}",
                                     remedy="save it elsewhere, or load it with in_memory=True")


def _write_parts(graph: GraphTables, sizes: dict[GraphType, int], folder: Path) -> dict[str, Any]:
    from stgraph.graph.tables import write_table

    for part in _FOLDERS:
        (folder / part).mkdir()
    schema = graph.complete_schema()
    for kind, table in graph.items():
        write_table(folder / _table(kind), table, schema.of(kind))
    for name, loose in graph.tables.items():
        check_name(name, "table")
        _write_loose(folder / f"{name}.parquet", loose)
    sources = [source for source in graph.metadata.get("sources") or () if isinstance(source, dict)]
    return {
        "format": FORMAT, "version": VERSION, "stgraph": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "licences": _distinct(sources, "licence"), "attribution": _distinct(sources, "attribution"),
        "metadata": dict(graph.metadata),
        "time": None if graph.time is None else graph.time.to_dict(),
        "counts": {"nodes": {kind: sizes[kind] for kind in graph.nodes},
                   "edges": [{"type": list(kind), "count": sizes[kind]} for kind in graph.edges]},
        "schema": schema.to_dict(),
        "signals": _write_signals(graph.signals, folder),
        "tables": sorted(graph.tables),
    }


def _write_loose(target: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    if isinstance(table, Path):
        shutil.copyfile(table, target)
    else:
        pq.write_table(table, target, compression="zstd")


def _write_signals(signals: dict[GraphType, dict[str, Signal]], folder: Path) -> list[dict[str, Any]]:
    described = []
    for kind, found in signals.items():
        for name, signal in found.items():
            from stgraph.graph.arrays import write_array

            place = f"signals/{label(kind)}/{name}"
            axes = ("time", "node" if isinstance(kind, str) else "edge", "channel")
            write_array(folder / place / "values", signal.values, axes)
            masked = not _fully_observed(signal)
            if masked:
                write_array(folder / place / "mask", signal.mask, axes)
            described.append({"of": kind if isinstance(kind, str) else list(kind), "name": name,
                              "dtype": np.dtype(signal.values.dtype).name, "shape": list(signal.shape),
                              "masked": masked, "channels": [channel.to_dict() for channel in signal.channels]})
    return described


def _fully_observed(signal: Signal) -> bool:
    if signal.mask is None:
        return True
    rows = max(1, IN_MEMORY_BYTES // 16 // max(1, signal.shape[1] * signal.shape[2]))
    return all(np.asarray(signal.mask[start:start + rows]).all() for start in range(0, signal.shape[0], rows))


def _distinct(sources: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(source[key]) for source in sources if source.get(key)))


def _table(kind: GraphType) -> str:
    return f"{'nodes' if isinstance(kind, str) else 'edges'}/{label(kind)}.parquet"


# ---------------------------------------------------------------- hashes
def data_sha256(path: Path | str) -> str:
    """Hash of what a bundle holds (data files, schema, time axis), whenever and wherever it was written.

    Raises:
        BundleError: for a folder that is not a bundle of this version, or whose ``graph.json`` was altered.
    """
    return str(_read_document(Path(path))["data_sha256"])


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _data_digest(document: dict[str, Any]) -> str:
    return _digest({key: document[key] for key in ("time", "counts", "schema", "signals", "files")})


# ---------------------------------------------------------------- reading
def load(path: Path | str, in_memory: bool | Literal["auto"] = "auto", verify: bool = True) -> DynamicHeteroGraph:
    """Read a bundle.

    Args:
        path: The folder.
        in_memory: True: signals are read; False: they stay Zarr arrays on disk; ``auto``: those under 1 GiB are read.
        verify: Whether the hash of every file is checked; sizes always are, and every chunk of a signal has a checksum
            of its own that is checked when it is read.

    Raises:
        BundleError: naming file, field, value and remedy, for a bundle that is half-written, truncated, altered, or
            from a newer version.
    """
    path = Path(path)

    def build(document: dict[str, Any]) -> DynamicHeteroGraph:
        from stgraph.graph.tables import to_graph

        tables = _build(path, document, in_memory)
        sizes = _counts(document)
        return to_graph(tables, sizes)

    return _reading(path, verify, build)


def load_tables(path: Path | str, nodes: Collection[str] | None = None, edges: Collection[EdgeType] | None = None,
                in_memory: bool | Literal["auto"] = "auto", verify: bool = True) -> GraphTables:
    """Read a bundle as Arrow tables, without torch.

    Args:
        path: The folder.
        nodes: Node types to read; None for all.
        edges: Edge types to read; None for all.
        in_memory: As for :func:`load`.
        verify: As for :func:`load`.

    Raises:
        BundleError: as for :func:`load`.
    """
    path = Path(path)
    return _reading(path, verify, lambda document: _build(path, document, in_memory, nodes, edges))


def _reading(path: Path, verify: bool, build: Callable[[dict[str, Any]], Found]) -> Found:
    document = _read_document(path)
    try:
        _check_files(path, document["files"], [str(name) for name in document.get("tables", [])], verify)
        return build(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError("a part of the description is missing or of another kind", file=path / GRAPH,
                          value=f"{type(error).__name__}: {error}", remedy=_AGAIN) from error
    except BundleError:
        raise
    except InputError as error:
        raise BundleError(error.problem, file=error.file or path, field=error.field, value=error.value,
                          remedy=_AGAIN) from error


def _read_document(path: Path) -> dict[str, Any]:
    file = path / GRAPH
    if path.is_symlink() or file.is_symlink():
        raise BundleError("a bundle holds no symbolic links", file=path, remedy="name the folder itself")
    if not path.exists():
        raise BundleError("no such bundle", file=path, remedy="check the path")
    if not file.is_file():
        raise BundleError("not a bundle: graph.json is missing", file=path,
                          remedy="name a folder that stgraph build made; a half-written one must be made again")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"not readable as JSON: {error}", file=file, remedy=_AGAIN) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise BundleError("not the description of a stgraph bundle", file=file, field="format", value=found,
                          remedy=f"its format must be {FORMAT}")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BundleError("made by a newer stgraph", file=file, field="version", value=version,
                          remedy=f"upgrade stgraph: this one reads version {VERSION}")
    if version != VERSION:
        raise BundleError("not a version of the bundle", file=file, field="version", value=version, remedy=_AGAIN)
    given = document.pop("document_sha256", None)
    if given != _digest(document):
        raise BundleError("graph.json was altered after it was written", file=file, field="document_sha256",
                          value=given, remedy=_AGAIN)
    for key, kind in _PARTS.items():
        if not isinstance(document.get(key), kind):
            raise BundleError("a part of the description is missing or of another kind", file=file, field=key,
                              value=type(document.get(key)).__name__, remedy=_AGAIN)
    if document["data_sha256"] != _data_digest(document):
        raise BundleError("the hash of the data is not that of the files listed", file=file, field="data_sha256",
                          value=document["data_sha256"], remedy=_AGAIN)
    return document


def _check_files(path: Path, files: dict[str, dict[str, Any]], tables: list[str], verify: bool) -> None:
    loose = {f"{name}.parquet" for name in tables}
    present = {file.name for file in path.glob("*.parquet")}
    if any((path / name).is_symlink() for name in present):
        raise BundleError("a bundle holds no symbolic links", file=path, remedy=_AGAIN)
    for folder in _FOLDERS:
        for file in (path / folder, *(path / folder).rglob("*")):
            if file.is_symlink():
                raise BundleError("a bundle holds no symbolic links", file=file, remedy=_AGAIN)
            if file.is_file():
                present.add(file.relative_to(path).as_posix())
    for name in files:
        if (name not in loose and name.split("/")[0] not in _FOLDERS) or ".." in name.split("/") or "\\" in name:
            raise BundleError("a file of the bundle lies outside its folders", file=path / GRAPH, field="files",
                              value=name, remedy=_AGAIN)
    if missing := sorted(set(files) - present):
        raise BundleError(f"{len(missing)} files are missing", file=path / missing[0], field="files", remedy=_AGAIN)
    if extra := sorted(present - set(files)):
        raise BundleError(f"{len(extra)} files do not belong to the bundle", file=path / extra[0], field="files",
                          remedy="remove them")
    for name, expected in files.items():
        size = (path / name).stat().st_size
        if size != expected["bytes"]:
            raise BundleError("the file has another size than when it was written", file=path / name, field="bytes",
                              value=size, remedy=f"{_AGAIN}: {expected['bytes']} bytes are due")
        if verify and sha256(path / name) != expected["sha256"]:
            raise BundleError("the file was altered after it was written", file=path / name, field="sha256",
                              value=sha256(path / name), remedy=_AGAIN)


def _counts(document: dict[str, Any]) -> dict[GraphType, int]:
    counts: dict[GraphType, int] = dict(document["counts"]["nodes"])
    counts.update({edge_type(entry["type"]): int(entry["count"]) for entry in document["counts"]["edges"]})
    return counts


def _build(path: Path, document: dict[str, Any], in_memory: bool | Literal["auto"],
           nodes: Collection[str] | None = None, edges: Collection[EdgeType] | None = None) -> GraphTables:
    from stgraph.graph.tables import read_table

    schema = Schema.from_dict(document["schema"])
    tables = GraphTables(metadata=document["metadata"], schema=schema,
                         time=None if document["time"] is None else TimeAxis.from_dict(document["time"]))
    counts = _counts(document)
    for kind, count in counts.items():
        for part in (kind,) if isinstance(kind, str) else kind:
            check_name(part, "type")
        declared = schema.of(kind)
        for name, attribute in declared.items():
            _check_declared(path, kind, name, attribute)
        if isinstance(kind, str) and (nodes is None or kind in nodes):
            tables.nodes[kind] = read_table(path / _table(kind), declared, count)
        elif not isinstance(kind, str) and (edges is None or kind in edges):
            tables.edges[kind] = read_table(path / _table(kind), declared, count)
    for described in document["signals"]:
        kind = described["of"] if isinstance(described["of"], str) else edge_type(described["of"])
        check_name(described["name"], "signal")
        if kind not in counts:  # refused before its name becomes part of a path
            raise BundleError("a signal belongs to a type that does not exist", file=path / GRAPH, field="signals",
                              value=label(kind), remedy=_AGAIN)
        if kind in tables.nodes or kind in tables.edges:
            signal = _read_signal(path, kind, described, in_memory)
            tables.signals.setdefault(kind, {})[described["name"]] = signal
    for name in document.get("tables", []):
        check_name(name, "table")
        tables.tables[name] = path / f"{name}.parquet"
    return tables


def _check_declared(path: Path, kind: GraphType, name: str, attribute: Attribute) -> None:
    check_name(name, "attribute")
    if attribute.dtype not in ("str", GEOMETRY, *DTYPES):
        raise BundleError("unknown data type", file=path / GRAPH, field=f"{label(kind)}.{name}",
                          value=attribute.dtype, remedy=f"known are str, {GEOMETRY}, {', '.join(DTYPES)}")


def _read_signal(path: Path, kind: GraphType, described: dict[str, Any],
                 in_memory: bool | Literal["auto"]) -> Signal:
    from stgraph.graph.arrays import open_array, read_array

    folder = path / "signals" / label(kind) / described["name"]
    length, places, channels = (int(one) for one in described["shape"])
    arrays: list[Any] = [open_array(folder / "values", (length, places, channels), described["dtype"])]
    if described["masked"]:
        arrays.append(open_array(folder / "mask", (length, places, channels), "bool"))
    size = length * places * channels * sum(np.dtype(array.dtype).itemsize for array in arrays)
    if in_memory is True or (in_memory == "auto" and size < IN_MEMORY_BYTES):
        arrays = [read_array(array, folder) for array in arrays]
    return Signal(arrays[0], arrays[1] if described["masked"] else None,
                  [Channel.from_dict(channel) for channel in described["channels"]])
