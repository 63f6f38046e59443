"""Objectives on real readings: air quality in Beijing, 36 stations, hourly, 13 % missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Toy

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.objectives import DiffusionForecast, MaskedModelling, draw_mask
from stgraph.objectives.masks import MASKS
from stgraph.windows import City


@pytest.fixture(scope="module")
def air(shared_data: Path) -> City:
    with np.load(shared_data / "aqi36_beijing" / "pm25.npz") as data:
        values, start = data["pm25"].astype(np.float32), int(data["timestamp"][0])
    mask = np.isfinite(values)
    graph = DynamicHeteroGraph(time=TimeAxis(start, 3600, len(values)))
    graph["sensor"].node_id = np.arange(36).astype(str)
    graph.add_signal("sensor", "pm25", Signal(np.where(mask, values, 0)[..., None], mask[..., None],
                                              [Channel("pm25")]))
    return City(graph, history=24, horizon=12)


@pytest.mark.parametrize("kind", MASKS)
def test_masks_choose_among_what_the_stations_reported(air: City, kind: str) -> None:
    window = air.window(range(100, 5000, 700))
    assert 0.05 < (~window.mask).float().mean() < 0.3
    hidden = draw_mask(kind, window.mask, 0.25, length=6, generator=torch.Generator().manual_seed(0))
    assert not (hidden & ~window.mask).any()
    share = hidden.sum((1, 2, 3)) / window.mask.sum((1, 2, 3))
    if kind in ("random", "block"):
        assert (hidden.sum((1, 2, 3)) - 0.25 * window.mask.sum((1, 2, 3))).abs().max() <= 0.5
    else:  # whole pieces, of which some hold more than others: hours are lost for many stations at once
        assert share.mean() == pytest.approx(0.25, abs=0.08)


def test_reconstruction_learns_to_beat_the_mean(air: City) -> None:
    torch.manual_seed(0)
    model, objective = Toy.for_city(air), MaskedModelling("block", 0.25, minutes=360)
    windows = [air.window(range(start, 5000, 97)) for start in (100, 130)]
    held_out = air.window(range(5100, 6000, 97))
    context = air.context

    def error(window, answer) -> float:
        hidden = draw_mask("block", window.mask, 0.25, length=6, generator=torch.Generator().manual_seed(1))
        blind = replace(window, values=torch.where(hidden, 0, window.values), mask=window.mask & ~hidden, target=None)
        return float((answer(blind, hidden) - window.values)[hidden].abs().mean())

    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(100):
        optimizer.zero_grad()
        objective(model, windows[step % 2])["masked"].backward()
        optimizer.step()
    with torch.no_grad():
        learned = error(held_out, model.reconstruct)
    filled = error(held_out, lambda window, hidden: torch.from_numpy(context.level).expand_as(window.values))
    print(f"hidden blocks of 6 h: {learned:.1f} ug/m3, mean of the station {filled:.1f}")
    assert learned < 0.7 * filled


def test_imputation_leaves_what_was_reported(air: City) -> None:
    torch.manual_seed(0)
    window = air.window([3000, 4000])
    found = DiffusionForecast("v", tasks=("block",)).impute(Toy.for_city(air), window, n=2, steps=3, seed=0)
    assert torch.equal(found[:, window.mask], window.values[window.mask].expand(2, -1))
    assert torch.isfinite(found).all()
    assert (~window.mask).any()
