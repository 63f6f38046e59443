"""What does Weave cost as the network grows, and where does full attention no longer fit?

    python benchmarks/cost.py                                # all sizes; half an hour where nobody else computes
    python benchmarks/cost.py --quick --out /tmp/cost        # three small sizes, a few minutes

Made streets (simulated): a bent grid of junctions, each joined with its neighbours in both directions, a week of
readings every five minutes. Each model trains and forecasts windows of 12 steps in and 12 out at growing sizes. Every
figure comes from a process of its own whose address space is limited, so that "does not fit" is an error, not a guess.

Figures are kept in the work folder and not taken again; ``--again`` takes the times once more and pools the samples.
Results go to ``benchmarks/results/cost.md``, ``cost.json`` and ``cost.svg``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from stgraph.bench.machine import give_back_memory, load, processor
from stgraph.bench.peak import held_bytes, reset_peak
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.io import peak_memory_mb, write_json, write_text
from stgraph.models import config_from, model_class
from stgraph.models.weave import Weave
from stgraph.models.weave_city import patches, relations
from stgraph.objectives import MaskedRegression
from stgraph.version import versions
from stgraph.windows import City, Window

HERE = Path(__file__).parent
SEED, STEPS, STEP, DAYS = 20, 12, 300, 7
SIZES, QUICK = (512, 1024, 2048, 4096, 8192, 16384), (128, 256, 512)
BATCH = 8  # beside single windows
LONGEST = 60.0  # processor seconds of a training step after which larger sizes are not tried
BAR, LARGE = 1.25, 4096  # of the slope; from where on it is taken a second time
WIDEST = 16  # batch that is tried for what fits
CALM = 0.05  # a sample waited for a processor for less than this share of its time


@dataclasses.dataclass(frozen=True)
class Way:
    """A model and how it runs: ``each`` names a setting that is the number of nodes; ``fused`` as torch chooses."""

    title: str
    model: str
    settings: dict[str, Any]
    each: str = ""
    fused: bool = True


WAYS = {
    "weave": Way("weave, graph and MLP", "weave", {"parts": "graph,mlp"}),
    "patches": Way("weave, with patches of 32", "weave", {"parts": "graph,patch,mlp"}),
    "one_patch": Way("weave, one patch of all nodes", "weave", {"parts": "graph,patch,mlp"}, each="patch_size"),
    "staeformer": Way("staeformer, fused attention", "staeformer", {}),
    "staeformer_written": Way("staeformer, weights written out", "staeformer", {}, fused=False),
}
LINEAR = ("weave", "patches")  # those that are to cost in proportion to the nodes
SAMPLED = ("train", "forecast", "batch")
KINDS = {"train s": ("times", "train"), "forecast s": ("times", "forecast"), f"train s, batch {BATCH}": (
    "times", "batch"), "train MB": ("memory", "train"), "forecast MB": ("memory", "forecast")}


# -------------------------------------------------------------------- made streets
def made_city(nodes: int) -> City:
    """Junctions of a bent grid, 250 m apart, and speeds that neighbours share in part."""
    rng = np.random.default_rng(SEED)
    side = int(np.ceil(np.sqrt(nodes)))
    row, column = np.divmod(np.arange(nodes), side)
    east = np.flatnonzero((column < side - 1) & (np.arange(nodes) + 1 < nodes))
    north = np.flatnonzero(np.arange(nodes) + side < nodes)
    street = np.concatenate([[east, east + 1], [north, north + side]], 1)
    street = np.concatenate([street, street[::-1]], 1)
    places = np.stack([column, row], 1) * 250 + rng.uniform(-60, 60, (nodes, 2))
    rows = DAYS * 86_400 // STEP
    wave = np.sin(np.arange(rows, dtype=np.float32)[:, None] * np.float32(2 * np.pi * STEP / 86_400)
                  + rng.uniform(0, 2, nodes).astype(np.float32))
    values = 15 + 3 * wave + rng.standard_normal((rows, nodes), np.float32)
    values[:, street[1]] += 0.3 * (values[:, street[0]] - 15)
    graph = DynamicHeteroGraph(time=TimeAxis(0, STEP, rows))
    graph["sensor"].node_id = np.array([f"j{number}" for number in range(nodes)])
    graph["sensor"].lonlat = torch.from_numpy(np.array([-8.6, 41.1]) + places / 111_000)
    graph["sensor", "near", "sensor"].edge_index = torch.from_numpy(np.ascontiguousarray(street))
    graph["sensor", "near", "sensor"].edge_weight = torch.ones(street.shape[1])
    graph.add_signal("sensor", "speed", Signal(values[:, :, None], None, [Channel("speed", "speed", "m/s")]))
    return City(graph, history=STEPS, horizon=STEPS)


# -------------------------------------------------------------------- one figure, in a process of its own
class Work:
    """A model on a made city, ready to train and to forecast."""

    def __init__(self, way: Way, nodes: int) -> None:
        self.way, self.city = way, made_city(nodes)
        kind = model_class(way.model)
        config = config_from(kind, way.settings | ({way.each: nodes} if way.each else {}))
        self.once = self._once(config) if kind is Weave else {}
        torch.manual_seed(SEED)
        self.model = kind.for_city(self.city, config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.loss = MaskedRegression()

    def _once(self, config: Any) -> dict[str, float]:
        """Processor seconds of what is made once for a city."""
        def context() -> None:
            self.city.prepare(frozenset({"profile"}))
            _ = self.city.context.spread

        given = dataclasses.replace(config, alike=0)
        parts: dict[str, Callable[[], Any]] = {"profiles": context, "given": lambda: relations(self.city, given)}
        if "patch" in config.parts:
            parts["patches"] = lambda: patches(self.city, config.patch_size)
        if config.alike:
            parts["alike"] = lambda: relations(self.city, dataclasses.replace(config, given=False))
        found = {}
        for name, make in parts.items():
            before = time.process_time()
            make()
            found[name] = time.process_time() - before
        return found

    def window(self, batch: int) -> Window:
        """Windows of the training part, cut beforehand: cutting is no part of a step."""
        return self.city.window(np.arange(batch) * 17 + 300, self.model.capabilities.needs)

    def train(self, window: Window) -> None:
        """One training step."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.attention():
            self.loss(self.model, window)["mae"].backward()
        self.optimizer.step()

    def forecast(self, window: Window) -> None:
        """One forecast."""
        self.model.eval()
        with torch.inference_mode(), self.attention():
            self.model(window)

    def attention(self) -> contextlib.AbstractContextManager[Any]:
        """Torch's own choice of kernels, or weights written out as the published code does."""
        return contextlib.nullcontext() if self.way.fused else sdpa_kernel(SDPBackend.MATH)


def times(work: Work, asked: dict[str, Any]) -> dict[str, Any]:
    """Samples of a training step and of a forecast; of ways that ought to be linear, of a batch too."""
    found: dict[str, Any] = {"once": work.once, "parameters": work.model.parameter_count}
    window = work.window(1)
    found["train"] = sampled(lambda: work.train(window), asked["seconds"])
    found["forecast"] = sampled(lambda: work.forecast(window), asked["seconds"])
    if asked["linear"]:
        several = work.window(BATCH)
        found["batch"] = sampled(lambda: work.train(several), asked["seconds"])
    return found


def two(work: Work, asked: dict[str, Any]) -> dict[str, Any]:
    """Samples of a training step on two threads, which wait for each other: only on a quiet machine."""
    torch.set_num_threads(2)
    window = work.window(1)
    return {"train": sampled(lambda: work.train(window), asked["seconds"])}


def sampled(call: Callable[[], Any], seconds: float) -> list[list[float]]:
    """Wall, processor and waiting seconds of calls for about so many seconds: five at least, one of slow ones."""
    call()  # what a first call sets up is no part of a step
    samples: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(samples) < 40:
        if samples and (len(samples) >= 5 or samples[0][1] > 10) and time.perf_counter() > until:
            break
        before = time.perf_counter(), time.process_time(), waited()
        call()
        after = time.perf_counter(), time.process_time(), waited()
        samples.append([late - early for early, late in zip(before, after, strict=True)])
    return samples


def memory(work: Work, asked: dict[str, Any]) -> dict[str, Any]:
    """Megabytes above what is held before a training step and before a forecast, and the largest batch that trains."""
    found: dict[str, Any] = {"held": held_bytes() / 2**20}
    for name, call in (("train", work.train), ("forecast", work.forecast)):
        window = work.window(1)
        call(window)
        if not reset_peak():
            raise SystemExit("the system does not let the peak of a process be set back")
        before = held_bytes()
        call(window)
        found[name] = peak_memory_mb() - before / 2**20
    if asked["linear"]:
        found["batch"] = 1
        with contextlib.suppress(RuntimeError, MemoryError):
            while found["batch"] < asked["widest"]:
                work.train(work.window(2 * found["batch"]))
                found["batch"] *= 2
    return found


def waited() -> float:
    """Seconds that the threads of this process were ready to run and another program ran instead; Linux."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[1])
    return total / 1e9


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """The measurement itself: figures, or the error of what did not fit."""
    torch.set_num_threads(1)
    limit = asked["gigabytes"] << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if asked["what"] == "memory":
        give_back_memory()
    try:
        work = Work(WAYS[asked["way"]], asked["nodes"])
        return {"times": times, "two": two, "memory": memory}[asked["what"]](work, asked)
    except (RuntimeError, MemoryError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return {"error": f"{type(error).__name__}: {words[0][:240]}"}


# -------------------------------------------------------------------- all figures
class Ledger:
    """Figures by what was asked, kept in a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, options.work

    def ask(self, **asked: Any) -> dict[str, Any]:
        """The figures: kept ones, or those of a new process; with ``--again``, samples of both."""
        asked |= {"gigabytes": self.options.gigabytes, "linear": asked["way"] in LINEAR}
        path = self.folder / ("-".join(f"{value}" for value in asked.values()) + ".json")
        kept = json.loads(path.read_text()) if path.exists() else None
        if kept and (asked["what"] == "memory" or "error" in kept or not self.options.again):
            return kept
        words = json.dumps(asked | {"seconds": self.options.seconds, "widest": self.options.widest})
        done = subprocess.run([sys.executable, __file__, "--child", words], capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        said = (done.stderr.strip().splitlines() or ["-"])[-1][:240]
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else {
            "error": f"the process ended with {done.returncode}: {said}"}
        for name in SAMPLED:
            if kept and name in found:
                found[name] = kept[name] + found[name]
        write_json(path, found)
        print(f"{' '.join(map(str, asked.values()))}: {summary(found)}", file=sys.stderr, flush=True)
        return found


def summary(found: dict[str, Any]) -> str:
    """A line for the log."""
    if "error" in found:
        return found["error"]
    train = found["train"]
    return f"{train:.0f} MB" if isinstance(train, float) else f"{processor_seconds(train):.4f} s, {len(train)} samples"


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of every way and size; a way ends with the first size that does not fit or takes too long."""
    ledger, found = Ledger(options), dict[str, Any]()
    for name in options.ways:
        rows = found[name] = {}
        for nodes in options.sizes:
            row = rows[nodes] = {}
            for what in ("memory", "times"):
                row[what] = ledger.ask(what=what, way=name, nodes=nodes)
                if "error" in row[what]:
                    break
            if end_of(rows):
                break
            if options.two and name in LINEAR:
                row["two"] = ledger.ask(what="two", way=name, nodes=nodes)
    return found


# -------------------------------------------------------------------- what the samples say
def processor_seconds(samples: list[list[float]]) -> float:
    """The median of processor seconds; of one thread this hardly depends on who else computes."""
    return float(np.median([cpu for _, cpu, _ in samples]))


def calm(samples: list[list[float]]) -> float | None:
    """The median of wall seconds over samples that hardly waited for a processor; None for fewer than two."""
    chosen = [wall for wall, _, wait in samples if wait < CALM * wall]
    return float(np.median(chosen)) if len(chosen) > 1 else None


def slope(sizes: list[int], values: list[float]) -> dict[str, float]:
    """Least squares through the logarithms: slope and its standard error."""
    x, y = np.log(sizes), np.log(values)
    x = x - x.mean()
    steep = float((x @ y) / (x @ x))
    rest = y - y.mean() - steep * x
    error = float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))
    return {"slope": steep, "error": error, "points": len(sizes)}


def series(rows: dict[int, Any], figure: str, call: str) -> tuple[list[int], list[float]]:
    """Sizes and a figure of those that ran: processor seconds, or megabytes of memory, of a call."""
    sizes = [nodes for nodes, row in rows.items() if call in row.get(figure, {})]
    values = [rows[nodes][figure][call] for nodes in sizes]
    return sizes, [one if isinstance(one, float) else processor_seconds(one) for one in values]


def slopes(found: dict[str, Any]) -> dict[str, Any]:
    """Slopes of every way: over all sizes and over the large ones."""
    out: dict[str, Any] = {}
    for name, rows in found.items():
        for kind, (figure, call) in KINDS.items():
            sizes, values = series(rows, figure, call)
            large = [place for place, nodes in enumerate(sizes) if nodes >= LARGE]
            for over, chosen in (("all", range(len(sizes))), ("large", large)):
                if len(chosen) > 2:
                    out.setdefault(name, {}).setdefault(kind, {})[over] = slope(
                        [sizes[place] for place in chosen], [values[place] for place in chosen])
        if name == "weave":
            sizes = [nodes for nodes, row in rows.items() if "once" in row.get("times", {})]
            for part in rows[sizes[0]]["times"]["once"] if len(sizes) > 2 else ():
                out[name][f"once, {part}"] = {"all": slope(sizes, [rows[n]["times"]["once"][part] for n in sizes])}
    return out


def end_of(rows: dict[int, Any]) -> tuple[int, str] | None:
    """The first size that did not fit or took too long, and what happened; None where all went well."""
    for nodes, row in rows.items():
        for figure in ("memory", "times"):
            if "error" in row.get(figure, {}):
                return nodes, row[figure]["error"]
        if "train" in row.get("times", {}) and (took := processor_seconds(row["times"]["train"])) > LONGEST:
            return nodes, f"a training step takes {took:.0f} s"
    return None


# -------------------------------------------------------------------- the page
def page(result: dict[str, Any]) -> str:
    """The page: how it was taken, bars, growth, tables."""
    facts = result["facts"]
    lines = [
        "# Cost: time and memory as the network grows", "",
        f"Written by `python benchmarks/cost.py` on {facts['date']}: {facts['machine']}, load before and after "
        f"{facts['load'][0]} and {facts['load'][1]}, " + ", ".join(f"{name} {value}" for name, value in
                                                             facts["versions"].items()) + f". Seed {SEED}.", "",
        f"Made streets (simulated): a bent grid, neighbours joined in both directions, {DAYS} days of readings every "
        f"{STEP // 60} minutes (sha256 of {facts['sizes'][0]} nodes `{facts['sha256'][:16]}`); windows of {STEPS} "
        f"steps in and {STEPS} out, batch 1, float32. Every figure is of a process of its own with at most "
        f"{facts['gigabytes']} GiB of address space. *s*: median of processor seconds on one "
        "thread, which hardly depend on who else computes. *Wall*: median over samples that waited for a processor "
        f"for less than {CALM:.0%} of their time; – where there were not two. *MB*: most memory above what was held "
        "before the call. A training step is forward, MAE, backward and AdamW; windows are cut beforehand. *Batch that "
        f"fits*: doubled until it does not, up to {WIDEST}.", "",
        *_bars(result), *_growth(result)]
    for name, rows in result["figures"].items():
        lines += _table(WAYS[name].title, rows, name in LINEAR)
    lines += _once(result["figures"].get("weave", {}))
    return "\n".join(lines) + "\n"


def _bars(result: dict[str, Any]) -> list[str]:
    lines = ["## Bars", ""]
    for name in (name for name in LINEAR if name in result["slopes"]):
        for kind in KINDS:
            if kind in result["slopes"][name]:
                found = result["slopes"][name][kind]
                worst = max(one["slope"] for one in found.values())
                lines.append(f"* {WAYS[name].title}, {kind}: slope {_slopes(found)} (bar: below {BAR}): "
                             f"**{'met' if worst < BAR else 'missed'}**.")
    for name in (name for name in result["figures"] if name not in LINEAR):
        end = end_of(result["figures"][name])
        lines.append(f"* Full attention, {WAYS[name].title}: " + (
            f"no longer at **{end[0]:,} nodes**: `{end[1]}`." if end else "fits at all sizes that were tried."))
    return [*lines, "", "![Seconds and memory against nodes](cost.svg)", ""]


def _slopes(found: dict[str, Any]) -> str:
    words = {"all": "over all sizes", "large": f"from {LARGE:,} nodes on"}
    return ", ".join(f"{one['slope']:.2f} ± {one['error']:.2f} {words[over]}" for over, one in found.items())


def _growth(result: dict[str, Any]) -> list[str]:
    lines = ["## Growth", "", "Log-log slopes by least squares, ± standard error: 1 is in proportion, 2 is all pairs.",
             "", "| | what | slope |", "|---|---|---|"]
    for name, kinds in result["slopes"].items():
        lines += [f"| {WAYS[name].title} | {kind} | {_slopes(found)} |" for kind, found in kinds.items()]
    return [*lines, ""]


def _table(title: str, rows: dict[int, Any], linear: bool) -> list[str]:
    heads = ["nodes", "train s", "wall", "forecast s", "wall", "train MB", "forecast MB", "held MB", "parameters"]
    heads += [f"train s, batch {BATCH}", "batch that fits", "train wall, 2 threads"] if linear else []
    lines = [f"## {title}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for nodes, row in rows.items():
        cells = [f"{nodes:,}"]
        for call in ("train", "forecast"):
            samples = row.get("times", {}).get(call)
            cells += [f"{processor_seconds(samples):.3f}", _wall(calm(samples))] if samples else ["does not fit", ""]
        memory = row["memory"]
        cells += ["does not fit", "", ""] if "error" in memory else [
            f"{memory[key]:,.0f}" for key in ("train", "forecast", "held")]
        cells.append(f"{row['times']['parameters']:,}" if "parameters" in row.get("times", {}) else "")
        if linear and "batch" in row.get("times", {}):
            cells += [f"{processor_seconds(row['times']['batch']):.3f}", f"{min(memory.get('batch', 0), WIDEST)}",
                      _wall(calm(row.get("two", {}).get("train", [])))]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _wall(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _once(rows: dict[int, Any]) -> list[str]:
    kept = {nodes: row["times"]["once"] for nodes, row in rows.items() if "once" in row.get("times", {})}
    if not kept:
        return []
    parts = list(next(iter(kept.values())))
    lines = ["## Once for a city", "", "Processor seconds before the first step, weave with graph and MLP. "
             "`alike` looks at all pairs of series in blocks of bounded memory: its time grows with the square "
             "of the nodes.",
             "", "| nodes | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
    return [*lines, *(f"| {nodes:,} | " + " | ".join(f"{once[part]:.2f}" for part in parts) + " |"
                      for nodes, once in kept.items())]


def draw(result: dict[str, Any], path: Path) -> None:
    """Seconds of a training step and its memory against nodes; a cross where a way ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "cost"
    figure, both = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axes, shown, unit in ((both[0], "times", "s"), (both[1], "memory", "MB")):
        for number, (name, rows) in enumerate(result["figures"].items()):
            sizes, values = series(rows, shown, "train")
            fit = result["slopes"].get(name, {}).get(f"train {unit}", {}).get("all")
            label = WAYS[name].title + (f" (slope {fit['slope']:.2f})" if fit else "")
            axes.plot(sizes, values, marker="o", color=f"C{number}", label=label)
            end = end_of(rows)
            if end and sizes:
                axes.plot([end[0]], [values[-1] * (1 if sizes[-1] == end[0] else end[0] / sizes[-1])], marker="x",
                          markersize=11, markeredgewidth=2.5, color=f"C{number}", linestyle="none")
        axes.set(xscale="log", yscale="log", xlabel="nodes", xticks=result["facts"]["sizes"])
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{size:,}" for size in result["facts"]["sizes"]])
        axes.grid(alpha=0.3)
    both[0].set(ylabel="processor seconds", title="A training step of one window")
    both[1].set(ylabel="MB above what is held", title="Its memory")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8,
                  title="slopes of seconds; a cross: does not fit, or takes too long", title_fontsize=8)
    for ending in (".svg", ".png"):
        figure.savefig(path.with_suffix(ending), dpi=110, metadata={"Date": None} if ending == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    """Take what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small sizes, few samples")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of nodes, rising")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--gigabytes", type=int, default=8, help="address space of each process, GiB")
    parser.add_argument("--seconds", type=float, help="of samples of each figure")
    parser.add_argument("--two", action="store_true", help="two threads too: only where nobody else computes")
    parser.add_argument("--again", action="store_true", help="take the times once more and pool the samples")
    parser.add_argument("--work", type=Path, help="folder of single figures")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cost")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    options.sizes = options.sizes or (QUICK if options.quick else SIZES)
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    options.widest = 4 if options.quick else WIDEST
    options.work = options.work or HERE.parent / "runs" / ("cost-quick" if options.quick else "cost")
    before = load()
    figures, readings = collect(options), made_city(options.sizes[0]).signal.values
    result = {"facts": {
        "date": str(datetime.date.today()), "machine": f"{processor()}, {os.cpu_count()} cores, no GPU used",
        "versions": versions(), "load": [before, load()], "gigabytes": options.gigabytes,
        "sizes": list(options.sizes), "seed": SEED, "sha256": hashlib.sha256(readings.tobytes()).hexdigest()},
        "figures": figures, "slopes": slopes(figures)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out.with_suffix(".json"), result)
    write_text(options.out.with_suffix(".md"), page(result))
    draw(result, options.out)


if __name__ == "__main__":
    main()
