"""Patch attention equals attention written out patch by patch; empty slots never speak; the cost is what is said."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stgraph.errors import InputError
from stgraph.nn.patch_attention import PatchAttention, from_slots, patch_attention_cost, to_slots
from stgraph.partition import Partition, kdtree, local_metres, patchstg_partition

B, S, N, D = 2, 3, 11, 8
KINDS = ("summaries", "same_slot", "none")


def made(nodes: int = N, patches: int = 3, seed: int = 0) -> Partition:
    """Patches of about equal size, some with an empty slot."""
    return kdtree(np.random.default_rng(seed).normal(size=(nodes, 2)), patches)


def shaken(block: PatchAttention) -> PatchAttention:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block.eval()


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """``[Lq, D]`` on ``[Lk, D]``, head by head."""
    out = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        out.append((q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    return torch.cat(out, -1)


def among(layer: nn.Module, x: Tensor, heads: int) -> Tensor:
    """Self-attention of rows ``[L, D]``."""
    return layer.out(attention(*layer.qkv(x).chunk(3, -1), heads))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------- equal to what it stands for
@pytest.mark.parametrize("heads", [1, 4])
def test_one_patch_is_full_attention(heads: int) -> None:
    block = shaken(PatchAttention(D, heads, breadth="none"))
    full = nn.MultiheadAttention(D, heads, batch_first=True).eval()
    full.load_state_dict({"in_proj_weight": block.depth.qkv.weight, "in_proj_bias": block.depth.qkv.bias,
                          "out_proj.weight": block.depth.out.weight, "out_proj.bias": block.depth.out.bias})
    h = torch.randn(B, S, N, D)
    flat = h.flatten(0, 1)
    torch.testing.assert_close(block(h, made(patches=1)), full(flat, flat, flat)[0].view_as(h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["equal split", "copies"])
@pytest.mark.parametrize("breadth", KINDS)
@pytest.mark.parametrize("depth", [True, False])
def test_equals_loops_over_patches_and_slots(padding: str, breadth, depth: bool) -> None:
    if breadth == "none" and not depth:
        return
    partition = made()
    if padding == "copies":
        rng = np.random.default_rng(0)
        partition = patchstg_partition(rng.normal(size=(N, 2)), 3, 4, rng.random((N, 5)))
        assert partition.valid.all()
        assert partition.valid.numel() > N
    block = shaken(PatchAttention(D, 2, breadth, depth, summaries=3, hubs=2))
    h = torch.randn(1, 1, N, D)
    size, valid = partition.patch_size, partition.valid.view(partition.patches, -1)
    node = partition.all_idx.view(partition.patches, -1)
    slots = {(p, s): h[0, 0, node[p, s]] for p in range(partition.patches) for s in range(size) if valid[p, s]}
    own = {place: torch.zeros(D) for place in slots}
    if depth:
        for p in range(partition.patches):
            places = [place for place in slots if place[0] == p]
            own |= dict(zip(places, among(block.depth, torch.stack([slots[q] for q in places]), 2), strict=True))
    seen = {place: block.norm(slots[place] + own[place]) if depth and breadth != "none" else slots[place]
            for place in slots}
    wide = {place: torch.zeros(D) for place in slots}
    if breadth == "same_slot":
        for s in range(size):
            places = [place for place in slots if place[1] == s]
            wide |= dict(zip(places, among(block.breadth, torch.stack([seen[q] for q in places]), 2), strict=True))
    elif breadth == "summaries":
        part = block.breadth
        rows = [torch.stack([seen[q] for q in slots if q[0] == p]) for p in range(partition.patches)]
        summary = torch.cat([attention(part.summary, *part.read_slots(x).chunk(2, -1), 2) for x in rows])
        hub = attention(part.hub, *part.read_summaries(summary).chunk(2, -1), 2)
        summary = summary + attention(part.ask_hubs(summary), *part.read_hubs(hub).chunk(2, -1), 2)
        for p, x in enumerate(rows):
            answer = part.out(attention(part.ask(x), *part.answer(summary[3 * p : 3 * p + 3]).chunk(2, -1), 2))
            wide |= dict(zip([q for q in slots if q[0] == p], answer, strict=True))
    out = block(h, partition)[0, 0]
    for slot, real in zip(partition.slot_of_real.tolist(), partition.node_of_real.tolist(), strict=True):
        place = divmod(slot, size)
        torch.testing.assert_close(out[real], own[place] + wide[place], rtol=1e-4, atol=1e-5)


def test_slots_and_back_is_nothing_done() -> None:
    partition, h = made(), torch.randn(B, S, N, D)
    turned = Partition(partition.all_idx, partition.slot_of_real.flip(0), partition.node_of_real.flip(0),
                       partition.valid, partition.patches)
    for one in (partition, turned):
        assert torch.equal(from_slots(to_slots(h, one), one), h)


# -------------------------------------------------------------------- laws
@pytest.mark.parametrize("breadth", KINDS)
def test_empty_slots_never_speak(breadth) -> None:
    partition, block = made(), shaken(PatchAttention(D, 2, breadth))
    empty = ~partition.valid
    assert empty.any()
    other = Partition(torch.where(empty, 7, partition.all_idx), partition.slot_of_real, partition.node_of_real,
                      partition.valid, partition.patches)
    h = torch.randn(B, S, N, D, requires_grad=True)
    out = block(h, partition)
    assert torch.equal(block(h, other), out)
    one, two = (torch.autograd.grad(block(h, p).square().sum(), h)[0] for p in (partition, other))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("breadth", KINDS)
def test_relabelled_nodes_with_their_partition_get_the_same(breadth) -> None:
    partition, block, h = made(), shaken(PatchAttention(D, 2, breadth)), torch.randn(B, S, N, D)
    order = torch.randperm(N)
    place = torch.argsort(order)
    turned = Partition(place[partition.all_idx], partition.slot_of_real, place[partition.node_of_real],
                       partition.valid, partition.patches)
    torch.testing.assert_close(block(h[:, :, order], turned), block(h, partition)[:, :, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("breadth", KINDS)
@pytest.mark.parametrize("whole_patch", [False, True])
def test_nobody_looks_at_what_was_not_observed(breadth, whole_patch: bool) -> None:
    partition, block = made(), shaken(PatchAttention(D, 2, breadth))
    seen = torch.ones(B, S, N, dtype=torch.bool)
    hidden = partition.all_idx.view(3, -1)[1][:4] if whole_patch else torch.tensor([2, 5])
    seen[1, :, hidden] = False
    h = torch.randn(B, S, N, D)
    out = block(h, partition, seen)
    assert torch.isfinite(out).all()
    noise = torch.where(seen[..., None], h, torch.randn_like(h))
    torch.testing.assert_close(block(noise, partition, seen)[seen], out[seen], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block(h[:1], partition, seen[:1]), block(h[:1], partition), rtol=1e-5, atol=1e-6)
    if not (whole_patch and breadth == "none"):  # whose nodes nobody else looks at anyway
        assert not torch.allclose(block(noise, partition)[seen], block(h, partition)[seen])


@pytest.mark.parametrize("breadth", ["summaries", "same_slot"])
def test_breadth_reaches_every_node_and_depth_its_patch(breadth) -> None:
    partition, h = made(), torch.randn(1, 1, N, D, requires_grad=True)
    patch = {node: number for number, part in enumerate(partition.parts()) for node in part}
    for kind in ("none", breadth):
        reach = torch.autograd.grad(shaken(PatchAttention(D, 2, kind))(h, partition)[0, 0, 4].sum(), h)[0][0, 0]
        reached = reach.abs().sum(-1) > 0
        wanted = torch.tensor([kind == "summaries" or patch[n] == patch[4] for n in range(N)])
        assert (reached >= wanted).all()
        assert reached.all() == (kind != "none")


def test_an_empty_patch_is_no_trouble() -> None:
    table = np.array([[0, 1, 2], [-1, -1, -1], [3, 4, -1]])
    for breadth in KINDS:
        block, h = shaken(PatchAttention(D, 2, breadth)), torch.randn(B, S, 5, D)
        out = block(h, Partition.from_slots(table))
        torch.testing.assert_close(out, block(h, Partition.from_slots(table[[0, 2]])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("breadth", KINDS)
def test_one_set_of_weights_for_any_number_of_nodes_and_every_weight_learns(breadth) -> None:
    block = PatchAttention(D, 2, breadth, summaries=2, hubs=3)
    for nodes, patches in ((N, 3), (40, 6)):
        block.zero_grad()
        block(torch.randn(B, S, nodes, D), made(nodes, patches)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    partition = made(5, 2)
    small = shaken(PatchAttention(4, 2, breadth)).double()
    assert torch.autograd.gradcheck(lambda x: small(x, partition), torch.randn(1, 2, 5, 4).double().requires_grad_())


# -------------------------------------------------------------------- cost
@pytest.mark.parametrize("breadth", KINDS)
@pytest.mark.parametrize("depth", [True, False])
def test_the_cost_is_what_is_counted(breadth, depth: bool) -> None:
    if breadth == "none" and not depth:
        return
    block, partition = PatchAttention(16, 4, breadth, depth, summaries=3, hubs=5).eval(), made(50, 7)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted, torch.no_grad():
        block(torch.randn(B, S, 50, 16), partition)
    assert counted.get_total_flops() == patch_attention_cost(B * S, 7, partition.patch_size, 16, breadth, depth, 3, 5)


def test_bounded_patches_cost_in_proportion_to_the_nodes() -> None:
    sizes = np.array([1024, 2048, 4096, 8192, 16384])

    def slope(breadth, patch_size) -> float:
        cost = [patch_attention_cost(1, n // patch_size(n), patch_size(n), 32, breadth) for n in sizes]
        return float(np.polyfit(np.log(sizes), np.log(cost), 1)[0])

    assert slope("summaries", lambda n: 32) == pytest.approx(1, abs=0.01)
    assert slope("same_slot", lambda n: math.isqrt(n)) < 1.5
    assert slope("same_slot", lambda n: 32) > 1.4
    assert slope("none", lambda n: n) > 1.8  # one patch: full attention


# -------------------------------------------------------------------- real data, bad input
def test_real_places_fill_patches_and_empty_slots_stay_silent(shared_data) -> None:
    table = pd.read_csv(shared_data / "los_loop/sensors.csv")
    partition = kdtree(local_metres(table[["longitude", "latitude"]].to_numpy()), 10)
    assert partition.valid.numel() == 210
    block, h = shaken(PatchAttention(D)), torch.randn(1, 2, 207, D)
    other = Partition(torch.where(partition.valid, partition.all_idx, 100), partition.slot_of_real,
                      partition.node_of_real, partition.valid, partition.patches)
    assert torch.equal(block(h, partition), block(h, other))
    h[:, :, 100] = torch.randn(D)
    assert not torch.allclose(block(h, partition)[:, :, :100], block(h, other)[:, :, :100] + 1)


@pytest.mark.parametrize(("call", "field"), [
    (lambda: PatchAttention(8, 3), "heads"),
    (lambda: PatchAttention(8, 2, "wide"), "breadth"),
    (lambda: PatchAttention(8, 2, "none", depth=False), "breadth"),
    (lambda: PatchAttention(8, 2, summaries=0), "summaries"),
    (lambda: PatchAttention(8)(torch.ones(1, 1, 4, 8), made()), "partition"),
])
def test_bad_input_is_refused_by_name(call, field: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert raised.value.field == field
