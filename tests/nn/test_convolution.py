"""Causal convolutions: equal to a loop, nothing of the future, a receptive field that is what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn import CausalStack, GatedDilatedConvolution


def by_loop(layer: GatedDilatedConvolution, h: Tensor) -> Tensor:
    """Token by token, tap by tap."""
    value_weight, gate_weight = layer.taps.weight.unflatten(1, (layer.kernel, -1)).chunk(2)  # [D, taps, D] each
    value_bias, gate_bias = layer.taps.bias.chunk(2)
    out = []
    for t in range(h.shape[1]):
        value, gate = value_bias, gate_bias
        for tap in range(layer.kernel):
            earlier = t - (layer.kernel - 1 - tap) * layer.dilation
            if earlier >= 0:
                value = value + h[:, earlier] @ value_weight[:, tap].T
                gate = gate + h[:, earlier] @ gate_weight[:, tap].T
        out.append((value.tanh() * gate.sigmoid()).expand(h[:, 0].shape))
    return torch.stack(out, 1)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (2, 4), (3, 2), (2, 20)])
def test_it_equals_the_loop(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer, h = GatedDilatedConvolution(5, kernel, dilation).double(), torch.randn(2, 11, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(h), by_loop(layer, h))


def test_it_equals_the_convolution_of_torch_and_shrinks_like_graph_wavenet() -> None:
    torch.manual_seed(0)
    width, h = 4, torch.randn(2, 13, 3, 4)
    length, x = 13, h
    for dilation in (1, 2, 1, 2, 1, 2, 1, 2):
        layer = GatedDilatedConvolution(width, 2, dilation, padded=False)
        weight = layer.taps.weight.unflatten(1, (2, width)).transpose(1, 2)  # [2 D, D, taps]
        series = x.permute(0, 2, 3, 1).flatten(0, 1)
        value, gate = nn.functional.conv1d(series, weight, layer.taps.bias, dilation=dilation).chunk(2, 1)
        x, length = layer(x), length - dilation
        assert x.shape[1] == length
        torch.testing.assert_close(x.permute(0, 2, 3, 1).flatten(0, 1), value.tanh() * gate.sigmoid())
    assert length == 1


def test_a_stack_adds_up_its_layers() -> None:
    torch.manual_seed(0)
    layer, h = CausalStack(4, (1, 3)).double(), torch.randn(2, 7, 3, 4, dtype=torch.float64)
    first = by_loop(layer.layers[0], h)
    second = by_loop(layer.layers[1], h + layer.onward[0](first))
    torch.testing.assert_close(layer(h), layer.out[0](first) + layer.out[1](second))


@pytest.mark.parametrize("layer", [
    GatedDilatedConvolution(4, 3, 2), CausalStack(4, (1, 2, 4)), CausalStack(4, (3,), 4)], ids=["one", "stack", "wide"])
def test_the_receptive_field_is_what_is_said(layer: GatedDilatedConvolution | CausalStack) -> None:
    torch.manual_seed(0)
    h = torch.randn(1, 20, 2, 4, dtype=torch.float64, requires_grad=True)
    layer = layer.double()
    layer(h)[0, 15, 0].sum().backward()
    read = h.grad[0].abs().sum(-1) > 0  # [S, N]
    assert not read[:, 1].any()
    assert not read[16:].any()
    assert read[:, 0].nonzero().min() == 15 - (layer.receptive_field - 1)


def test_unobserved_tokens_count_as_zero() -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 9, 3) > 0.4
    for layer in (GatedDilatedConvolution(4, 2, 2), CausalStack(4)):
        h = torch.randn(2, 9, 3, 4)
        found = layer(h, mask)
        assert torch.equal(layer(torch.where(mask[..., None], h, torch.nan), mask), found)
        torch.testing.assert_close(layer(torch.where(mask[..., None], h, 0)), found)


def test_nodes_and_samples_stand_by_themselves_and_every_weight_learns() -> None:
    torch.manual_seed(0)
    layer, order = CausalStack(4, (1, 2, 4)), torch.tensor([2, 0, 1])
    h = torch.randn(2, 9, 3, 4)
    torch.testing.assert_close(layer(h[:, :, order]), layer(h)[:, :, order])
    torch.testing.assert_close(layer(h[1:]), layer(h)[1:])
    assert layer(torch.randn(1, 30, 7, 4)).shape == (1, 30, 7, 4)
    layer(h).square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in layer.parameters())
    small = CausalStack(2, (1, 2)).double()
    assert torch.autograd.gradcheck(small, (torch.randn(1, 5, 1, 2, dtype=torch.float64, requires_grad=True),))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="kernel"):
        GatedDilatedConvolution(4, 0)
    with pytest.raises(InputError, match="receptive field"):
        GatedDilatedConvolution(4, 2, 8, padded=False)(torch.zeros(1, 8, 1, 4))
    with pytest.raises(InputError, match="dilations"):
        CausalStack(4, ())


def test_a_change_of_the_last_real_reading_reaches_no_earlier_token(shared_data: Path) -> None:
    speed = torch.from_numpy(np.load(shared_data / "los_loop" / "speed.npz")["speed_mph"][:48].astype(np.float32))
    torch.manual_seed(0)
    inside, layer = nn.Linear(1, 8), CausalStack(8)
    h = inside((speed[None, ..., None] - 58) / 13)  # [1, 48, 207, 8]
    found = layer(h)
    h[:, -1] += 1
    changed = layer(h)
    assert torch.equal(changed[:, :-1], found[:, :-1])
    assert not torch.allclose(changed[:, -1], found[:, -1])
