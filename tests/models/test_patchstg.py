"""PatchSTG: counts of the paper, empty slots without influence, attention against a slow reference, cost by size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster, Sizes
from stgraph.models.patchstg import Mixer, PatchSTG, PatchSTGConfig
from stgraph.objectives import MaskedRegression
from stgraph.partition import kdtree, local_metres
from stgraph.windows import City

MakeCity = Callable[..., City]
SMALL: dict[str, Any] = {"input_width": 8, "slot_width": 4, "weekday_width": 4, "node_width": 8, "layers": 2}


def small(**changes: Any) -> PatchSTGConfig:
    return PatchSTGConfig(**(SMALL | changes))


@pytest.mark.parametrize(("nodes", "input_width", "node_width", "millions"), [
    (716, 64, 64, 2.28), (2352, 128, 32, 3.12), (3834, 64, 32, 1.68), (8600, 64, 32, 1.83),
], ids=["SD", "GBA", "GLA", "CA"])
def test_parameter_counts_are_those_of_the_paper(nodes: int, input_width: int, node_width: int,
                                                 millions: float) -> None:
    config = PatchSTGConfig(input_width=input_width, slot_width=32, weekday_width=32, node_width=node_width, layers=5)
    with torch.device("meta"):
        model = PatchSTG(config, Sizes(1, 12, 12, 96, nodes=nodes, network="x"))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * 1e6, abs=5_000)


# -------------------------------------------------------------------- the layout
@pytest.mark.parametrize("config", [small(), small(padding="similar"), small(partition="feature", patches=2)],
                         ids=["masked", "similar", "feature"])
def test_blocks_that_add_nothing_leave_every_node_in_its_place(make_city: MakeCity, config: PatchSTGConfig) -> None:
    model = PatchSTG.for_city(make_city(nodes=11), config).eval()
    for name, parameter in model.blocks.named_parameters():
        if "norm" not in name:
            torch.nn.init.zeros_(parameter)
    h = torch.randn(2, 11, 24)
    partition = model.partition(make_city(nodes=11))
    assert torch.equal(partition.scatter(model.mix(partition.gather(h, 1), partition), 1), h)


@torch.no_grad()
def change_of_genuine(model: PatchSTG, city: City) -> float:
    """How far the answers of genuine slots move when all other slots are filled with noise."""
    partition = model.partition(city)
    h = partition.gather(torch.randn(2, city.num_nodes, 24), 1)
    noisy = h.clone()
    others = torch.ones(h.shape[1], dtype=torch.bool).index_fill(0, partition.slot_of_real, False)
    assert others.any()
    noisy[:, others] = 100 * torch.randn(2, int(others.sum()), 24)
    one, other = (partition.scatter(model.mix(x, partition), 1) for x in (h, noisy))
    assert one.isfinite().all()
    return (one - other).abs().max().item()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("patches", [1, 3, 4, 11])
def test_noise_in_empty_slots_changes_nothing(make_city: MakeCity, heads: int, patches: int) -> None:
    city = make_city(nodes=11)
    if 11 % patches:
        assert change_of_genuine(PatchSTG.for_city(city, small(heads=heads, patches=patches)).eval(), city) == 0
    else:
        assert PatchSTG.for_city(city, small(heads=heads, patches=patches)).valid.all()


def test_copies_of_the_paper_are_looked_at(make_city: MakeCity) -> None:
    """The counterpart of the test above, which so can fail: similar padding is context, not emptiness."""
    city = make_city(nodes=11)
    assert change_of_genuine(PatchSTG.for_city(city, small(padding="similar")).eval(), city) > 1e-3


@pytest.mark.parametrize("heads", [1, 2])
def test_one_patch_is_full_attention(heads: int) -> None:
    torch.manual_seed(0)
    mixer = Mixer(8, small(heads=heads)).eval()
    h = torch.randn(3, 1, 10, 8)

    def slow(x: Tensor) -> Tensor:
        """Attention of every node to every node, one pair at a time."""
        q, k, v = mixer.attention.qkv(mixer.norm_attention(x)).view(10, 3, heads, -1).unbind(1)  # [N, heads, d]
        mixed = torch.zeros(10, heads, q.shape[-1])
        for node in range(10):
            for head in range(heads):
                score = torch.stack([q[node, head] @ k[other, head] for other in range(10)]) / q.shape[-1] ** 0.5
                mixed[node, head] = score.softmax(0) @ v[:, head]
        x = x + mixer.attention.out(mixed.flatten(1))
        return x + mixer.mlp(mixer.norm_mlp(x))

    expected = torch.stack([slow(x[0]) for x in h])[:, None]
    torch.testing.assert_close(mixer(h, None), expected, rtol=1e-5, atol=1e-5)


def test_depth_stays_in_a_patch_and_breadth_keeps_to_a_slot(make_city: MakeCity) -> None:
    model = PatchSTG.for_city(make_city(nodes=12), small(patches=3, layers=1)).eval()
    block = model.blocks[0]
    h = torch.randn(1, 3, 4, 24)
    moved = h.clone()
    moved[0, 1, 2] += 1
    depth = (block.depth(moved, None) - block.depth(h, None)).abs().sum(-1)[0] > 0
    assert depth.all(1).tolist() == depth.any(1).tolist() == [False, True, False]
    both = (block(moved, None, None) - block(h, None, None)).abs().sum(-1)[0] > 0
    assert both.all()  # two steps join any two nodes


def test_cost_grows_by_less_than_two_and_a_half_when_the_network_doubles() -> None:
    """Counted operations, so that a busy machine does not matter; full attention would come near 4."""
    counts = []
    with torch.device("meta"):
        for nodes in (1024, 2048, 4096, 8192, 16384):
            places = np.random.default_rng(0).uniform(0, 1e5, (nodes, 2))
            partition = kdtree(places, round(nodes**0.5)).to("meta")
            model = PatchSTG(small(), Sizes(1, 12, 12, 288, nodes=nodes, network="x")).eval()
            with FlopCounterMode(display=False) as counter:
                model.mix(torch.empty(1, partition.all_idx.numel(), 24), partition)
            counts.append(counter.get_total_flops())
    growth = np.divide(counts[1:], counts[:-1])
    assert ((growth > 1.9) & (growth < 2.5)).all(), growth


# -------------------------------------------------------------------- the model
@pytest.mark.parametrize("partition", ["kdtree", "feature"])
def test_another_order_of_nodes_with_their_places_permutes_the_forecast(make_city: MakeCity, partition: str) -> None:
    order = np.random.default_rng(5).permutation(11)
    city, other = make_city(nodes=11), make_city(nodes=11, order=order)
    model, twin = (PatchSTG.for_city(place, small(partition=partition)).eval() for place in (city, other))
    layout = ("all_idx", "valid", "slot_of_real", "node_of_real")
    weights = {key: value for key, value in model.state_dict().items() if key not in layout}
    missing, unexpected = twin.load_state_dict(weights | {"node": weights["node"][order]}, strict=False)
    assert (set(missing), unexpected) == (set(layout), [])
    forecast, permuted = (one(place.window([30, 90])).mean for one, place in ((model, city), (twin, other)))
    torch.testing.assert_close(permuted, forecast[:, :, order], rtol=1e-5, atol=1e-4)


def test_every_node_is_heard_by_every_other(make_city: MakeCity) -> None:
    city = make_city(nodes=11, channels=2)
    model = PatchSTG.for_city(city, small()).eval()
    window = city.window([30])
    before = model(window).mean
    assert before.shape == (1, 3, 11, 2)
    values = window.values.clone()
    values[:, :, 4] += 10
    assert ((model(replace(window, values=values)).mean - before).abs().amax((0, 1, 3)) > 0).all()


@pytest.mark.parametrize("padding", ["masked", "similar"])
def test_what_was_not_observed_has_no_influence(make_city: MakeCity, padding: str) -> None:
    city = make_city(nodes=11)
    model = PatchSTG.for_city(city, small(padding=padding)).eval()
    window = city.window(range(30, 60))
    hidden = replace(window, values=torch.where(window.mask, window.values, 1e6))
    assert not window.mask.all()
    assert torch.equal(model(window).mean, model(hidden).mean)


@pytest.mark.parametrize("changes", [{}, {"padding": "similar"}, {"node_table": False}, {"patches": 2}], ids=str)
def test_saved_and_read_again_it_answers_bit_by_bit_the_same(make_city: MakeCity, tmp_path: Path,
                                                             changes: dict[str, Any]) -> None:
    city = make_city(nodes=11)
    model = PatchSTG.for_city(city, small(**changes))
    model(city.window([30, 90]))
    model.eval().save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert isinstance(again, PatchSTG)
    window = city.window(range(30, 100))
    assert torch.equal(model(window).mean, again(window).mean)


def test_the_kind_of_partition_is_chosen_and_remembered(make_city: MakeCity, tmp_path: Path) -> None:
    placed, unplaced = make_city(nodes=11), make_city(nodes=11, placed=False)
    for city, kind in ((placed, "kdtree"), (unplaced, "feature")):
        PatchSTG.for_city(city, small()).save_pretrained(tmp_path / kind)
        assert Forecaster.from_pretrained(tmp_path / kind).config.partition == kind
    model = PatchSTG.for_city(placed, small())
    expected = kdtree(local_metres(placed.lonlat.numpy()), 3)
    assert [part.tolist() for part in model.partition(placed).parts()] == [part.tolist() for part in expected.parts()]


def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = make_city()
    torch.manual_seed(0)
    model = PatchSTG.for_city(city, small(dropout=0.0))
    window, objective = city.window(range(40, 120, 10)), MaskedRegression()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_target_that_was_not_observed_gives_no_gradient(make_city: MakeCity) -> None:
    city = make_city(hidden=0.3)
    window = city.window(range(30, 60))
    window.target = torch.where(window.target_mask, window.target, 1e6).requires_grad_()
    (loss,) = MaskedRegression()(PatchSTG.for_city(city, small()), window).values()
    loss.backward()
    assert (window.target.grad[~window.target_mask] == 0).all()
    assert (window.target.grad[window.target_mask] != 0).all()


def test_one_node_is_a_network_too(make_city: MakeCity) -> None:
    for padding in ("masked", "similar"):
        city = make_city(nodes=1)
        model = PatchSTG.for_city(city, small(padding=padding)).eval()
        assert model(city.window([30])).mean.shape == (1, 3, 1, 1)


# -------------------------------------------------------------------- who may answer whom
def test_without_a_node_table_it_answers_for_networks_it_never_saw(make_city: MakeCity) -> None:
    city, other, unplaced = make_city(nodes=11), make_city(nodes=20, seed=1), make_city(nodes=6, placed=False)
    model = PatchSTG.for_city(city, small(node_table=False)).eval()
    for place in (city, other, unplaced):
        model.check(place)
        assert model(place.window([30])).mean.shape == (1, 3, place.num_nodes, 1)
    assert model.partition(other) is model.partition(other)
    with pytest.raises(TransductiveError, match="11 nodes"):
        PatchSTG.for_city(city, small()).check(other)


def test_settings_that_cannot_be_are_named(make_city: MakeCity) -> None:
    cases = [
        ({"partition": "metis"}, "partition", "metis", "auto, kdtree, feature"),
        ({"padding": "none"}, "padding", "none", "masked, similar"),
        ({"heads": 5}, "heads", "5", "divisor of 24"),
        ({"padding": "similar"}, "padding", "city", "padding=masked"),
        ({"partition": "kdtree"}, "lonlat", "city", "another model or partition"),
    ]
    for changes, field, value, remedy in cases:
        with pytest.raises(InputError) as caught:
            PatchSTG.for_city(make_city(placed=False), small(**changes))
        assert (caught.value.field, caught.value.value) == (field, value)
        assert remedy in caught.value.remedy
