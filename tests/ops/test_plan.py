"""All ways of a sparse product give the same sums, and the choice between them is that of ``regime.choose``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.graph import DynamicHeteroGraph
from stgraph.ops import Adjacency, halo, plan, regime, spmm
from stgraph.ops.block_dense import ROW_BLOCK
from stgraph.ops.library import ops
from stgraph.ops.names import REDUCTIONS
from stgraph.ops.regime import Regime

RELATION = ("sensor", "near", "sensor")


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ring(nodes: int, each: int) -> Adjacency:
    """Every node hears from the ``each`` nodes around it: blocks of rows read few sources."""
    source = (torch.arange(nodes)[:, None] + torch.arange(each) - each // 2) % nodes
    order = torch.randperm(nodes * each, generator=torch.Generator().manual_seed(0))
    edges = torch.stack([source.flatten(), torch.arange(nodes).repeat_interleave(each)])
    return Adjacency.of_edges(edges[:, order], nodes, nodes)


def scattered(sources: int, destinations: int, edges: int) -> Adjacency:
    draw = torch.Generator().manual_seed(edges)
    ends = [torch.randint(nodes, (edges,), generator=draw) for nodes in (sources, destinations)]
    return Adjacency.of_edges(torch.stack(ends), sources, destinations)


GRAPHS = {"ring": lambda: ring(300, 9), "bipartite": lambda: scattered(40, 30, 400), "few": lambda: scattered(5, 9, 3),
          "none": lambda: scattered(4, 3, 0)}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("nodes_first", [False, True])
@pytest.mark.parametrize("kind", ["none", "edge", "all"])
def test_every_way_gives_the_same_sums_and_gradients(name: str, reduce: str, nodes_first: bool, kind: str) -> None:
    graph = GRAPHS[name]()
    x = numbers(2, 3, graph.columns, 4)
    x = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) if nodes_first else x
    shape = {"none": None, "edge": (graph.edges, 1, 1, 1), "all": (graph.edges, 2, 3, 2)}[kind]
    ways = [Regime.ROWS, Regime.BLOCK, *([Regime.DENSE] if kind != "all" else [])]
    results = []
    for way in ways:
        leaves = [x.detach().requires_grad_(), numbers(2, 3, graph.rows, 4, seed=3).requires_grad_()]
        weight = None if shape is None else numbers(*shape, seed=2).requires_grad_()
        leaves += [] if weight is None else [weight]
        out = plan.product(way, graph, leaves[0], weight, leaves[1], REDUCTIONS[reduce])
        grads = torch.autograd.grad(out, leaves, numbers(*out.shape, seed=4))
        results.append((out.detach(), *grads))
        assert out.shape == (2, 3, graph.rows, 4)
        assert out.stride() == results[0][0].stride()
    for other in results[1:]:
        for mine, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


def test_second_derivatives_of_blocks() -> None:
    graph = ring(20, 3)
    x, weight = numbers(1, 1, 20, 2).requires_grad_(), numbers(graph.edges, 1, 1, 1, seed=2).requires_grad_()

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return plan.product(Regime.BLOCK, graph, x, weight, None, REDUCTIONS["mean"])

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))


def arguments(graph: Adjacency, x: Tensor, weight: Tensor | None, addend: Tensor | None,
              reduce: int) -> tuple[object, ...]:
    back, there, again = graph.transpose, graph.halo_plan(16), graph.transpose.halo_plan(16)
    return (*graph.parts, weight, x, addend, reduce, there.pointer, there.halo, there.local, 16, there.widest,
            *back.parts, again.pointer, again.halo, again.local, again.widest)


@pytest.mark.parametrize("with_weight", [False, True])
def test_opcheck(with_weight: bool) -> None:
    graph = scattered(40, 30, 400)
    weight = numbers(graph.edges, 1, 3, 2).requires_grad_() if with_weight else None
    x, addend = numbers(2, 3, 40, 4).requires_grad_(), numbers(2, 3, 30, 4).requires_grad_()
    torch.library.opcheck(ops.spmm_halo.default, arguments(graph, x, weight, addend, 1))
    by_node = x.detach().permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    torch.library.opcheck(ops.spmm_halo.default, arguments(graph, by_node, weight, None, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_dense_blocks_of_pytorch_are_the_same_operator(dtype: torch.dtype, reduce: str) -> None:
    graph = scattered(40, 30, 400)
    limit = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2}[dtype]
    for weight in (None, numbers(graph.edges, 1, 1, 1, dtype=dtype, seed=2)):
        x, addend = numbers(2, 3, 40, 4, dtype=dtype), numbers(2, 3, 30, 4, dtype=dtype, seed=3)
        given = arguments(graph, x, weight, addend, REDUCTIONS[reduce])
        got, wanted = halo.block_dense(*given[:12]), ops.spmm_halo(*given)  # type: ignore[arg-type]
        torch.testing.assert_close(got, wanted, rtol=limit, atol=limit)
        assert got.stride() == wanted.stride()


def test_compiles_whole_with_a_plan_that_is_there() -> None:
    torch._dynamo.reset()
    graph = ring(2000, 9)
    ways = []

    def step(x: Tensor) -> Tensor:
        way = plan.decide(graph, x, device="cuda").regime
        ways.append(way)
        return plan.product(way, graph, x.relu(), None, None, 0).sin()

    for planned in (False, True):
        if planned:
            graph.halo_plan()
            graph.transpose.halo_plan()
        torch._dynamo.reset()
        x = numbers(1, 1, 2000, 64, dtype=torch.float32).requires_grad_()
        out = torch.compile(step, fullgraph=True, backend="aot_eager")(x)
        assert torch.equal(out, spmm(graph, x.relu()).sin())
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0],
                           torch.autograd.grad(spmm(graph, x.relu()).sin().sum(), x)[0])
    assert ways == [Regime.ROWS, Regime.BLOCK]  # nothing is read back while a program is traced


# ---------------------------------------------------------------- the choice
def test_a_plan_is_found_where_it_may_pay_and_kept() -> None:
    graph = ring(2000, 9)
    x = numbers(1, 1, 2000, 64, dtype=torch.float32)
    assert plan.decide(graph, x, device="cuda", lasting=False).regime is Regime.ROWS
    assert graph.blocks is None
    assert plan.decide(graph, x, device="cuda").regime is Regime.BLOCK
    assert graph.blocks is graph.halo_plan()
    assert graph.halo_plan().row_block == ROW_BLOCK
    assert graph.halo_plan().reuse == graph.edges / (15 * (128 + 8) + 2000 - 15 * 128 + 8)
    assert plan.decide(graph, x, device="cuda", reduce=REDUCTIONS["max"]).regime is Regime.ROWS
    assert plan.decide(graph, x, device="cpu").regime is Regime.ROWS
    sparse = ring(2000, 7)  # too few entries a row: nothing is looked for
    assert plan.decide(sparse, x, device="cuda").regime is Regime.ROWS
    assert sparse.blocks is None


def test_a_halo_that_does_not_fit_is_not_staged() -> None:
    graph = ring(2000, 9)
    hub = torch.stack([torch.arange(2000), torch.zeros(2000, dtype=torch.int64)])
    ends = torch.stack([graph.col.long(), graph.row.long()])
    star = Adjacency.of_edges(torch.cat([ends, hub], 1), 2000, 2000)
    x = numbers(1, 1, 2000, 64, dtype=torch.float32)
    assert plan.decide(star, x, device="cuda").regime is Regime.ROWS
    assert star.halo_plan().reuse > 4
    assert star.halo_plan().widest == 2000


def test_dense_products_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense product turns one NaN into NaN for all, so nobody gets one who did not promise that there is none."""
    graph = scattered(200, 200, 3000)
    x = numbers(1, 1, 200, 64, dtype=torch.bfloat16)
    assert plan.decide(graph, x, device="cuda").regime is Regime.STAGED
    monkeypatch.setattr(regime, "FINITE", True)
    assert plan.decide(graph, x, device="cuda").regime is Regime.DENSE
    weight = numbers(graph.edges, 1, 1, 1, dtype=torch.bfloat16)
    assert plan.decide(graph, x, weight, device="cuda").regime is Regime.DENSE
    assert plan.decide(graph, x, weight.requires_grad_(), device="cuda").regime is Regime.STAGED  # another each step
    assert plan.decide(graph, x, weight.detach().expand(-1, 1, 1, 2), device="cuda").regime is Regime.DENSE
    assert plan.decide(graph, x, numbers(graph.edges, 1, 1, 2), device="cuda").regime is Regime.STAGED


def test_channels_are_those_that_lie_together() -> None:
    graph = scattered(2000, 2000, 3000)
    by_batch = numbers(4, 12, 2000, 16, dtype=torch.float32)
    by_node = by_batch.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    # 16 channels of 2,000 sources fit shared memory, 64 do not
    assert plan.decide(graph, by_batch, device="cuda").regime is Regime.STAGED
    assert plan.decide(graph, by_node, device="cuda").regime is Regime.ROWS
    assert plan.decide(graph, by_node, numbers(3000, 4, 1, 1), device="cuda").regime is Regime.STAGED
    assert plan.decide(graph, by_node[:, :, :, :8], device="cuda").regime is Regime.STAGED


def test_a_kept_matrix_follows_its_weight() -> None:
    graph, x = scattered(20, 30, 100), numbers(1, 2, 20, 3)
    weight = numbers(100, seed=2)
    for _ in range(3):
        for given in (weight.view(100, 1, 1, 1), None):
            torch.testing.assert_close(plan.product(Regime.DENSE, graph, x, given, None, 0),
                                       plan.product(Regime.ROWS, graph, x, given, None, 0))
        weight.mul_(-2)
    first = plan._matrix(graph, x, weight.view(100, 1, 1, 1))
    assert plan._matrix(graph, x, weight.view(100, 1, 1, 1)) is first
    assert plan._matrix(graph, x.float(), weight.float().view(100, 1, 1, 1)).dtype == torch.float32


# ---------------------------------------------------------------- the order of nodes
def test_real_sensors_along_a_hilbert_curve_reuse_their_halos(shared_data: object) -> None:
    """California's 8,600 sensors of LargeST, each hearing from the 23 nearest: the order of the file against others."""
    import pandas as pd
    from scipy.spatial import cKDTree

    sensors = pd.read_csv(shared_data / "sensor_graphs" / "largest_ca_meta.csv.gz")  # type: ignore[operator]
    lonlat = sensors[["Lng", "Lat"]].to_numpy(np.float64)
    metres = lonlat * [111_320 * np.cos(np.deg2rad(37)), 110_540]
    near = cKDTree(metres).query(metres, k=24)[1][:, 1:]
    graph = DynamicHeteroGraph()
    graph["sensor"].num_nodes = len(lonlat)
    graph["sensor"].lonlat = torch.from_numpy(lonlat)
    graph[RELATION].edge_index = torch.stack([torch.from_numpy(near.flatten()),
                                              torch.arange(len(lonlat)).repeat_interleave(23)])
    shuffled = graph.reorder(torch.randperm(len(lonlat), generator=torch.Generator().manual_seed(0)), "sensor")
    reuse = {name: Adjacency.of(made, RELATION).halo_plan().reuse
             for name, made in (("shuffled", shuffled), ("hilbert", shuffled.reorder("hilbert", "sensor")))}
    assert reuse["shuffled"] < 1.5
    assert reuse["hilbert"] > 10
    x = numbers(1, 1, len(lonlat), 64, dtype=torch.float32)
    ways = [plan.decide(Adjacency.of(made, RELATION), x, device="cuda").regime
            for made in (shuffled, shuffled.reorder("hilbert", "sensor"))]
    assert ways == [Regime.ROWS, Regime.BLOCK]
