"""Blocks from a config: any order of parts trains, lineages are configs, a missing type costs nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from stgraph.errors import InputError
from stgraph.models.patchstg import Block, PatchSTGConfig, _allowed
from stgraph.nn.blocks import (
    PARTS,
    BlockConfig,
    Part,
    SpaceTimeBlock,
    SpaceTimeStack,
    Surroundings,
    find_part,
    needs_of,
    register_part,
)
from stgraph.nn.learned_graph import Candidates, find_candidates, residual_graph
from stgraph.nn.message_passing import Relation, relations_of
from stgraph.ops import Adjacency
from stgraph.partition import Partition, feature, kdtree
from stgraph.sources.sensors import build_sensors
from stgraph.windows import City

B, S, N, D = 2, 4, 11, 8
ALL = ("time", "linear_time", "conv", "graph", "learned_graph", "patch", "patch_depth", "patch_breadth", "hypergraph",
       "learned_hypergraph", "mlp")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def around(nodes: int = N, patches: int = 3) -> Surroundings:
    """All that any part needs."""
    index = torch.randint(nodes, (2, 4 * nodes))
    member = torch.stack([torch.arange(nodes), torch.arange(nodes) % 3])
    return Surroundings(relations={"near": Relation(Adjacency.of_edges(index, nodes, nodes), torch.rand(4 * nodes))},
                        partition=kdtree(np.random.default_rng(0).normal(size=(nodes, 2)), patches),
                        incidence=Adjacency.of_edges(member, nodes, 3),
                        candidates=find_candidates(torch.randn(nodes, 6), nearest=4, random=2),
                        descriptors=torch.randn(nodes, 5), codes=torch.randn(nodes, 3))


def config(parts: tuple[str, ...], **options) -> BlockConfig:
    return BlockConfig(parts, width=D, heads=2, relations=("near",), descriptors=5, codes=3, hyperedges=4, neighbours=2,
                       **options)


def shaken(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


# -------------------------------------------------------------------- a hybrid is a config
def test_an_order_that_exists_nowhere_trains() -> None:
    """Eight windows of waves that run along a ring: what a node shows next is what the node before it shows now."""
    nodes, tokens = 16, 6
    start = torch.rand(8, 1, 1, 1) * 2 * math.pi
    angle = start - torch.arange(nodes)[:, None] * 0.4 + torch.arange(tokens + 1)[:, None, None] * 0.4
    wave = angle.sin()                                                                        # [8, S + 1, N, 1]
    ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
    surroundings = around(nodes)
    surroundings.relations = {"ring": Adjacency.of_edges(ring, nodes, nodes)}
    order = ("learned_hypergraph", "mlp", "patch", "learned_graph", "linear_time", "graph", "hypergraph", "conv",
             "patch_breadth", "time")
    inside, outside = nn.Linear(1, D), nn.Linear(D, 1)
    stack = SpaceTimeStack([config(order)])
    optimiser = torch.optim.Adam([*inside.parameters(), *stack.parameters(), *outside.parameters()], 3e-3)
    losses = []
    for _ in range(60):
        surroundings.graphs.clear()
        forecast = outside(stack(inside(wave[:, :-1]), surroundings))
        loss = (forecast[:, -1] - wave[:, -1]).square().mean() + 0.01 * surroundings.graphs[0].prior_loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert losses[-1] < 0.2 * float(wave.var())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("diffusion", [False, True])
def test_each_part_adds_to_the_normed_state_and_learns(name: str, diffusion: bool) -> None:
    stack = shaken(SpaceTimeStack([config((name,), diffusion=diffusion)])).train()
    surroundings, h = around(), torch.randn(B, S, N, D)
    surroundings.diffusion_time = torch.rand(B) if diffusion else None
    out = stack(h, surroundings)
    assert out.shape == h.shape
    assert not torch.allclose(out, h)
    assert len(surroundings.graphs) == (name == "learned_graph")
    sum((graph.prior_loss() for graph in surroundings.graphs), out.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stack.parameters())


def test_all_parts_are_tested_here() -> None:
    assert set(ALL) == set(PARTS)


def test_a_config_survives_json_and_says_what_it_needs() -> None:
    one = config(("patch", "graph", "learned_graph"))
    again = BlockConfig(**json.loads(json.dumps(dataclasses.asdict(one))))
    assert [tuple(p.shape) for p in SpaceTimeBlock(again).parameters()] == \
        [tuple(p.shape) for p in SpaceTimeBlock(one).parameters()]
    assert needs_of(one.parts) == {"partition", "candidates"}
    assert needs_of(("time", "mlp", "graph")) == frozenset()


# -------------------------------------------------------------------- laws of the whole block
def test_a_block_is_its_parts_in_order() -> None:
    block, surroundings, h = shaken(SpaceTimeBlock(config(("graph", "mlp", "time")))), around(), torch.randn(B, S, N, D)
    x = h + block.parts[0](block.norms[0](h), surroundings.relations)
    x = x + block.parts[1](block.norms[1](x))
    x = x + block.parts[2](block.norms[2](x), torch.arange(S) * 60)
    torch.testing.assert_close(block(h, surroundings), x)
    empty = SpaceTimeBlock(config(()))
    assert torch.equal(empty(h, surroundings), h)


def test_relabelled_nodes_get_the_same_from_all_parts_together() -> None:
    stack, one, h = shaken(SpaceTimeStack([config(ALL)] * 2)), around(), torch.randn(B, S, N, D)
    order = torch.randperm(N)
    place = torch.argsort(order)
    relation, partition, candidates = one.relations["near"], one.partition, one.candidates
    ends = torch.empty(2, relation.adjacency.edges, dtype=torch.long)
    ends[:, relation.adjacency.edge.long()] = torch.stack([relation.adjacency.col, relation.adjacency.row]).long()
    other = Surroundings(
        relations={"near": Relation(Adjacency.of_edges(place[ends], N, N), relation.weight)},
        partition=Partition(place[partition.all_idx], partition.slot_of_real, place[partition.node_of_real],
                            partition.valid, partition.patches),
        incidence=Adjacency.of_edges(torch.stack([torch.arange(N), order % 3]), N, 3),
        candidates=Candidates(place[candidates.source][order], candidates.allowed[order], candidates.prior[order]),
        descriptors=one.descriptors[order], codes=one.codes[order])
    torch.testing.assert_close(stack(h[:, :, order], other), stack(h, one)[:, :, order], rtol=1e-4, atol=1e-5)


def test_windows_do_not_see_each_other() -> None:
    stack, surroundings, h = shaken(SpaceTimeStack([config(ALL)])), around(), torch.randn(3, S, N, D)
    torch.testing.assert_close(stack(h[1:2], surroundings), stack(h, surroundings)[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_observed_changes_nothing_else(name: str) -> None:
    block, surroundings, h = shaken(SpaceTimeBlock(config((name,)))), around(), torch.randn(B, S, N, D)
    surroundings.observed = torch.rand(B, S, N) > 0.3
    noise = torch.where(surroundings.observed[..., None], h, torch.randn_like(h))
    seen = surroundings.observed
    torch.testing.assert_close(block(noise, surroundings)[seen], block(h, surroundings)[seen], rtol=1e-4, atol=1e-5)
    loud = SpaceTimeBlock(config((name,), silence=False)).eval()
    loud.load_state_dict(block.state_dict())
    if name != "mlp":
        assert not torch.allclose(loud(noise, surroundings)[seen], loud(h, surroundings)[seen])


def test_one_set_of_weights_for_any_number_of_nodes_tokens_and_minutes() -> None:
    stack = shaken(SpaceTimeStack([config(ALL)] * 2))
    for nodes, tokens, span in ((N, S, 60.0), (23, 9, 15.0)):
        surroundings = around(nodes, 4)
        surroundings.span = span
        assert torch.isfinite(stack(torch.randn(1, tokens, nodes, D), surroundings)).all()
    assert not any({N, 23} & set(p.shape) for p in stack.parameters())


# -------------------------------------------------------------------- several types
def test_types_share_weights_and_a_missing_one_costs_nothing() -> None:
    block = shaken(SpaceTimeBlock(config(("time", "graph", "patch", "mlp"))))
    near = Adjacency.of_edges(torch.randint(N, (2, 30)), N, N)
    on = Adjacency.of_edges(torch.tensor([[0, 1], [3, 3]]), 5, N)
    partition = kdtree(np.random.default_rng(0).normal(size=(N, 2)), 3)
    h, event = torch.randn(B, S, N, D), torch.randn(B, S, 5, D)
    relations = {("sensor", "near", "sensor"): near, ("event", "on", "sensor"): on}
    alone = block({"sensor": h}, Surroundings(relations=relations, partition={"sensor": partition}))
    plain = block(h, Surroundings(relations={"near": near}, partition=partition))
    torch.testing.assert_close(alone["sensor"], plain)
    both = block({"sensor": h, "event": event}, Surroundings(relations=relations, partition={"sensor": partition}))
    assert not torch.allclose(both["sensor"][:, :, 3], alone["sensor"][:, :, 3])
    patches = {"event": kdtree(np.zeros((5, 2)), 1)}
    events = block({"event": event}, Surroundings(relations=relations, partition=patches))
    assert not torch.allclose(both["event"], events["event"])  # events had no patches before and were passed over
    silent = block({"sensor": h, "event": event}, Surroundings(
        relations=relations, partition={"sensor": partition},
        observed={"event": torch.zeros(B, S, 5, dtype=torch.bool)}))
    torch.testing.assert_close(silent["sensor"], alone["sensor"])
    unlinked = block({"sensor": h, "event": event}, Surroundings(
        relations={("sensor", "near", "sensor"): near}, partition={"sensor": partition}))
    torch.testing.assert_close(unlinked["sensor"], alone["sensor"])


# -------------------------------------------------------------------- lineages
@pytest.fixture
def gelu() -> Iterator[str]:
    """A part that is not among ours, known while a test runs."""
    register_part("gelu", Part(lambda c: nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, D)),
                               lambda module, h, around, kind: module(h)))
    yield "gelu"
    del PARTS["gelu"]


def test_depth_and_breadth_with_masked_padding_are_patchstg(gelu: str) -> None:
    """A block of PatchSTG is four parts, with its own kind of MLP made known as a part."""
    paper = shaken(Block(D, PatchSTGConfig(heads=2, dropout=0.0)))
    block = SpaceTimeBlock(config(("patch_depth", gelu, "patch_breadth", gelu), breadth="same_slot")).eval()
    for number, mixer in ((0, paper.depth), (2, paper.breadth)):
        ours = block.parts[number].depth if number == 0 else block.parts[number].breadth
        ours.qkv.load_state_dict(mixer.attention.qkv.state_dict())
        ours.out.load_state_dict(mixer.attention.out.state_dict())
        block.norms[number].load_state_dict(mixer.norm_attention.state_dict())
        block.norms[number + 1].load_state_dict(mixer.norm_mlp.state_dict())
        block.parts[number + 1][0].load_state_dict(mixer.mlp[0].state_dict())
        block.parts[number + 1][2].load_state_dict(mixer.mlp[3].state_dict())
    surroundings, h = around(), torch.randn(B, N, D)
    partition = surroundings.partition
    valid = partition.valid.view(partition.patches, -1)
    slots = partition.gather(h, 1).unflatten(1, valid.shape)
    wanted = partition.scatter(paper(slots, _allowed(valid), _allowed(valid.T)).flatten(1, 2), 1)
    out = block(h[:, None], surroundings)[:, 0]
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_a_diffusion_block_starts_as_the_identity_and_hears_the_time() -> None:
    stack, surroundings = SpaceTimeStack([config(("time", "mlp"), diffusion=True)]), around()
    h = torch.randn(B, S, N, D)
    surroundings.diffusion_time = torch.tensor([0.2, 0.7])
    assert torch.equal(stack(h, surroundings), h)
    shaken(stack)
    early = stack(h, surroundings)
    surroundings.diffusion_time = torch.tensor([0.2, 0.8])
    late = stack(h, surroundings)
    assert torch.equal(early[0], late[0])
    assert not torch.allclose(early[1], late[1])


# -------------------------------------------------------------------- real data, bad input
def test_real_windows_through_all_parts(shared_data) -> None:
    graph, _ = build_sensors(shared_data / "los_loop/speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=shared_data / "los_loop/sensors.csv",
                             adjacency=shared_data / "los_loop/adj.npz", adjacency_key="adj_dcrnn", quantity="speed",
                             unit="mph", interval="5min", start="2012-03-01T00:00", tz="America/Los_Angeles")
    city = City(graph)
    profile = city.context.day_profile()[..., 0].T
    relations = {kind[1]: relation for kind, relation in relations_of(graph).items()}
    surroundings = Surroundings(
        relations=relations | {"alike": residual_graph(city, 4)}, partition=feature(profile, 13),
        incidence=Adjacency.of_edges(torch.stack([torch.arange(207), torch.arange(207) % 9]), 207, 9),
        candidates=find_candidates(profile), descriptors=torch.randn(207, 5), codes=torch.randn(207, 3), span=5.0)
    window = city.window(np.arange(100, 104))
    surroundings.observed = window.mask.any(-1)
    inside = nn.Linear(1, D)
    h = inside((window.values - 25) / 5)
    stack = SpaceTimeStack([config(ALL, gate=True)])
    out = stack(h, surroundings)
    assert torch.isfinite(out).all()
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in stack.parameters())


def test_bad_configs_and_surroundings_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="wavelet") as raised:
        SpaceTimeBlock(config(("time", "wavelet")))
    assert raised.value.field == "parts"
    assert all(name in str(raised.value) for name in ALL)
    with pytest.raises(InputError) as raised:
        SpaceTimeBlock(config(("patch",)))(torch.randn(B, S, N, D), Surroundings())
    assert raised.value.field == "surroundings.partition"
    with pytest.raises(InputError) as raised:
        SpaceTimeStack([config(("mlp",)), dataclasses.replace(config(("mlp",)), width=16)])
    assert raised.value.field == "width"
    with pytest.raises(InputError):
        register_part("mlp", find_part("mlp"))
