"""GPS points of trips, read in blocks of whole trips, so that memory does not grow with their number.

A file whose trips do not lie together (one sorted by time, say) is first dealt out into buckets on disk by a hash of
the trip, and each bucket is put in order by itself.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgraph.errors import InputError
from stgraph.sources.locations import LATITUDE, LONGITUDE
from stgraph.sources.tables import find_column
from stgraph.sources.trips.grouping import changes, hashes, shuffled, together
from stgraph.sources.trips.stamps import from_local_clock, to_seconds
from stgraph.sources.trips.streams import GPX, ROWS, Source, columns_of, known_form, name_of, plain, stream
from stgraph.units import unit_for

TRIP = ("trip", "trip_id", "trajectory", "trajectory_id", "traj_id", "journey", "journey_id", "cab", "taxi_id",
        "vehicle", "vehicle_id", "uid", "user", "user_id", "device_id")
TIME = ("time", "timestamp", "datetime", "date_time", "utc")
BLOCK = 1 << 16  # points of a block, more where one trip is longer
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"


@dataclass(frozen=True)
class TraceOptions:
    """Where things are in files of points, and how they are to be read.

    Args:
        trip_key: Columns that name a trip, together; empty for one of the usual names, or one trip a file.
        time_key: Column of times; None for one of the usual names.
        lon_key: Column of longitudes, or of x on a metric map; None for one of the usual names.
        lat_key: Column of latitudes, or of y on a metric map; None for one of the usual names.
        split_key: Column whose changes split a trip, such as ``occupied``; with ``occupied=1`` only the parts with
            that value are kept.
        where: ``column=value`` each: other rows are left out before anything else.
        tz: Zone of times without an offset; None refuses those that are text or dates.
        point_interval: Seconds between points, where the files have no times.
        unit: Unit of x and y on a metric map.
        repair: Whether to sort times that decrease and drop those that stand twice in a trip.
    """

    trip_key: tuple[str, ...] = ()
    time_key: str | None = None
    lon_key: str | None = None
    lat_key: str | None = None
    split_key: str | None = None
    where: tuple[str, ...] = ()
    tz: str | None = None
    point_interval: float | None = None
    unit: str = "m"
    repair: bool = False


@dataclass(frozen=True)
class Traces:
    """A block of whole trips; ``n`` points of ``k`` trips.

    Args:
        ids: ``[k]`` the name of each trip as in the source, whole numbers or text.
        trip: ``[n]`` int64, ``0 .. k-1``; the points of a trip stand together.
        time: ``[n]`` float64 seconds since 1970-01-01 UTC, strictly increasing within a trip.
        place: ``[n, 2]`` float64, longitude and latitude in degrees, or metres of a metric map.
        cut: ``[n]`` bool, where a new part begins within a trip.
    """

    ids: pa.Array
    trip: np.ndarray
    time: np.ndarray
    place: np.ndarray
    cut: np.ndarray


@dataclass
class ReadNotes:
    """What was found while reading: counts of rows."""

    rows: int = 0
    missing: int = 0  # no trip, time or place
    left_out: int = 0  # by ``where``, or in another state than the one that ``split_key`` keeps
    duplicates: int = 0  # a time that the trip had already
    decreasing: int = 0  # earlier than the row before
    skipped_hour: int = 0  # in the hour that the clock skips in spring
    ambiguous: int = 0  # in the hour that the clock doubles in autumn, taken for the first
    shuffled: bool = False  # the trips did not lie together


@dataclass(frozen=True)
class _Columns:
    """Columns of one source."""

    trip: tuple[str, ...]
    time: str | None
    x: str
    y: str
    state: str | None
    kept_state: str | None
    where: tuple[tuple[str, str], ...]

    @property
    def text(self) -> list[str]:
        named = (*self.trip, self.time, self.state, *(name for name, _ in self.where))
        return list(dict.fromkeys(name for name in named if name is not None))


class TraceReader:
    """Reads points from files and tables.

    Args:
        sources: Files (CSV, Parquet, GPX, NPZ; CSV and GPX perhaps gzipped) or tables, read one after the other.
        options: Where things are in them.
        metric: Whether places are metres of a metric map rather than degrees.
        folder: Where rows are put that must be brought together; None for the system's place for temporary files.

    Attributes:
        notes: What was found, complete once :meth:`blocks` came to its end.
        one_trip_files: Files without a column of trips, each of which is taken for one trip.

    Raises:
        InputError: where a file is missing or a column is not there.
    """

    def __init__(self, sources: Sequence[Source], options: TraceOptions | None = None, metric: bool = False,
                 folder: Path | None = None) -> None:
        self.sources, self.options, self.metric = list(sources), options or TraceOptions(), metric
        self.folder = folder
        self.notes = ReadNotes()
        self.one_trip_files = 0
        self._columns = [self._find_columns(source) for source in self.sources]
        self._check_stems()
        self._factor = unit_for("value", self.options.unit).factor
        self._on_clock: bool | None = None

    # ---------------------------------------------------------------- columns
    def _find_columns(self, source: Source) -> _Columns:
        there, options, file = columns_of(source), self.options, name_of(source)

        def given(name: str | None) -> str | None:
            if name is not None and name not in there:
                raise InputError("no such column", file=file, field=name, value=name,
                                 remedy=f"choose among {', '.join(there)}")
            return name

        def place(name: str | None, usual: Sequence[str], what: str, option: str) -> str:
            found = given(name) or find_column(there, usual)
            if found is None:
                raise InputError(f"no column of the {what}", file=file, field=option, value=", ".join(there),
                                 remedy=f"name it with --{option.replace('_', '-')}")
            return found

        if self.metric:
            x, y = place(options.lon_key, ("x",), "x coordinate", "lon_key"), \
                place(options.lat_key, ("y",), "y coordinate", "lat_key")
        else:
            x, y = place(options.lon_key, LONGITUDE, "longitude", "lon_key"), \
                place(options.lat_key, LATITUDE, "latitude", "lat_key")
        trip = tuple(str(given(name)) for name in options.trip_key)
        if not trip and (usual := find_column(there, TRIP)) is not None:
            trip = (usual,)
        if not trip:
            self.one_trip_files += 1
        time = given(options.time_key) or find_column(there, TIME)
        if time is None and options.point_interval is None:
            raise InputError("no column of times", file=file, field="time_key", value=", ".join(there),
                             remedy="name it with --time-key; points without times take --point-interval 1s")
        if time is not None and options.point_interval is not None:
            raise InputError("the points have times of their own", file=file, field="point_interval", value=time,
                             remedy="leave out --point-interval")
        where = []
        for condition in options.where:
            name, equals, value = condition.partition("=")
            if not equals:
                raise InputError("not a condition", field="where", value=condition, remedy="write it column=value")
            where.append((str(given(name)), value))
        state, equals, kept_state = (options.split_key or "").partition("=")
        return _Columns(trip, time, x, y, given(state or None), kept_state if equals else None, tuple(where))

    def _check_stems(self) -> None:
        """Trips that are named after their file need files of different names."""
        named = [self._one_trip(number) for number, source in enumerate(self.sources)
                 if not self._columns[number].trip or (isinstance(source, Path) and known_form(source) in GPX)]
        if len(set(named)) < len(named):
            twice = [name for name, times in Counter(named).items() if times > 1]
            raise InputError("two files would give their trips the same name", field="traces", value=twice[0],
                             remedy="rename one of the files")

    # ---------------------------------------------------------------- rows of all sources, in one form
    def _tables(self, rows: int) -> Iterator[pa.Table]:
        """Rows as ``trip, time, x, y, state, row, source``, in the order of the files."""
        whole = self._whole_numbers(rows)
        for number, (source, columns) in enumerate(zip(self.sources, self._columns, strict=True)):
            seen = 0
            for batch in stream(source, columns.text, [columns.x, columns.y], rows):
                if batch.num_rows:
                    yield self._form(batch, columns, source, number, seen, whole)
                seen += batch.num_rows

    def _form(self, batch: pa.RecordBatch, columns: _Columns, source: Source, number: int, seen: int,
              whole: bool) -> pa.Table:
        count = batch.num_rows
        self.notes.rows += count
        trip = _trip_names(batch, columns.trip, source) if columns.trip else \
            pa.array([self._one_trip(number)] * count)
        wanted = pa.array(np.ones(count, bool))
        for name, value in columns.where:
            wanted = pc.and_(wanted, pc.equal(_text(batch, name, source), value))
        if columns.time is None:
            time = np.zeros(count)
        else:
            times = batch.column(columns.time)
            if columns.where:  # rows left out may count from somewhere else
                times = pc.if_else(wanted, times, pa.scalar(None, times.type))
            time, on_clock, self._units[number] = to_seconds(times, seen, file=name_of(source), field=columns.time,
                                                             unit=self._units.get(number))
            if np.isfinite(time).any():
                self._check_clock(on_clock, source, columns.time, times.drop_null())
        state = _text(batch, columns.state, source) if columns.state else pa.array([""] * count)
        table = pa.table({"trip": trip.cast(pa.int64() if whole else pa.string()), "time": time,
                          "x": pc.fill_null(batch.column(columns.x), np.nan),
                          "y": pc.fill_null(batch.column(columns.y), np.nan), "state": state,
                          "row": np.arange(seen + 1, seen + 1 + count), "source": np.full(count, number, np.int32)})
        table = table.filter(wanted)
        self.notes.left_out += count - table.num_rows
        usable = pc.and_(pc.is_valid(table["trip"]), pc.and_(
            pc.is_finite(table["time"]), pc.and_(pc.is_finite(table["x"]), pc.is_finite(table["y"]))))
        kept = table.filter(usable)
        self.notes.missing += table.num_rows - kept.num_rows
        return kept

    def _one_trip(self, number: int) -> str:
        source = self.sources[number]
        return "0" if isinstance(source, pa.Table) else source.name.split(".")[0]

    def _check_clock(self, on_clock: bool, source: Source, field: str, column: pa.Array) -> None:
        if on_clock and self.options.tz is None:
            raise InputError("the times carry no zone", file=name_of(source), field=field, value=column[0],
                             remedy="say whose clock they are of, such as --tz Asia/Shanghai or --tz UTC")
        if self._on_clock not in (None, on_clock):
            raise InputError("some times carry an offset and others do not", file=name_of(source), field=field,
                             value=column[0], remedy="write all of them in one way")
        self._on_clock = on_clock

    # ---------------------------------------------------------------- trips that lie together
    def _whole_numbers(self, rows: int) -> bool:
        """Whether trips are named by whole numbers; also finds whether they lie together, in ``notes.shuffled``."""
        whole, last, self._rows = True, None, 0
        begun: list[np.ndarray] = []
        for source, columns in zip(self.sources, self._columns, strict=True):
            if not columns.trip:
                whole = False
                continue
            if not isinstance(source, pa.Table) and known_form(source) in GPX:
                whole = False
                continue
            for batch in stream(source, list(columns.trip), [], rows):
                self._rows += batch.num_rows
                names = _trip_names(batch, columns.trip, source).drop_null()
                whole = whole and (pa.types.is_integer(names.type)
                                   or bool(pc.all(pc.match_substring_regex(names, _WHOLE)).as_py()))
                names = names.cast(pa.string())
                starts = names.filter(pa.array(changes(names)))
                if len(starts) and starts[0].as_py() == last:
                    starts = starts[1:]
                if len(names):
                    last = names[-1].as_py()
                if not self.notes.shuffled:
                    begun.append(hashes(starts))
                    self.notes.shuffled = pc.count_distinct(starts).as_py() < len(starts)
        every = np.concatenate([np.empty(0, np.uint64), *begun])
        self.notes.shuffled = self.notes.shuffled or len(np.unique(every)) < len(every)
        return whole

    def blocks(self, points: int = BLOCK, rows: int | None = None) -> Iterator[Traces]:
        """Blocks of whole trips.

        Args:
            points: About how many points a block has; more where one trip is longer.
            rows: Rows read at a time; None for as many as are good.

        Raises:
            InputError: for a row that cannot be read, times that decrease or stand twice in a trip (unless
                ``repair``), times without a zone, or where no point can be used.
        """
        self.notes = ReadNotes()
        self._units: dict[int, str | None] = {}  # of the times of each source, where they are numbers
        tables = self._tables(min(points, ROWS) if rows is None else rows)
        first = next(tables, None)
        if first is not None:
            chained = _chain(first, tables)
            whole = shuffled(chained, self._rows, points, self.folder) if self.notes.shuffled else \
                together(chained, points)
            for table in whole:
                if table.num_rows and len((traces := self._traces(table)).trip):
                    yield traces
        if self.notes.rows == self.notes.missing + self.notes.left_out + self.notes.skipped_hour:
            raise InputError("there is no usable point", file=name_of(self.sources[0]), field="traces",
                             value=f"{self.notes.rows} rows, {self.notes.missing} without trip, time or place, "
                                   f"{self.notes.left_out} left out",
                             remedy="check the file, the columns named, and the conditions")

    # ---------------------------------------------------------------- a block in arrays
    def _traces(self, table: pa.Table) -> Traces:
        names = table["trip"].combine_chunks()
        start = changes(names)
        trip = np.cumsum(start) - 1
        ids = names.filter(pa.array(start))
        time = table["time"].to_numpy()
        keep = np.ones(len(time), bool)
        if self.options.point_interval is not None:
            time = (np.arange(len(trip)) - np.flatnonzero(start)[trip]) * float(self.options.point_interval)
        elif self._on_clock:
            time, keep, ambiguous = from_local_clock(time, str(self.options.tz), trip)
            self.notes.ambiguous += ambiguous
            self.notes.skipped_hour += int((~keep).sum())
        order = np.flatnonzero(keep)
        order = self._in_order(trip[order], time[order], table, order)
        trip, order, cut = self._states(trip[order], order, table)
        used, trip = np.unique(trip, return_inverse=True)
        place = np.column_stack([table["x"].to_numpy()[order], table["y"].to_numpy()[order]])
        return Traces(ids.take(pa.array(used)), trip.astype(np.int64), time[order],
                      place * self._factor if self.metric else place, cut)

    def _states(self, trip: np.ndarray, rows: np.ndarray, table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Trips and rows of the wanted state, and where the state changed in between."""
        encoded = pc.dictionary_encode(table["state"].combine_chunks())
        state = encoded.indices.to_numpy()[rows]
        stretch = np.cumsum(np.r_[False, np.diff(state) != 0][:len(state)])
        kept_state = self._columns[0].kept_state
        if kept_state is not None:
            keep = state == encoded.dictionary.index(kept_state).as_py()
            self.notes.left_out += int((~keep).sum())
            trip, rows, stretch = trip[keep], rows[keep], stretch[keep]
        return trip, rows, np.r_[False, (np.diff(stretch) != 0) & (np.diff(trip) == 0)][:len(trip)]

    def _in_order(self, trip: np.ndarray, time: np.ndarray, table: pa.Table, rows: np.ndarray) -> np.ndarray:
        """Rows of a block in the order of time within each trip; refuses or repairs what is not."""
        step, same = np.diff(time), np.diff(trip) == 0
        decreasing = same & (step < 0)
        by_time = np.lexsort((time, trip)) if decreasing.any() else np.arange(len(trip))
        twice = np.r_[False, (np.diff(trip[by_time]) == 0) & (np.diff(time[by_time]) == 0)][:len(trip)]
        if not self.options.repair and (decreasing.any() or twice.any()):
            # the row that is at fault, as the file has it: one earlier than the row before, or the second of equals
            bad = int(np.concatenate([np.flatnonzero(decreasing) + 1, by_time[twice]]).min())
            row, source = (table[name][int(rows[bad])].as_py() for name in ("row", "source"))
            raise InputError(f"the times of a trip must increase: row {row} is "
                             f"{'earlier than the row before' if bad and decreasing[bad - 1] else 'there twice'} "
                             f"({int(decreasing.sum())} decreasing and {int(twice.sum())} duplicate so far)",
                             file=name_of(self.sources[source]), field=self._columns[source].time,
                             value=f"{_iso(time[bad])} in trip {table['trip'][int(rows[bad])].as_py()}",
                             remedy="sort them and remove duplicates, or let --repair do it; if several trips share "
                                    "a name, name more columns with --trip-key")
        self.notes.decreasing += int(decreasing.sum())
        self.notes.duplicates += int(twice.sum())
        return rows[by_time[~twice]]


# -------------------------------------------------------------------- parts
def _trip_names(batch: pa.RecordBatch, columns: Sequence[str], source: Source) -> pa.Array:
    """Names of trips, whole numbers as int64, else text; several columns are joined by ``/``."""
    if len(columns) > 1:
        return pc.binary_join_element_wise(*(_cast(batch, name, source) for name in columns), "/")
    names = plain(batch.column(columns[0]))
    whole = pa.types.is_integer(names.type) or (pa.types.is_floating(names.type)
                                                and pc.all(pc.equal(names, pc.floor(names))).as_py())
    if whole:
        with contextlib.suppress(pa.ArrowInvalid):  # beyond 64 bits they are texts
            return names.cast(pa.int64())
    return _cast(batch, columns[0], source)


def _text(batch: pa.RecordBatch, name: str, source: Source) -> pa.Array:
    return pc.fill_null(_cast(batch, name, source), "")


def _cast(batch: pa.RecordBatch, name: str, source: Source) -> pa.Array:
    """A column as texts."""
    column = plain(batch.column(name))
    try:
        if pa.types.is_nested(column.type):
            raise pa.ArrowNotImplementedError("several values in one field")
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"not a column of names: {error}", file=name_of(source), field=name, value=column.type,
                         remedy="give whole numbers or texts") from error


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _iso(seconds: float) -> str:
    return f"{np.datetime64(int(np.floor(seconds)), 's')}Z"
