"""Gated feed-forward and layers that hear the diffusion time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stgraph.errors import InputError
from stgraph.nn import AdaptiveGate, AdaptiveLayerNorm, DiffusionTimeEmbedding, SwiGLU


def test_swiglu_is_its_formula() -> None:
    torch.manual_seed(0)
    layer, h = SwiGLU(6, 10), torch.randn(2, 3, 4, 6)
    gate, value = layer.up.weight.split(10)
    a, b = h @ gate.T, h @ value.T
    torch.testing.assert_close(layer(h), (a / (1 + (-a).exp()) * b) @ layer.down.weight.T)
    assert sum(one.numel() for one in SwiGLU(8).parameters()) == 3 * 8 * 16
    assert torch.autograd.gradcheck(SwiGLU(3).double(), (torch.randn(2, 3, dtype=torch.float64, requires_grad=True),))


def test_dropout_is_for_training_only() -> None:
    layer, h = SwiGLU(6, dropout=0.5), torch.randn(2, 6)
    assert torch.equal(layer.eval()(h), layer(h))
    assert not torch.equal(layer.train()(h), layer(h))


def test_the_adaptive_norm_starts_as_the_plain_one_and_the_gate_closed() -> None:
    torch.manual_seed(0)
    h, condition = torch.randn(2, 5, 3, 8), torch.randn(2, 4)
    norm, gate, part = AdaptiveLayerNorm(8, 4), AdaptiveGate(8, 4), SwiGLU(8)
    torch.testing.assert_close(norm(h, condition), nn.functional.layer_norm(h, (8,)))
    assert torch.equal(norm(h, condition), norm(h))
    assert torch.equal(h + gate(part(norm(h, condition)), condition), h)
    assert torch.equal(gate(h), h)  # without a condition it is an ordinary block


def test_each_sample_hears_its_own_condition() -> None:
    torch.manual_seed(0)
    norm, gate = AdaptiveLayerNorm(8, 4), AdaptiveGate(8, 4)
    for one in (*norm.parameters(), *gate.parameters()):
        nn.init.normal_(one)
    h, condition = torch.randn(2, 5, 3, 8), torch.randn(2, 4)
    scale, shift = norm.modulation(nn.functional.silu(condition)).chunk(2, -1)
    normal = nn.functional.layer_norm(h, (8,))
    expected = torch.stack([normal[b] * (1 + scale[b]) + shift[b] for b in range(2)])
    torch.testing.assert_close(norm(h, condition), expected)
    everywhere = condition[:, None, None].expand(-1, 5, 3, -1)
    torch.testing.assert_close(norm(h, everywhere), expected)
    torch.testing.assert_close(gate(h, everywhere), gate(h, condition))
    torch.testing.assert_close(gate(h, condition)[1], h[1] * gate.modulation(nn.functional.silu(condition[1])))


def test_every_weight_learns_from_the_start() -> None:
    norm, gate, time = AdaptiveLayerNorm(8, 4), AdaptiveGate(8, 4), DiffusionTimeEmbedding(4)
    optimiser = torch.optim.SGD([*norm.parameters(), *gate.parameters(), *time.parameters()], 0.1)
    h = torch.randn(2, 5, 3, 8)
    for _ in range(2):  # zeros open in the first step, and then let the time through
        optimiser.zero_grad()
        condition = time(torch.tensor([0.2, 0.9]))
        (gate(norm(h, condition), condition) - h).square().sum().backward()
        optimiser.step()
    assert all(one.grad.abs().sum() > 0 for layer in (norm, gate, time) for one in layer.parameters())


def test_a_condition_that_fits_no_axis_is_refused() -> None:
    with pytest.raises(InputError, match="condition"):
        AdaptiveLayerNorm(8, 4)(torch.randn(2, 5, 3, 8), torch.randn(3, 4))


def test_times_are_told_apart_and_close_ones_are_close() -> None:
    torch.manual_seed(0)
    code = DiffusionTimeEmbedding(16).double()
    time = torch.linspace(0, 1, 10001, dtype=torch.float64)
    found = code(time)
    assert found.shape == (10001, 16)
    assert found.diff(dim=0).norm(dim=1).max() < 0.1
    apart = torch.cdist(found[::100], found[::100]) + 10 * torch.eye(101)
    assert apart.min() > 1e-3
    assert torch.equal(code(time[:3]), found[:3]) or torch.allclose(code(time[:3]), found[:3])
