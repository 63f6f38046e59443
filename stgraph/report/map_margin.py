"""What stands around a map: its title and layers above it, scale, colours and attribution below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

PAPER, INK, FAINT, STREET = "#fbfaf7", "#22262e", "#8b8f98", "#5b6270"
WORDS = ("#0b6fa4", "#d1495b", "#2e8540", "#7b3fa0", "#c77700", "#008b8b", "#5d4037", "#c2188b")
"""Colours of the words of a category, the most frequent first."""
WIDTH, HEIGHT, MARGIN = 9.0, (4.0, 11.0), 0.2
"""Inches: of the picture, of the map least and most, at the sides."""
HEAD, FOOT, CREDIT = 0.66, 0.86, 0.34
"""Inches: above the map, below it, and of that the line of the attribution."""
MANY = 3000
"""Points of a layer from which on they are small and pale, so that their density shows."""


@dataclass(frozen=True)
class Colours:
    """What the colours of one layer show: ``values [N]`` (codes where there are words), NaN for none."""

    kind: str
    values: np.ndarray
    name: str
    unit: str | None = None
    words: tuple[str, ...] | None = None


def draw_margin(figure: Figure, axes: Axes, title: str, drawn: dict[str, dict[str, Any]], colours: Colours | None,
                credit: str) -> None:
    """Title and layers above the map; scale, colours and attribution below it: nothing covers the land."""
    tall = figure.get_figheight()
    said = " · ".join(f"{one['count']:,} {_plural(kind, one['count'])}" for kind, one in drawn.items())
    figure.text(MARGIN / WIDTH, 1 - 0.14 / tall, title, ha="left", va="top", fontsize=15, color=INK,
                fontweight="bold")
    figure.text(MARGIN / WIDTH, 1 - 0.42 / tall, said, ha="left", va="top", fontsize=8.5, color=STREET)
    named = _fitted(credit)
    figure.text(MARGIN / WIDTH, 0.5 * CREDIT / tall, named, ha="left", va="center", color=INK,
                fontsize=7.5 * min(1.0, 2 / (named.count("\n") + 1)))
    for height in (CREDIT, FOOT, tall - HEAD):
        figure.add_artist(_rule(figure, height / tall))
    _scale_bar(figure, axes)
    shown = colours is not None and drawn.get(colours.kind, {}).get("scale") is not None
    if colours is not None and shown and colours.words is None:
        _colour_bar(figure, colours, drawn[colours.kind]["scale"])
    elif colours is not None and shown:
        _word_legend(figure, colours, drawn[colours.kind]["scale"][0])
    _layer_legend(figure, drawn, colours if shown else None)


def _fitted(credit: str) -> str:
    """The attribution on lines that fit the width."""
    if len(credit) <= 130:
        return credit
    words = credit.split(" · ")
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} · {word}" if lines[-1] else word
        lines = [*lines[:-1], longer] if len(longer) <= 130 else [*lines, word]
    return "\n".join(lines)


def _rule(figure: Figure, height: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([0.0, 1.0], [height, height], color="#dcd8cd", linewidth=0.7, transform=figure.transFigure)


def _plural(kind: str, count: int) -> str:
    word = {"weather": "weather station", "poi": "point of interest"}.get(kind, _words(kind))
    if count != 1 and " of " in word:
        return word.replace(" of ", "s of ", 1)
    return word if count == 1 else word[:-1] + "ies" if word.endswith("y") else word + "s"


def _scale_bar(figure: Figure, axes: Axes) -> None:
    """A bar of a round length, at most a fifth of the width, and an arrow to the north."""
    from matplotlib.lines import Line2D

    left, right = axes.get_xlim()
    wanted = (right - left) / 5
    unit = 10.0 ** np.floor(np.log10(wanted))
    length = next(unit * step for step in (5, 2, 1) if unit * step <= wanted)
    words = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    size = length / (right - left) * WIDTH
    tall = figure.get_figheight()
    low, tick = CREDIT + 0.14, 0.06

    def place(inches: list[float], heights: list[float]) -> tuple[list[float], list[float]]:
        return [one / WIDTH for one in inches], [one / tall for one in heights]

    first, last = MARGIN, MARGIN + size
    figure.add_artist(Line2D(*place([first, first, last, last], [low + tick, low, low, low + tick]), color=INK,
                             linewidth=1.2, solid_joinstyle="miter", transform=figure.transFigure))
    figure.text((first + last) / 2 / WIDTH, (low + 0.09) / tall, words, ha="center", va="bottom", fontsize=8,
                color=INK)
    needle = last + 0.32
    figure.add_artist(Line2D(*place([needle, needle], [low, low + 0.22]), color=INK, linewidth=1.0,
                             transform=figure.transFigure))
    figure.add_artist(Line2D(*place([needle], [low + 0.22]), color=INK, marker="^", markersize=4.5, linestyle="none",
                             transform=figure.transFigure))
    figure.text((needle + 0.08) / WIDTH, (low + 0.11) / tall, "N", ha="left", va="center", fontsize=8, color=INK)


def _colour_bar(figure: Figure, colours: Colours, scale: tuple[Colormap, Normalize]) -> None:
    from matplotlib.cm import ScalarMappable

    ramp, norm = scale
    tall = figure.get_figheight()
    bar = figure.add_axes(((WIDTH - MARGIN - 3.0) / WIDTH, (CREDIT + 0.24) / tall, 3.0 / WIDTH, 0.09 / tall))
    known = colours.values[np.isfinite(colours.values)]
    low, high = bool((known < norm.vmin).any()), bool((known > norm.vmax).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((low, high), "neither")
    drawn = figure.colorbar(ScalarMappable(norm, ramp), cax=bar, orientation="horizontal", extend=extend)
    drawn.outline.set_visible(False)
    bar.tick_params(labelsize=7.5, length=2, color=INK, labelcolor=INK, pad=2)
    unit = f", {colours.unit}" if colours.unit and colours.unit != "1" else ""
    figure.text((WIDTH - MARGIN - 3.3) / WIDTH, (CREDIT + 0.285) / tall, f"{_words(colours.name)}{unit}",
                fontsize=8.5, color=INK, ha="right", va="center")


def _word_legend(figure: Figure, colours: Colours, ramp: Any) -> None:
    """The words that colours stand for, the most frequent ones."""
    from matplotlib.lines import Line2D

    assert colours.words is not None
    counts = np.bincount(colours.values.astype(int), minlength=len(colours.words))
    order = [code for code in np.argsort(-counts, kind="stable") if counts[code]]
    entries = [Line2D([], [], color=ramp.colors[code], linewidth=2.4, label=_words(colours.words[code]))
               for code in order[:len(WORDS)]]
    if len(order) > len(WORDS):
        entries.append(Line2D([], [], color=FAINT, linewidth=2.4, label=f"{len(order) - len(WORDS)} others"))
    columns = (len(entries) + 1) // 2 if len(entries) > 4 else len(entries)
    figure.legend(handles=entries, loc="center right", ncols=columns, frameon=False, fontsize=7.5, labelcolor=INK,
                  bbox_to_anchor=((WIDTH - MARGIN + 0.1) / WIDTH, (CREDIT + FOOT) / 2 / figure.get_figheight()),
                  handlelength=1.2, columnspacing=1.2, handletextpad=0.5, labelspacing=0.35)


def _layer_legend(figure: Figure, drawn: dict[str, dict[str, Any]], colours: Colours | None) -> None:
    """Layers of points by their colour, and what has no value."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], marker="o" if one["count"] > MANY else one["sign"][1], linestyle="none",
                      color=one["sign"][0], markersize=5.5, markeredgecolor=PAPER, label=_plural(kind, 2))
               for kind, one in drawn.items() if one["form"] == "point" and one["scale"] is None]
    if colours is not None and colours.words is None and np.isnan(colours.values).any():
        entries.append(Line2D([], [], color=FAINT, linewidth=2.4, label=f"no {_words(colours.name)} known"))
    if entries:
        figure.legend(handles=entries, loc="center right", ncols=len(entries), frameon=False, fontsize=8.5,
                      labelcolor=INK, handletextpad=0.2, columnspacing=1.2,
                      bbox_to_anchor=((WIDTH - MARGIN + 0.1) / WIDTH, 1 - 0.5 * HEAD / figure.get_figheight()))


def _words(name: str) -> str:
    return name.replace("_", " ")
