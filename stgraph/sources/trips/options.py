"""What ``build trips`` is told, in groups that go to its parts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stgraph.errors import InputError
from stgraph.graph.time import seconds, zone
from stgraph.sources.clock import check_divides_day
from stgraph.sources.trips.clean import CleanSettings
from stgraph.sources.trips.matching import MatchSettings
from stgraph.sources.trips.read import TraceOptions

_FILES = ("roads", "out")


@dataclass(frozen=True)
class TripOptions:
    """What :func:`~stgraph.sources.trips.build.build_trips` is told; every field is an option of the command."""

    # where things are in the files of points
    trip_key: tuple[str, ...] = ()
    time_key: str | None = None
    lon_key: str | None = None
    lat_key: str | None = None
    split_key: str | None = None
    where: tuple[str, ...] = ()
    coordinate_unit: str = "m"
    tz: str | None = None
    point_interval: str | None = None
    repair: bool = False
    # cleaning
    max_speed: float = 60.0
    slack: float = 100.0
    max_gap: str = "10min"
    stop_radius: float = 50.0
    stop_time: str = "5min"
    min_points: int = 2
    min_length: float = 50.0
    # matching
    sigma: float = 10.0
    radius: float | None = None
    limit: float | None = None
    bridge: str = "1min"
    # what comes out
    interval: str = "15min"
    signals: bool = False
    penetration: float | None = None
    recover: str | None = None
    tokens: bool = False
    max_traversals: int = 5_000_000
    # the graph
    name: str | None = None
    simulated: bool = False
    licence: str | None = None
    attribution: str | None = None
    roads: str | None = None
    out: str | None = None

    @classmethod
    def checked(cls, options: dict[str, Any]) -> TripOptions:
        """Options as given from Python or the command line: paths become text, lists tuples.

        Raises:
            InputError: for a value out of range, or options that contradict each other.
        """
        plain: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
            for name, value in options.items()}
        keys = plain.get("trip_key", ())
        plain["trip_key"] = tuple(part.strip() for key in ((keys,) if isinstance(keys, str) else keys)
                                  for part in key.split(","))
        chosen = cls(**plain)
        if chosen.tz is not None:
            zone(chosen.tz)
        if chosen.out is not None and Path(chosen.out).suffix != ".stg":
            raise InputError("a graph is saved as a .stg bundle", field="out", value=chosen.out,
                             remedy="end the name in .stg")
        if chosen.penetration is not None and not chosen.signals:
            raise InputError("the options do not go together", field="penetration", value=chosen.penetration,
                             remedy="give --signals too: it scales the counts of the signal")
        if chosen.max_traversals < 0:
            raise InputError("a number of traversals is not negative", field="max_traversals",
                             value=chosen.max_traversals, remedy="give 0 to keep trips out of the graph")
        check_divides_day(seconds(chosen.interval))
        chosen.traces, chosen.cleaning, chosen.matching  # noqa: B018  their values are checked as they are made
        return chosen

    @property
    def traces(self) -> TraceOptions:
        """What the reader is told."""
        every = None if self.point_interval is None else float(seconds(self.point_interval))
        return TraceOptions(self.trip_key, self.time_key, self.lon_key, self.lat_key, self.split_key, self.where,
                            self.tz, every, self.coordinate_unit, self.repair)

    @property
    def cleaning(self) -> CleanSettings:
        """The rules of cleaning."""
        return CleanSettings(self.max_speed, self.slack, _span(self.max_gap), self.stop_radius, _span(self.stop_time),
                             self.min_points, self.min_length)

    @property
    def matching(self) -> MatchSettings:
        """The model of map matching."""
        settings = MatchSettings(sigma=self.sigma, radius=self.radius, bridge=_span(self.bridge))
        settings = replace(settings, limit=self.limit) if self.limit is not None else settings
        return replace(settings, max_speed=self.max_speed) if self.max_speed else settings

    def command(self, sources: list[str]) -> str:
        """The command line that says the same, with the names of files and not their folders."""
        words = ["stgraph", "build", "trips", *sources]
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default:
                continue
            option = f"--{one.name.replace('_', '-')}"
            if value is True:
                words.append(option)
            for part in () if value is True else value if isinstance(value, tuple) else (value,):
                words += [option, Path(part).name if one.name in _FILES else f"{part}"]
        return shlex.join(words)


def _span(text: str) -> float:
    """Seconds of a span of time; 0 for ``0``, which turns a rule off."""
    return 0.0 if text.strip() == "0" else float(seconds(text))
