"""Most memory that one call takes, in a process of its own: above its inputs, beside its results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgraph.io import peak_memory_mb

if TYPE_CHECKING:
    from stgraph.bench.case import Case
    from stgraph.bench.runner import Settings
    from stgraph.bench.ways import Way

HELD_SHARE = 0.5
"""A call that takes less beside its results than this share of a buffer of all messages cannot have held one."""


def peak_of(case: Case, way: Way, settings: Settings) -> dict[str, Any]:
    """Memory of one call of a way.

    Returns:
        ``extra_bytes`` above what was held before the call, ``result_bytes`` of that for the results,
        ``workspace_bytes`` for the rest; ``message_bytes`` of a buffer with the features of all edges, and whether the
        workspace shows that none was held; or ``reason`` where it could not be measured.
    """
    asked = {"case": case.as_dict(), "way": [way.name, way.variant], "device": settings.device,
             "data": None if settings.data is None else str(settings.data), "shrink": settings.shrink,
             "seed": settings.seed, "threads": settings.threads}
    done = subprocess.run([sys.executable, "-m", "stgraph.bench.peak"], input=json.dumps(asked), text=True,
                          capture_output=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"reason": f"the process ended with {done.returncode}: {said}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """The measurement itself, in the process that is there for it."""
    import torch

    from stgraph.bench.case import Case
    from stgraph.bench.costs import ITEMSIZE
    from stgraph.bench.graphs import Graphs
    from stgraph.bench.machine import give_back_memory
    from stgraph.bench.problem import Problem
    from stgraph.bench.ways import calls, collect

    give_back_memory()
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    case = Case(**asked["case"])
    graphs = Graphs(None if asked["data"] is None else Path(asked["data"]), asked["shrink"], asked["seed"])
    problem = Problem(case, graphs[case.graph], asked["device"], seed=asked["seed"])
    ways, _ = collect(case, problem, "full", float("inf"))
    way = next(way for way in ways if [way.name, way.variant] == asked["way"])
    call = calls(problem, way, case.run)[0]
    call()  # what a first call sets up is no part of a call
    cuda = problem.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    elif not reset_peak():
        return {"reason": "the system does not let the peak be set back"}
    else:
        before = held_bytes()
    out = call()
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if cuda else round(peak_memory_mb() * 2**20)
    results = sum(value.numel() * value.element_size() for value in (out if isinstance(out, tuple) else (out,)))
    messages = problem.edges * case.slabs * case.features * ITEMSIZE[case.dtype]
    workspace = peak - before - results
    return {"extra_bytes": peak - before, "result_bytes": results, "workspace_bytes": workspace,
            "message_bytes": messages, "holds_no_messages": workspace < HELD_SHARE * messages}


def reset_peak() -> bool:
    """Set the peak of this process back to what it holds now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return peak_memory_mb() * 2**20 - held_bytes() < 1 << 20


def held_bytes() -> int:
    """Memory that this process holds now; Linux."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.stdin.read()))))
