"""Graphs found in the data: exact neighbours, honest rows, planted links found, and never a number for each pair."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.nn.learned_graph import (
    Candidates,
    LearnedMessagePassing,
    SparseGraphLearner,
    correlation_graph,
    find_candidates,
    most_similar,
    residual_graph,
)
from stgraph.nn.message_passing import TypedMessagePassing
from stgraph.ops import Adjacency
from stgraph.sources.sensors import build_sensors
from stgraph.windows import City

RANDOM = np.random.default_rng(3)


def edges_of(adjacency: Adjacency) -> list[tuple[int, int]]:
    """(source, destination) of each entry."""
    return list(zip(adjacency.col.tolist(), adjacency.row.tolist(), strict=True))


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a true pair scores above a false one."""
    order = np.argsort(score, kind="stable")
    rank = np.empty(len(score))
    rank[order] = np.arange(1, len(score) + 1)
    positive = truth.sum()
    return (rank[truth].sum() - positive * (positive + 1) / 2) / (positive * (~truth).sum())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------- correlated series
def test_the_correlation_graph_is_that_of_the_full_matrix() -> None:
    series = RANDOM.normal(size=(200, 15)) @ RANDOM.normal(size=(15, 15))
    relation = correlation_graph(series, None, 4, (0, 200))
    matrix = np.corrcoef(series.T)
    np.fill_diagonal(matrix, -np.inf)
    wanted = {(int(j), i) for i in range(15) for j in np.argsort(-matrix[i])[:4] if matrix[i, j] > 0}
    assert set(edges_of(relation.adjacency)) == wanted
    np.testing.assert_allclose(relation.weight, [matrix[i, j] for j, i in edges_of(relation.adjacency)], atol=1e-5)


def test_with_gaps_and_channels_pairs_count_where_both_have_readings() -> None:
    series, mask = RANDOM.normal(size=(60, 9, 2)), RANDOM.random((60, 9, 2)) > 0.3
    mask[:, 7], mask[5:, 8] = False, False
    series += RANDOM.normal(size=(60, 1, 1))
    relation = correlation_graph(np.where(mask, series, np.nan), mask, 3, (0, 60), least=0.2)
    matrix = np.full((9, 9), -1.0)
    for i in range(9):
        for j in range(9):
            total = common = 0.0
            for c in range(2):
                a, b = mask[:, i, c], mask[:, j, c]
                if i == j or not a.any() or not b.any():
                    continue
                x = (series[:, i, c] - series[a, i, c].mean()) / series[a, i, c].std()
                y = (series[:, j, c] - series[b, j, c].mean()) / series[b, j, c].std()
                total, common = total + (x * y)[a & b].sum(), common + (a & b).sum()
            matrix[i, j] = total / common if common >= 0.2 * 120 else -1
    wanted = {(int(j), i): matrix[i, j] for i in range(9) for j in np.argsort(-matrix[i])[:3] if matrix[i, j] > 0}
    assert dict(zip(edges_of(relation.adjacency), relation.weight.tolist(), strict=True)) == pytest.approx(wanted)
    assert not any(7 in edge or 8 in edge for edge in wanted)


def test_rows_outside_the_training_part_are_never_looked_at() -> None:
    series = RANDOM.normal(size=(100, 10))
    one = correlation_graph(series, None, 3, (20, 70))
    series[:20], series[70:] = np.nan, RANDOM.normal(size=(30, 10)) * 1e6
    other = correlation_graph(series, None, 3, (20, 70))
    assert edges_of(one.adjacency) == edges_of(other.adjacency)
    assert torch.equal(one.weight, other.weight)
    assert edges_of(correlation_graph(series, None, 3, (40, 90)).adjacency) != edges_of(one.adjacency)


def test_planted_links_are_found_and_flat_series_have_none() -> None:
    group = np.arange(40) % 8
    series = RANDOM.normal(size=(300, 8))[:, group] + RANDOM.normal(size=(300, 40))
    series[:, 0], series[:, 1] = 7.5, 0.0
    relation = correlation_graph(series, None, 3, (0, 300))
    found = edges_of(relation.adjacency)
    assert all(group[source] == group[destination] for source, destination in found)
    assert len(found) == 38 * 3
    assert not any(node in edge for edge in found for node in (0, 1))


def test_neighbours_do_not_depend_on_blocks_or_the_order_of_nodes() -> None:
    vectors = torch.randn(50, 6)
    similarity, index = most_similar(vectors, 5)
    for block_bytes in (1, 3 * 50 * 4, 10**9):
        assert torch.equal(most_similar(vectors, 5, block_bytes=block_bytes)[1], index)
    order = torch.randperm(50)
    turned = most_similar(vectors[order], 5)
    torch.testing.assert_close(turned[0], similarity[order])
    assert torch.equal(order[turned[1]], index[order])
    assert most_similar(vectors[:3], 8)[1].tolist() == [
        sorted({0, 1, 2} - {i}, key=lambda j: -float(vectors[i] @ vectors[j])) for i in range(3)]
    assert most_similar(vectors[:1], 8)[1].shape == (1, 0)


# -------------------------------------------------------------------- candidates
def test_candidates_stand_once_each_and_are_never_the_node_itself() -> None:
    profile = RANDOM.normal(size=(30, 12))
    index = torch.stack([torch.randint(30, (90,)), torch.randint(30, (90,))])
    given = Adjacency.of_edges(index, 30, 30)
    for known in (None, given):
        found = find_candidates(profile, nearest=5, prior=3, given=known, random=6, seed=1)
        again = find_candidates(profile, nearest=5, prior=3, given=known, random=6, seed=1)
        assert torch.equal(found.source, again.source)
        matrix = np.corrcoef(profile)
        np.fill_diagonal(matrix, -np.inf)
        for node in range(30):
            sources = found.source[node][found.allowed[node]].tolist()
            assert len(set(sources)) == len(sources)
            assert node not in sources
            best = np.argsort(-matrix[node])
            assert set(best[:5].tolist()) <= set(sources)
            prior = set(found.source[node][found.prior[node]].tolist())
            if known is None:
                assert prior == set(best[:3].tolist())
                assert 5 <= len(sources) <= 11
            else:
                sent = [s for s, d in edges_of(given) if d == node][:5]
                assert prior == set(sent) - {node}
        assert not (found.prior & ~found.allowed).any()


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_tiny_networks_have_fewer_candidates(nodes: int) -> None:
    found = find_candidates(torch.randn(nodes, 4), nearest=8, random=3)
    assert found.allowed.sum(1).tolist() == [nodes - 1] * nodes
    graph = SparseGraphLearner(4, k=8)(torch.randn(nodes, 4), found)
    assert graph.chosen.sum() == nodes * (nodes - 1)
    assert torch.isfinite(graph.prior_loss())


# -------------------------------------------------------------------- the learner
def made(nodes: int = 12, places: int = 6) -> tuple[Tensor, Candidates]:
    states = torch.randn(nodes, 5)
    return states, find_candidates(torch.randn(nodes, 8), nearest=places - 2, prior=2, random=2)


@pytest.mark.parametrize("scorer", ["mlp", "bilinear"])
@pytest.mark.parametrize("training", [True, False])
def test_exactly_k_edges_a_node_weigh_one_and_none_is_a_loop(scorer, training: bool) -> None:
    states, candidates = made()
    learner = SparseGraphLearner(5, k=3, scorer=scorer).train(training)
    graph = learner(states, candidates)
    weight = graph.relation.weight.view(12, -1)
    assert ((weight == 0) | (weight == 1)).all()
    assert (weight.sum(1) == torch.minimum(candidates.allowed.sum(1), torch.tensor(3))).all()
    assert not (weight.bool() & ~candidates.allowed).any()
    assert all(source != destination for (source, destination), chosen in
               zip(edges_of(graph.relation.adjacency), weight.flatten(), strict=True) if chosen)
    if not training:
        best = graph.score.masked_fill(~candidates.allowed, -torch.inf).topk(3).indices
        assert (weight.gather(1, best).sum(1) == weight.sum(1)).all()
        assert torch.equal(learner(states, candidates).relation.weight, graph.relation.weight)
    else:
        assert not torch.equal(learner(states, candidates).relation.weight, graph.relation.weight)


def test_one_edge_a_node_is_drawn_by_the_softmax_of_the_scores() -> None:
    states, candidates = made(3, 4)
    learner = SparseGraphLearner(5, k=1)
    drawn = learner(states.expand(4000, -1, -1), candidates).chosen.float().mean(0)
    share = learner.scores(states, candidates).masked_fill(~candidates.allowed, -torch.inf).softmax(1)
    torch.testing.assert_close(drawn, share, atol=0.03, rtol=0)


def test_the_gradient_is_that_of_the_smooth_choice() -> None:
    states, candidates = made()
    learner = SparseGraphLearner(5, k=2, temperature=0.7).eval()
    graph = learner(states, candidates)
    upstream = torch.randn(candidates.source.numel())
    (got,) = torch.autograd.grad(graph.relation.weight @ upstream, graph.score)
    score = graph.score.detach().requires_grad_()
    ordered = score.masked_fill(~candidates.allowed, -torch.inf).sort(1, descending=True).values
    smooth = torch.sigmoid((score - (ordered[:, 1:2] + ordered[:, 2:3]) / 2) / 0.7)
    assert torch.equal((smooth > 0.5) & candidates.allowed, graph.chosen)
    total = (smooth * upstream.view_as(score))[candidates.allowed].sum()
    torch.testing.assert_close(got, torch.autograd.grad(total, score)[0], rtol=1e-4, atol=1e-6)
    assert got.sum(1).abs().max() < 1e-5  # to raise all scores of a node alike changes nothing


def test_the_prior_loss_is_the_cross_entropy_over_candidates() -> None:
    states, candidates = made()
    graph = SparseGraphLearner(5)(states, candidates)
    share, at = graph.score.sigmoid(), candidates.allowed
    truth = candidates.prior.float()
    wanted = -(truth * share.log() + (1 - truth) * (1 - share).log())[at].mean()
    torch.testing.assert_close(graph.prior_loss(), wanted)


def test_each_window_may_have_a_graph_of_its_own() -> None:
    _, candidates = made()
    states = torch.randn(4, 12, 5)
    learner = SparseGraphLearner(5, k=2).eval()
    graph = learner(states, candidates)
    assert graph.relation.weight.shape == (12 * candidates.source.shape[1], 4, 1)
    messages, h = TypedMessagePassing(5, bases=1), torch.randn(4, 3, 12, 5)
    together = messages(h, {"learned": graph.relation})
    for b in range(4):
        alone = learner(states[b], candidates)
        assert torch.equal(graph.relation.weight[:, b, 0], alone.relation.weight)
        torch.testing.assert_close(messages(h[b : b + 1], {"learned": alone.relation}), together[b : b + 1])


def test_relabelled_nodes_choose_the_same_neighbours() -> None:
    states, candidates = made()
    learner = SparseGraphLearner(5, k=2).eval()
    order = torch.randperm(12)
    place = torch.argsort(order)
    turned = Candidates(place[candidates.source][order], candidates.allowed[order], candidates.prior[order])
    one, other = learner(states, candidates), learner(states[order], turned)
    assert torch.equal(other.chosen, one.chosen[order])
    torch.testing.assert_close(other.prior_loss(), one.prior_loss())


def test_one_set_of_weights_for_any_number_of_nodes_and_every_weight_learns() -> None:
    block = LearnedMessagePassing(6, k=2)
    for nodes in (7, 19):
        block.zero_grad()
        candidates = find_candidates(torch.randn(nodes, 8), nearest=4, random=2)
        message, graph = block(torch.randn(2, 3, nodes, 6), candidates)
        (message.square().sum() + graph.prior_loss()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    assert not any({7, 19} & set(p.shape) for p in block.parameters())


def test_links_are_learned_from_what_they_bring() -> None:
    """Each node's target is the mean signal of the nodes whose descriptor is like its own; nothing else says so."""
    code = torch.randn(6, 8)
    group = torch.arange(48) % 6
    states = code[group] + 0.1 * torch.randn(48, 8)
    candidates = find_candidates(torch.randn(48, 16), nearest=8, prior=0, random=16)
    learner = SparseGraphLearner(8, k=2, scorer="bilinear")
    same = (group[:, None] == group) & ~torch.eye(48, dtype=torch.bool)
    truth = same.gather(1, candidates.source)[candidates.allowed].numpy()
    optimiser = torch.optim.Adam(learner.parameters(), 1e-2)
    start = auc(learner.scores(states, candidates)[candidates.allowed].detach().numpy(), truth)
    for _ in range(150):
        signal = torch.randn(16, 1, 6, 1)[:, :, group] + 0.1 * torch.randn(16, 1, 48, 1)
        wanted = signal
        noise = torch.cat([signal, torch.ones_like(signal)], -1)
        heard = _mean(learner(states, candidates), noise)
        loss = (heard[..., :1] - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    score = learner.scores(states, candidates)[candidates.allowed].detach().numpy()
    assert start < 0.8
    assert auc(score, truth) > 0.9


def _mean(graph, x: Tensor) -> Tensor:
    """Plain mean over chosen edges: messages with the identity as projection."""
    block = TypedMessagePassing(x.shape[-1], bases=1)
    with torch.no_grad():
        block.basis.copy_(torch.eye(x.shape[-1])[None])
    return block(x, {"learned": graph.relation})


_CHILD = """
import torch
torch.set_num_threads(1)
from stgraph.nn.learned_graph import LearnedMessagePassing, find_candidates
block = LearnedMessagePassing(8, descriptors=24, k=4, hidden=16)
def run(nodes):
    profile = torch.randn(nodes, 24)
    candidates = find_candidates(profile, nearest=6, random=2, block_bytes=2**24)
    message, graph = block(torch.randn(1, 1, nodes, 8), candidates, profile)
    (message.sum() + graph.prior_loss()).backward()
def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
run(64)
before = status("VmRSS")
run(20000)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_twenty_thousand_nodes_take_less_than_one_byte_a_pair() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < 20_000**2 / 2


# -------------------------------------------------------------------- real data, bad input
def test_neighbours_of_real_residuals_hold_on_days_not_looked_at(shared_data) -> None:
    graph, _ = build_sensors(shared_data / "los_loop/speed.npz", key="speed_mph", ids_key="sensor_id",
                             locations=shared_data / "los_loop/sensors.csv", quantity="speed", unit="mph",
                             interval="5min", start="2012-03-01T00:00", tz="America/Los_Angeles")
    city = City(graph)
    relation = residual_graph(city, 8)
    assert (relation.adjacency.rowptr.diff() <= 8).all()
    start, stop = city.split.rows("test")
    rows = np.arange(start, stop)
    residual = city.signal.read(start, stop)[0][..., 0] - city.context.profile(rows)[..., 0]
    matrix = np.corrcoef(residual.T)
    held = np.mean([matrix[edge] for edge in edges_of(relation.adjacency)])
    assert held > 3 * np.mean(matrix[~np.eye(207, dtype=bool)]) > 0
    values = np.array(city.signal.values)
    values[start:] = 0
    blind = City(graph)
    blind.signal = replace(blind.signal, values=values)
    assert edges_of(residual_graph(blind, 8).adjacency) == edges_of(relation.adjacency)


@pytest.mark.parametrize(("call", "field"), [
    (lambda: correlation_graph(np.zeros((5, 2)), None, 1, (3, 6)), "rows"),
    (lambda: SparseGraphLearner(4, scorer="cosine"), "scorer"),
    (lambda: SparseGraphLearner(4, k=0), "k"),
    (lambda: SparseGraphLearner(5)(torch.ones(3, 5), made()[1]), "states"),
    (lambda: find_candidates(torch.ones(3, 5), given=Adjacency.of_edges(torch.zeros(2, 1).long(), 4, 4)), "given"),
    (lambda: LearnedMessagePassing(5, descriptors=3)(torch.ones(1, 1, 12, 5), made()[1]), "descriptors"),
])
def test_bad_input_is_refused_by_name(call, field: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert raised.value.field == field


def test_a_dead_node_sends_nothing_along_a_learned_graph() -> None:
    block = LearnedMessagePassing(5, k=4).eval()
    _, candidates = made()
    h, seen = torch.randn(2, 3, 12, 5), torch.ones(2, 3, 12, dtype=torch.bool)
    seen[:, :, 4] = False
    out = block(h, candidates, observed=seen)[0]
    h[:, :, 4] = torch.randn(2, 3, 5)
    others = [n for n in range(12) if n != 4]
    assert torch.equal(block(h, candidates, observed=seen)[0][:, :, others], out[:, :, others])
