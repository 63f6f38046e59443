"""Layers of PyTorch Geometric in all their options, small graphs, and how a layer on our kernels is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
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

from stgraph.ops import accelerate
from stgraph.ops.names import NAMESPACE


def gin(width: int = 8) -> GINConv:
    return GINConv(torch.nn.Sequential(torch.nn.Linear(width, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6)), eps=0.3,
                   train_eps=True)


WEIGHTED: dict[str, Callable[[], MessagePassing]] = {
    "gcn": lambda: GCNConv(8, 6),
    "gcn improved": lambda: GCNConv(8, 6, improved=True, bias=False),
    "gcn without loops": lambda: GCNConv(8, 6, add_self_loops=False),
    "gcn without norm": lambda: GCNConv(8, 6, normalize=False),
    "gcn mean": lambda: GCNConv(8, 6, aggr="mean"),
    "gcn max": lambda: GCNConv(8, 6, aggr="max"),
    "gcn cached": lambda: GCNConv(8, 6, cached=True),
    "graph": lambda: GraphConv(8, 6),
    "graph mean": lambda: GraphConv(8, 6, aggr="mean", bias=False),
    "graph max": lambda: GraphConv(8, 6, aggr="max"),
}
PLAIN: dict[str, Callable[[], MessagePassing]] = {
    "sage": lambda: SAGEConv(8, 6),
    "sage sum": lambda: SAGEConv(8, 6, aggr="sum", root_weight=False),
    "sage max": lambda: SAGEConv(8, 6, aggr="max", normalize=True),
    "sage project": lambda: SAGEConv(8, 6, project=True, bias=False),
    "gin": gin,
    "transformer": lambda: TransformerConv(8, 5, heads=3),
    "transformer beta": lambda: TransformerConv(8, 5, heads=3, beta=True, concat=False),
    "transformer without root": lambda: TransformerConv(8, 5, root_weight=False, bias=False),
}
ATTENTION: dict[str, Callable[[], MessagePassing]] = {
    "gat": lambda: GATConv(8, 5, heads=3, edge_dim=4),
    "gat mean of heads": lambda: GATConv(8, 5, heads=3, concat=False, edge_dim=4, fill_value="add", negative_slope=0.0),
    "gat without loops": lambda: GATConv(8, 5, heads=2, add_self_loops=False, edge_dim=4, bias=False),
    "gat residual": lambda: GATConv(8, 5, heads=2, residual=True, edge_dim=4, fill_value=0.5),
    "gat2": lambda: GATv2Conv(8, 5, heads=3, edge_dim=4),
    "gat2 mean of heads": lambda: GATv2Conv(8, 5, heads=3, concat=False, edge_dim=4, share_weights=True),
    "gat2 without loops": lambda: GATv2Conv(8, 5, heads=2, add_self_loops=False, edge_dim=4, bias=False),
    "gat2 residual": lambda: GATv2Conv(8, 5, heads=2, residual=True, edge_dim=4, fill_value="max"),
}
LAYERS = {**WEIGHTED, **PLAIN, **ATTENTION}


class Calls(TorchDispatchMode):
    """The operators of ours that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == NAMESPACE:
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def numbers(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def edges(kind: str) -> tuple[Tensor, int]:
    """An edge index, and the number of nodes."""
    generator = torch.Generator().manual_seed(3)
    if kind == "no edges":
        return torch.zeros(2, 0, dtype=torch.int64), 5
    some = torch.randint(0, 12, (2, 40), generator=generator)
    if kind == "isolated":
        return some[:, (some[0] != some[1])] * 2, 30
    if kind == "duplicates":
        return torch.cat([some, some[:, :9], some[:, 3:7]], dim=1), 12
    assert kind == "self loops", kind
    loops = torch.tensor([1, 4, 4, 7])
    return torch.cat([torch.stack([loops, loops]), some], dim=1), 13


GRAPHS = ("no edges", "isolated", "duplicates", "self loops")


def made(name: str, dtype: torch.dtype = torch.float64) -> MessagePassing:
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():  # biases start at zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def run(layer: torch.nn.Module, *given: Any, **words: Any) -> list[Tensor]:
    """The output, and gradients of all that wants one: parameters, then inputs."""
    inputs = [v for value in (*given, *words.values()) for v in (value if isinstance(value, tuple) else (value,))
              if isinstance(v, Tensor) and v.requires_grad]
    out = layer(*given, **words)
    wanted = [*layer.parameters(), *inputs]
    loss = (out * numbers(*out.shape, seed=9, dtype=out.dtype)).sum()
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [out.detach(), *(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))]


def same(layer: MessagePassing, *given: Any, forward: float = 1e-12, backward: float = 1e-11, **words: Any) -> None:
    """The layer before and after, with our operators in use after, and none of PyG's messages."""
    swapped = accelerate(layer, inplace=False)
    wanted = run(layer, *given, **words)
    with Calls() as calls:
        found = run(swapped, *given, **words)
    assert calls.names, "our operators did not run"
    largest = [float(other.abs().max()) if other.numel() else 0.0 for other in wanted]
    least = 0.01 * max(largest[1:])  # some gradients are zero but for rounding, as that of the bias of keys
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=forward * largest[0])
    for mine, other, scale in zip(found[1:], wanted[1:], largest[1:], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=backward * max(scale, least))
    with torch.no_grad():
        torch.testing.assert_close(swapped(*given, **words), wanted[0], rtol=0, atol=forward * largest[0])
