"""What is timed: one operator on one graph, one size, one pass. Sizes and suites stand at the top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from stgraph.errors import InputError

FORWARD, RECORDED, BACKWARD, WEIGHTS, BOTH = ("forward", "forward, recorded", "backward", "backward with weights",
                                              "forward and backward")
FAMILIES = ("spmm", "narrow", "backward", "attention", "overhead", "order", "density", "reductions", "sizes",
            "bfloat16")
SIZES_FAMILIES = ("sizes", "bfloat16")

# The sizes of the full run. A size is left out where one tensor of features would have more numbers than MOST_NUMBERS.
GRAPHS = ("METR-LA", "PEMS-BAY", "PEMS07", "GLA", "CA", "Beijing", "road 100k", "road 1M", "power law 1M")
ATTENTION_GRAPHS = ("METR-LA", "PEMS-BAY", "PEMS07", "GLA", "Beijing")
SLABS = (1, 12, 96, 768)
FEATURES = (1, 2, 16, 64)
BACKWARD_SIZES = ((1, 64), (12, 16))
BFLOAT16_SIZES = ((12, 64), (96, 16))
DENSITIES = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
MOST_NUMBERS = 16_000_000


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Args:
        family: Group of cases, for ``--only``.
        operator: ``spmm``, ``gat_aggregate``, ``graph_attention``, ``sddmm``, ``segment_reduce`` or ``gather_rows``.
        graph: Name of the graph.
        slabs: Batch entries times steps, B T.
        features: Channels F; with heads, of all heads together.
        heads: Number of heads.
        run: Which pass is timed.
        dtype: Type of the numbers.
        reduce: ``sum``, ``mean`` or ``max``.
    """

    family: str
    operator: str
    graph: str
    slabs: int
    features: int
    heads: int = 1
    run: str = FORWARD
    dtype: str = "float32"
    reduce: str = "sum"

    @property
    def shape(self) -> Case:
        """The case without what does not change its inputs."""
        return replace(self, family="", run="")

    @property
    def title(self) -> str:
        """For people."""
        width = f"{self.heads}x{self.features // self.heads}" if self.heads > 1 else f"F {self.features}"
        words = [self.operator if self.reduce == "sum" else f"{self.operator} {self.reduce}", self.graph,
                 f"BT {self.slabs}", width, self.run]
        return ", ".join(words if self.dtype == "float32" else [*words, self.dtype])

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def bars(dtype: str = "float32") -> list[Case]:
    """The cases that promises were made about."""
    sensor, road = ("sensor", 32), ("road 200k", 1)
    cases = [Case("spmm", "spmm", *sensor, 64), Case("spmm", "spmm", *road, 64),
             Case("spmm", "spmm", "road 200k, shuffled", 1, 64)]
    cases += [Case("narrow", "spmm", *where, width) for where in (sensor, road) for width in (1, 2, 4)]
    cases += [Case("backward", "spmm", *where, 64, run=run) for where in (sensor, road) for run in (BACKWARD, WEIGHTS)]
    cases += [Case("attention", "gat_aggregate", "CA", 12, 64, 4, run) for run in (FORWARD, BOTH)]
    cases += [Case("overhead", "spmm", "tiny", 1, 4, run=run) for run in (FORWARD, RECORDED)]
    return [replace(case, dtype=dtype) for case in cases]


def sizes(dtype: str = "float32") -> list[Case]:
    """Everything else of the full run."""
    cases = [Case("order", "spmm", "road 200k, line by line", 1, 64)]
    cases += [Case("density", "spmm", f"random {density:g}", 12, 64) for density in DENSITIES]
    for graph, slabs in (("sensor", 32), ("road 200k", 1)):
        cases += [Case("reductions", "spmm", graph, slabs, 64, reduce=reduce) for reduce in ("mean", "max")]
        cases += [Case("reductions", operator, graph, 1, 64)
                  for operator in ("sddmm", "segment_reduce", "gather_rows")]
    cases += [Case("attention", "graph_attention", "CA", 12, 64, 4, run) for run in (FORWARD, BOTH)]
    cases += [Case("attention", "gat_aggregate", graph, 12, 64, 4, run)
              for graph in ATTENTION_GRAPHS for run in (FORWARD, BOTH)]
    cases += [Case("sizes", "spmm", graph, slabs, width) for graph in GRAPHS for slabs in SLABS for width in FEATURES]
    cases += [Case("sizes", "spmm", graph, slabs, width, run=WEIGHTS) for graph in GRAPHS
              for slabs, width in BACKWARD_SIZES]
    cases = [replace(case, dtype=dtype) for case in cases]
    if dtype == "float32":
        cases += [Case("bfloat16", "spmm", graph, slabs, width, dtype="bfloat16") for graph in GRAPHS
                  for slabs, width in BFLOAT16_SIZES]
    return cases


def choose(suite: str, only: Iterable[str] | None, dtype: str) -> list[Case]:
    """The cases of a suite.

    Args:
        suite: ``quick`` and ``bars``: what promises were made about; ``full``: all sizes too.
        only: Families; None: all.
        dtype: Type of the numbers.

    Raises:
        InputError: for a family that is not known or not part of the suite.
    """
    cases = bars(dtype) + (sizes(dtype) if suite == "full" else [])
    if only is None:
        return cases
    wanted = list(only)
    for name in wanted:
        if name not in FAMILIES:
            raise InputError("no such group of cases", field="--only", value=name,
                             remedy=f"give some of {', '.join(FAMILIES)}")
        if all(case.family != name for case in cases):
            raise InputError("this group is part of the full run only", field="--only", value=name,
                             remedy="leave out --quick or --bars")
    return [case for case in cases if case.family in wanted]
