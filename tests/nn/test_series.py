"""Series on cells of tokens and back, and lines between readings: against loops, fractions and numpy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.nn.series import interpolate, off_cells, on_cells
from stgraph.nn.time_patches import PatchLayout, patch_layout

MINUTES, CELLS = 60, 12  # a token of an hour in cells of five minutes
SIZES = [(24, 5), (7, 10), (5, 15), (3, 60), (13, 7), (9, 25), (5, 90), (30, 2), (1, 7)]
CASES = [(*size, ahead) for size in SIZES for ahead in (False, True)]


def overlaps(steps: int, interval: int, layout: PatchLayout, ahead: bool) -> list[list[Fraction]]:
    """Minutes that each cell shares with each step, ``[S G][T]``, by intervals of whole fractions."""
    span = Fraction(max(MINUTES, interval))
    lead = 0 if ahead else layout.tokens * span - steps * interval
    cell = span / CELLS
    return [[max(Fraction(0), min((g + 1) * cell, lead + (t + 1) * interval) - max(g * cell, lead + t * interval))
             for t in range(steps)] for g in range(layout.tokens * CELLS)]


def laid(steps: int, interval: int, ahead: bool) -> tuple[PatchLayout, Tensor]:
    """The layout, and its overlaps in minutes, ``[S G, T]`` float64."""
    layout = patch_layout(steps, float(interval), MINUTES, CELLS, ahead)
    return layout, torch.tensor([[float(one) for one in row] for row in overlaps(steps, interval, layout, ahead)],
                                dtype=torch.float64)


def drawn(steps: int, kinds: int = 4) -> Tensor:
    """Features ``[2, T, 3, 2, K]`` as ``on_cells`` wants them: two that are 0 where not observed, the flag, others."""
    rng = torch.Generator().manual_seed(steps)
    x = torch.randn(2, steps, 3, 2, kinds, generator=rng, dtype=torch.float64)
    x[..., 2] = (torch.rand(x.shape[:-1], generator=rng) > 0.3).double()
    x[..., :2] *= x[..., 2:3]
    return x


# -------------------------------------------------------------------- on cells
@pytest.mark.parametrize(("steps", "interval", "ahead"), CASES)
def test_cells_hold_means_of_what_was_observed_and_shares_of_the_rest(steps: int, interval: int, ahead: bool) -> None:
    layout, minutes = laid(steps, interval, ahead)
    x = drawn(steps)
    found = on_cells(x, layout, mean_of=2).unflatten(0, (2, 2)).unflatten(-1, (CELLS, 4))     # [B, C, S, N, G, K]
    total = torch.einsum("gt,btnck->bgnck", minutes, x)
    seen = total[..., 2:3]
    means = torch.where(seen > 0, total[..., :2] / torch.where(seen > 0, seen, 1), 0)
    shares = total[..., 2:] / (layout.span / CELLS)
    expected = torch.cat([means, shares], -1).unflatten(1, (layout.tokens, CELLS)).permute(0, 4, 1, 3, 2, 5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_means_all_are_shares() -> None:
    layout, minutes = laid(13, 7, False)
    x = drawn(13)
    found = on_cells(x, layout).unflatten(0, (2, 2)).unflatten(-1, (CELLS, 4))
    expected = (torch.einsum("gt,btnck->bgnck", minutes, x) / 5).unflatten(1, (layout.tokens, CELLS))
    torch.testing.assert_close(found, expected.permute(0, 4, 1, 3, 2, 5), rtol=1e-5, atol=1e-5)


def test_each_channel_is_a_sample_of_its_own() -> None:
    layout, _ = laid(13, 7, False)
    x = drawn(13)
    whole = on_cells(x, layout, mean_of=2).unflatten(0, (2, 2))
    for channel in range(2):
        assert torch.equal(whole[:, channel], on_cells(x[:, :, :, channel : channel + 1], layout, mean_of=2))


# -------------------------------------------------------------------- off cells
@pytest.mark.parametrize(("steps", "interval", "ahead"), CASES)
def test_a_step_is_the_mean_of_its_cells(steps: int, interval: int, ahead: bool) -> None:
    layout, minutes = laid(steps, interval, ahead)
    cells = torch.randn(6, layout.tokens, 3, CELLS * 2, dtype=torch.float64)                  # [B C, S, N, G K]
    found = off_cells(cells, layout, channels=3)
    each = cells.view(2, 3, layout.tokens, 3, CELLS, 2).permute(0, 2, 4, 3, 1, 5).flatten(1, 2)
    expected = torch.einsum("gt,bgnck->btnck", minutes / interval, each)
    assert found.shape == (2, steps, 3, 3, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "interval", "ahead"), CASES)
def test_there_and_back_keeps_what_was_spread_over_whole_cells(steps: int, interval: int, ahead: bool) -> None:
    """Steps of one cell or of several whole ones come back as they went; all others keep what holds throughout."""
    layout, _ = laid(steps, interval, ahead)
    x = drawn(steps)
    x[..., 2] = 1
    whole = interval % 5 == 0 if interval <= MINUTES else True
    x = x if whole else x[:, :1].expand_as(x).clone()
    back = off_cells(on_cells(x, layout, mean_of=2), layout, channels=2)
    torch.testing.assert_close(back[..., :2], x[..., :2], rtol=1e-5, atol=1e-5)
    if whole:
        torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------- lines between readings
def test_lines_between_readings_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=(40, 9, 5, 2)), rng.random((40, 9, 5, 2)) < 0.4
    found = interpolate(torch.from_numpy(np.where(mask, values, np.nan)), torch.from_numpy(mask),
                        torch.full((9, 5, 2), -7.0, dtype=torch.float64)).numpy()
    observed = 0
    for sample, node, channel in np.ndindex(40, 5, 2):
        at = np.flatnonzero(mask[sample, :, node, channel])
        observed = max(observed, len(at))
        expected = np.interp(np.arange(9), at, values[sample, at, node, channel]) if len(at) else np.full(9, -7.0)
        np.testing.assert_allclose(found[sample, :, node, channel], expected, atol=1e-6)
    assert observed >= 7  # series of every length were among them
    assert (~mask.any(1)).any()
    np.testing.assert_array_equal(found[mask], values[mask])


def test_one_reading_holds_throughout() -> None:
    values, mask = torch.zeros(1, 5, 1, 1), torch.zeros(1, 5, 1, 1, dtype=torch.bool)
    values[0, 2], mask[0, 2] = 3.5, True
    assert torch.equal(interpolate(values, mask, torch.zeros(1)), torch.full((1, 5, 1, 1), 3.5))


def test_gradients_reach_the_readings_alone() -> None:
    """A gap of three between 2 and 6: its steps are a quarter, half and three quarters of the way."""
    values = torch.tensor([2.0, 9, 9, 9, 6, 9]).view(1, 6, 1, 1).requires_grad_()
    mask = torch.tensor([True, False, False, False, True, False]).view(1, 6, 1, 1)
    found = interpolate(values, mask, torch.zeros(1))
    assert found.flatten().tolist() == [2, 3, 4, 5, 6, 6]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [1 + 0.75 + 0.5 + 0.25, 0, 0, 0, 0.25 + 0.5 + 0.75 + 1 + 1, 0]
