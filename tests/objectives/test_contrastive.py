"""Contrast equals a loop over pairs; the clock decides who is a negative; clusters are balanced."""

from __future__ import annotations

import math

import pytest
import torch
from toys import Bare, Toy, toy_city

from stgraph.errors import InputError
from stgraph.objectives import Contrast, SpatialContrast, TemporalContrast
from stgraph.objectives.contrastive import contrastive_loss, far_in_time, sinkhorn

KINDS = {"graph": lambda: Contrast("graph"), "node": lambda: Contrast("node", anchors=40),
         "temporal": TemporalContrast, "spatial": lambda: SpatialContrast(4)}


@pytest.fixture(scope="module")
def city():
    return toy_city()


def ready(objective, city):
    model = Toy.for_city(city)
    objective.prepare(model)
    return objective, model


def test_the_loss_equals_a_loop() -> None:
    first, second = torch.randn(2, 7, 5)
    negative = torch.rand(7, 7) > 0.5
    negative[2] = False
    negative[2, 2] = True  # the diagonal is no negative, so this row has none
    each = []
    for i in range(7):
        score = [float(torch.cosine_similarity(first[i], second[j], dim=0)) / 0.1 for j in range(7)]
        against = [math.exp(score[j]) for j in range(7) if negative[i, j] and j != i]
        if against:
            each.append(-math.log(math.exp(score[i]) / sum(against)))
    assert len(each) == 6
    assert contrastive_loss(first, second, negative, 0.1).item() == pytest.approx(sum(each) / 6, rel=1e-4)


def test_excluded_pairs_have_no_weight() -> None:
    """An excluded row can be anything: neither the loss nor any gradient is moved by it."""
    first, second = torch.randn(2, 4, 5)
    negative = torch.ones(4, 4, dtype=torch.bool)
    negative[:, 3] = negative[3] = False
    before = contrastive_loss(first, second, negative, 0.1)
    second[3] = torch.randn(5)
    second.requires_grad_()
    after = contrastive_loss(first, second, negative, 0.1)
    assert torch.equal(before, after)
    after.backward()
    assert (second.grad[3] == 0).all()
    assert second.grad[:3].any()


def test_the_clock_is_a_circle_and_the_date_does_not_count() -> None:
    minute = torch.tensor([0, 30, 60, 720, 1400, 1440 - 60])
    far = far_in_time(minute, 60)
    expected = [[min(abs(a - b), 1440 - abs(a - b)) >= 60 for b in minute.tolist()] for a in minute.tolist()]
    assert far.tolist() == expected
    assert not far[0, 4]  # 23:20 and 0:00 are 40 minutes apart
    assert far[0, 5]


@pytest.mark.parametrize("name", ["graph", "node", "temporal"])
def test_samples_of_the_same_hour_have_no_negatives(city, name: str) -> None:
    objective, model = ready(KINDS[name](), city)
    loss = next(iter(objective(model, city.window([50, 74, 98])).values()))  # the same hour of three days
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_the_encoder_and_the_head(city, name: str) -> None:
    objective, model = ready(KINDS[name](), city)
    (key, loss), = objective(model, city.window([50, 56, 62, 68])).items()
    assert key == {"graph": "contrast", "node": "contrast"}.get(name, f"{name}_contrast")
    loss.backward()
    assert loss > 0
    assert model.mixer.inside.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in objective.parameters())  # no dead weight


@pytest.mark.parametrize("name", KINDS)
def test_a_single_sample_is_no_fault(city, name: str) -> None:
    objective, model = ready(KINDS[name](), city)
    for one in (objective.train(), objective.eval()):
        assert all(torch.isfinite(loss) for loss in one(model, city.window([50])).values())


def test_targets_do_not_enter(city) -> None:
    for kind in KINDS.values():
        objective, model = ready(kind(), city)
        window = city.window([50, 56, 62])
        torch.manual_seed(3)
        before = next(iter(objective(model, window).values()))
        window.target += 100  # the toy model reads every tensor that it is given
        torch.manual_seed(3)
        assert torch.equal(next(iter(objective(model, window).values())), before)


def test_neighbours_are_no_negatives_at_node_level(city) -> None:
    """On a complete graph no node is left but the node itself at another time."""
    objective, model = ready(Contrast("node", anchors=10_000, seed=0), city)
    seen = []
    import stgraph.objectives.contrastive as module

    original = module.contrastive_loss
    try:
        module.contrastive_loss = lambda a, b, negative, t: seen.append(negative) or original(a, b, negative, t)
        objective(model, city.window([50, 56]))
    finally:
        module.contrastive_loss = original
    negative = seen[0]
    chosen = torch.rand(12, generator=torch.Generator().manual_seed(0)).argsort()
    sample, node = chosen // 6, chosen % 6
    for i in range(12):
        for j in range(12):
            apart = (node[i] - node[j]).abs().item()
            near = apart in (0, 1, 5)  # the ring, and the loops of the toy graph
            assert bool(negative[i, j]) == (bool(sample[i] != sample[j]) and not near)


def test_sinkhorn_rows_sum_to_one_and_clusters_are_balanced() -> None:
    score = torch.randn(60, 5).mul(0.3)
    score[:, 0] += 1  # without balance all would fall into the first
    for rounds, slack in ((3, 8.0), (300, 0.05)):
        share = sinkhorn(score, 0.05, rounds)
        torch.testing.assert_close(share.sum(1), torch.ones(60))
        assert (share >= 0).all()
        assert (share.sum(0) - 12).abs().max() < slack
    assert score.softmax(1).sum(0)[0] > 20


def test_contrast_pulls_the_views_of_a_moment_together(city) -> None:
    objective, model = ready(Contrast("graph", view="mask"), city)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], 0.01)
    losses = []
    for step in range(40):
        loss = objective(model, city.window(range(20 + step, 44 + step, 3)))["contrast"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 1


def test_nothing_is_left_at_inference(city) -> None:
    objective, model = ready(Contrast(), city)
    assert not set(map(id, objective.parameters())) & set(map(id, model.parameters()))
    weights = [p.clone() for p in objective.parameters()]
    objective.prepare(model)  # again: the weights stay
    assert all(torch.equal(a, b) for a, b in zip(weights, objective.parameters(), strict=True))


def test_bad_settings_and_models_are_refused(city) -> None:
    for make in (lambda: Contrast("city"), lambda: Contrast(temperature=0), lambda: Contrast(view="noise"),
                 lambda: SpatialContrast(1)):
        with pytest.raises(InputError):
            make()
    with pytest.raises(InputError, match="embed"):
        TemporalContrast().prepare(Bare.for_city(city))
    with pytest.raises(ValueError, match="prepare"):
        Contrast()(Toy.for_city(city), city.window([50]))
