"""``build trips``: GPS points of trips are cleaned and matched to a road map; counts, speeds and ways become a graph.

Points are worked on in blocks of whole trips, and what comes of them is written row group by row group, so memory
follows the map and the pairs of segment and time bin that were driven, and not the number of trips.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stgraph.errors import InputError
from stgraph.graph import GraphTables, data_sha256, save
from stgraph.graph.time import seconds
from stgraph.io import peak_memory_mb, sha256
from stgraph.roads import Roads
from stgraph.roads.history import RoadHistory
from stgraph.sources.trips.aggregate import Aggregates, Bins
from stgraph.sources.trips.clean import Cleaned, CleanNotes, clean
from stgraph.sources.trips.graph import trips_graph
from stgraph.sources.trips.journeys import Walks, recover, resumed, walks_of
from stgraph.sources.trips.loose import TableWriter, matches_table, recovered_table, tokens_table, trips_table
from stgraph.sources.trips.matcher import Matcher
from stgraph.sources.trips.matching import Matched, Points
from stgraph.sources.trips.options import TripOptions
from stgraph.sources.trips.read import BLOCK, TraceReader, Traces
from stgraph.sources.trips.streams import Source, name_of
from stgraph.sources.trips.tokens import make_tokens, segment_features

MARGIN = 1000.0  # m around the map within which a point is still on it
_FAR = 1e8  # m: where a place that is none is put


@dataclass
class _Counts:
    """What the report counts, beside the notes of reader and cleaning."""

    trips: int = 0
    journeys: int = 0
    pieces: int = 0
    traversals: int = 0
    resumed: int = 0
    matched: int = 0
    unmatched: int = 0
    breaks: int = 0
    metres: float = 0.0
    first: float = np.inf
    last: float = -np.inf
    clean: CleanNotes = field(default_factory=CleanNotes)


def build_trips(source: Source | str | Sequence[Source | str], roads: Roads | Path | str | GraphTables,
                block: int = BLOCK, **options: Any) -> tuple[GraphTables, dict[str, Any]]:
    """Make a graph of trips; :mod:`stgraph.sources.trips.graph` says what is in it.

    Args:
        source: Files of points (CSV, Parquet, GPX, NPZ), or tables.
        roads: The map: a bundle, or roads in memory. Of a bundle whose roads change with time, each journey meets the
            network as it stands when the journey begins.
        block: About how many points are worked on at once.
        **options: Fields of :class:`~stgraph.sources.trips.options.TripOptions`; with ``out`` the graph is saved there
            as a ``.stg`` bundle, and its loose tables are read from there.

    Returns:
        The graph as tables, and the report that the command prints with ``--json``.

    Raises:
        InputError: where something given cannot be used, or no point can be matched; nothing is written.
    """
    started = time.perf_counter()
    chosen = TripOptions.checked({**options, **({"roads": roads} if isinstance(roads, (str, Path)) else {})})
    listed = [source] if isinstance(source, (str, Path, pa.Table)) else list(source)
    sources = [Path(one) if isinstance(one, str) else one for one in listed]
    with _scratch(chosen.out) as folder:
        run = _Run(RoadHistory(roads), sources, chosen, folder)
        began = time.perf_counter()
        for traces in run.reader.blocks(block):
            run.add(traces)
        took = time.perf_counter() - began
        graph, report = run.finish()
        graph.metadata = _metadata(run, report)
        if chosen.out is not None:
            save(graph, chosen.out)
            report |= {"out": chosen.out, "data_sha256": data_sha256(chosen.out)}
            graph.tables = {name: Path(chosen.out) / f"{name}.parquet" for name in graph.tables}
        else:
            graph.tables = {name: pq.read_table(table) if isinstance(table, Path) else table
                            for name, table in graph.tables.items()}
    return graph, report | {"points_per_second": round(report["points"] / max(took, 1e-9)),
                            "seconds": round(time.perf_counter() - started, 3),
                            "peak_memory_mb": round(peak_memory_mb(), 1)}


class _Run:
    """One run over all points."""

    def __init__(self, history: RoadHistory, sources: list[Source], chosen: TripOptions, folder: Path) -> None:
        self.roads, self.sources, self.chosen = history.at(), sources, chosen
        roads = self.roads
        if not roads.metric and chosen.coordinate_unit != TripOptions.coordinate_unit:
            raise InputError("the map has longitudes and latitudes", file=chosen.roads, field="coordinate_unit",
                             value=chosen.coordinate_unit, remedy="leave out --coordinate-unit, and give degrees")
        self.reader = TraceReader(sources, chosen.traces, roads.metric, folder)
        if not len(roads.tail):
            raise InputError("the map has no segments", file=chosen.roads, field="roads", remedy="build it again")
        self.settings, self.cleaning = chosen.matching, chosen.cleaning
        self.matcher = Matcher(history, self.settings, chosen.limit)
        self.low, self.high = roads.line_metres.min(0) - MARGIN, roads.line_metres.max(0) + MARGIN
        self.features = segment_features(roads) if chosen.tokens else None
        self.writer = TableWriter(folder)
        self.counts = _Counts()
        self.sums: Aggregates | None = None
        self.place = np.full(2, np.nan)  # of the first point

    # ---------------------------------------------------------------- a block
    def add(self, traces: Traces) -> None:
        """Clean and match a block of whole trips, count what was driven, write it."""
        if not self.counts.trips:
            self.place = traces.place[0]
        xy, outside = self._metres(traces.place)
        self._check_swapped(traces.place, outside)
        cleaned = clean(traces.trip, traces.time, xy, traces.cut, outside, self.cleaning)
        self.counts.clean.add(cleaned.notes)
        self.counts.trips += len(traces.ids)
        points = Points(cleaned.part, traces.time[cleaned.keep], xy[cleaned.keep])
        matched = self.matcher.match(points)
        self._count(points, matched)
        if len(matched.walk_segment):
            self._write(traces, cleaned, points, matched)

    def _metres(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Local metres of places, and which of them are off the map."""
        if not self.roads.metric:
            possible = (np.abs(place[:, 1]) <= 90) & (np.abs(place[:, 0]) <= 360)
            xy = self.roads.to_metres(np.where(possible[:, None], place, self.roads.junction_xy[0]))
            xy = np.where(possible[:, None] & np.isfinite(xy), xy, _FAR)
        else:
            xy = place
        return xy, ((xy < self.low) | (xy > self.high)).any(1)

    def _check_swapped(self, place: np.ndarray, outside: np.ndarray) -> None:
        if outside.mean() <= 0.5:
            return
        _, swapped = self._metres(place[:, ::-1])
        if swapped.mean() < 0.5:
            names = ("x", "y") if self.roads.metric else ("longitude", "latitude")
            first = place[int(np.flatnonzero(outside)[0])]
            raise InputError(f"{names[0]} and {names[1]} look exchanged: most points are off the map, and would be on "
                             "it the other way round", file=name_of(self.sources[0]), field="lon_key",
                             value=f"{names[0]} {first[0]:g}, {names[1]} {first[1]:g}",
                             remedy="name the two columns the other way round, with --lon-key and --lat-key")

    def _count(self, points: Points, matched: Matched) -> None:
        counts, known = self.counts, matched.point_segment >= 0
        counts.matched += int(known.sum())
        counts.unmatched += int((~known).sum())
        counts.breaks += int(matched.break_before.sum())
        if known.any():
            counts.first = min(counts.first, float(points.time[known].min()))
            counts.last = max(counts.last, float(points.time[known].max()))

    def _write(self, traces: Traces, cleaned: Cleaned, points: Points, matched: Matched) -> None:
        walks = walks_of(points, matched)
        if not len(walks):
            return
        used, journey = np.unique(walks.journey, return_inverse=True)
        first = np.searchsorted(cleaned.part, used)
        trip = traces.trip[cleaned.keep[first]]
        whole = traces.trip[cleaned.keep[np.flatnonzero(np.diff(cleaned.part, prepend=-1))]]
        part = used - np.searchsorted(whole, trip)  # parts of a trip are numbered one after the other
        names = traces.ids.take(pa.array(trip))
        size, seen = (np.bincount(cleaned.part, weights=weight, minlength=used[-1] + 1)[used].astype(np.int64)
                      for weight in (None, matched.point_segment >= 0))
        walks = Walks(journey.astype(np.int64), *(getattr(walks, name) for name in list(vars(walks))[1:]))
        again = resumed(walks, trip, self.settings.backward * self.settings.sigma)
        matches = matches_table(self.roads, walks, names, part, self.counts.journeys, again)
        self.writer.write("matches", matches)
        self.writer.write("trips", trips_table(self.roads, walks, names, part, size, seen))
        if self.sums is None:
            bins = Bins.on_clock(seconds(self.chosen.interval), self.chosen.tz or "UTC", float(walks.entered_at[0]))
            self.sums = Aggregates(bins, self.roads.length, self.roads.tail, self.roads.head)
        self.sums.add(walks, again)
        self.counts.journeys += len(used)
        self.counts.pieces += int(walks.starts.sum())
        self.counts.traversals += len(walks) - int(again.sum())
        self.counts.resumed += int(again.sum())
        self.counts.metres += float(walks.length.sum())
        if self.features is not None:
            tokens = make_tokens(self.roads, walks, self.chosen.tz or "UTC", self.features)
            self.writer.write("tokens", tokens_table(tokens, matches))
        if self.chosen.recover is not None:
            self._recover(walks, points, matched, used, matches)

    def _recover(self, walks: Walks, points: Points, matched: Matched, used: np.ndarray, matches: pa.Table) -> None:
        """Write places at regular times, one journey after the other."""
        step = seconds(str(self.chosen.recover))
        first = np.flatnonzero(np.r_[True, np.diff(walks.journey) != 0])
        last = np.r_[first[1:], len(walks)] - 1
        begin = np.ceil(walks.entered_at[first] / step).astype(np.int64)
        count = np.maximum(np.floor(walks.left_at[last] / step).astype(np.int64) - begin + 1, 0)
        journey = np.repeat(np.arange(len(first)), count)
        ticks = np.arange(count.sum()) + np.repeat(begin - np.cumsum(count) + count, count)
        at = ticks.astype(np.float64) * step
        rows = np.flatnonzero(np.isin(points.trip, used))
        mine = Points(np.searchsorted(used, points.trip[rows]), points.time[rows], points.xy[rows])
        recovered = recover(walks, journey, at, mine, matched.point_segment[rows], matched.point_offset[rows])
        self.writer.write("recovered", recovered_table(self.roads, recovered, at, matches))

    # ---------------------------------------------------------------- the end
    def finish(self) -> tuple[GraphTables, dict[str, Any]]:
        """The graph and the report."""
        files = self.writer.close()
        if self.sums is None:
            raise self._nothing_matched()
        in_graph = self.counts.traversals <= self.chosen.max_traversals
        graph = trips_graph(self.roads, self.sums, files["matches"], files["trips"] if in_graph else None,
                            self.chosen.signals, self.chosen.penetration)
        graph.tables |= files
        return graph, self._report(graph, in_graph)

    def _nothing_matched(self) -> InputError:
        counts = {**self._dropped(), "without a street nearby": self.counts.unmatched}
        said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items() if count)
        middle = self.roads.from_metres((self.low + self.high)[None] / 2)[0]
        return InputError(
            "no two points in a row could be matched" if self.counts.matched else
            "no point lies on the map" if counts["off_map"] and not self.counts.unmatched else
            "no point could be matched", file=name_of(self.sources[0]), field="traces",
            value=f"{said}; the first point is at {self.place[0]:.6g}, {self.place[1]:.6g}, the middle of the map at "
                  f"{middle[0]:.6g}, {middle[1]:.6g}",
            remedy="check that points and map are of one place and in one unit; the rules of cleaning are options, and "
                   "--sigma says how inexact the points are")

    def _dropped(self) -> dict[str, int]:
        notes, cleaning = self.reader.notes, self.counts.clean
        return {"missing": notes.missing, "left_out": notes.left_out, "skipped_hour": notes.skipped_hour,
                "duplicates": notes.duplicates, "off_map": cleaning.off_map, "jumps": cleaning.jumps,
                "stops": cleaning.stop_points, "short": cleaning.short}

    def _report(self, graph: GraphTables, in_graph: bool) -> dict[str, Any]:
        counts, notes, cleaning = self.counts, self.reader.notes, self.counts.clean
        assert self.sums is not None
        return {
            "points": notes.rows, "matched": counts.matched, "unmatched": counts.unmatched, "breaks": counts.breaks,
            "trips": counts.trips, "journeys": counts.journeys, "pieces": counts.pieces,
            "traversals": counts.traversals, "resumed": counts.resumed,
            "turns_not_permitted": self.matcher.not_permitted, "networks": len(self.matcher.networks),
            "limits_m": {f"{limit:g}": count for limit, count in sorted(self.matcher.journeys.items())},
            "segments": len(graph.nodes["segment"]),
            "length_km": round(counts.metres / 1000, 3), "dropped": self._dropped(),
            "splits": {"changes": cleaning.split_at_changes, "gaps": cleaning.split_at_gaps,
                       "stops": cleaning.split_at_stops, "jumps": cleaning.split_at_jumps,
                       "off_map": cleaning.split_off_map},
            "single_points": cleaning.single_points, "short_parts": cleaning.short_parts, "stops": cleaning.stops,
            "repaired": {"sorted": notes.decreasing, "dropped": notes.duplicates} if self.chosen.repair else {},
            "regrouped": notes.shuffled, "trips_in_graph": in_graph, "interval_s": self.sums.bins.step,
            "start": _utc(counts.first), "end": _utc(counts.last), "warnings": self._warnings(in_graph)}

    def _warnings(self, in_graph: bool) -> list[str]:
        counts, notes, said = self.counts, self.reader.notes, []
        if self.reader.one_trip_files:
            said.append(f"{self.reader.one_trip_files} files have no column of trips, and each was taken for one trip; "
                        "name the column with --trip-key")
        if self.chosen.point_interval is not None:
            said.append("the points have no times: each trip counts from 1970-01-01 00:00 UTC on")
        if notes.ambiguous:
            said.append(f"{notes.ambiguous} times are in the doubled hour of autumn: taken for the first")
        if counts.unmatched > counts.matched:
            said.append("most points have no street nearby: is the map of all streets that were driven? "
                        "--sigma and --radius say how far points may be off")
        if 10 * counts.breaks > counts.matched - counts.journeys:
            said.append(f"{counts.breaks} breaks in {counts.matched} matched points: no way on the map that is short "
                        "enough (--limit), and quick enough (--max-speed), led from one point to the next")
        if self.matcher.not_permitted:
            said.append(f"{self.matcher.not_permitted} sequences of moves that were matched are not permitted by the "
                        "map: restrictions over more than two segments are not looked at")
        if not in_graph:
            said.append(f"{counts.traversals} traversals are more than --max-traversals: trips are in the tables "
                        "matches and trips, and no nodes of the graph")
        return said


def _metadata(run: _Run, report: dict[str, Any]) -> dict[str, Any]:
    """Where the graph comes from, with the sources of the map; names of files, never their folders."""
    chosen, sources = run.chosen, []
    for one in run.sources:
        entry: dict[str, Any] = {"role": "traces", "file": "table" if isinstance(one, pa.Table) else one.name,
                                 "licence": chosen.licence, "attribution": chosen.attribution}
        if isinstance(one, Path):
            entry["sha256"] = sha256(one)
        sources.append({key: value for key, value in entry.items() if value})
    names = [str(entry["file"]) for entry in sources]
    sources += [entry for entry in run.roads.metadata.get("sources") or () if isinstance(entry, dict)]
    return {"name": chosen.name or Path(chosen.out or names[0]).stem, "simulated": chosen.simulated,
            "sources": sources, "command": chosen.command(names), "notes": report["warnings"],
            "build": {key: value for key, value in report.items() if key != "warnings"}}


@contextmanager
def _scratch(out: str | None) -> Iterator[Path]:
    """A temporary folder on the disk that the bundle will be written to."""
    place = None
    if out is not None:
        parents = Path(out).absolute().parents
        place = next((str(parent) for parent in parents if parent.is_dir()), None)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".stgraph-trips-", dir=place)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=out, remedy="choose another place"
                         ) from error
    with folder as name:
        yield Path(name)


def _utc(instant: float) -> str:
    return f"{np.datetime64(int(np.floor(instant)), 's')}Z"
