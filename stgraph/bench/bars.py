"""Promises, and whether a run kept them."""

from __future__ import annotations

from typing import Any

from stgraph.bench.case import BACKWARD, BOTH, FORWARD, RECORDED, WEIGHTS
from stgraph.bench.ways import OWN

_SPARSE, _PASSING, _NODES_FIRST = "torch.sparse", "PyG MessagePassing", "PyG MessagePassing, node-major"
_EAGER = ("PyG-style eager layer", "PyG GATConv")


def verdicts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, what was measured, and whether it was met; promises about cases that did not run are left out.

    Args:
        record: Of :func:`stgraph.bench.runner.run`, with ``cases`` and ``shrink``.

    Returns:
        Entries with ``case``, ``bar``, ``measured`` and ``met`` (None where it cannot be told).
    """
    found: list[dict[str, Any]] = []
    cases = _Cases(record["cases"])
    for graph, slabs, most, sparse, passing in (("sensor", 32, 1.7, 3.0, 40.0), ("road 200k", 1, 1.7, 2.0, None),
                                                ("road 200k, shuffled", 1, None, 4.0, None)):
        entry = cases.get("spmm", graph, slabs, 64, FORWARD, family="spmm")
        if entry is None:
            continue
        if most is not None:
            found.append(_most(entry, "the copy floor", _of(entry, OWN, "times_floor"), most, "x"))
        found.append(_least(entry, (_SPARSE,), sparse))
        if passing is not None:
            bar, other = _least(entry, (_PASSING,), passing), _of(entry, _NODES_FIRST, "times_ours")
            found.append(bar | ({} if other is None else {"measured": f"{bar['measured']}; node-major {other:.2f}x"}))
    for graph, slabs in (("sensor", 32), ("road 200k", 1)):
        found += [_least(entry, (_SPARSE,), 1.0) for width in (1, 2, 4)
                  if (entry := cases.get("spmm", graph, slabs, width, FORWARD, family="narrow"))]
    for run, least in ((FORWARD, 20.0), (BOTH, 8.0)):
        entry = cases.get("gat_aggregate", "CA", 12, 64, run)
        if entry is not None:
            found += [_least(entry, _EAGER, least), _no_messages(entry)]
    for graph, slabs in (("sensor", 32), ("road 200k", 1)):
        forward = cases.get("spmm", graph, slabs, 64, FORWARD, family="spmm")
        for run in (BACKWARD, WEIGHTS):
            entry = cases.get("spmm", graph, slabs, 64, run, family="backward")
            if entry is not None and forward is not None:
                own, of = _of(entry, OWN, "median_ms"), _of(forward, OWN, "median_ms")
                found.append(_most(entry, "its forward pass", own / of if own and of else None, 3.0, "x"))
    for run, most in ((FORWARD, 6.0), (RECORDED, 20.0)):
        entry = cases.get("spmm", "tiny", 1, 4, run)
        if entry is not None:
            own = _of(entry, OWN, "median_ms")
            found.append(_most(entry, "a call", None if own is None else 1e3 * own, most, " us"))
    if record["shrink"] > 1:
        found = [bar | {"met": None, "measured": f"{bar['measured']} (sizes divided by {record['shrink']})"}
                 for bar in found]
    return found


class _Cases:
    def __init__(self, cases: list[dict[str, Any]]) -> None:
        self.cases = cases

    def get(self, operator: str, graph: str, slabs: int, features: int, run: str,
            family: str | None = None) -> dict[str, Any] | None:
        wanted = {"operator": operator, "graph": graph, "slabs": slabs, "features": features, "run": run,
                  "reduce": "sum"} | ({} if family is None else {"family": family})
        return next((entry for entry in self.cases if wanted.items() <= entry["case"].items()), None)


def _of(entry: dict[str, Any], name: str, field: str) -> float | None:
    return next((way[field] for way in entry["ways"] if way["name"] == name), None)


def _most(entry: dict[str, Any], of: str, value: float | None, most: float, unit: str) -> dict[str, Any]:
    said = f"at most {most:g}{unit} {of}" if unit == "x" else f"{of}: at most {most:g}{unit}"
    return {"case": entry["title"], "bar": said, "value": value,
            "measured": "not measured" if value is None else f"{value:.2f}{unit}",
            "met": None if value is None else value <= most}


def _least(entry: dict[str, Any], rivals: tuple[str, ...], least: float) -> dict[str, Any]:
    """So many times as quick as the quicker of some rivals."""
    there = [way for way in entry["ways"] if way["name"] in rivals and way["times_ours"] is not None]
    best = min(there, key=lambda way: way["median_ms"], default=None)
    said = f"never slower than {rivals[0]}" if least == 1.0 else f"at least {least:g}x as quick as {rivals[0]}"
    return {"case": entry["title"], "bar": said, "value": best and best["times_ours"],
            "measured": "not measured" if best is None else
            f"{best['times_ours']:.2f}x; of CPU time {best['cpu_times_ours']:.2f}x ({best['name']}: {best['variant']})",
            "met": None if best is None else best["times_ours"] >= least}


def _no_messages(entry: dict[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = next((way for way in entry["ways"] if way["name"] == OWN), {})
    peak = own.get("peak", {})
    if "workspace_bytes" not in peak:
        measured, met = f"not measured{': ' + peak['reason'] if 'reason' in peak else ''}", None
    else:
        met = peak["holds_no_messages"]
        beside, results, messages = (max(peak[name], 0) / 1e6 for name in ("workspace_bytes", "result_bytes",
                                                                           "message_bytes"))
        measured = (f"{beside:,.1f} MB beside results of {results:,.1f} MB; messages of all edges would be "
                    f"{messages:,.1f} MB")
    return {"case": entry["title"], "bar": "holds no E x F buffer", "value": peak.get("workspace_bytes"),
            "measured": measured, "met": met}
