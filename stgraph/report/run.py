"""From a trained run to the content of its report page."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pandas as pd
import torch

from stgraph.evaluate import Evaluation, evaluate
from stgraph.evaluate.evaluate import scored_channels
from stgraph.models import Forecaster
from stgraph.report.page import ReportContent, write_report
from stgraph.windows import City, PartBatches, loader

CURVES = 12
MAX_ROWS = 2016
MAX_ORIGINS = 288
STEPS = (3, 6, 12)


def report_run(model: Forecaster, city: City, record: dict[str, Any], path: Path, part: str = "test") -> Path:
    """Score a model on a part and write the page.

    Args:
        model: The forecaster.
        city: The city.
        record: What ``run.json`` holds; may be empty.
        path: The HTML file.
        part: ``train``, ``validation`` or ``test``.

    Returns:
        The path of the page.
    """
    evaluation = evaluate(model, city, part)
    write_report(content(model, city, record, evaluation, part), path)
    return path


def content(model: Forecaster, city: City, record: dict[str, Any], evaluation: Evaluation, part: str) -> ReportContent:
    """All that the page shows, for the first scored channel; curves cover the last rows of the part."""
    summary = evaluation.record | {"seed": record.get("seed")}
    summary["slices"] = {name: table for name, table in summary["slices"].items() if name != "sensor"}  # on the map
    channel = city.signal.channels[0]
    scored = scored_channels(city)
    error = evaluation.errors.mae_by("node", scored).numpy()
    chosen, labels = _choose(error)
    first, last = city.split.rows(part)
    first = max(first, last - MAX_ROWS)
    values, mask = city.signal.read(first, last)
    truth = np.where(mask, city.signal.to_source(values.astype(float), 0), np.nan)[:, chosen, 0]
    origins, forecasts = _forecasts(model, city, part, chosen, first)
    at = {step: np.full(truth.shape, np.nan) for step in STEPS if step <= city.horizon}
    for step, table in at.items():
        rows = origins + step - 1 - first
        table[rows] = forecasts[:, step - 1]
    shown = np.unique(np.linspace(0, len(origins) - 1, min(MAX_ORIGINS, len(origins))).round().astype(int))
    times = pd.DatetimeIndex(city.time.times(np.arange(first, last)).astype("datetime64[s]"), tz="UTC")
    errors = evaluation.errors
    return ReportContent(
        title=f"{model.name} on {city.name}",
        simulated=bool(summary["simulated"]),
        model=model.name,
        summary=summary,
        quantity=channel.name,
        unit="" if channel.source_unit == "1" else channel.source_unit,
        step_seconds=city.time.step,
        sensor_ids=[str(i) for i in city.node_ids],
        positions=city.lonlat.numpy(),
        layout=_layout(city),
        edges=city.edges[0].numpy(),
        error_by_sensor=error,
        error_by_sensor_at={step: _mae(errors.absolute[step - 1, :, scored], errors.count[step - 1, :, scored])
                            for step in at},
        times=[t.isoformat() for t in times.tz_convert(city.time.tz)],
        curve_sensors=chosen.tolist(),
        curve_labels=labels,
        truth=truth,
        forecast_at=at,
        origins=(origins[shown] - 1 - first).tolist(),
        forecast_from=forecasts[shown],
        error_by_step=errors.mae_by("horizon", scored).numpy(),
        control_error_by_step={name: found.mae_by("horizon", scored).numpy()
                               for name, found in evaluation.control_errors.items()},
        provenance=_provenance(city, record, summary),
        next_command="stgraph build sensors READINGS --locations SENSORS.csv -o mycity.stg && "
                     f"stgraph train --data mycity.stg --model {model.name} --out runs/mycity",
    )


def _choose(error: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Sensors spread over the order of errors, from the lowest to the highest."""
    known = np.flatnonzero(np.isfinite(error))
    order = known[np.argsort(error[known], kind="stable")]
    ranks = np.unique(np.linspace(0, len(order) - 1, min(CURVES, len(order))).round().astype(int))
    names = {0: "lowest error", len(order) - 1: "highest error"}
    labels = [names.get(int(rank), f"error rank {rank + 1} of {len(order)}") for rank in ranks]
    return order[ranks], labels


def _forecasts(model: Forecaster, city: City, part: str, chosen: np.ndarray,
               first: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins ``[O]`` whose window lies in the shown rows, and forecasts ``[O, H, K]`` in the source's unit."""
    origins, means = [], []
    for window in loader(PartBatches(city, part, 64, model.capabilities.needs)):
        keep = window.origin >= first + 1
        if keep.any():
            with torch.inference_mode():
                mean = model(window).mean[:, :, chosen, 0].double().numpy()
            origins.append(window.origin[keep].numpy())
            means.append(mean[keep.numpy()])
    return np.concatenate(origins), city.signal.to_source(np.concatenate(means), 0)


def _mae(absolute: torch.Tensor, count: torch.Tensor) -> np.ndarray:
    return (absolute.sum(-1) / count.sum(-1)).numpy()


def _words(command: str | list[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _layout(city: City) -> np.ndarray | None:
    """A drawing of the edges ``[N, 2]`` for a city whose places are not known."""
    if torch.isfinite(city.lonlat).all(1).any() or city.edges[0].shape[1] == 0:
        return None
    drawn: networkx.Graph = networkx.Graph()
    drawn.add_nodes_from(range(city.num_nodes))
    drawn.add_edges_from(city.edges[0].T.tolist())
    places = networkx.spring_layout(drawn, seed=0)
    return np.array([places[node] for node in range(city.num_nodes)])


def _provenance(city: City, record: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    metadata = city.graph.metadata
    sources = metadata.get("sources", [])
    commands = [_words(found) for found in (metadata.get("command"), record.get("command")) if found]
    facts = {
        "bundle": city.name,
        "data_sha256": city.sha256,
        "trained on rows": "{} to {}".format(*city.split.rows("train")),
        "scored rows": f"{summary['split']['first_row']} to {summary['split']['last_row']}, "
                       f"{summary['split']['from']} to {summary['split']['to']}",
        "training": ", ".join(f"{record[key]} {key}" for key in ("steps", "seconds") if record.get(key) is not None),
        "seed": record.get("seed"),
        "machine": record.get("machine") or record.get("device"),
        "versions": ", ".join(f"{key} {value}" for key, value in summary["versions"].items()),
        "made": datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat(),
        "sources": [" ".join(str(v) for v in source.values() if v) for source in sources],
        "licences": sorted({str(s["licence"]) for s in sources if s.get("licence")}),
        "attributions": sorted({str(s["attribution"]) for s in sources if s.get("attribution")}),
        "commands": commands,
    }
    return {key: value for key, value in facts.items() if value not in (None, "", [])}
