"""Drawings of a record: roofline, rivals, sparse against dense, order of nodes. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stgraph.bench.ways import OWN
from stgraph.errors import InputError
from stgraph.io import atomic_path

_DENSE = "dense GEMM"


def check_drawing() -> None:
    """Refuse at once, not after minutes of measuring, where nothing could be drawn.

    Raises:
        InputError: where matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("drawings need matplotlib", field="--out",
                         remedy="pip install 'stgraph-city[picture]', or leave out --out") from error


def draw(record: dict[str, Any], folder: Path) -> list[str]:
    """Write the drawings that the cases allow, each as SVG and PNG.

    Args:
        record: Of :func:`stgraph.bench.runner.run`.
        folder: Where to.

    Returns:
        Names of the drawings, without their endings.

    Raises:
        InputError: where matplotlib is not installed, or the folder cannot be written to.
    """
    check_drawing()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = []
    drawings: dict[str, Callable[[dict[str, Any], Any], bool]] = {
        "roofline": _roofline, "rivals": _rivals, "density": _density, "order": _order}
    for name, function in drawings.items():
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        if function(record, axes):
            for ending in ("svg", "png"):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=ending, dpi=130, metadata={"Date": None} if ending == "svg" else None)
                with atomic_path(folder / f"{name}.{ending}") as work:
                    work.write_bytes(buffer.getvalue())
            done.append(name)
        pyplot.close(figure)
    return done


def _own(entry: dict[str, Any]) -> dict[str, Any] | None:
    return next((way for way in entry["ways"] if way["name"] == OWN), None)


def _roofline(record: dict[str, Any], axes: Any) -> bool:
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in record["cases"]:
        own, least = _own(entry), entry["least"]
        if own is not None and least["operations"] and entry["case"]["family"] != "overhead":
            run = "forward" if entry["case"]["run"] == "forward" else "gradients"
            label = f"{entry['case']['operator']}, {run}"
            points.setdefault(label, []).append((least["operations"] / least["bytes"],
                                                 least["operations"] / own["median_ms"] / 1e6))
    if not points:
        return False
    for label, of in points.items():
        axes.scatter(*zip(*of, strict=True), label=label, s=22)
    copy = record["abilities"]["before"]["copy_gb_s"]
    peak = record["abilities"]["before"]["gemm_gflop_s"]
    across = [x for of in points.values() for x, _ in of]
    corner = peak / copy
    line = sorted({min(across) / 1.5, corner, max(max(across), corner) * 1.5})
    axes.plot(line, [min(copy * x, peak) for x in line], color="black", linewidth=1,
              label=f"copy {copy:.0f} GB/s, dense product {peak:.0f} GFLOP/s")
    axes.set(xscale="log", yscale="log", xlabel="operations per minimal byte", ylabel="GFLOP/s",
             title="Roofline: ours, medians")
    axes.legend(fontsize=8)
    return True


def _rivals(record: dict[str, Any], axes: Any) -> bool:
    entries = [entry for entry in record["cases"]
               if entry["case"]["family"] in ("spmm", "backward", "attention") and _own(entry) is not None]
    if not entries:
        return False
    names = list(dict.fromkeys(way["name"] for entry in entries for way in entry["ways"] if way["name"] != OWN))
    height = 0.8 / max(len(names), 1)
    axes.figure.set_size_inches(8, max(5.0, 0.12 * len(names) * len(entries) + 1))
    for number, name in enumerate(names):
        found = [(place, way["times_ours"]) for place, entry in enumerate(entries) for way in entry["ways"]
                 if way["name"] == name]
        axes.barh([place + (number - (len(names) - 1) / 2) * height for place, _ in found],
                  [ratio for _, ratio in found], height=height, label=name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(entries)), [entry["title"] for entry in entries], fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times as long as ours (median over median)", title="Rivals")
    axes.legend(fontsize=7)
    return True


def _density(record: dict[str, Any], axes: Any) -> bool:
    entries = sorted((entry for entry in record["cases"] if entry["case"]["family"] == "density"),
                     key=lambda entry: entry["edges"] / entry["nodes"] ** 2)
    if len(entries) < 2:
        return False
    for name in dict.fromkeys(way["name"] for entry in entries for way in entry["ways"]):
        if name not in (OWN, _DENSE, "torch.sparse"):
            continue
        found = [(entry["edges"] / entry["nodes"] ** 2, way["median_ms"]) for entry in entries for way in entry["ways"]
                 if way["name"] == name]
        axes.plot(*zip(*found, strict=True), marker="o", label=name)
    case = entries[0]["case"]
    axes.set(xscale="log", yscale="log", xlabel="density of the matrix", ylabel="ms (median)",
             title=f"{entries[0]['nodes']} nodes, BT {case['slabs']}, F {case['features']}")
    axes.legend()
    return True


def _order(record: dict[str, Any], axes: Any) -> bool:
    entries = [entry for entry in record["cases"] if entry["case"]["graph"].startswith("road 200k")
               and entry["case"]["family"] in ("spmm", "order")]
    if len(entries) < 2:
        return False
    names = list(dict.fromkeys(way["name"] for entry in entries for way in entry["ways"]))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        found = [(place, way["median_ms"]) for place, entry in enumerate(entries) for way in entry["ways"]
                 if way["name"] == name]
        axes.bar([place + (number - (len(names) - 1) / 2) * width for place, _ in found], [ms for _, ms in found],
                 width=width, label=name)
    words = {"road 200k": "Hilbert", "road 200k, line by line": "line by line", "road 200k, shuffled": "shuffled"}
    axes.set_xticks(range(len(entries)), [words[entry["case"]["graph"]] for entry in entries])
    axes.set(yscale="log", ylabel="ms (median)", title="Order of the nodes: 200k junctions, F 64")
    axes.legend(fontsize=7)
    return True
