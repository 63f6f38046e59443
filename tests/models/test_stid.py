"""STID: counts of the paper, nodes kept apart, gaps without influence, weights that come back bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stgraph.errors import InputError, TransductiveError
from stgraph.models import Forecaster, Sizes
from stgraph.models.stid import STID, STIDConfig
from stgraph.objectives import MaskedRegression
from stgraph.windows import City

MakeCity = Callable[..., City]


def test_parameter_counts_are_those_of_the_paper() -> None:
    for nodes, expected in ((207, 117_868), (325, 121_644), (307, 121_068), (170, 116_684)):
        model = STID(STIDConfig(), Sizes(1, 12, 12, 288, nodes=nodes, network="x"))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("config", [STIDConfig(), STIDConfig(node_table=False),
                                    STIDConfig(time_of_day=False, day_of_week=False, layers=1, width=8)],
                         ids=["full", "no node table", "no calendar tables"])
def test_a_node_answers_from_its_own_readings_only(make_city: MakeCity, config: STIDConfig) -> None:
    city = make_city(channels=2)
    model = STID.for_city(city, config).eval()
    window = city.window([30, 90])
    before = model(window).mean
    assert before.shape == (2, 3, 7, 2)
    values = window.values.clone()
    values[:, :, 4] += 10
    change = (model(replace(window, values=values)).mean - before).abs().amax((0, 1, 3))
    assert change[4] > 0
    assert (change[[0, 1, 2, 3, 5, 6]] == 0).all()


def test_what_was_not_observed_has_no_influence(make_city: MakeCity) -> None:
    city = make_city()
    model = STID.for_city(city).eval()
    window = city.window(range(30, 60))
    hidden = replace(window, values=torch.where(window.mask, window.values, 1e6))
    assert not window.mask.all()
    assert torch.equal(model(window).mean, model(hidden).mean)


def test_another_order_of_nodes_and_table_permutes_the_forecast(make_city: MakeCity) -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    city, other = make_city(), make_city(order=order)
    model, twin = STID.for_city(city).eval(), STID.for_city(other).eval()
    weights = model.state_dict()
    twin.load_state_dict(weights | {"node": weights["node"][order]})
    forecast, permuted = (one(place.window([30, 90])).mean for one, place in ((model, city), (twin, other)))
    torch.testing.assert_close(permuted, forecast[:, :, order])


def test_forecasts_are_in_the_unit_of_the_readings(make_city: MakeCity) -> None:
    """An untrained head that gives 0 means: the mean of the training rows, channel by channel."""
    city = make_city(channels=2)
    for node_table in (True, False):
        model = STID.for_city(city, STIDConfig(node_table=node_table)).eval()
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
        mean = model(city.window([30])).mean
        start, stop = city.split.rows("train")
        values, mask = city.signal.read(start, stop)
        expected = torch.tensor([values[..., c][mask[..., c]].mean() for c in range(2)])
        torch.testing.assert_close(mean, expected.expand_as(mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("node_table", [True, False])
def test_saved_and_read_again_it_answers_bit_by_bit_the_same(make_city: MakeCity, tmp_path: Path,
                                                             node_table: bool) -> None:
    city = make_city()
    model = STID.for_city(city, STIDConfig(node_table=node_table))
    model(city.window([30, 90]))  # in training: two days of the week are seen
    model.eval().save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert isinstance(again, STID)
    window = city.window(range(30, 200))
    assert torch.equal(model(window).mean, again(window).mean)


def test_the_scaler_comes_with_the_weights_of_a_transductive_model(make_city: MakeCity) -> None:
    """Rows that are fitted later do not change what was learned; an inductive model takes those of the city."""
    city = make_city()
    for node_table, same in ((True, True), (False, False)):
        model = STID.for_city(city, STIDConfig(node_table=node_table)).eval()
        window = city.window([30])
        before = model(window).mean
        city.use_context(0, 30)
        assert torch.equal(model(window).mean, before) is same
        city.use_context(*city.split.rows("train"))


def test_it_learns_eight_windows_by_heart(make_city: MakeCity) -> None:
    city = make_city()
    torch.manual_seed(0)
    model = STID.for_city(city, STIDConfig(dropout=0.0))
    window, objective = city.window(range(40, 120, 10)), MaskedRegression()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        (loss,) = objective(model, window).values()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_a_target_that_was_not_observed_gives_no_gradient(make_city: MakeCity) -> None:
    city = make_city(hidden=0.3)
    model = STID.for_city(city)
    window = city.window(range(30, 60))
    window.target = torch.where(window.target_mask, window.target, 1e6).requires_grad_()
    (loss,) = MaskedRegression()(model, window).values()
    loss.backward()
    assert (window.target.grad[~window.target_mask] == 0).all()
    assert (window.target.grad[window.target_mask] != 0).all()


def test_who_may_answer_whom(make_city: MakeCity) -> None:
    city, other = make_city(), make_city(nodes=5)
    assert not STID.describe(STIDConfig()).inductive
    STID.for_city(city, STIDConfig(node_table=False)).check(other)
    inductive = STID.for_city(city, STIDConfig(node_table=False)).eval()
    assert inductive(other.window([30])).mean.shape == (1, 3, 5, 1)
    with pytest.raises(TransductiveError, match="7 nodes"):
        STID.for_city(city).check(other)
    with pytest.raises(InputError, match="1 channel"):
        inductive.check(make_city(channels=2))
