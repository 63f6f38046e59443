"""Weave with parts turned off is what it claims to hold: STID's kind, PatchSTG, OpenCity; sparse equals dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stgraph.models.opencity import Block as OpenCityBlock
from stgraph.models.opencity import OpenCityConfig, smoothing_relations
from stgraph.models.patchstg import PatchSTG, PatchSTGConfig
from stgraph.models.weave import Weave, WeaveConfig
from stgraph.models.weave_city import RELATIONS, patches
from stgraph.nn.blocks import PARTS, BlockConfig, Part, SpaceTimeStack, Surroundings, register_part
from stgraph.nn.learned_graph import residual_graph
from stgraph.nn.message_passing import Relation
from stgraph.windows import City, Window

MakeCity = Callable[..., City]
Shaken = TypeVar("Shaken", bound=nn.Module)
NODES, WIDTH = 11, 16
PROFILE = frozenset({"profile", "lags"})


def joined(make_city: MakeCity, seed: int = 0, **options: Any) -> City:
    """A city with weighted streets in one direction each, one loop, and a node without any."""
    city = make_city(**({"nodes": NODES, "seed": seed} | options))
    rng = np.random.default_rng(seed)
    pairs = np.array([(i, j) for i in range(NODES - 1) for j in range(NODES - 1) if i < j])
    index = rng.permuted(pairs[rng.permutation(len(pairs))[:20]], axis=1).T
    store = city.graph["sensor", "near", "sensor"]
    store.edge_index = torch.from_numpy(np.concatenate([index, [[2], [2]]], 1))
    store.edge_weight = torch.from_numpy(rng.uniform(0.2, 2, 21)).float()
    return city


def weave(city: City, **options: Any) -> Weave:
    """A model whose every weight matters."""
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(**({"width": WIDTH, "layers": 2, "heads": 2, "dropout": 0.0} | options)))
    assert isinstance(model, Weave)
    return shaken(model)


def shaken(module: Shaken) -> Shaken:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def tokens(model: Weave, window: Window) -> tuple[Tensor, Tensor, Surroundings]:
    """What goes into the blocks of a forecast, what the forecast makes of them, and what stands around them."""
    seen: dict[str, Any] = {}
    handle = model.stack.register_forward_pre_hook(lambda _, inputs: seen.update(h=inputs[0], around=inputs[1]))
    with torch.no_grad():
        states = model.states(window, model.to_come(window))
    handle.remove()
    return seen["h"][window.city.node_type], states, seen["around"]


# -------------------------------------------------------------------- STID: nodes by themselves, each with a vector
@torch.no_grad()
def test_without_parts_that_join_nodes_each_answers_from_its_own_readings_and_vector(make_city: MakeCity) -> None:
    """Equal to STID in what may influence what: own window, own vector, clock. The blocks differ (norms, gates)."""
    city = joined(make_city, channels=2)
    alone = weave(city, parts="mlp", city_mean=False, node_codes=True)
    window = city.window([100, 130], PROFILE)

    def moved(model: Weave, change: Callable[[], None], undo: Callable[[], None]) -> list[list[int]]:
        before = model(window).mean
        change()
        after = model(window).mean
        undo()
        return (before != after).any(1).any(0).nonzero().tolist()                       # [node, channel]

    def louder(by: float) -> Callable[[], None]:
        def change() -> None:
            window.values[:, :, 4, 1] += by
        return change

    def coded(by: float) -> Callable[[], None]:
        def change() -> None:
            assert alone.nodes is not None
            alone.nodes[7] += by
        return change

    window.mask[:] = True
    assert moved(alone, louder(3), louder(-3)) == [[4, 1]]
    assert moved(alone, coded(1), coded(-1)) == [[7, 0], [7, 1]]
    for joins in ({"city_mean": True}, {"parts": "graph,mlp"}, {"parts": "patch,mlp"}):
        model = weave(city, **({"parts": "mlp", "city_mean": False, "node_codes": True, "patch_size": 4} | joins))
        found = moved(model, louder(3), louder(-3))
        assert len(found) > 1
        assert all(channel == 1 for _, channel in found)


@torch.no_grad()
def test_nodes_that_show_the_same_differ_by_their_vectors_alone(make_city: MakeCity) -> None:
    """As in STID: with one vector for two nodes of the same readings the answers are one, with two they are two."""
    city = make_city(nodes=4, hidden=0)
    city.signal.values[:, 3] = city.signal.values[:, 1]
    model = weave(city, parts="mlp", city_mean=False, node_codes=True)
    assert model.nodes is not None
    window = city.window([100], PROFILE)
    model.nodes[3] = model.nodes[1]
    answer = model(window).mean
    torch.testing.assert_close(answer[:, :, 3], answer[:, :, 1])
    model.nodes[3] += 1
    assert not torch.isclose(model(window).mean[:, :, 3], answer[:, :, 1]).any()


# -------------------------------------------------------------------- PatchSTG: one token, depth and breadth of patches
@pytest.fixture
def gelu() -> Iterator[str]:
    """PatchSTG's MLP as a part, known while a test runs."""
    register_part("gelu", Part(lambda c: nn.Sequential(nn.Linear(c.width, c.width), nn.GELU(),
                                                       nn.Linear(c.width, c.width)),
                               lambda module, h, around, kind: module(h)))
    yield "gelu"
    del PARTS["gelu"]


def carry(paper: PatchSTG, stack: SpaceTimeStack) -> None:
    """PatchSTG's weights into a stack of the parts depth, MLP, breadth, MLP; none is left over on either side."""
    for block, ours in zip(paper.blocks, stack.blocks, strict=True):
        for place, mixer in ((0, block.depth), (2, block.breadth)):
            attention = ours.parts[place].depth if place == 0 else ours.parts[place].breadth
            attention.load_state_dict(mixer.attention.state_dict())
            ours.norms[place].load_state_dict(mixer.norm_attention.state_dict())
            ours.norms[place + 1].load_state_dict(mixer.norm_mlp.state_dict())
            ours.parts[place + 1][0].load_state_dict(mixer.mlp[0].state_dict())
            ours.parts[place + 1][2].load_state_dict(mixer.mlp[3].state_dict())
    count = sum(parameter.numel() for parameter in stack.parameters())
    assert count == sum(parameter.numel() for parameter in paper.blocks.parameters())


@pytest.mark.parametrize("placed", [True, False])
@torch.no_grad()
def test_one_token_with_patches_only_is_patchstg(make_city: MakeCity, gelu: str, placed: bool) -> None:
    """On the same tokens: both cut the city into the same patches, and all blocks say the same.

    What goes in (departures from the profile here, readings there) and what reads the answer differ.
    """
    city = make_city(nodes=NODES, placed=placed)
    model = weave(city, parts="patch_depth,gelu,patch_breadth,gelu", patch_size=4)
    paper = shaken(PatchSTG.for_city(city, PatchSTGConfig(
        input_width=WIDTH - 8, slot_width=4, weekday_width=4, node_table=False, heads=2, dropout=0.0, patches=3)))
    assert isinstance(paper, PatchSTG)
    partition, own = paper.partition(city), patches(city, 4)
    for name in ("all_idx", "slot_of_real", "node_of_real", "valid"):
        assert torch.equal(getattr(partition, name), getattr(own, name))
    block = replace(model.stack.blocks[0].config, breadth="same_slot")
    model.stack = SpaceTimeStack([block] * 2)
    carry(paper, model.stack)
    model.eval()
    h, states, _ = tokens(model, city.window([100, 130], PROFILE))
    assert h.shape == (2, 1, NODES, WIDTH)
    expected = partition.scatter(paper.mix(partition.gather(h[:, 0], 1), partition), 1)
    torch.testing.assert_close(states[:, 0], model.norm(expected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(states[:, 0], model.norm(h[:, 0]), rtol=0.1)


@torch.no_grad()
def test_one_patch_of_all_nodes_is_full_attention(make_city: MakeCity) -> None:
    """``patch_depth`` of a patch that holds the city: every node looks at every other, one pair at a time."""
    city = make_city(nodes=6)
    model = weave(city, parts="patch_depth", patch_size=6, layers=1)
    h, states, _ = tokens(model, city.window([100], PROFILE))
    block = model.stack.blocks[0]
    q, k, v = block.parts[0].depth.qkv(block.norms[0](h[0, 0])).view(6, 3, 2, WIDTH // 2).unbind(1)
    mixed = torch.zeros(6, 2, WIDTH // 2)
    for node, head in np.ndindex(6, 2):
        score = torch.stack([q[node, head] @ k[other, head] for other in range(6)]) / (WIDTH // 2) ** 0.5
        mixed[node, head] = score.softmax(0) @ v[:, head]
    expected = model.norm(h[0, 0] + block.parts[0].depth.out(mixed.flatten(1)))
    torch.testing.assert_close(states[0, 0], expected, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------- OpenCity: time, one relation, gated feed-forward
@torch.no_grad()
def test_time_and_one_relation_are_opencity(make_city: MakeCity) -> None:
    """Every weight matrix of OpenCity's block has its place in Weave's query and parts, and there they say the same.

    Put together as in the paper (root-mean-square norms, an inner residual, own and heard mixed before one more
    projection) they give OpenCity's block; Weave adds each part to what it normed by layer norm instead.
    """
    city = joined(make_city)
    model = weave(city, parts="time,graph,mlp", layers=1, alike=0, minutes=60.0)
    paper = shaken(OpenCityBlock(OpenCityConfig(width=WIDTH, heads=2)))
    time, graph, feed = model.stack.blocks[0].parts
    model.recall.load_state_dict(paper.calendar.state_dict())
    time.load_state_dict(paper.content.state_dict())
    feed.load_state_dict(paper.feed.state_dict())
    graph.basis[0].copy_(paper.neighbours.basis[0])  # one relation is one mixture; the other matrix is left out
    graph.shared.copy_(torch.stack([paper.neighbours.shared[0], torch.zeros(())]))
    graph.own.zero_()

    window = city.window([100, 130], PROFILE)
    h, _, around = tokens(model, window)
    (relation,) = smoothing_relations(city).values()
    query, key, carried = torch.randn_like(h), torch.randn(2, 5, NODES, WIDTH), torch.randn_like(h)
    past, minutes = torch.randn(2, 5, NODES, WIDTH), around.minutes
    assert minutes is not None
    expected = paper(past, carried, query, key, None, minutes, {"near": relation}, None)

    kept, normal = paper.before(carried), paper.before(past)
    c = paper.between(kept + model.recall(normal, query, key))
    t = paper.after(c + time(c, minutes))
    heard = graph(t, {"given": relation})
    found = carried + paper.mix(0.05 * t + 0.95 * heard)
    found = found + feed(paper.last(found))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, carried, rtol=0.1)


# -------------------------------------------------------------------- dense equals sparse
class Dense(nn.Module):
    """Messages by matrices ``[N, N]`` that add up to 1 over what a node hears, ``sum_r A_r h W_r``."""

    def __init__(self, matrices: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.matrices, self.weights = matrices, weights

    def forward(self, h: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        ((kind, x),) = h.items()
        heard = sum(matrix @ x.double() @ self.weights[name] for name, matrix in self.matrices.items())
        return {kind: heard.to(x)}


def matrices(city: City, alike: Relation) -> dict[str, Tensor]:
    """The three relations by their definition, rows for who hears, in float64."""
    index, weight = city.edges
    found = {name: torch.zeros(NODES, NODES, dtype=torch.double) for name in RELATIONS}
    for source, target, value in zip(*index.tolist(), weight.tolist(), strict=True):
        if source != target:
            found["given"][target, source] += value
            found["reversed given"][source, target] += value
    for target, source, value in zip(alike.adjacency.row.tolist(), alike.adjacency.col.tolist(),
                                     alike.weight.tolist(), strict=True):
        found["alike"][target, source] += value
    return {name: one / one.sum(1, keepdim=True).clamp(min=1e-9) for name, one in found.items()}


@torch.no_grad()
def test_sparse_messages_equal_dense_products(make_city: MakeCity) -> None:
    """States of all blocks, which are of size 1, with float64 products of full matrices in place of sparse ones."""
    city = joined(make_city)
    model = weave(city, parts="graph,mlp,graph", alike=3)
    window = city.window([100, 130], PROFILE)
    _, sparse, _ = tokens(model, window)
    full = matrices(city, residual_graph(city, 3))
    assert all(bool(one.any()) for one in full.values())
    for block in model.stack.blocks:
        for place in (0, 2):
            part = block.parts[place]
            block.parts[place] = Dense(full, {name: part.projection(name).double() for name in RELATIONS})
    _, dense, _ = tokens(model, window)
    assert not torch.equal(sparse, dense)  # other products were made
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)
    for block in model.stack.blocks:
        block.parts[0].weights["alike"] = block.parts[0].weights["given"]
    assert not torch.allclose(tokens(model, window)[1], sparse, rtol=1e-2)


# -------------------------------------------------------------------- a hybrid is a config
def test_an_order_of_parts_that_stands_nowhere_trains(make_city: MakeCity) -> None:
    city = joined(make_city, days=20)
    torch.manual_seed(0)
    parts = ("mlp", "patch_breadth", "conv", "graph", "linear_time", "mlp", "patch_depth")
    model = Weave.for_city(city, WeaveConfig(width=WIDTH, layers=1, parts=",".join(parts), minutes=60.0, patch_size=4))
    assert isinstance(model.stack.blocks[0].config, BlockConfig)
    assert model.stack.blocks[0].config.parts == parts
    window = city.window(range(100, 132, 4), PROFILE)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(60):
        loss = (model(window).mean - window.target)[window.target_mask].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.stack.parameters())
