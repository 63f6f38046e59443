"""The words and numerals of a report: lengths of time, errors, and the sentence at its head."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

LABELS = {
    "data_sha256": "Data SHA-256",
    "sha256": "SHA-256",
    "peak_memory_mb": "Peak memory, MB",
    "seconds": "Time taken, s",
    "parameters": "Parameters",
    "history": "Steps read",
    "week": "Day of the week",
    "level": "Level of the reading",
}
"""Names of fields that are more than their key with a capital letter."""

NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its unit on one line
NO_DIFFERENCE = -0.05  # percent: a gain that would be shown as 0.0 % is none

_HASH = re.compile(r"(sha256:)?[0-9a-f]{16,}")


def label(key: str) -> str:
    """The name of a field as it is shown: ``last_value`` becomes ``Last value``."""
    return LABELS.get(key) or key[:1].upper() + key[1:].replace("_", " ")


def control_name(key: str) -> str:
    """The name of a control inside a sentence: ``slot_mean`` becomes ``slot mean``."""
    return key.replace("_", " ")


def duration_words(seconds: float) -> str:
    """A length of time for a sentence: ``one hour``, ``15 minutes``, ``2 days``."""
    count, name = _largest_unit(seconds, (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)))
    return f"one {name}" if count == "1" else f"{count} {name}s"


def duration_short(seconds: float) -> str:
    """A length of time for a table head: ``1 h``, ``15 min``, ``2 d``."""
    return " ".join(_largest_unit(seconds, (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))))


def _largest_unit(seconds: float, units: tuple[tuple[str, int], ...]) -> tuple[str, str]:
    for name, size in units:
        if seconds >= size and seconds % size == 0:
            return str(int(seconds // size)), name
    return f"{seconds:g}", units[-1][0]


def finite(value: Any) -> float | None:
    """The number, or None where there is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, in plain notation; a dash where there is none."""
    number = finite(value)
    if number is None:
        return "–"
    if number == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(number)))
    return f"{round(number, places):,.{max(0, places)}f}".replace("-", "−")


def fixed(value: float | None, places: int) -> str:
    """A number with so many decimals; a dash where there is none."""
    number = finite(value)
    return "–" if number is None else f"{number:,.{places}f}".replace("-", "−")


def places_for(values: list[float | None]) -> int:
    """Decimals that suit a column of errors, so that its numerals line up: 3.52, 17.40, 120.3, 0.0521."""
    largest = max((abs(value) for value in map(finite, values) if value is not None), default=0.0)
    if largest == 0:
        return 2
    exponent = math.floor(math.log10(largest))
    return max(0, min(2, 3 - exponent)) if exponent >= 0 else 2 - exponent


def unit_text(unit: str) -> str:
    """The unit as it follows a number; counts and shares have none to show."""
    return "" if unit in ("1", "count") else unit


def with_unit(value: float | None, unit: str, digits: int = 3) -> str:
    """An error in words: ``3.52 mph``."""
    return f"{significant(value, digits)}{NBSP}{unit_text(unit)}".strip()


def score(scores: Mapping[str, Any] | None, horizon: str, metric: str) -> float | None:
    """One finite number out of ``{horizon: {metric: value}}``, or None."""
    return finite(((scores or {}).get(horizon) or {}).get(metric))


def best_control(summary: Mapping[str, Any], horizon: str = "all", metric: str = "mae") -> tuple[str, float] | None:
    """The control of the smallest error at a horizon, or None where none was scored."""
    found = {name: score(scores, horizon, metric) for name, scores in (summary.get("controls") or {}).items()}
    scored = [(value, name) for name, value in found.items() if value is not None]
    return (min(scored)[1], min(scored)[0]) if scored else None


def comparison(error: float, control: float) -> float:
    """How much larger an error is than a control's, in percent; negative is better."""
    if control == 0:
        return 0.0 if error == 0 else math.inf
    return 100.0 * (error - control) / control


def percent(value: float) -> str:
    """A share for a sentence, without its sign: ``20 %``, ``0.4 %``."""
    return f"{abs(value):.0f}{NBSP}%" if abs(value) >= 1 else f"{abs(value):.1f}{NBSP}%"


def headline(summary: Mapping[str, Any], unit: str, horizon_seconds: float) -> str:
    """The one sentence at the head of the page; says plainly where the model does not beat the best control.

    Args:
        summary: The object of ``stgraph evaluate --json``.
        unit: Unit of the errors, e.g. ``mph``.
        horizon_seconds: How far the forecast reaches.
    """
    error = score(summary.get("horizons"), "all", "mae")
    if error is None:
        return "No forecast could be scored: the test part holds no reading to compare with."
    start = f"Mean absolute error {with_unit(error, unit)} over {duration_words(horizon_seconds)}"
    best = best_control(summary)
    if best is None:
        return f"{start}; no control was scored beside it."
    name, control = best
    change = comparison(error, control)
    if change <= NO_DIFFERENCE:
        return f"{start}; {percent(change)} lower than the best control ({control_name(name)})."
    named = f"({control_name(name)}, {with_unit(control, unit)})"
    if change < -NO_DIFFERENCE:
        return f"{start}; no lower than the best control {named}: the model does not beat it."
    amount = f"{percent(change)} higher" if math.isfinite(change) else "higher"
    return f"{start}; {amount} than the best control {named}: the model does not beat it."


def lost_horizons(summary: Mapping[str, Any], step_seconds: float) -> str:
    """A sentence that names the reported steps at which a control does as well though the model wins overall, or ""."""
    scores, best = summary.get("horizons") or {}, best_control(summary)
    error = score(scores, "all", "mae")
    if best is None or error is None or comparison(error, best[1]) > NO_DIFFERENCE:
        return ""
    lost = []
    for step in step_keys(summary):
        at_step, here = best_control(summary, step), score(scores, step, "mae")
        if at_step and here is not None and comparison(here, at_step[1]) > NO_DIFFERENCE:
            lost.append(f"{duration_words(int(step) * step_seconds)} ({control_name(at_step[0])})")
    return f"At {' and '.join(lost)} ahead a control does as well or better." if lost else ""


def history_sentence(model: str, summary: Mapping[str, Any], step_seconds: float) -> str:
    """How much of the past the model reads, so that it is not ranked beside one that reads more; "" where unknown."""
    steps = finite(summary.get("history"))
    if steps is None:
        return ""
    profile = " and a profile of the training days" if summary.get("reads_profile") else ""
    return f"{model} reads the last {steps:.0f} steps ({duration_short(steps * step_seconds)}){profile}."


def step_keys(summary: Mapping[str, Any]) -> list[str]:
    """The reported horizon steps in order, without ``all``."""
    return sorted((key for key in (summary.get("horizons") or {}) if key.isdigit()), key=int)


def is_hash(value: Any) -> bool:
    """Whether a text is a hex digest, to be set in a typewriter face."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def plain(value: Any) -> str:
    """A provenance value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 3):,}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)
