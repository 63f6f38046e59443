"""CRPS in each form equals the integral; the baseline's moments are those of the residuals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from stgraph.errors import InputError
from stgraph.evaluate.probabilistic import (
    EmpiricalResiduals,
    GaussianResiduals,
    Predictions,
    coverage,
    crps_gaussian,
    crps_quantiles,
    crps_samples,
    interval_score,
    masked_mean,
    predictions,
)
from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
from stgraph.models import model_class
from stgraph.windows import City


def integral(samples: np.ndarray, target: float) -> float:
    """The definition, piece by piece: between two neighbouring points F and the step of the target are constant."""
    points = np.sort(np.append(samples, target))
    total = 0.0
    for low, high in pairwise(points):
        below = (samples <= low).mean()
        total += (high - low) * (below - float(target <= low)) ** 2
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 10, 57])
def test_crps_of_samples_is_the_integral(size: int) -> None:
    rng = np.random.default_rng(size)
    samples, target = rng.normal(3, 2, (size, 40)), rng.normal(3, 2, 40)
    samples[:, 5] = samples[0, 5]  # a point mass
    target[6] = samples[0, 6]  # on a sample
    target[7], target[8] = -50, 50  # beyond all
    found = crps_samples(torch.from_numpy(samples), torch.from_numpy(target))
    wanted = [integral(samples[:, k], target[k]) for k in range(40)]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-12)
    assert found[5] == pytest.approx(abs(samples[0, 5] - target[5]))  # of a point mass: the absolute error


def test_the_three_forms_agree_on_a_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([0.0, 5.0, -2.0]).double(), torch.tensor([1.0, 0.3, 4.0]).double()
    target = torch.tensor([0.7, 5.0, -12.0]).double()
    exact = crps_gaussian(mean, deviation, target)
    samples = mean + deviation * torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(crps_samples(samples, target), exact, rtol=0.02, atol=0.005)
    levels = (np.arange(2000) + 0.5) / 2000
    z = np.sqrt(2) * torch.erfinv(torch.from_numpy(2 * levels - 1))
    quantiles = mean[:, None] + deviation[:, None] * z
    torch.testing.assert_close(crps_quantiles(quantiles, levels.tolist(), target), exact, rtol=2e-3, atol=1e-4)
    grid = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
    for k in range(3):
        below = torch.special.ndtr((grid - mean[k]) / deviation[k])
        slow = torch.trapezoid((below - (target[k] <= grid).double()) ** 2, grid)
        assert exact[k].item() == pytest.approx(slow.item(), abs=5e-4)


def test_the_median_alone_gives_the_absolute_error() -> None:
    target = torch.tensor([1.0, 5.0])
    found = crps_quantiles(torch.tensor([[3.0], [3.0]]), (0.5,), target)
    torch.testing.assert_close(found, torch.tensor([2.0, 2.0], dtype=torch.float64))


def test_the_true_distribution_scores_best() -> None:
    """CRPS is proper: a shifted, a narrower and a wider normal all do worse."""
    target = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).double()
    scores = {name: crps_gaussian(torch.full_like(target, m), torch.full_like(target, s), target).mean().item()
              for name, (m, s) in {"true": (0, 1), "shifted": (0.3, 1), "narrow": (0, 0.7), "wide": (0, 1.4)}.items()}
    assert min(scores, key=scores.get) == "true"


def test_coverage_and_interval_score_by_hand() -> None:
    low, high = torch.zeros(2, 2, 1, 1), torch.full((2, 2, 1, 1), 10.0)
    target = torch.tensor([[5.0, 12.0], [-1.0, 99.0]]).view(2, 2, 1, 1)
    mask = torch.tensor([[True, True], [True, False]]).view(2, 2, 1, 1)
    found = coverage(low, high, target, mask)
    assert found["all"] == pytest.approx(1 / 3)
    assert found["steps"].tolist() == [0.5, 0.0]
    assert coverage(low, high, target, torch.zeros_like(mask))["all"] is None
    scores = interval_score(low, high, target, 0.8).flatten().tolist()
    assert scores == pytest.approx([10, 10 + 10 * 2, 10 + 10 * 1, 10 + 10 * 89])
    assert masked_mean(target, mask) == pytest.approx((5 + 12 - 1) / 3)
    assert masked_mean(target, torch.zeros_like(mask)) is None


@pytest.mark.parametrize("by_node", [False, True])
def test_the_baseline_takes_the_moments_of_each_step(by_node: bool) -> None:
    rng = np.random.default_rng(0)
    spread = np.arange(1, 5)[None, :, None, None] * np.array([1.0, 3.0])[None, None, :, None]
    residual = torch.from_numpy(rng.normal(0.5, 1, (4000, 4, 2, 1)) * spread)
    mask = torch.from_numpy(rng.random(residual.shape) > 0.2)
    baseline = GaussianResiduals(by_node).fit(torch.where(mask, residual, 1e9), mask)
    for step in range(4):
        for node in range(2):
            rows = residual[:, step, node, 0][mask[:, step, node, 0]] if by_node else \
                residual[:, step][mask[:, step]]
            bias, deviation = (baseline.bias[step, node if by_node else 0, 0],
                               baseline.deviation[step, node if by_node else 0, 0])
            assert bias.item() == pytest.approx(rows.mean().item())
            assert deviation.item() == pytest.approx(rows.std(unbiased=False).item())
    low, high = baseline.interval(torch.zeros_like(residual), 0.9)
    if by_node:
        assert coverage(low, high, residual, mask)["all"] == pytest.approx(0.9, abs=0.01)
    assert baseline.crps(torch.zeros_like(residual), residual).shape == residual.shape


@pytest.mark.parametrize("by_node", [False, True])
def test_the_empirical_baseline_is_the_sample_of_residuals(by_node: bool) -> None:
    """With as many levels as residuals its CRPS is nearly that of the residuals as samples, step by step."""
    residual = torch.from_numpy(np.random.default_rng(0).gamma(1, 2, (400, 2, 2, 1)))
    mask = torch.ones_like(residual, dtype=torch.bool)
    mask[:100, :, 1] = False
    baseline = EmpiricalResiduals(by_node, levels=999).fit(torch.where(mask, residual, 1e9), mask)
    mean, target = torch.full((5, 2, 2, 1), 7.0), torch.tensor([5.0, 7.5, 8.0, 9.0, 20.0]).view(5, 1, 1, 1)
    found = baseline.crps(mean, target.expand(5, 2, 2, 1))
    for step in range(2):
        for node in range(2):
            own = residual[:, step, node, 0][mask[:, step, node, 0]] if by_node else residual[:, step][mask[:, step]]
            wanted = crps_samples((7.0 + own)[:, None].expand(-1, 5), target[:, 0, 0, 0])
            torch.testing.assert_close(found[:, step, node, 0], wanted, rtol=0.01, atol=0.01)


def test_a_node_without_residuals_is_like_the_others_and_no_data_is_refused() -> None:
    residual, mask = torch.randn(50, 2, 3, 1), torch.ones(50, 2, 3, 1, dtype=torch.bool)
    mask[:, :, 1] = False
    by_node, pooled = (GaussianResiduals(kind).fit(residual, mask) for kind in (True, False))
    assert by_node.deviation[0, 1, 0] == pooled.deviation[0, 0, 0]
    by_node, pooled = (EmpiricalResiduals(kind).fit(residual, mask) for kind in (True, False))
    assert torch.equal(by_node.offset[:, 0, 1], pooled.offset[:, 0, 0])
    for kind in (GaussianResiduals, EmpiricalResiduals):
        with pytest.raises(InputError, match="no residual"):
            kind().fit(residual, torch.zeros_like(mask))


def test_predictions_are_those_of_every_window() -> None:
    rng = np.random.default_rng(0)
    graph = DynamicHeteroGraph(time=TimeAxis(0, 3600, 300))
    graph["sensor"].node_id = np.array(["a", "b"])
    mask = rng.random((300, 2, 1)) > 0.3
    graph.add_signal("sensor", "x", Signal(np.where(mask, rng.normal(size=(300, 2, 1)), 0).astype(np.float32), mask,
                                           [Channel("x")]))
    city = City(graph, history=3, horizon=2)
    model = model_class("last_value").for_city(city)
    found = predictions(model, city, "test", batch_size=7)
    first, last = city.split.origins("test")
    assert found.origin.tolist() == list(range(first, last))
    window = city.window(range(first, last))
    torch.testing.assert_close(found.mean, model(window).mean.double())
    assert torch.equal(found.mask, window.target_mask)
    assert (found.residual[~found.mask] == 0).all()
    with pytest.raises(InputError):
        predictions(model, City(graph, history=3, horizon=2, fractions=(0.8, 0.2, 0.0)), "test")


def bay(shared_data: Path) -> City:
    """Five months of sixteen stations at five minutes; a zero is a missing reading."""
    with np.load(shared_data / "pems_bay_16" / "speed.npz") as data:
        speed = data["speed_mph"].astype(np.float32)
    graph = DynamicHeteroGraph(time=TimeAxis(1_483_228_800, 300, len(speed)))
    graph["sensor"].node_id = np.arange(speed.shape[1]).astype(str)
    mask = np.isfinite(speed) & (speed != 0)
    graph.add_signal("sensor", "speed", Signal(np.where(mask, speed, 0)[..., None].astype(np.float32),
                                               mask[..., None], [Channel("speed")]))
    return City(graph)


def test_the_baseline_on_real_readings(shared_data: Path) -> None:
    """PEMS-BAY, last value: spreads grow with the step; tails are so heavy that one normal for all nodes costs more
    than the point forecast, one for each node a little less, and the residuals' own distribution much less."""
    city = bay(shared_data)
    model = model_class("last_value").for_city(city)
    known, new = (predictions(model, city, part) for part in ("validation", "test"))
    some = slice(None, None, 5)
    known, new = (Predictions(p.mean[some], p.target[some], p.mask[some], p.origin[some]) for p in (known, new))
    kinds = {"normal": GaussianResiduals(), "normal by node": GaussianResiduals(True),
             "residuals": EmpiricalResiduals(), "residuals by node": EmpiricalResiduals(True)}
    score = {name: masked_mean(kind.fit(known.residual, known.mask).crps(new.mean, new.target), new.mask)
             for name, kind in kinds.items()}
    error = masked_mean((new.target - new.mean).abs(), new.mask)
    print(f"MAE {error:.3f} mph; CRPS", {name: round(value, 3) for name, value in score.items()})
    assert (kinds["normal"].deviation[:, 0, 0].diff() > 0).all()
    assert error == pytest.approx(2.35, abs=0.05)
    assert score["residuals by node"] < score["residuals"] < score["normal by node"] < score["normal"] < 1.1 * error
