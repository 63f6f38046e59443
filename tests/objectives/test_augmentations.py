"""Other views of a window: within the rules of the graph, repeatable, and blind to the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import toy_city

from stgraph.errors import InputError
from stgraph.graph import Channel, DynamicHeteroGraph, Signal
from stgraph.objectives.augmentations import (
    AUGMENTATIONS,
    EdgeDropping,
    InputMasking,
    InputSmoothing,
    TemporalShift,
    augmentation,
    drop_edges,
)

EVERY = {"mask": InputMasking(0.3), "shift": TemporalShift(0.2), "smooth": InputSmoothing(0.3, 0.1),
         "edges": EdgeDropping(0.4)}


@pytest.fixture(scope="module")
def city():
    return toy_city()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one, other) -> bool:
    return (torch.equal(one.values, other.values) and torch.equal(one.mask, other.mask)
            and torch.equal(one.city.edges[0], other.city.edges[0]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_targets_are_never_read_nor_touched(city, name: str) -> None:
    window = city.window([50, 60, 99])
    view = EVERY[name](window, seeded())
    assert view.target is window.target
    assert view.target_mask is window.target_mask
    other = EVERY[name](replace(window, target=torch.full_like(window.target, float("nan"))), seeded())
    absent = EVERY[name](replace(window, target=None, target_mask=None), seeded())
    assert same(view, other)
    assert same(view, absent)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_seed_repeats_and_the_window_is_left_alone(city, name: str) -> None:
    window = city.window([50, 60, 99])
    kept, edges = window.values.clone(), window.city.edges[0].clone()
    one, again, other = (EVERY[name](window, seeded(s)) for s in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)
    assert not same(one, window)
    assert torch.equal(window.values, kept)
    assert torch.equal(window.city.edges[0], edges)
    assert window.city is city


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_graph_stays_valid_and_gaps_stay_gaps(city, name: str) -> None:
    window = city.window([50, 60, 99])
    view = EVERY[name](window, seeded())
    assert view.city.graph.validate()
    assert view.values.shape == window.values.shape
    assert not (view.mask & ~window.mask).any()
    assert (view.values[~view.mask] == 0).all()
    assert torch.isfinite(view.values).all()


@pytest.mark.parametrize("name", ["mask", "shift", "smooth"])
def test_what_was_not_observed_does_not_matter(city, name: str) -> None:
    window = city.window([50, 60])
    junk = replace(window, values=torch.where(window.mask, window.values, 1e6))
    one, other = (EVERY[name](w, seeded()) for w in (window, junk))
    assert torch.equal(one.values[one.mask], other.values[other.mask])


def test_masking_is_exact(city) -> None:
    window = city.window([50, 60])
    view = InputMasking(0.25)(window, seeded())
    for sample in range(2):
        gone = int(window.mask[sample].sum()) - int(view.mask[sample].sum())
        assert gone == int(0.25 * int(window.mask[sample].sum()) + 0.5)


def test_a_shift_is_a_mean_of_a_step_and_the_one_before(city) -> None:
    window = city.window([50])
    view, values, mask = TemporalShift(0.5)(window, seeded()), window.values[0], window.mask[0]
    shares = []
    for t, n, c in mask.nonzero().tolist():
        if t and mask[t - 1, n, c]:
            step = values[t, n, c] - values[t - 1, n, c]
            if abs(step) > 0.5:
                shares.append(float((view.values[0, t, n, c] - values[t - 1, n, c]) / step))
        else:
            assert view.values[0, t, n, c] == values[t, n, c]
    assert len(shares) > 10
    assert max(shares) - min(shares) < 1e-3
    assert 0.5 <= shares[0] <= 1


def test_smoothing_keeps_slow_waves_and_means() -> None:
    """Without gaps: nothing shrunk gives the window back; else the mean stays and neighbouring steps come closer."""
    city = toy_city(hidden=0.0)
    window = city.window([50, 60])
    torch.testing.assert_close(InputSmoothing(0.5, 1.0)(window, seeded()).values, window.values)
    torch.testing.assert_close(InputSmoothing(1.0, 0.0)(window, seeded()).values, window.values)
    view = InputSmoothing(0.25, 0.0)(window, seeded())
    torch.testing.assert_close(view.values.mean(1), window.values.mean(1))
    assert view.values.diff(n=2, dim=1).abs().mean() < 0.9 * window.values.diff(n=2, dim=1).abs().mean()


def test_dropped_edges_are_real_pairs_and_an_exact_number(city) -> None:
    graph, kind = city.graph, ("sensor", "near", "sensor")
    before = {tuple(edge) for edge in graph[kind].edge_index.T.tolist()}
    weight = dict(zip(map(tuple, graph[kind].edge_index.T.tolist()), graph[kind].edge_weight.tolist(), strict=True))
    smaller = drop_edges(graph, 0.5, generator=seeded())
    after = {tuple(edge) for edge in smaller[kind].edge_index.T.tolist()}
    assert after < before
    assert all((b, a) in after for a, b in after)  # still symmetric
    assert all((i, i) in after for i in range(6))  # loops stay
    assert len(before - after) == 2 * 3  # 3 of the 6 pairs of the ring, in both directions
    kept = zip(map(tuple, smaller[kind].edge_index.T.tolist()), smaller[kind].edge_weight.tolist(), strict=True)
    assert all(weight[edge] == value for edge, value in kept)
    assert graph[kind].edge_index.shape[1] == 18
    assert drop_edges(graph, 0.0)[kind].edge_index.shape[1] == 18
    assert smaller.validate()


def test_signals_and_directed_relations_of_edges_go_along() -> None:
    graph: DynamicHeteroGraph = toy_city().graph
    graph["region"].node_id = np.array(["a", "b"])
    kind = ("sensor", "in", "region")
    graph[kind].edge_index = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]])
    values = np.arange(graph.time.length * 6, dtype=np.float32).reshape(-1, 6, 1)
    graph.add_signal(kind, "share", Signal(values, None, [Channel("share")]))
    smaller = drop_edges(graph, 1 / 3, [kind], seeded())
    assert smaller[kind].edge_index.shape[1] == 4
    assert smaller.validate()
    kept = smaller[kind].edge_index[0]
    np.testing.assert_array_equal(smaller.signal(kind).read(3, 4)[0][0, :, 0], values[3, kept, 0])
    assert smaller["sensor", "near", "sensor"].edge_index.shape[1] == 18


def test_names_join_and_unknown_ones_are_refused(city) -> None:
    view = augmentation("mask+edges")(city.window([50]), seeded())
    assert view.city.edges[0].shape[1] <= 18
    for bad in ("noise", "mask+", ""):
        with pytest.raises(InputError, match="unknown augmentation"):
            augmentation(bad)
    with pytest.raises(InputError):
        InputMasking(1.5)
