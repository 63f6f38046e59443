"""Masks hide exactly what their rate says, only what was observed, and in the pieces they are named after."""

from __future__ import annotations

import pytest
import torch

from stgraph.errors import InputError
from stgraph.objectives.masks import MASKS, count_to_hide, draw_decoupled, draw_mask

SHAPE = (5, 24, 7, 2)


def observed(seed: int = 0, share: float = 0.7) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < share


def units(kind: str, seen: torch.Tensor, length: int) -> torch.Tensor:
    """Number of the unit of each entry of one sample, ``[T, N, C]``."""
    time, node, channel = torch.meshgrid(*(torch.arange(n) for n in seen.shape[1:]), indexing="ij")
    return {"tube": node * 100 + channel, "whole_node": node, "whole_step": time // length}[kind]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("kind", MASKS)
def test_the_count_is_exact_in_every_sample(kind: str, rate: float) -> None:
    """Entries for random and block; units that hold an observation for tube, node and step; steps for future."""
    seen, length = observed(), 5
    seen[2, :, 3] = False  # a node that shows nothing is no node to hide
    seen[3, 10:15] = False
    seen[4] = False
    hidden = draw_mask(kind, seen, rate, length=length, generator=torch.Generator().manual_seed(1))
    assert not (hidden & ~seen).any()
    for sample in range(SHAPE[0]):
        here, gone = seen[sample], hidden[sample]
        if kind in ("random", "block"):
            available, found = int(here.sum()), int(gone.sum())
        elif kind == "future":
            available, late = SHAPE[1], torch.arange(SHAPE[1]) >= SHAPE[1] - int(rate * SHAPE[1] + 0.5)
            assert torch.equal(gone, here & late[:, None, None])
            continue
        else:
            unit = units(kind, seen, length)
            touched = set(unit[gone].tolist())
            whole = torch.tensor([int(u) in touched for u in unit.flatten()]).view(unit.shape)
            assert torch.equal(gone, here & whole)  # a unit is hidden as a whole or not at all
            available, found = len(set(unit[here].tolist())), len(touched)
        assert abs(found - rate * available) <= 0.5
        assert found == int(count_to_hide(rate, torch.tensor(available)))


@pytest.mark.parametrize("kind", ["random", "block", "tube", "whole_node", "whole_step"])
def test_every_place_is_as_likely_as_any_other(kind: str) -> None:
    """Over many draws each entry is hidden at the rate, within five deviations of a mean of coins."""
    seen = torch.ones(2000, 6, 4, 2, dtype=torch.bool)
    share = draw_mask(kind, seen, 0.5, length=3, generator=torch.Generator().manual_seed(0)).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_blocks_are_runs_of_their_length_and_one_is_cut() -> None:
    """Inside a series a hidden run is of whole blocks, save at the ends of the window and in the one that is cut."""
    seen = torch.ones(50, 40, 6, 1, dtype=torch.bool)
    hidden = draw_mask("block", seen, 0.2, length=8, generator=torch.Generator().manual_seed(3))
    odd = 0
    for sample in hidden[..., 0].transpose(1, 2):
        odd_here = 0
        for series in sample.int():
            steps = torch.nn.functional.pad(series, (1, 1)).diff()
            starts, ends = (steps == 1).nonzero().flatten(), (steps == -1).nonzero().flatten()
            inner = (starts > 0) & (ends < 40)
            odd_here += int(((ends - starts)[inner] % 8 != 0).sum())
        assert odd_here <= 1
        odd += odd_here
    assert odd > 0
    random = draw_mask("random", seen, 0.2, generator=torch.Generator().manual_seed(3))
    assert hidden.int().diff(dim=1).abs().sum() < 0.25 * random.int().diff(dim=1).abs().sum()


@pytest.mark.parametrize("kind", ["block", "tube", "whole_node"])
def test_nodes_of_a_region_are_hidden_together(kind: str) -> None:
    region = torch.tensor([0, 1, 0, 2, 1, 2, 0])
    hidden = draw_mask(kind, torch.ones(SHAPE, dtype=torch.bool), 1 / 3, length=24, groups=region,
                       generator=torch.Generator().manual_seed(5))
    differs = 0
    for sample in hidden.permute(0, 2, 1, 3):
        for one in range(3):
            differs += int(not all(torch.equal(node, sample[region == one][0]) for node in sample[region == one]))
    assert differs <= (SHAPE[0] if kind == "block" else 0)  # the cut goes through one region of each sample


def test_a_seed_repeats_and_another_does_not() -> None:
    seen = observed()
    for kind in set(MASKS) - {"future"}:
        draws = [draw_mask(kind, seen, 0.5, length=4, generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8)]
        assert torch.equal(draws[0], draws[1]), kind
        assert not torch.equal(draws[0], draws[2]), kind


def test_tokens_are_masked_like_readings_of_one_channel() -> None:
    seen = observed()[..., 0]
    for kind in MASKS:
        flat, full = (draw_mask(kind, one, 0.3, length=2, generator=torch.Generator().manual_seed(2))
                      for one in (seen, seen[..., None]))
        assert flat.shape == seen.shape
        assert torch.equal(flat, full[..., 0])


def test_decoupled_masks_are_whole_runs_and_whole_nodes() -> None:
    seen = torch.ones(3, 24, 8, dtype=torch.bool)
    time, node = draw_decoupled(seen, 0.25, 0.5, length=6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(time, time[:, :, :1].expand_as(time))
    assert torch.equal(time.view(3, 4, 6, 8)[:, :, 0, 0].sum(1), torch.tensor([1, 1, 1]))
    assert torch.equal(node, node[:, :1].expand_as(node))
    assert torch.equal(node[:, 0].sum(1), torch.tensor([4, 4, 4]))


@pytest.mark.parametrize(("kind", "rate", "length"), [("chess", 0.5, 1), ("random", 1.5, 1), ("random", -0.1, 1),
                                                      ("block", 0.5, 0), ("random", float("nan"), 1)])
def test_what_makes_no_sense_is_refused(kind: str, rate: float, length: int) -> None:
    with pytest.raises(InputError):
        draw_mask(kind, observed(), rate, length=length)
