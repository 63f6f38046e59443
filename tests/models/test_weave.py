"""Weave: what its parts add, what turning them off leaves, and that no shape depends on the city."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.models.weave import Weave, WeaveConfig, relations
from stgraph.objectives import MaskedRegression
from stgraph.windows import City, TrainingBatches, Window

PARTS = ["graph,mlp", "graph,patch,mlp", "mlp"]


def with_edges(city: City, order: np.ndarray | None = None) -> City:
    """A ring over the nodes, in the order of the first city, whatever order they stand in."""
    nodes = city.num_nodes
    place = np.arange(nodes) if order is None else np.argsort(order)
    ring = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes])
    city.graph["sensor", "near", "sensor"].edge_index = torch.from_numpy(place[ring])
    return city


def random_model(city: City, **options: object) -> Weave:
    """A model whose every weight matters."""
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(width=16, layers=2, alike=3, patch_size=4, **options))
    torch.nn.init.normal_(model.ends["any"].correct.weight, std=0.3)
    torch.nn.init.normal_(model.ends["any"].gate.weight, std=0.3)
    return model.eval()


def answer(model: Weave, city: City, origins: list[int]) -> Tensor:
    with torch.no_grad():
        return model(city.window(origins, model.capabilities.needs)).mean


def test_it_starts_from_the_mean_of_profile_and_last_value(make_city) -> None:
    city = with_edges(make_city(hidden=0))
    window = city.window([100, 130], frozenset({"profile", "lags"}))
    expected = (window.profile_future + window.values[:, -1:]) / 2
    torch.testing.assert_close(Weave.for_city(city).eval()(window).mean, expected)


@pytest.mark.parametrize("parts", PARTS)
def test_one_set_of_weights_for_every_city(make_city, parts: str) -> None:
    one, other = with_edges(make_city()), make_city(nodes=11, channels=2, days=20)  # the other has no edges
    model = random_model(one, parts=parts)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in random_model(other, parts=parts).state_dict().items()}
    model.check(other)
    found = answer(model, other, [100, 200])
    assert found.shape == (2, 3, 11, 2)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("parts", ["graph,mlp", "mlp"])  # patches of places that tie may be cut differently
def test_relabelling_nodes_permutes_the_answer(make_city, parts: str) -> None:
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    city, shuffled = with_edges(make_city()), with_edges(make_city(order=order), order)
    model = random_model(city, parts=parts)
    one, other = answer(model, city, [100, 130]), answer(model, shuffled, [100, 130])
    torch.testing.assert_close(other, one[:, :, order], rtol=1e-4, atol=1e-4)


def test_only_what_is_near_is_heard(make_city) -> None:
    """With the ring alone and two blocks, a reading reaches the nodes within two steps along the ring."""
    city = with_edges(make_city(nodes=9, hidden=0))
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(width=16, layers=2, alike=0, city_mean=False, parts="graph,mlp")).eval()
    torch.nn.init.normal_(model.ends["any"].correct.weight, std=0.3)
    torch.nn.init.normal_(model.ends["any"].gate.weight, std=0.3)
    window = city.window([100], frozenset({"profile", "lags"}))
    with torch.no_grad():
        before = model(window).mean
        window.values[:, -1, 0] += 5
        moved = ((model(window).mean - before).abs() > 1e-6).any(1)[0, :, 0]
    assert moved.tolist() == [True, True, True, False, False, False, False, True, True]


@pytest.mark.parametrize("parts", PARTS)
def test_what_is_missing_never_counts(make_city, parts: str) -> None:
    city = with_edges(make_city())
    model = random_model(city, parts=parts)
    window: Window = city.window([100], frozenset({"profile", "lags"}))
    with torch.no_grad():
        before = model(window).mean
        window.values = torch.where(window.mask, window.values, 1e6)
        torch.testing.assert_close(model(window).mean, before)


def test_lags_are_read_where_asked(make_city) -> None:
    city = with_edges(make_city(days=20))
    model = random_model(city, lags=True)
    assert model.capabilities.needs == {"profile", "lags"}
    assert torch.isfinite(answer(model, city, [300, 310])).all()


def test_relations_are_of_training_rows_alone(make_city) -> None:
    """Test rows changed: the same relations."""
    city, other = make_city(seed=3), make_city(seed=3)
    first, _ = other.split.rows("test")
    values = other.signal.values
    values[first:] = values[first:][:, ::-1]
    config = WeaveConfig(alike=3)
    one, two = relations(city, config)["alike"], relations(other, config)["alike"]
    assert torch.equal(one.adjacency.col, two.adjacency.col)
    torch.testing.assert_close(one.weight, two.weight)


def test_an_unknown_part_is_refused(make_city) -> None:
    with pytest.raises(InputError, match="unknown part"):
        Weave.for_city(make_city(), WeaveConfig(parts="graph,magic"))


def test_it_learns(make_city) -> None:
    city = with_edges(make_city(days=20))
    torch.manual_seed(0)
    model = Weave.for_city(city, WeaveConfig(width=24, layers=2, dropout=0.0, parts="graph,patch,mlp", patch_size=4))
    loss, optimizer = MaskedRegression(), torch.optim.AdamW(model.parameters(), 3e-3)
    batch = TrainingBatches([city], 8, 1, needs=frozenset({"profile", "lags"}))[0]
    first = last = None
    for _ in range(150):
        last = loss(model, batch)["mae"]
        first = first if first is not None else last.item()
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert last is not None
    assert last.item() < 0.35 * first
    assert all(parameter.grad is not None for parameter in model.parameters())
