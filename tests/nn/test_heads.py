"""Heads keep their promises: quantiles rise, observed cells stay, unseen places are told by their neighbours alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from stgraph.errors import InputError
from stgraph.nn.heads import AnomalyHead, ClassificationHead, ClusterHead, KrigeHead, QuantileHead, ReconstructHead


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.9), (0.05, 0.25, 0.5, 0.75, 0.95), (0.6, 0.7, 0.8), (0.01, 0.02)])
def test_quantiles_rise_whatever_the_weights(levels: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    head = QuantileHead(8, 2, levels)
    torch.nn.init.normal_(head.project.weight, std=5)
    q = head(torch.randn(3, 12, 7, 8) * 10)
    assert q.shape == (3, 12, 7, 2, len(levels))
    assert (q.diff(dim=-1) >= 0).all()
    assert (q.diff(dim=-1) > 0).float().mean() > 0.4 or len(levels) == 1


def test_quantiles_are_learned() -> None:
    """Without an input: the quantiles of a sample, by the pinball loss."""
    torch.manual_seed(0)
    sample, levels = torch.randn(4000) * 2 + 1, (0.1, 0.5, 0.9)
    head = QuantileHead(1, 1, levels)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    level = torch.tensor(levels)
    for _ in range(400):
        above = sample[:, None] - head(torch.ones(1))[0]
        optimizer.zero_grad()
        torch.maximum(level * above, (level - 1) * above).mean().backward()
        optimizer.step()
    torch.testing.assert_close(head(torch.ones(1))[0], sample.quantile(level), atol=0.1, rtol=0)


def test_bad_levels_are_refused() -> None:
    for levels in ((), (0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(InputError):
            QuantileHead(4, 1, levels)


def test_reconstruction_at_any_interval_and_imputation() -> None:
    torch.manual_seed(0)
    head = ReconstructHead(6, 2, minutes=60)
    h = torch.randn(2, 3, 5, 6)
    fine, coarse = head(h, 36, 5), head(h, 3, 60)
    assert fine.shape == (2, 36, 5, 2)
    torch.testing.assert_close(fine.unflatten(1, (3, 12)).mean(2), coarse)
    values, mask = torch.randn(2, 36, 5, 2), torch.rand(2, 36, 5, 2) > 0.5
    filled = ReconstructHead.impute(values, mask, fine)
    assert torch.equal(filled[mask], values[mask])
    assert torch.equal(filled[~mask], fine[~mask])


# -------------------------------------------------------------------- kriging
NODES = 6
EDGES = torch.tensor([pair for pair in itertools.product(range(NODES), repeat=2)]).T  # loops among them


def krige(seed: int = 0, trained: bool = True) -> tuple[KrigeHead, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    head = KrigeHead(4, 3, 2)
    if trained:
        for parameter in (head.query.weight, head.correction.weight):
            torch.nn.init.normal_(parameter)
    place = torch.randn(NODES, 3)
    return head, {"h": torch.randn(2, 5, NODES, 4), "place": place, "values": torch.randn(2, 5, NODES, 2),
                  "mask": torch.rand(2, 5, NODES, 2) > 0.3, "edges": EDGES,
                  "distance": (place[EDGES[0]] - place[EDGES[1]]).norm(dim=1)}


def test_kriging_equals_a_loop() -> None:
    head, given = krige()
    found = head(**given)
    decay = torch.nn.functional.softplus(head.decay)
    for j in range(NODES):
        query = head.query(given["place"][j])
        kappa = {i: torch.exp(query @ head.key(given["place"][i]) / 4 -
                              decay * (given["place"][i] - given["place"][j]).norm()) for i in range(NODES) if i != j}
        around = sum(kappa[i] * given["h"][:, :, i] for i in kappa) / sum(kappa.values())
        extra = head.correction(torch.cat([given["h"][:, :, j], around], -1))
        total = sum(kappa[i] * torch.where(given["mask"][:, :, i], given["values"][:, :, i], 0) for i in kappa)
        count = sum(kappa[i] * given["mask"][:, :, i] for i in kappa)
        wanted = torch.where(count > 0, total / count.clamp(min=1e-30), 0) + extra
        torch.testing.assert_close(found[:, :, j], wanted, rtol=1e-4, atol=1e-4)


def test_a_place_never_sees_its_own_values() -> None:
    head, given = krige()
    before = head(**given)
    changed = given["values"].clone()
    changed[:, :, 2] += 100
    after = head(**{**given, "values": changed})
    assert torch.equal(after[:, :, 2], before[:, :, 2])
    assert not torch.equal(after[:, :, 3], before[:, :, 3])
    changed = torch.where(given["mask"], given["values"], float("nan"))
    assert torch.equal(head(**{**given, "values": changed}), before)  # nor anybody what was not observed


def test_it_starts_as_interpolation() -> None:
    """A constant field is given back; every answer lies between the neighbours' values; nobody around gives 0."""
    head, given = krige(trained=False)
    flat = head(**{**given, "values": torch.full_like(given["values"], 3.7),
                   "mask": torch.ones_like(given["mask"])})
    torch.testing.assert_close(flat, torch.full_like(flat, 3.7))
    found = head(**given)
    for j in range(NODES):
        others = [i for i in range(NODES) if i != j]
        seen, values = given["mask"][:, :, others], given["values"][:, :, others]
        low = torch.where(seen, values, float("inf")).amin(2)
        high = torch.where(seen, values, float("-inf")).amax(2)
        any_seen = seen.any(2)
        assert ((found[:, :, j] >= low - 1e-5) | ~any_seen).all()
        assert ((found[:, :, j] <= high + 1e-5) | ~any_seen).all()
    nobody = head(**{**given, "mask": torch.zeros_like(given["mask"])})
    assert (nobody == 0).all()


def test_relabelling_places_permutes_the_answer_and_gradients_reach_all() -> None:
    head, given = krige()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    position = order.argsort()
    moved = {"h": given["h"][:, :, order], "place": given["place"][order], "values": given["values"][:, :, order],
             "mask": given["mask"][:, :, order], "edges": position[given["edges"]], "distance": given["distance"]}
    torch.testing.assert_close(head(**moved), head(**given)[:, :, order], rtol=1e-4, atol=1e-5)
    head(**given).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_far_away_neighbours_do_not_vanish() -> None:
    """Distances in metres: the kernel of each place is taken over its largest, so nothing becomes 0 / 0."""
    head, given = krige(trained=False)
    far = head(**{**given, "distance": given["distance"] + 1e4, "mask": torch.ones_like(given["mask"])})
    assert torch.isfinite(far).all()
    assert (far != 0).all()


# -------------------------------------------------------------------- the others
def test_classes_of_nodes_and_of_edges() -> None:
    torch.manual_seed(0)
    h = torch.randn(2, 4, 7, 8)
    nodes, edges = ClassificationHead(8, 3), ClassificationHead(8, 5, of="edge")
    index = torch.tensor([[0, 1, 6], [1, 0, 2]])
    assert nodes(h).shape == (2, 7, 3)
    assert edges(h, index).shape == (2, 3, 5)
    order = torch.randperm(7)
    torch.testing.assert_close(nodes(h[:, :, order]), nodes(h)[:, order])
    torch.testing.assert_close(edges(h[:, :, order], order.argsort()[index]), edges(h, index))
    assert not torch.allclose(edges(h, index)[:, 0], edges(h, index)[:, 1])  # direction matters
    with pytest.raises(InputError):
        edges(h)
    for bad in ({"classes": 1}, {"classes": 2, "of": "graph"}):
        with pytest.raises(InputError):
            ClassificationHead(8, **bad)


def test_classes_are_learned() -> None:
    torch.manual_seed(0)
    h = torch.randn(1, 3, 60, 8)
    label = (h.mean(1)[0, :, 0] + h[0, -1, :, 0] > 0).long()
    head = ClassificationHead(8, 2)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(h)[0], label).backward()
        optimizer.step()
    assert (head(h)[0].argmax(1) == label).float().mean() > 0.95


def test_cluster_vectors_are_unit_and_memberships_sum_to_one() -> None:
    torch.manual_seed(0)
    head = ClusterHead(8, clusters=5, embedding=16)
    z, member = head(torch.randn(2, 7, 8))
    assert z.shape == (2, 7, 16)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 7))
    torch.testing.assert_close(member.sum(-1), torch.ones(2, 7))
    scaled, same = head(3 * torch.ones(1, 8))[1], head(3 * torch.ones(1, 8))[1]
    assert torch.equal(scaled, same)
    at_centre = (torch.nn.functional.normalize(head.centres, dim=-1) @
                 torch.nn.functional.normalize(head.centres, dim=-1).T / 0.1).softmax(-1)
    assert (at_centre.argmax(1) == torch.arange(5)).all()


def test_the_spread_that_is_learned_is_the_spread() -> None:
    """Two kinds of nodes, noise of 0.5 and of 3: scores are alike, and a residual of 3 is only unusual for one."""
    torch.manual_seed(0)
    kind = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(500, 1)
    residual = torch.randn(1000, 1) * torch.tensor([0.5, 3.0]).repeat(500)[:, None]
    mask = torch.rand(1000, 1) > 0.2
    head = AnomalyHead(2, 1)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(kind, torch.where(mask, residual, 1e9), mask).backward()
        optimizer.step()
    found = head.spread(kind[:2])[:, 0]
    for row, spread in zip((0, 1), found, strict=True):
        seen = residual[row::2][mask[row::2]]
        assert spread.item() == pytest.approx(seen.square().mean().sqrt().item(), rel=0.05)
    scores = head(kind[:2], torch.tensor([[3.0], [3.0]]))
    assert scores[0] > 4 > 2 > scores[1]
    assert (head(kind, residual, mask)[~mask] == 0).all()
