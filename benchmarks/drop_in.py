"""How much do layers of PyTorch Geometric gain from ``stgraph.ops.accelerate``? Each before and after, taking turns.

    python benchmarks/drop_in.py --data ../shared/data     # about three minutes on two cores
    python benchmarks/drop_in.py --quick                   # a tenth of the graph, to see that it runs

The graph is LargeST-CA: real places of 8,600 sensors, edges between the 201,363 nearest pairs (its road distances
cannot be had). The allocator keeps freed memory for both alike; outputs and gradients are compared before anything is
timed. Written to ``benchmarks/results/drop_in.md`` and ``drop_in.json``.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn import (
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    MessagePassing,
    SAGEConv,
    TransformerConv,
)

from stgraph.bench.graphs import Graphs
from stgraph.bench.machine import KEEP, describe, load
from stgraph.bench.timing import Clock
from stgraph.io import write_json, write_text
from stgraph.ops import accelerate, drop_in

HERE = Path(__file__).parent
WIDTH, HEADS = 64, 4
LAYERS: dict[str, Callable[[], MessagePassing]] = {
    "GCNConv(64, 64)": lambda: GCNConv(WIDTH, WIDTH),
    "GraphConv(64, 64)": lambda: GraphConv(WIDTH, WIDTH),
    "GINConv, one linear layer": lambda: GINConv(torch.nn.Linear(WIDTH, WIDTH)),
    "SAGEConv(64, 64), mean": lambda: SAGEConv(WIDTH, WIDTH),
    "SAGEConv(64, 64), max": lambda: SAGEConv(WIDTH, WIDTH, aggr="max"),
    "GATConv(64, 16, heads=4)": lambda: GATConv(WIDTH, WIDTH // HEADS, heads=HEADS),
    "GATv2Conv(64, 16, heads=4)": lambda: GATv2Conv(WIDTH, WIDTH // HEADS, heads=HEADS),
    "TransformerConv(64, 16, heads=4)": lambda: TransformerConv(WIDTH, WIDTH // HEADS, heads=HEADS),
}
FORWARD, BACKWARD = 1e-5, 1e-4
"""How far outputs and gradients may be apart, relative to the largest."""


def apart(mine: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> float:
    """Largest difference of a tensor, relative to its largest number, or to a hundredth of the largest of all.

    The gradient of the bias of keys is zero but for rounding: alone it has nothing to be relative to.
    """
    largest = [float(other.abs().max()) for other in others]
    return max(float((a - b).abs().max()) / max(scale, 0.01 * max(largest), 1e-12)
               for a, b, scale in zip(mine, others, largest, strict=True))


def measure(make: Callable[[], MessagePassing], x: Tensor, edge_index: Tensor, rounds: int) -> dict[str, Any]:
    """Both forms of a layer: checked, then timed in turns, forward and forward with backward."""
    torch.manual_seed(0)
    before = make()
    after = accelerate(before, inplace=False)
    if not drop_in.report(after).swapped:
        raise RuntimeError(str(drop_in.report(after)))
    grad = torch.randn(before(x, edge_index).shape)
    wanted = [x, *before.parameters()]

    def forward(layer: MessagePassing) -> Tensor:
        with torch.no_grad():
            return layer(x, edge_index)

    def both(layer: MessagePassing) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x, edge_index), (x, *layer.parameters()), grad)

    errors = {"forward": apart((forward(after),), (forward(before),)), "backward": apart(both(after), both(before))}
    if errors["forward"] > FORWARD or errors["backward"] > BACKWARD:
        raise RuntimeError(f"{type(before).__name__}: outputs or gradients differ: {errors}")
    clock, held = Clock("cpu"), [None]
    found: dict[str, Any] = {"errors": errors, "parameters": sum(p.numel() for p in wanted[1:])}
    for name, call in (("forward", forward), ("forward and backward", both)):
        samples: dict[str, list[tuple[float, float]]] = {"PyG": [], "accelerated": []}
        for turn in range(rounds + 1):
            ways = [("PyG", before), ("accelerated", after)]
            for way, layer in ways if turn % 2 else reversed(ways):
                taken = clock.sample([functools.partial(call, layer)], 1, held)
                if turn:  # the first turn warms up
                    samples[way].append(taken)
        found[name] = {way: summary(taken) for way, taken in samples.items()}
        found[name]["times"] = found[name]["PyG"]["median_ms"] / found[name]["accelerated"]["median_ms"]
    return found


def summary(samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Median, quartiles, processor time in milliseconds."""
    low, middle, high = np.percentile([wall for wall, _ in samples], [25, 50, 75]) * 1e3
    return {"median_ms": float(middle), "quartiles_ms": [float(low), float(high)],
            "cpu_ms": 1e3 * float(np.median([cpu for _, cpu in samples])), "samples": len(samples)}


def page(record: dict[str, Any], command: str) -> str:
    """The results as a page."""
    machine, graph = record["machine"], record["graph"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    allocator = ", ".join(f"`{name}={value}`" for name, value in record["allocator"].items())
    lines = ["# Layers of PyTorch Geometric, before and after", "",
             f"Written by `{command}` on {record['date']}. {machine['processor']}, {machine['threads']} threads, load "
             f"{record['load']}; {versions}; kernels: {machine['backend']['name']}. {graph['nodes']:,} nodes, "
             f"{graph['edges']:,} edges ({graph['origin']}), {WIDTH} channels, float32, one graph without batch. Both "
             f"under {allocator}. Medians of {record['rounds']} turns, quartiles in brackets; the compressed graph is "
             f"made once before. Outputs agree to {FORWARD:g} and gradients to {BACKWARD:g}, checked first.", "",
             "| layer | forward, ms: PyG | accelerated | times | forward + backward, ms: PyG | accelerated | times |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    for name, found in record["layers"].items():
        cells = []
        for part in ("forward", "forward and backward"):
            for way in ("PyG", "accelerated"):
                low, high = found[part][way]["quartiles_ms"]
                cells.append(f"{found[part][way]['median_ms']:.2f} ({low:.2f} to {high:.2f})")
            cells.append(f"**{found[part]['times']:.1f}**")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"Making the compressed graph and its transpose, once for each `edge_index`: "
                  f"{record['compression_ms']:.1f} ms. Not measured on a GPU."]
    return "\n".join(lines) + "\n"


def compression(edge_index: Tensor, nodes: int) -> float:
    """Milliseconds of compressing the graph and transposing it, the median of five."""
    from stgraph.ops import Adjacency

    clock, held = Clock("cpu"), [None]
    taken = [clock.sample([lambda: Adjacency.of_edges(edge_index, nodes, nodes).transpose], 1, held)[0]
             for _ in range(6)]
    return 1e3 * float(np.median(taken[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a tenth of the graph and three turns; nothing is written")
    chosen = parser.parse_args()
    graphs = Graphs(chosen.data if chosen.data.is_dir() else None, shrink=10 if chosen.quick else 1)
    graph = graphs["CA"]
    edge_index = torch.from_numpy(np.stack([graph.source, graph.destination]).astype(np.int64))
    x = torch.randn(graph.nodes, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rounds = 3 if chosen.quick else chosen.rounds
    record: dict[str, Any] = {
        "date": str(datetime.date.today()), "machine": describe("cpu"), "load": load(), "allocator": KEEP,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torch-geometric", "stgraph-city")},
        "rounds": rounds, "graph": graph.describe(), "compression_ms": compression(edge_index, graph.nodes),
        "layers": {name: measure(make, x, edge_index, rounds) for name, make in LAYERS.items()}}
    text = page(record, "python benchmarks/drop_in.py")
    if not chosen.quick:
        chosen.out.mkdir(parents=True, exist_ok=True)
        write_json(chosen.out / "drop_in.json", record)
        write_text(chosen.out / "drop_in.md", text)
    print(text)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in KEEP.items()):  # the C library reads them at its start
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    main()
