"""Run the cases: inputs, right answers, checks, then rounds of all ways that are right; one record for everything."""

from __future__ import annotations

import datetime
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stgraph.bench import machine
from stgraph.bench.bars import verdicts
from stgraph.bench.case import MOST_NUMBERS, SIZES_FAMILIES, Case, choose
from stgraph.bench.costs import Cost, cost
from stgraph.bench.graphs import SEED, Graphs
from stgraph.bench.peak import peak_of
from stgraph.bench.problem import Problem
from stgraph.bench.reference import TOLERANCE
from stgraph.bench.timing import Call, Clock, Timed, rounds
from stgraph.bench.ways import OWN, Way, calls, collect, results
from stgraph.errors import InputError

DTYPES = tuple(TOLERANCE)
SECONDS = {"quick": 0.8, "bars": 4.0, "full": 1.2}
"""Seconds of timing per case; what promises were made about gets those of ``bars`` in a full run too."""
QUICK_SLABS = 3
"""Slabs of attention that a quick run compares with float64."""
QUICK_ENOUGH = 0.3
"""Seconds: a quick run takes the first call of slower ways for how long they take, roughly."""
_COPY, _GEMM = "copy", "dense product"


@dataclass(frozen=True)
class Settings:
    """How to run.

    Args:
        suite: ``quick``, ``bars`` or ``full``.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the numbers.
        threads: Of torch; None: as it is.
        only: Families of cases; None: all.
        data: Folder of real data sets; None: made graphs.
        malloc: ``keep`` or ``default``.
        seed: Of operands and made graphs.
        shrink: Divide all sizes.
    """

    suite: str = "full"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    only: tuple[str, ...] | None = None
    data: Path | None = None
    malloc: str = "keep"
    seed: int = SEED
    shrink: int = 1

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises:
            InputError: naming the option.
        """
        if self.suite not in SECONDS:
            raise InputError("no such suite", field="suite", value=self.suite, remedy=f"one of {', '.join(SECONDS)}")
        if self.dtype not in DTYPES:
            raise InputError("no such type of numbers", field="--dtype", value=self.dtype,
                             remedy=f"one of {', '.join(DTYPES)}")
        if self.device not in ("cpu", "cuda"):
            raise InputError("no such device", field="--device", value=self.device, remedy="cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch finds no GPU here", field="--device", value="cuda", remedy="give --device cpu")
        if self.threads is not None and self.threads < 1:
            raise InputError("there is at least one thread", field="--threads", value=self.threads, remedy="give 1")
        if self.data is not None and not self.data.is_dir():
            raise InputError("no such folder", file=self.data, field="--data",
                             remedy="give the folder that holds sensor_graphs, or leave it out")


def data_folder(given: Path | None) -> Path | None:
    """The folder of real data sets: as given, else ``$STGRAPH_DATA``, else ``../shared/data`` where that is there."""
    if given is not None:
        return given
    named = os.environ.get("STGRAPH_DATA")
    if named:
        return Path(named)
    beside = Path("../shared/data")
    return beside if beside.is_dir() else None


def run(settings: Settings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Run a suite.

    Args:
        settings: How.
        say: Takes a line about each case as it ends.

    Returns:
        The record: date, machine, versions, settings, graphs, one entry per case, verdicts on the promises. Plain
        values, ready for JSON.

    Raises:
        InputError: for settings that cannot be run.
    """
    settings.check()
    cases = choose(settings.suite, settings.only, settings.dtype)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    allocator = machine.set_allocator(settings.malloc)
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "suite": settings.suite,
        "machine": machine.describe(settings.device), "malloc": allocator, "device": settings.device,
        "seed": settings.seed, "shrink": settings.shrink, "load_before": machine.load(),
        "data": None if settings.data is None else settings.data.name, "tolerance": TOLERANCE}
    graphs = Graphs(settings.data, settings.shrink, settings.seed)
    bench = Bench(settings, graphs)
    record["abilities"] = {"before": bench.abilities}
    record["cases"] = [case for case in (bench.case(case, say) for case in cases) if case is not None]
    record["abilities"]["after"] = machine.abilities(settings.device, torch.float32)
    record["graphs"] = {name: graph.describe() for name, graph in graphs.known.items()}
    record["load_after"] = machine.load()
    record["bars"] = verdicts(record)
    return record


class Bench:
    """Cases one after the other; inputs are kept while they do not change.

    Args:
        settings: How to run.
        graphs: The graphs.
    """

    def __init__(self, settings: Settings, graphs: Graphs) -> None:
        self.settings, self.graphs = settings, graphs
        self.clock = Clock(settings.device)
        self.cache = machine.last_cache(settings.device)
        self.abilities = machine.abilities(settings.device, torch.float32)
        self.copy, self.copied = machine.copy_call(settings.device)
        self._problem: Problem | None = None

    def problem(self, case: Case) -> Problem:
        """The inputs of a case."""
        if self._problem is None or self._problem.case.shape != case.shape:
            self._problem = None  # the old ones go before the new ones come
            cache = 0 if case.family == "overhead" else self.cache  # nothing but the call itself shall be seen there
            self._problem = Problem(case, self.graphs[case.graph], self.settings.device, cache, self.settings.seed,
                                    QUICK_SLABS if self.settings.suite == "quick" else None)
        return self._problem

    def case(self, case: Case, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Check and time all ways of a case; None where its inputs would be too large for the suite."""
        graph = self.graphs[case.graph]
        if case.family in SIZES_FAMILIES and graph.nodes * case.slabs * case.features > MOST_NUMBERS:
            return None
        problem = self.problem(case)
        ways, absent = collect(case, problem, self.settings.suite, 1e9 * self.abilities["gemm_gflop_s"])
        timed, chosen, refused = self.right(case, problem, ways)
        rates = self.take_turns(case, problem, timed)
        least = cost(case, graph.nodes, graph.edges)
        entry = {
            "case": case.as_dict(), "title": case.title, "nodes": graph.nodes, "edges": graph.edges,
            "least": {"bytes": least.moved, "operations": least.operations, "gathered_bytes": least.gathered},
            "sets": problem.sets, "rotated": problem.rotated, **rates,
            "floor_ms": 1e3 * floor(least, rates), "ways": _ways(timed, chosen, least, rates),
            "refused": refused, "absent": [{"name": one.name, "reason": one.reason} for one in absent]}
        self.add_peaks(case, entry, chosen)
        say(_line(entry))
        return entry

    # ---------------------------------------------------------------- check, then time
    def right(self, case: Case, problem: Problem,
              ways: Iterable[Way]) -> tuple[dict[str, Timed], dict[str, tuple[Way, float]], list[dict[str, Any]]]:
        """The best variant of each way that gives the right result; and those that do not, or cannot."""
        timed: dict[str, Timed] = {}
        chosen: dict[str, tuple[Way, float]] = {}
        refused: list[dict[str, Any]] = []
        answer = problem.answer(case.run)
        for way in ways:
            words = {"name": way.name, "variant": way.variant}
            try:
                made = calls(problem, way, case.run)
                held: list[Any] = [None]
                first = self.clock.sample(made[:1], 1, held)[0]
                found = results(problem, way, case.run, held.pop())
                errors = {name: answer.error(name, problem.checked(value)) for name, value in found.items()}
                del found
                worst = max(errors.values())
                if not worst <= TOLERANCE[case.dtype]:
                    refused.append(words | {"reason": f"wrong: error {worst:.1e} in "
                                                      f"{max(errors, key=lambda name: errors[name])}"})
                    continue
                if self.settings.suite != "quick" or first < QUICK_ENOUGH:
                    first = self.clock.rough(made)
            except InputError:
                raise
            except Exception as error:  # a rival may refuse a type or a shape in any way; ours may not
                if way.name == OWN:
                    raise
                said = textwrap.shorten(str(error), 140, placeholder=" ...")
                refused.append(words | {"reason": f"{type(error).__name__}: {said}"})
                continue
            if way.name not in timed or first < timed[way.name].first:
                timed[way.name], chosen[way.name] = Timed(made, first), (way, worst)
        return timed, chosen, refused

    def take_turns(self, case: Case, problem: Problem, timed: dict[str, Timed]) -> dict[str, float]:
        """Rounds of all ways, of a copy and of a dense product; what the last two reach, per second."""
        call, operations = machine.gemm_call(self.settings.device, problem.dtype)
        both: dict[str, Timed] = {}
        calls_of: dict[str, Call] = {_COPY: self.copy, _GEMM: call}
        for name, one in calls_of.items():
            both[name] = Timed([one], self.clock.rough([one]))
        bar = self.settings.suite != "quick" and case.family not in (*SIZES_FAMILIES, "density")
        rounds(timed | both, self.clock, SECONDS["bars" if bar else self.settings.suite])
        return {"copy_gb_s": self.copied / both[_COPY].median / 1e9,
                "gemm_gflop_s": operations / both[_GEMM].median / 1e9}

    def add_peaks(self, case: Case, entry: dict[str, Any], chosen: dict[str, tuple[Way, float]]) -> None:
        """Memory of one call in a process of its own: ours where it was promised; in a full run rivals too."""
        promised = case.operator == "gat_aggregate" and case.graph == "CA"
        full = self.settings.suite == "full"
        all_ways = full and (promised or (case.family == "spmm" and "shuffled" not in case.graph))
        ours = promised or (full and case.family == "backward")
        for way in entry["ways"]:
            if all_ways or (ours and way["name"] == OWN):
                way["peak"] = peak_of(case, chosen[way["name"]][0], self.settings)


def floor(least: Cost, rates: dict[str, float]) -> float:
    """Seconds that a case takes at least: its bytes as a copy moves them, or its operations as a dense product does."""
    return max(least.moved / rates["copy_gb_s"], least.operations / rates["gemm_gflop_s"]) / 1e9


def _ways(timed: dict[str, Timed], chosen: dict[str, tuple[Way, float]], least: Cost,
          rates: dict[str, float]) -> list[dict[str, Any]]:
    """One entry per way, ours first, then the quickest."""
    own = timed.get(OWN)
    bound = floor(least, rates)
    found = []
    for name, one in timed.items():
        way, error = chosen[name]
        speed = least.moved / one.median / 1e9
        found.append({"name": name, "variant": way.variant, **one.as_dict(), "error": error, "gb_s": speed,
                      "copy_share": speed / rates["copy_gb_s"], "gather_gb_s": least.gathered / one.median / 1e9,
                      "times_floor": one.median / bound, "times_ours": None if own is None else one.median / own.median,
                      "cpu_times_ours": None if own is None else one.median_cpu / max(own.median_cpu, 1e-9)})
    return sorted(found, key=lambda way: (way["name"] != OWN, way["median_ms"]))


def _line(entry: dict[str, Any]) -> str:
    own = next((way for way in entry["ways"] if way["name"] == OWN), None)
    if own is None:
        return f"{entry['title']}: OURS IS WRONG: {entry['refused'][0]['reason']}"
    rest = ", ".join(f"{way['name']} {way['times_ours']:.1f}x" for way in entry["ways"] if way["name"] != OWN)
    wrong = "".join(f"; {one['name']} ({one['variant']}) {one['reason']}" for one in entry["refused"]
                    if one["reason"].startswith("wrong"))
    return (f"{entry['title']}: {own['median_ms']:.4g} ms, {own['times_floor']:.2f}x the floor"
            f"{'; ' if rest else ''}{rest}{wrong}")
