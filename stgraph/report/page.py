"""The report: one self-contained HTML page rendered from a plain content object.

Nothing on the page is fetched: style, script and numbers are inside it, and its content security policy forbids the
network. The same content gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from stgraph.io import write_text
from stgraph.report import words

Array = npt.NDArray[Any]

KM_PER_DEGREE = 111.195  # of latitude, on a sphere of the mean earth radius of 6371 km
EDGE_LIMIT = 30_000  # more lines than this are a grey area on screen and megabytes in the file
_SHOWN_APART = ("commands", "attributions")  # parts of the provenance that have a place of their own on the page
_SCRIPTS = ("chart.js", "map.js", "curves.js", "page.js")  # one script, in this order
_RUN_FIELDS = ("data", "data_sha256", "split", "history", "seed", "parameters", "seconds", "peak_memory_mb", "device",
               "versions")


@dataclass(kw_only=True)
class ReportContent:
    """All that a report page shows. N sensors, E edges, R test rows, K sensors with curves, O origins, H steps.

    Errors and readings are in the source's unit. NaN marks what is missing.
    """

    title: str
    simulated: bool  # shows a badge and a sentence that no reading was measured
    model: str
    summary: Mapping[str, Any]  # `evaluate --json`: mape in percent, "slices" {group: {level: {mae, count}}}
    quantity: str  # what was forecast, e.g. "speed"
    unit: str  # unit of readings and errors, e.g. "mph"
    step_seconds: float
    sensor_ids: Sequence[str]  # [N]
    positions: Array  # [N, 2] longitude and latitude in degrees, NaN where unknown
    edges: Array  # [2, E] sensor indices
    error_by_sensor: Array  # [N] mean absolute error over all steps
    error_by_sensor_at: Mapping[int, Array]  # {step: [N]}, steps counted from 1
    times: Sequence[str]  # [R] local ISO times of the test rows, best with their offset from UTC
    curve_sensors: Sequence[int]  # [K] indices of the sensors that have curves
    truth: Array  # [R, K]
    forecast_at: Mapping[int, Array]  # {step: [R, K]}, aligned to the row that was forecast
    origins: Sequence[int]  # [O] rows of the last reading a forecast saw
    forecast_from: Array  # [O, H, K]
    error_by_step: Array  # [H] mean absolute error of the model
    control_error_by_step: Mapping[str, Array]  # {control: [H]}
    provenance: Mapping[str, Any]  # any keys; lists "commands" and "attributions" have places of their own
    next_command: str
    curve_labels: Sequence[str] = field(default_factory=list)  # [K] why each was chosen, e.g. "median error"; or empty
    layout: Array | None = None  # [N, 2] drawing plane (y up), used where no position is known


def render(content: ReportContent) -> str:
    """The page as HTML.

    Raises:
        ValueError: where the parts of the content disagree about N, R, K, O or H.
    """
    script = "".join(map(_part, _SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(label=words.label, plain=words.plain, linked=_linked, unbroken=_unbroken)
    environment.tests["hash"] = words.is_hash
    return environment.from_string(_part("template.html")).render(
        style=Markup(_part("page.css")), script=Markup(script), script_digest=digest,
        data=Markup(script_json(payload(content))), **_texts(content)) + "\n"


def write_report(content: ReportContent, path: Path | str) -> None:
    """Write the page whole or not at all.

    Raises:
        ValueError: as :func:`render`.
        InputError: where the file cannot be written.
    """
    write_text(path, render(content))


def payload(content: ReportContent) -> dict[str, Any]:
    """The numbers that the page carries as JSON, rounded to what a reader can see; missing values are None.

    Readings keep three to four significant digits of the largest, errors two more, coordinates a metre.

    Raises:
        ValueError: where the parts of the content disagree about N, R, K, O or H.
    """
    _check(content)
    curves = [np.asarray(content.truth, float), *(np.asarray(a, float) for a in content.forecast_at.values())]
    reading_places = _places(curves, 2)
    errors = [np.asarray(content.error_by_sensor, float), np.asarray(content.error_by_step, float)]
    error_places = _places(errors, 4)
    positions = np.asarray(content.positions, float)
    kind, plane = place(positions, content.layout)
    return {
        "title": content.title,
        "simulated": content.simulated,
        "model": content.model,
        "quantity": content.quantity,
        "unit": content.unit,
        "step_seconds": content.step_seconds,
        "sensors": [str(sensor) for sensor in content.sensor_ids],
        "positions": _numbers(positions, 5),
        "edges": shown_edges(np.asarray(content.edges), positions).T.tolist(),
        "map": {"kind": kind, "x": _numbers(plane[:, 0], 3), "y": _numbers(plane[:, 1], 3)},
        "error": _numbers(content.error_by_sensor, error_places),
        "error_at": {str(step): _numbers(values, error_places) for step, values in content.error_by_sensor_at.items()},
        "times": list(content.times),
        "breaks": time_breaks(content.times, content.step_seconds),
        "curves": {
            "sensors": [int(sensor) for sensor in content.curve_sensors],
            "truth": _numbers(np.asarray(content.truth, float).T, reading_places),
            "forecast_at": {str(step): _numbers(np.asarray(values, float).T, reading_places)
                            for step, values in content.forecast_at.items()},
            "origins": [int(origin) for origin in content.origins],
            "forecast_from": _numbers(np.asarray(content.forecast_from, float).transpose(2, 0, 1), reading_places),
        },
        "error_by_step": _numbers(content.error_by_step, error_places),
        "control_error_by_step": {name: _numbers(values, error_places)
                                  for name, values in content.control_error_by_step.items()},
        "summary": _without_nan(content.summary),
        "provenance": _without_nan(content.provenance),
        "next_command": content.next_command,
    }


def script_json(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def place(positions: Array, layout: Array | None = None) -> tuple[str, Array]:
    """Where each sensor is drawn.

    Args:
        positions: ``[N, 2]`` longitude and latitude in degrees, NaN where unknown.
        layout: ``[N, 2]`` on any plane, used only where every position is unknown.

    Returns:
        ``"places"`` and ``[N, 2]`` kilometres east and north of the middle (equirectangular, scaled with the cosine of
        the middle latitude; NaN where unknown), ``"layout"`` and the given plane, or ``"grid"`` and a square grid.
    """
    known = np.isfinite(positions).all(axis=1)
    if known.any():
        longitude, latitude = positions[:, 0], positions[:, 1]
        first = longitude[known][0]
        longitude = first + (longitude - first + 180.0) % 360.0 - 180.0  # a city across the antimeridian stays whole
        middle = [(np.min(a[known]) + np.max(a[known])) / 2 for a in (longitude, latitude)]
        east = (longitude - middle[0]) * KM_PER_DEGREE * math.cos(math.radians(middle[1]))
        plane = np.stack([east, (latitude - middle[1]) * KM_PER_DEGREE], axis=1)
        plane[~known] = np.nan
        return "places", plane
    if layout is not None:
        plane = np.asarray(layout, float)
        size = float(np.ptp(plane, axis=0).max()) or 1.0
        return "layout", (plane - plane.min(axis=0)) * (100.0 / size)
    index = np.arange(len(positions))
    columns = math.ceil(math.sqrt(len(positions) * 1.6)) or 1
    return "grid", np.stack([index % columns, -(index // columns)], axis=1).astype(float)


def shown_edges(edges: Array, positions: Array) -> Array:
    """The edges to draw ``[2, E']``: each pair once, no loops, and the shortest first where there are too many."""
    if edges.size == 0:
        return np.zeros((2, 0), int)
    pairs = np.unique(np.sort(edges.astype(int), axis=0), axis=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    if pairs.shape[1] > EDGE_LIMIT:
        plane = place(positions)[1]
        length = np.linalg.norm(plane[pairs[0]] - plane[pairs[1]], axis=1)
        pairs = pairs[:, np.sort(np.argsort(length, kind="stable")[:EDGE_LIMIT])]
    return pairs


def time_breaks(times: Sequence[str], step_seconds: float) -> list[int]:
    """Rows before which time is missing (a night without service, a gap): a line is not drawn across them."""
    instants = [datetime.fromisoformat(time) for time in times]
    return [row for row in range(1, len(instants))
            if (instants[row] - instants[row - 1]).total_seconds() > 1.5 * step_seconds]


def _check(content: ReportContent) -> None:
    """Compare every part's shape with what the others say."""
    sensors, rows, curves = len(content.sensor_ids), len(content.times), len(content.curve_sensors)
    steps, origins = len(content.error_by_step), len(content.origins)
    expected: list[tuple[str, Any, tuple[int, ...]]] = [
        ("positions", content.positions, (sensors, 2)),
        ("error_by_sensor", content.error_by_sensor, (sensors,)),
        ("truth", content.truth, (rows, curves)),
        ("forecast_from", content.forecast_from, (origins, steps, curves)),
        *((f"error_by_sensor_at[{step}]", a, (sensors,)) for step, a in content.error_by_sensor_at.items()),
        *((f"forecast_at[{step}]", a, (rows, curves)) for step, a in content.forecast_at.items()),
        *((f"control_error_by_step[{name}]", a, (steps,)) for name, a in content.control_error_by_step.items()),
    ]
    if content.curve_labels:
        expected.append(("curve_labels", content.curve_labels, (curves,)))
    if content.layout is not None:
        expected.append(("layout", content.layout, (sensors, 2)))
    for name, values, shape in expected:
        if np.shape(values) != shape:
            raise ValueError(f"report content: {name} has shape {np.shape(values)}, expected {shape}")
    for name, indices, size in (("edges", content.edges, sensors), ("curve_sensors", content.curve_sensors, sensors),
                                ("origins", content.origins, rows)):
        array = np.asarray(indices)
        if array.size and (array.min() < 0 or array.max() >= size):
            raise ValueError(f"report content: {name} has an index outside 0..{size - 1}")


def _places(arrays: Sequence[Array], after_first: int) -> int:
    """Decimals that keep ``after_first`` digits after the leading digit of the largest value."""
    largest = max((float(np.nanmax(np.abs(a))) for a in arrays if np.isfinite(a).any()), default=0.0)
    return max(0, after_first - math.floor(math.log10(largest))) if largest > 0 else after_first


def _numbers(values: Any, places: int) -> Any:
    """Nested lists of rounded numbers; whole ones as integers, missing ones as None."""
    array = np.round(np.asarray(values, dtype=float), places)
    return _plain_numbers(array.tolist())


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value


def _without_nan(value: Any) -> Any:
    """The same tree with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _texts(content: ReportContent) -> dict[str, Any]:
    """Everything that the template writes out as text, so that the page reads well even without its script."""
    summary, unit, step = content.summary, content.unit, content.step_seconds
    provenance = content.provenance
    run = {key: summary[key] for key in _RUN_FIELDS if summary.get(key) is not None}
    return {
        "content": content,
        "headline": words.headline(summary, unit, len(content.error_by_step) * step),
        "caveat": words.lost_horizons(summary, step),
        "facts": _facts(content),
        "history": words.history_sentence(content.model, summary, step),
        "figures": _figures(content),
        "leads": [(key, words.duration_short(int(key) * step)) for key in words.step_keys(summary)],
        "map_leads": [(str(key), words.duration_short(key * step)) for key in sorted(content.error_by_sensor_at)],
        "curve_leads": [(str(key), words.duration_short(key * step)) for key in sorted(content.forecast_at)],
        "choices": _choices(content),
        "tables": _tables(content),
        "slices": _slices(content),
        "hours": list((summary.get("slices") or {}).get("hour") or {}),
        "records": [("The data and the run", {k: v for k, v in provenance.items() if k not in _SHOWN_APART}),
                    ("The evaluation", run)],
        "commands": list(provenance.get("commands") or []),
        "attributions": list(provenance.get("attributions") or []),
        "unit": words.unit_text(unit),
    }


def _facts(content: ReportContent) -> str:
    """What was tested, on what, and when."""
    days = sorted({time[:10] for time in content.times})
    span = f"; curves of {days[0]}" if len(days) == 1 else f"; curves of {days[0]} to {days[-1]}" if days else ""
    count = len(content.sensor_ids)
    return (f"{content.model} forecasts {content.quantity} at {count:,} {'sensor' if count == 1 else 'sensors'}, every "
            f"{words.duration_words(content.step_seconds).removeprefix('one ')}{span}.")


def _figures(content: ReportContent) -> list[tuple[str, str, str, str]]:
    """The row of key figures: name, number, unit, remark."""
    summary, unit = content.summary, words.unit_text(content.unit)
    scores, best = summary.get("horizons"), words.best_control(summary)
    error = words.score(scores, "all", "mae")
    figures = [("Mean absolute error", words.significant(error), unit, "over all steps"),
               ("Root mean squared error", words.significant(words.score(scores, "all", "rmse")), unit, "pooled"),
               ("Mean percentage error", words.fixed(words.score(scores, "all", "mape"), 1), "%", "of the reading")]
    if best and error is not None:
        change = words.comparison(error, best[1])
        number = words.percent(change).removesuffix(f"{words.NBSP}%") if math.isfinite(change) else "∞"
        sign = "" if number == "0.0" else "−" if change < 0 else "+"
        figures.append(("Against best control", sign + number, "%",
                        f"{words.control_name(best[0])}, {words.significant(best[1])} {unit}".strip()))
    figures.append(("Sensors", f"{len(content.sensor_ids):,}", "",
                    f"every {words.duration_short(content.step_seconds)}"))
    parameters = words.finite(summary.get("parameters"))
    if parameters is not None:
        figures.append(("Parameters", f"{parameters:,.0f}", "", "learned numbers"))
    return figures


def _choices(content: ReportContent) -> list[tuple[int, str]]:
    """The sensors that have curves, smallest error first, with what the list says of each."""
    errors = np.asarray(content.error_by_sensor, float)
    order = sorted(range(len(content.curve_sensors)),
                   key=lambda k: (np.nan_to_num(errors[content.curve_sensors[k]], nan=np.inf), k))
    choices = []
    for k in order:
        sensor = int(content.curve_sensors[k])
        about = [words.with_unit(float(errors[sensor]), content.unit)]
        if content.curve_labels and content.curve_labels[k]:
            about.append(content.curve_labels[k])
        choices.append((sensor, f"{content.sensor_ids[sensor]} · {' · '.join(about)}"))
    return choices


def _tables(content: ReportContent) -> list[dict[str, Any]]:
    """One table per metric: a row for the model and each control, a column for each horizon."""
    summary = content.summary
    entries = [(content.model, summary.get("horizons"), True),
               *((words.label(name), scores, False) for name, scores in (summary.get("controls") or {}).items())]
    columns = [*words.step_keys(summary), "all"]
    unit = words.unit_text(content.unit)
    tables = []
    for metric, name, suffix in (("mae", "Mean absolute error", unit), ("rmse", "Root mean squared error", unit),
                                 ("mape", "Mean absolute percentage error", "%")):
        values = [[words.score(scores, column, metric) for column in columns] for _, scores, _ in entries]
        places = 1 if metric == "mape" else words.places_for([value for row in values for value in row])
        best = [min((value for value in column if value is not None), default=None)
                for column in zip(*values, strict=True)]
        rows = [(entry[0], entry[2], [(words.fixed(value, places), value is not None and value == best[c])
                                      for c, value in enumerate(row)])
                for entry, row in zip(entries, values, strict=True)]
        tables.append({"name": name, "unit": suffix, "rows": rows})
    return tables


def _slices(content: ReportContent) -> list[dict[str, Any]]:
    """Slices other than by hour and by sensor (which have charts): name, error, share of the longest bar, count."""
    groups = []
    for group, levels in (content.summary.get("slices") or {}).items():
        if group in ("hour", "sensor"):
            continue
        errors = [words.finite(scores.get("mae")) for scores in levels.values()]
        places, longest = words.places_for(errors), max((e for e in errors if e is not None), default=0.0) or 1.0
        groups.append({"name": words.label(group), "rows": [
            (words.label(level), words.fixed(error, places), round(100 * (error or 0.0) / longest, 1),
             f"{scores['count']:,.0f}" if words.finite(scores.get("count")) is not None else "")
            for (level, scores), error in zip(levels.items(), errors, strict=True)]})
    return groups


def _linked(text: str) -> Markup:
    """A text whose web addresses can be followed."""
    pieces = re.split(r"(https?://[^\s<>\"']*[^\s<>\"'.,;:!?()])", str(text))
    return Markup("").join(Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>').format(piece) if odd else piece
                           for piece, odd in ((piece, index % 2) for index, piece in enumerate(pieces)))


def _unbroken(text: str) -> Markup:
    """A command that wraps between its words and not inside its options."""
    return Markup("\n").join(Markup(" ").join(Markup("<span>{}</span>").format(word) for word in line.split(" "))
                             for line in text.split("\n"))


def _part(name: str) -> str:
    return files("stgraph.report").joinpath(name).read_text(encoding="utf-8")
