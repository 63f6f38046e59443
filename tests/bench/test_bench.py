"""The bench: wrong rivals are refused, absent ones named, what is promised is judged, one JSON object comes out."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stgraph.bench import machine, rivals_dgl, rivals_scatter
from stgraph.bench.bars import verdicts
from stgraph.bench.case import BACKWARD, BOTH, FORWARD, RECORDED, WEIGHTS, Case
from stgraph.bench.costs import Cost
from stgraph.bench.graphs import Graphs
from stgraph.bench.plots import draw
from stgraph.bench.problem import BATCH, NODE, Problem
from stgraph.bench.reference import TOLERANCE
from stgraph.bench.runner import Bench, Settings, floor, run
from stgraph.bench.show import missing
from stgraph.bench.timing import Clock, Timed, rounds
from stgraph.bench.ways import OWN, Way, calls, collect, own, results
from stgraph.errors import InputError

GRAPHS = Graphs(None, shrink=20)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Settings("quick", shrink=20), GRAPHS)


def case(operator: str = "spmm", slabs: int = 3, features: int = 8, run: str = FORWARD, **more: Any) -> Case:
    return Case("spmm", operator, more.pop("graph", "sensor"), slabs, features, run=run, **more)


# -------------------------------------------------------------------- right answers
@pytest.mark.parametrize("one", [
    case(), case(slabs=1), case(reduce="mean"), case(reduce="max"), case(run=BACKWARD), case(run=WEIGHTS),
    case(run=BACKWARD, reduce="mean"), case(run=BOTH), case(run=RECORDED), case(dtype="float64", run=WEIGHTS),
    case(dtype="bfloat16"), case("gat_aggregate", heads=2), case("gat_aggregate", heads=2, run=BOTH),
    case("graph_attention", heads=2), case("graph_attention", heads=2, run=BOTH), case("sddmm", heads=2),
    case("sddmm", slabs=1), case("segment_reduce"), case("segment_reduce", slabs=1), case("gather_rows"),
    case(graph="power law 1M", slabs=1)], ids=lambda one: one.title)
def test_ours_and_the_rivals_give_the_right_answer(one: Case, bench: Bench) -> None:
    """Written in different libraries, they agree with NumPy; so none of them and not the reference is off."""
    problem = Problem(one, GRAPHS[one.graph] if one.graph == "sensor" else Graphs(None, shrink=5000)[one.graph])
    ways, _ = collect(one, problem, "bars", 1e12)
    timed, chosen, refused = bench.right(one, problem, ways)
    assert not [what for what in refused if what["reason"].startswith("wrong")]
    assert OWN in timed
    assert len(timed) >= 2, f"no rival to compare with: {refused}"
    may_refuse = {"dense attention", "torch.segment_reduce"} | ({"torch.sparse"} if one.run == WEIGHTS else set())
    assert one.dtype == "bfloat16" or {way.name for way in ways} - may_refuse <= set(timed), refused
    assert max(error for _, error in chosen.values()) <= TOLERANCE[one.dtype]


def test_layouts_are_the_same_numbers() -> None:
    problem = Problem(case(), GRAPHS["sensor"])
    batch, node = (problem.operands(0, layout)["x"] for layout in (BATCH, NODE))
    assert batch.shape == (3, problem.nodes, 8)
    assert node.shape == (problem.nodes, 3, 8)
    assert node.is_contiguous()
    assert torch.equal(problem.canonical(node, NODE), batch)
    first, second = own(problem.case)
    outs = [results(problem, way, FORWARD, calls(problem, way, FORWARD)[0]())["out"] for way in (first, second)]
    assert torch.equal(*outs)


def test_inputs_rotate_where_one_set_fits_the_cache() -> None:
    small = Problem(case(), GRAPHS["sensor"], cache=20_000)
    assert 1 < small.sets <= 8
    assert small.rotated == (small.sets * small.set_bytes >= 40_000)
    assert not torch.equal(small.operands(0, BATCH)["x"], small.operands(1, BATCH)["x"])
    assert Problem(case(), GRAPHS["sensor"], cache=0).sets == 1


@pytest.mark.parametrize("bad", ["one row", "nan", "shape", "bfloat16"])
def test_a_wrong_rival_is_refused_and_not_timed(bad: str, bench: Bench) -> None:
    one = case()
    problem = Problem(one, GRAPHS["sensor"])

    def make(inner: Problem) -> Any:
        right = own(one)[0].make(inner)

        def wrong(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            out = right(x=x, weight=weight).clone()
            row = int(inner.graph.destination[0])
            if bad == "one row":
                out[0, row] *= 1.001
            elif bad == "nan":
                out[0, row, 0] = torch.nan
            elif bad == "shape":
                out = out[:, :-1]
            else:
                out = out.bfloat16().float()
            return out

        return wrong

    timed, _, refused = bench.right(one, problem, [*own(one), Way("bad", BATCH, BATCH, make)])
    assert list(timed) == [OWN]
    assert [what["name"] for what in refused] == ["bad"]
    assert refused[0]["reason"].startswith("wrong")


def test_a_rival_that_breaks_is_named_and_not_fatal_but_ours_is(bench: Bench) -> None:
    one = case()
    problem = Problem(one, GRAPHS["sensor"])

    def broken(inner: Problem) -> Any:
        raise RuntimeError("no such type")

    _, _, refused = bench.right(one, problem, [*own(one), Way("bad", "v", BATCH, broken)])
    assert refused == [{"name": "bad", "variant": "v", "reason": "RuntimeError: no such type"}]
    with pytest.raises(RuntimeError, match="no such type"):
        bench.right(one, problem, [Way(OWN, "v", BATCH, broken)])


def test_absent_rivals_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    assert rivals_scatter.ways(case())[1][0].name == "torch-scatter"
    rivals_dgl.import_dgl.cache_clear()
    monkeypatch.setattr(rivals_dgl.importlib.util, "find_spec", lambda name: None)
    assert rivals_dgl.ways(case())[1] == [rivals_dgl.Absent("DGL", "not installed")]
    rivals_dgl.import_dgl.cache_clear()


def test_torch_scatter_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """A stand-in with its two functions, of the shapes that they document."""
    library = types.ModuleType("torch_scatter")

    def scatter(src: torch.Tensor, index: torch.Tensor, dim: int, dim_size: int, reduce: str) -> torch.Tensor:
        shape = [*src.shape]
        shape[dim] = dim_size
        assert reduce == "sum"
        return src.new_zeros(shape).index_add_(dim, index, src)

    def segment_csr(src: torch.Tensor, indptr: torch.Tensor, reduce: str) -> torch.Tensor:
        assert reduce == "sum"
        return torch.stack([src[low:high].sum(0) for low, high in itertools.pairwise(indptr)])

    library.scatter, library.segment_csr = scatter, segment_csr  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_scatter", library)
    for slabs in (1, 3):
        one = case(slabs=slabs)
        ways, absent = rivals_scatter.ways(one)
        assert not absent
        assert len(ways) == (2 if slabs == 1 else 3)
        for way in ways:
            timed, _, refused = bench.right(one, Problem(one, GRAPHS["sensor"]), [way])
            assert list(timed) == ["torch-scatter"], refused


# -------------------------------------------------------------------- clocks
def test_the_floor_is_the_slower_of_moving_and_computing() -> None:
    rates = {"copy_gb_s": 10.0, "gemm_gflop_s": 100.0}
    assert floor(Cost(20_000_000, 1, 0, 0, 0), rates) == pytest.approx(0.002)
    assert floor(Cost(1, 300_000_000, 0, 0, 0), rates) == pytest.approx(0.003)


class Told(Clock):
    """A clock that takes no time: calls give their own seconds, and are counted."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.order: list[tuple[str, int]] = []

    def sample(self, calls: list[Any], count: int, held: list[Any]) -> tuple[float, float]:
        name, seconds = calls[0]()
        self.order.append((name, count))
        return seconds, seconds / 2


def test_all_ways_take_turns_and_slow_ones_have_fewer_samples() -> None:
    clock = Told()
    ways = {name: Timed([lambda name=name, seconds=seconds: (name, seconds)], seconds)  # type: ignore[misc]
            for name, seconds in (("slow", 0.1), ("quick", 0.025), ("quickest", 1e-4))}
    rounds(ways, clock, 3.0)
    samples = {name: len(way.wall) for name, way in ways.items()}
    assert samples == {"slow": 10, "quick": 31, "quickest": 31}
    order = [name for name, _ in clock.order]
    places = [place for place, name in enumerate(order) if name == "slow"]
    apart = np.diff(places)
    assert apart.max() <= 2 * apart.min(), "samples of the slow way are spread over all rounds"
    assert [count for name, count in clock.order if name == "quickest"] == [1, 30] * 31, "warm first, then 30 in a row"
    assert ways["slow"].as_dict() == {"median_ms": 100.0, "quartiles_ms": [100.0, 100.0], "cpu_ms": 50.0, "samples": 10,
                                      "calls_per_sample": 1}


def test_the_slowest_way_has_samples_all_the_same() -> None:
    ways = {"slow": Timed([lambda: ("slow", 100.0)], 100.0)}
    rounds(ways, Told(), 1.0)
    assert len(ways["slow"].wall) == 2


def test_sets_rotate_and_the_processor_does_not_count_sleep() -> None:
    seen: list[int] = []
    clock = Clock("cpu")
    held: list[Any] = [None] * 3
    wall, cpu = clock.sample([lambda number=number: seen.append(number) for number in range(3)], 7, held)  # type: ignore[misc]
    assert seen == [0, 1, 2, 0, 1, 2, 0]
    wall, cpu = clock.sample([lambda: time.sleep(0.05)], 1, [None])
    assert wall >= 0.05
    assert cpu < 0.04


def test_keeping_freed_memory_saves_page_faults() -> None:
    code = ("import sys; from stgraph.bench.machine import set_allocator; "
            "print(set_allocator(sys.argv[1])['faults_of_a_fresh_64_mib'])")
    faults = {choice: int(subprocess.run([sys.executable, "-c", code, choice], capture_output=True, text=True,
                                         check=True).stdout) for choice in ("keep", "default")}
    assert faults["keep"] * 10 <= faults["default"] or faults["default"] < 100  # huge pages: few faults either way


# -------------------------------------------------------------------- promises
def entry(own_ms: float, rival_ms: float, name: str = "torch.sparse", *, one: Case | None = None,
          times_floor: float = 1.5) -> dict[str, Any]:
    ways = [{"name": OWN, "variant": "", "median_ms": own_ms, "times_floor": times_floor, "times_ours": 1.0,
             "cpu_times_ours": 1.0},
            {"name": name, "variant": "loop", "median_ms": rival_ms, "times_floor": 9.0,
             "times_ours": rival_ms / own_ms, "cpu_times_ours": rival_ms / own_ms}]
    one = one or Case("spmm", "spmm", "sensor", 32, 64)
    return {"case": one.as_dict(), "title": one.title, "ways": ways}


def judged(*entries: dict[str, Any], shrink: int = 1) -> list[tuple[str, bool | None]]:
    return [(bar["bar"], bar["met"]) for bar in verdicts({"cases": list(entries), "shrink": shrink})]


def test_promises_are_met_missed_or_untold() -> None:
    assert judged(entry(1.0, 3.5)) == [("at most 1.7x the copy floor", True),
                                       ("at least 3x as quick as torch.sparse", True),
                                       ("at least 40x as quick as PyG MessagePassing", None)]
    assert [met for _, met in judged(entry(1.0, 2.9, times_floor=1.71))] == [False, False, None]
    assert [met for _, met in judged(entry(1.0, 41.0, "PyG MessagePassing"))] == [True, None, True]
    assert {met for _, met in judged(entry(1.0, 3.5), shrink=2)} == {None}, "small sizes show nothing"


def test_the_backward_pass_is_held_against_the_forward_pass() -> None:
    back = entry(3.1, 1.0, one=Case("backward", "spmm", "sensor", 32, 64, run=BACKWARD))
    assert judged(entry(1.0, 9.0), back)[-1] == ("at most 3x its forward pass", False)
    assert judged(entry(1.1, 9.0), back)[-1] == ("at most 3x its forward pass", True)


def test_microseconds_of_a_call_and_memory_of_attention() -> None:
    call = entry(0.0055, 1.0, one=Case("overhead", "spmm", "tiny", 1, 4))
    assert judged(call) == [("a call: at most 6 us", True)]
    attention = entry(1.0, 21.0, "PyG-style eager layer", one=Case("attention", "gat_aggregate", "CA", 12, 64, 4))
    assert [met for _, met in judged(attention)] == [True, None]
    attention["ways"][0]["peak"] = {"workspace_bytes": 7, "result_bytes": 1, "message_bytes": 5,
                                    "holds_no_messages": False}
    assert [met for _, met in judged(attention)] == [True, False]


# -------------------------------------------------------------------- the whole
def stgraph(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stgraph", *words], capture_output=True, text=True, check=False)


def test_a_quick_run_gives_one_object_and_drawings(tmp_path: Path) -> None:
    done = stgraph("bench", "kernels", "--quick", "--shrink", "100", "--only", "spmm,attention,overhead", "--json",
                   "--out", str(tmp_path), "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    record = json.loads(done.stdout)
    assert {one["case"]["family"] for one in record["cases"]} == {"spmm", "attention", "overhead"}
    assert len(record["cases"]) == 7
    assert record["machine"]["gpu"] == machine.NOT_ON_GPU
    assert record["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0] or \
        record["machine"]["versions"]["torch"] == torch.__version__
    assert record["machine"]["threads"] == 1
    assert record["malloc"]["choice"] == "keep"
    assert record["bars"]
    assert all(bar["met"] is None for bar in record["bars"])
    for one in record["cases"]:
        ours = one["ways"][0]
        assert ours["name"] == OWN
        assert one["floor_ms"] * ours["times_floor"] == pytest.approx(ours["median_ms"])
        assert ours["quartiles_ms"][0] <= ours["median_ms"] <= ours["quartiles_ms"][1]
        absent = {what["name"] for what in one["absent"]}
        assert {"torch-sparse", "pyg-lib", "turbo-gnn"} <= absent
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.json", "roofline.svg", "roofline.png", "rivals.svg",
                                                          "rivals.png", "order.svg", "order.png"}
    assert machine.NOT_ON_GPU in done.stderr


def test_memory_of_attention_shows_a_buffer_of_messages() -> None:
    """In a process of its own: the layer that holds messages of all edges is seen to, ours is not."""
    from stgraph.bench.peak import peak_of, reset_peak
    from stgraph.bench.rivals_pyg import ways as pyg

    if not reset_peak():
        pytest.skip("the system does not let the peak be set back")
    one = Case("attention", "gat_aggregate", "sensor", 12, 64, 4)
    settings = Settings(threads=1)
    held = {way.name: peak_of(one, way, settings) for way in (own(one)[0], pyg(one)[0][0])}
    messages = 17_319 * 12 * 64 * 4
    assert all(found["message_bytes"] == messages for found in held.values()), held
    assert held[OWN]["holds_no_messages"]
    assert not held["PyG-style eager layer"]["holds_no_messages"]
    assert held[OWN]["result_bytes"] == 716 * 12 * 64 * 4


@pytest.mark.parametrize(("words", "field"), [
    (("--only", "spam"), "--only"), (("--quick", "--only", "sizes"), "--only"), (("--dtype", "int8"), "--dtype"),
    (("--threads", "0"), "--threads"), (("--data", "no/such/folder"), "--data"), (("--shrink", "0"), "--shrink"),
    (("--quick", "--bars"), "--quick")])
def test_what_cannot_be_run_is_refused(words: tuple[str, ...], field: str) -> None:
    from typer.testing import CliRunner

    from stgraph.cli.main import app

    done = CliRunner().invoke(app, ["bench", "kernels", *words])
    assert isinstance(done.exception, InputError)
    assert done.exception.field == field


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no GPU"):
        run(Settings("quick", device="cuda"))


def test_a_case_on_a_real_graph(shared_data: Path) -> None:
    bench = Bench(Settings("full", data=shared_data), Graphs(shared_data))
    said: list[str] = []
    found = bench.case(Case("sizes", "spmm", "PEMS-BAY", 12, 16), said.append)
    assert found is not None
    assert (found["nodes"], found["edges"]) == (325, 2_694)
    names = {way["name"] for way in found["ways"]}
    assert {OWN, "torch.sparse", "dense GEMM", "eager index_add", "PyG MessagePassing"} <= names
    assert said[0].startswith("spmm, PEMS-BAY")
    assert bench.case(Case("sizes", "spmm", "PEMS-BAY", 768, 200), said.append) is None, "too large"


def test_reasons_are_counted_once_each(tmp_path: Path) -> None:
    record = {"cases": [{"absent": [{"name": "DGL", "reason": "not installed"}],
                         "refused": [{"name": "a", "variant": "b", "reason": f"wrong: error {error} in out"}]}
                        for error in (0.1, 0.2)]}
    assert missing(record) == ["not installed: DGL, 2 cases", "wrong result, not timed: a (b), 2 cases"]
    empty: dict[str, Any] = {"cases": [], "abilities": {"before": {"copy_gb_s": 1.0, "gemm_gflop_s": 1.0}}}
    assert draw(empty, tmp_path) == []


def test_seeds_decide_the_operands() -> None:
    first, again, other = (Problem(case(), GRAPHS["sensor"], seed=seed).operands(0, BATCH)["x"].numpy()
                           for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
