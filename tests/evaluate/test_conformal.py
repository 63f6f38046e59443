"""Conformal intervals cover what they promise: on exchangeable data, after a shift, whatever comes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from stgraph.errors import InputError
from stgraph.evaluate.conformal import AdaptiveConformal, SplitConformal
from stgraph.evaluate.probabilistic import coverage, predictions
from stgraph.models import model_class


def exchangeable(rows: int, seed: int, horizon: int = 3, nodes: int = 1, channels: int = 2) -> torch.Tensor:
    """Residuals that no normal describes: skewed, heavy-tailed, another size at each step and channel."""
    rng = np.random.default_rng(seed)
    size = 1 + np.arange(horizon * channels).reshape(horizon, 1, channels)
    return torch.from_numpy(rng.standard_t(3, (rows, horizon, nodes, channels)) ** 3 * size + 0.3)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.99])
def test_the_quantile_is_the_one_of_the_definition(level: float) -> None:
    residual = exchangeable(37, 0, nodes=2)
    mask = torch.rand(residual.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    band = SplitConformal(level).fit(torch.where(mask, residual, 1e12), mask).interval(torch.zeros_like(residual))
    for step in range(3):
        for channel in range(2):
            scores = sorted(residual[:, step, :, channel].abs()[mask[:, step, :, channel]].tolist())
            rank = math.ceil(round((len(scores) + 1) * level, 9))
            wanted = scores[rank - 1] if rank <= len(scores) else math.inf
            assert band.high[0, step, 0, channel] == wanted
            assert band.low[0, step, 1, channel] == -wanted


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_marginal_coverage_is_the_promise(level: float) -> None:
    """Over draws of both validation and test the share inside is ``ceil((n + 1) level) / (n + 1)``, binomially."""
    inside = trials = 0
    for seed in range(300):
        residual = exchangeable(60, seed)
        seen = torch.ones_like(residual[:59], dtype=torch.bool)
        band = SplitConformal(level).fit(residual[:59], seen).interval(torch.zeros_like(residual[59:]))
        inside += int(((residual[59:] >= band.low) & (residual[59:] <= band.high)).sum())
        trials += residual[59:].numel()
    low, high = binom.interval(1 - 1e-6, trials, level)  # 60 * level is whole, so this is exact
    assert low <= inside <= high


def test_coverage_given_the_validation_part_follows_the_beta_law() -> None:
    """Vovk 2012: given ``n`` validation scores the coverage is Beta(k, n + 1 - k) distributed."""
    found, rank = [], math.ceil(200 * 0.9)
    for seed in range(40):
        residual = exchangeable(199 + 4000, 1000 + seed, 1, 1, 1)
        seen = torch.ones_like(residual, dtype=torch.bool)
        band = SplitConformal(0.9).fit(residual[:199], seen[:199]).interval(torch.zeros_like(residual[199:]))
        found.append(coverage(band.low, band.high, residual[199:], seen[199:])["all"])
    law = beta(rank, 200 - rank)
    assert np.mean(found) == pytest.approx(law.mean(), abs=5 * law.std() / math.sqrt(40))
    assert all(law.ppf(1e-5) - 0.02 < one < law.ppf(1 - 1e-5) + 0.02 for one in found)


def test_a_scale_gives_quiet_nodes_narrow_intervals() -> None:
    rng = np.random.default_rng(0)
    scale = torch.tensor([[1.0], [10.0]])
    residual = torch.from_numpy(rng.normal(size=(3000, 2, 2, 1))) * scale
    seen = torch.ones_like(residual, dtype=torch.bool)
    plain, scaled = (SplitConformal(0.9, s).fit(residual[:1500], seen[:1500]).interval(residual[1500:] * 0)
                     for s in (None, scale))
    by_node = [[((residual[1500:] >= band.low) & (residual[1500:] <= band.high))[:, :, n].float().mean().item()
                for n in range(2)] for band in (plain, scaled)]
    assert by_node[0] == pytest.approx([1.0, 0.8], abs=0.05)
    assert by_node[1] == pytest.approx([0.9, 0.9], abs=0.02)
    assert (scaled.high - scaled.low)[0, 0, 1] == pytest.approx(10 * (scaled.high - scaled.low)[0, 0, 0])


def test_too_few_residuals_give_an_infinite_interval() -> None:
    residual = exchangeable(8, 0)
    seen = torch.ones_like(residual, dtype=torch.bool)
    assert torch.isinf(SplitConformal(0.9).fit(residual, seen).interval(residual).high).all()
    nothing = SplitConformal(0.9).fit(residual, ~seen).interval(residual)
    assert torch.isinf(nothing.low).all()


def test_what_was_not_observed_counts_nowhere() -> None:
    residual = exchangeable(300, 0, nodes=3)
    seen = torch.rand(residual.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    zero = torch.zeros_like(residual)
    for kind in (SplitConformal(0.9), AdaptiveConformal(0.9, memory=50, refresh=20)):
        bands = []
        for junk in (0.0, 1e9, math.nan):
            given = torch.where(seen, residual, junk)
            kind.fit(given[:150], seen[:150])
            bands.append(kind.interval(zero[150:]) if isinstance(kind, SplitConformal)
                         else kind.run(zero[150:], given[150:], seen[150:]))
        assert all(torch.equal(bands[0].high, other.high) for other in bands[1:])


# -------------------------------------------------------------------- the adaptive one
def shifted(rows: int = 3000, factor: float = 3.0, seed: int = 0, horizon: int = 2) -> torch.Tensor:
    """Normal residuals whose spread grows by a factor after a third of the rows."""
    rng = np.random.default_rng(seed)
    residual = rng.normal(size=(rows, horizon, 4, 1))
    residual[rows // 3:] *= factor
    return torch.from_numpy(residual)


@pytest.mark.parametrize("memory", [None, 300])
def test_coverage_comes_back_after_a_planted_shift(memory: int | None) -> None:
    residual, zero = shifted(), torch.zeros(3000, 2, 4, 1, dtype=torch.float64)
    seen = torch.ones_like(residual, dtype=torch.bool)
    split = SplitConformal(0.9).fit(residual[:500], seen[:500]).interval(zero)
    band = AdaptiveConformal(0.9, 0.02, memory, refresh=50).fit(residual[:500], seen[:500]).run(
        zero[500:], residual[500:], seen[500:])
    late = slice(2000, 3000)
    lost = coverage(split.low[late], split.high[late], residual[late], seen[late])["all"]
    found = coverage(band.low[1500:], band.high[1500:], residual[late], seen[late])["all"]
    assert lost < 0.5  # the shift is real
    assert found == pytest.approx(0.9, abs=0.02)
    if memory is not None:
        assert (band.high[1500:] < 1e3).float().mean() > 0.99  # with memory the band is not merely infinite
        width = band.high[1500:].clamp(max=1e3).median()
        assert width == pytest.approx(3 * 1.645, rel=0.1)


def test_without_drift_it_is_like_split() -> None:
    residual = shifted(factor=1.0)
    seen = torch.ones_like(residual, dtype=torch.bool)
    band = AdaptiveConformal(0.9, 0.005).fit(residual[:1000], seen[:1000]).run(
        torch.zeros_like(residual[1000:]), residual[1000:], seen[1000:])
    assert coverage(band.low, band.high, residual[1000:], seen[1000:])["all"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("gamma", [0.02, 0.2])
def test_long_run_coverage_holds_whatever_comes(gamma: float) -> None:
    """Proposition 4.1 of Gibbs and Candes, with the delay of each step: also against a jumping adversary."""
    rows, horizon = 800, 3
    size = torch.tensor([0.0, 1e6, 1.0, 50.0]).repeat_interleave(37).repeat(6)[:rows]
    residual = (size[:, None, None, None] * (1 + torch.rand(rows, horizon, 1, 1))).double()
    seen = torch.ones_like(residual, dtype=torch.bool)
    conformal = AdaptiveConformal(0.9, gamma).fit(exchangeable(200, 0, horizon, 1, 1), torch.ones(200, 3, 1, 1) > 0)
    band = conformal.run(torch.zeros_like(residual), residual, seen)
    for step in range(horizon):
        known = rows - step
        missed = (residual > band.high)[:known, step].double().mean().item()
        assert abs(missed - 0.1) <= (1 + (step + 1) * gamma) / (gamma * known)


def test_an_interval_depends_on_the_known_past_only() -> None:
    """Truth of step h of an origin enters h origins later, and not before."""
    residual = shifted(200, 1.0)
    seen = torch.ones_like(residual, dtype=torch.bool)
    zero = torch.zeros_like(residual)
    for memory in (None, 30):
        conformal = AdaptiveConformal(0.9, 0.05, memory, refresh=10).fit(residual[:50], seen[:50])
        before = conformal.run(zero[50:], residual[50:], seen[50:])
        for step in range(2):
            changed = residual[50:].clone()
            changed[99, step] += 1e3  # comes true after 99 + step + 1 origins
            after = conformal.run(zero[50:], changed, seen[50:])
            same = (after.high == before.high).flatten(1).all(1)
            assert same[: 99 + step + 1].all()
            assert not same[99 + step + 1:].all()


def test_bad_settings_are_refused() -> None:
    for make in (lambda: SplitConformal(0.0), lambda: SplitConformal(1.0), lambda: AdaptiveConformal(gamma=0),
                 lambda: AdaptiveConformal(memory=0), lambda: AdaptiveConformal(refresh=0),
                 lambda: SplitConformal(0.9, torch.tensor([[0.0]]))):
        with pytest.raises(InputError):
            make()


def test_ninety_percent_on_real_readings(shared_data) -> None:
    """PEMS-BAY, last value: validation of 15 days, test of 30 days."""
    from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis
    from stgraph.windows import City

    with np.load(shared_data / "pems_bay_16" / "speed.npz") as data:
        speed = data["speed_mph"].astype(np.float32)
    graph = DynamicHeteroGraph(time=TimeAxis(1_483_228_800, 300, len(speed)))
    graph["sensor"].node_id = np.arange(speed.shape[1]).astype(str)
    mask = np.isfinite(speed) & (speed != 0)
    graph.add_signal("sensor", "speed", Signal(np.where(mask, speed, 0)[..., None].astype(np.float32),
                                               mask[..., None], [Channel("speed")]))
    city = City(graph)
    model = model_class("last_value").for_city(city)
    known, new = (predictions(model, city, part) for part in ("validation", "test"))
    band = SplitConformal(0.9).fit(known.residual, known.mask).interval(new.mean)
    split = coverage(band.low, band.high, new.target, new.mask)
    recent = slice(0, 2000)
    adaptive = AdaptiveConformal(0.9, 0.01).fit(known.residual, known.mask).run(
        new.mean[recent], new.target[recent], new.mask[recent])
    followed = coverage(adaptive.low, adaptive.high, new.target[recent], new.mask[recent])
    print(f"split {split['all']:.3f}, adaptive {followed['all']:.3f} (first week)")
    assert 0.86 < split["all"] < 0.94
    assert followed["all"] == pytest.approx(0.9, abs=0.02)
    assert (band.high - new.mean)[0, :, 0, 0].diff().min() > 0  # wider the further ahead
