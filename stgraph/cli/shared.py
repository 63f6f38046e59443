"""What the verbs share: where things are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stgraph.errors import InputError


def print_json(value: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout; NaN becomes null."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(text: str = "", style: str | None = None) -> None:
    """A line for people, on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text, style=style)


def refuse_input_as_output(out: Path | str | None, inputs: Iterable[Path | str | None]) -> None:
    """Refuse to write over something that is read: the result takes the place of whatever stands at ``out``.

    Args:
        out: Where the result is to be written; None for nowhere.
        inputs: What is read; None is passed over.

    Raises:
        InputError: where ``out`` is one of the inputs, lies inside one that is a bundle, or holds one.
    """
    if out is None:
        return
    target = Path(out).resolve()
    for one in inputs:
        source = None if one is None else Path(one).resolve()
        if source is not None and (target == source or target in source.parents
                                   or (source.suffix == ".stg" and source in target.parents)):
            raise InputError("this would write over what is read", file=str(out), field="out", value=str(one),
                             remedy="give another name after -o")


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def scores_table(record: dict[str, Any]) -> Any:
    """A rich table of a model's scores beside those of the controls."""
    from rich.table import Table

    unit = record["unit"]
    table = Table(title=f"{record['model']} on {record['data']} ({record['split']['part']} part)", title_justify="left")
    table.add_column("MAE, " + ("per interval" if unit in ("1", "count") else unit))
    steps = list(record["horizons"])
    for step in steps:
        table.add_column("all steps" if step == "all" else f"step {step}", justify="right")
    table.add_row(record["model"], *(number(record["horizons"][step]["mae"]) for step in steps), style="bold")
    for name, scores in record["controls"].items():
        table.add_row(name.replace("_", " "), *(number(scores[step]["mae"]) for step in steps))
    return table


def verdict(record: dict[str, Any]) -> str:
    """One sentence: how good the model is beside the best control."""
    own = record["horizons"]["all"]["mae"]
    rivals = {name: scores["all"]["mae"] for name, scores in record["controls"].items()
              if scores["all"]["mae"] is not None}
    if own is None or not rivals:
        return "No control to compare with."
    best = min(rivals, key=lambda name: rivals[name])
    change = 100 * (1 - own / rivals[best]) if rivals[best] else 0.0
    unit = "" if record["unit"] == "1" else f" {record['unit']}"
    size = f"Mean absolute error {own:.2f}{unit} over the next {_span(record['horizon'] * record['interval_s'])}"
    if change > 0:
        return f"{size}: {change:.1f} % lower than the best control ({best.replace('_', ' ')}, {rivals[best]:.2f})."
    return f"{size}: NOT better than the control '{best.replace('_', ' ')}' ({rivals[best]:.2f})."


def significance(against: dict[str, Any], unit: str) -> str:
    """One sentence on the paired test over days."""
    text = f"Against {against['model']}: mean absolute error {against['difference']:+.3f} {'' if unit == '1' else unit}"
    if against["p_value"] is None:
        return f"{text.rstrip()}; {against['days']} days are too few for a verdict."
    return (f"{text.rstrip()}, 95 % interval {against['low']:+.3f} to {against['high']:+.3f}, "
            f"p = {against['p_value']:.3g} over {against['days']} days.")


def _span(seconds: int) -> str:
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {name}"
    return f"{seconds} seconds"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # a numpy scalar
        return _plain(value.item())
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
