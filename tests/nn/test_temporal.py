"""Mixing along time: equal to loops, in minutes and not in steps, blind to what is masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn import FutureQueries, LinearTemporalEncoder, TemporalAttention, TimePatches, linear_recurrence
from stgraph.nn import temporal as temporal_module
from stgraph.nn.temporal import rotate

HOURS = 60.0 * torch.arange(-6, 1)


def tokens(batch: int = 2, length: int = 7, nodes: int = 3, width: int = 8, double: bool = True) -> Tensor:
    return torch.randn(batch, length, nodes, width, generator=torch.Generator().manual_seed(3),
                       dtype=torch.float64 if double else torch.float32)


def some_mask() -> Tensor:
    mask = torch.rand(2, 7, 3, generator=torch.Generator().manual_seed(4)) > 0.4
    mask[:, 0] = True
    return mask


def attention() -> TemporalAttention:
    torch.manual_seed(0)
    return TemporalAttention(8, 2).double()


def queries() -> FutureQueries:
    torch.manual_seed(0)
    return FutureQueries(8, 2).double()


def recurrence(bidirectional: bool = False) -> LinearTemporalEncoder:
    torch.manual_seed(0)
    return LinearTemporalEncoder(8, 6, bidirectional).double()


# -------------------------------------------------------------------- self-attention
def turned(x: Tensor, minutes: float) -> Tensor:
    """One vector ``[d]``, pair by pair."""
    half, out = len(x) // 2, x.clone()
    for i in range(half):
        angle = minutes / 60 * 10000 ** (-i / half)
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def test_attention_equals_the_loop() -> None:
    layer, h, mask = attention(), tokens(), some_mask()
    found = layer(h, HOURS, mask)
    q, k, v = (one.unflatten(-1, (2, 4)) for one in layer.qkv(h).chunk(3, -1))
    for b, s, n in np.ndindex(2, 7, 3):
        heads = []
        for head in range(2):
            asked = turned(q[b, s, n, head], float(HOURS[s]))
            seen = [t for t in range(7) if mask[b, t, n]]
            score = torch.stack([asked @ turned(k[b, t, n, head], float(HOURS[t])) / 2 for t in seen])
            heads.append(score.softmax(0) @ torch.stack([v[b, t, n, head] for t in seen]))
        torch.testing.assert_close(found[b, s, n], layer.out(torch.cat(heads)), rtol=1e-5, atol=1e-6)


def test_only_the_minutes_between_tokens_matter() -> None:
    layer, h = attention(), tokens()
    found = layer(h, HOURS)
    torch.testing.assert_close(layer(h, HOURS + 12345), found, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer(h, HOURS.expand(2, -1)), found)
    assert not torch.allclose(layer(h, HOURS / 2), found, atol=1e-4)
    order = torch.randperm(7)
    torch.testing.assert_close(layer(h[:, order], HOURS[order]), found[:, order])
    q, k = torch.randn(1, 1, 1, 1, 6), torch.randn(1, 1, 1, 1, 6)
    products = [(rotate(q, torch.tensor([a])) * rotate(k, torch.tensor([b]))).sum() for a, b in ((0, 90), (500, 590))]
    torch.testing.assert_close(products[0], products[1], rtol=1e-4, atol=1e-5)


def test_a_series_without_a_token_to_look_at_gets_the_bias() -> None:
    layer, h, mask = attention(), tokens(), some_mask()
    mask[1, :, 2] = False
    found = layer(h, HOURS, mask)
    torch.testing.assert_close(found[1, :, 2], layer.out.bias.expand(7, -1))
    assert found.isfinite().all()


def test_many_series_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, h, mask = attention(), tokens(), some_mask()
    whole, plain = layer(h, HOURS, mask), layer(h, HOURS)
    monkeypatch.setattr(temporal_module, "_MOST_SERIES", 4)
    torch.testing.assert_close(layer(h, HOURS, mask), whole)
    torch.testing.assert_close(layer(h, HOURS), plain)


# -------------------------------------------------------------------- queries of the future
def test_queries_equal_the_loop() -> None:
    layer, h, mask = queries(), tokens(), some_mask()
    query, key = tokens(2, 4), tokens(2, 7).flip(1)
    found = layer(h, query, key, mask)
    q, k, v = (one.unflatten(-1, (2, 4)) for one in (layer.query(query), layer.key(key), layer.value(h)))
    for b, s, n in np.ndindex(2, 4, 3):
        seen = [t for t in range(7) if mask[b, t, n]]
        heads = [torch.stack([q[b, s, n, i] @ k[b, t, n, i] / 2 for t in seen]).softmax(0)
                 @ torch.stack([v[b, t, n, i] for t in seen]) for i in range(2)]
        torch.testing.assert_close(found[b, s, n], layer.out(torch.cat(heads)))


def test_with_codes_as_keys_the_answer_is_linear_in_the_tokens() -> None:
    """The weights hang on the calendar and the place alone: OpenCity's transfer."""
    layer, first = queries(), tokens()
    second, query, key = first.flip(0), tokens(2, 5), tokens(2, 7).flip(2)
    both = layer(0.3 * first + 0.7 * second, query, key)
    torch.testing.assert_close(both, 0.3 * layer(first, query, key) + 0.7 * layer(second, query, key))
    own = layer(0.3 * first + 0.7 * second, query)  # without codes the tokens are keys
    assert not torch.allclose(own, 0.3 * layer(first, query) + 0.7 * layer(second, query), atol=1e-3)


def test_any_horizon_and_each_instant_by_itself() -> None:
    layer, h, query = queries(), tokens(), tokens(2, 24)
    minutes = (60.0 * torch.arange(1, 25), HOURS)
    whole = layer(h, query, minutes=minutes)
    assert whole.shape == (2, 24, 3, 8)
    torch.testing.assert_close(layer(h, query[:, 3:5], minutes=(minutes[0][3:5], HOURS)), whole[:, 3:5])
    shifted = layer(h, query, minutes=(minutes[0] + 600, HOURS + 600))
    torch.testing.assert_close(shifted, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(layer(h, query), whole, atol=1e-4)


def test_one_code_for_all_nodes() -> None:
    layer, h, query, key = queries(), tokens(), tokens(2, 4)[:, :, 0], tokens(2, 7)[:, :, 1]
    each = layer(h, query[:, :, None].expand(-1, -1, 3, -1), key[:, :, None].expand(-1, -1, 3, -1))
    torch.testing.assert_close(layer(h, query, key), each)


# -------------------------------------------------------------------- recurrence
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 13, 64, 100])
@pytest.mark.parametrize("double", [True, False])
def test_the_scan_equals_the_loop(length: int, double: bool) -> None:
    generator, dtype = torch.Generator().manual_seed(length), torch.float64 if double else torch.float32
    decay = torch.rand(2, length, 3, 4, generator=generator, dtype=dtype)
    decay[:, length // 2] = 0
    entry = torch.randn(2, length, 3, 4, generator=generator, dtype=dtype)
    found = linear_recurrence(decay, entry)
    state = torch.zeros_like(entry[:, 0])
    for t in range(length):
        state = decay[:, t] * state + entry[:, t]
        torch.testing.assert_close(found[:, t], state, rtol=1e-5, atol=1e-5)


def test_the_scan_has_the_gradient_of_the_loop() -> None:
    decay = torch.rand(1, 6, 2, dtype=torch.float64, requires_grad=True)
    entry = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_recurrence, (decay, entry))


def test_work_grows_in_proportion_to_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(length: int) -> int:
        count = 0
        times = torch.Tensor.__mul__

        def counted(self: Tensor, other: Tensor) -> Tensor:
            nonlocal count
            count += self.numel()
            return times(self, other)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__mul__", counted)
            linear_recurrence(torch.rand(1, length), torch.rand(1, length))
        return count

    assert products(4096) <= 3 * 4096
    assert products(64) > 64  # it does count


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_encoder_equals_the_loop(bidirectional: bool) -> None:
    layer, h, mask = recurrence(bidirectional), tokens(), some_mask()
    minutes = torch.tensor([60.0, 30, 30, 60, 15, 60, 60], dtype=torch.float64)
    parts = []
    for direction, inside in enumerate(layer.inside):
        rate, value, gate = inside(h).chunk(3, -1)
        state, states = torch.zeros(2, 3, 6, dtype=torch.float64), [torch.empty(0)] * 7
        for t in (range(6, -1, -1) if direction else range(7)):
            decay = (-(1 + rate[:, t].exp()).log() * minutes[t] / 60).exp()
            new = decay * state + (1 - decay) * value[:, t]
            state = torch.where(mask[:, t, :, None], new, state)
            states[t] = state * gate[:, t] * gate[:, t].sigmoid()
        parts.append(torch.stack(states, 1))
    torch.testing.assert_close(layer(h, minutes, mask), layer.out(torch.cat(parts, -1)), rtol=1e-5, atol=1e-6)


def test_halves_of_an_hour_do_what_the_hour_does() -> None:
    layer, h = recurrence(), tokens()
    fine = layer(h.repeat_interleave(4, 1), 15.0)
    torch.testing.assert_close(fine[:, 3::4], layer(h, 60.0))
    torch.testing.assert_close(layer(h, torch.full((2, 7), 60.0)), layer(h))


def test_rates_start_between_an_hour_and_a_week() -> None:
    layer = LinearTemporalEncoder(8, 5)
    rates = nn.functional.softplus(layer.inside[0].bias[:5])
    torch.testing.assert_close(rates[0], torch.tensor(1.0))
    torch.testing.assert_close(1 / rates[-1], torch.tensor(168.0), rtol=0.01, atol=0)


def test_the_past_does_not_read_the_future() -> None:
    layer, h = recurrence(), tokens()
    changed = h.clone()
    changed[:, 5:] += 1
    assert torch.equal(layer(changed)[:, :5], layer(h)[:, :5])
    assert not torch.allclose(recurrence(True)(changed)[:, :5], recurrence(True)(h)[:, :5])


# -------------------------------------------------------------------- what holds for all
Part = Callable[[Tensor, Tensor | None], Tensor]


def each_part() -> list[tuple[str, nn.Module, Part]]:
    attend, ask, encode, both = attention(), queries(), recurrence(), recurrence(True)
    query = tokens(1, 4, 1)[:, :, 0]
    return [("attention", attend, lambda h, mask: attend(h, HOURS[-h.shape[1] :], mask)),
            ("queries", ask, lambda h, mask: ask(h, query.expand(len(h), -1, -1), mask=mask)),
            ("recurrence", encode, lambda h, mask: encode(h, mask=mask)),
            ("both ways", both, lambda h, mask: both(h, mask=mask))]


@pytest.mark.parametrize(("module", "part"), [one[1:] for one in each_part()], ids=[one[0] for one in each_part()])
def test_nodes_samples_masks_sizes_and_gradients(module: nn.Module, part: Part) -> None:
    h, mask = tokens(), some_mask()
    found, order = part(h, mask), torch.tensor([2, 0, 1])
    torch.testing.assert_close(part(h[:, :, order], mask[:, :, order]), found[:, :, order])
    torch.testing.assert_close(part(h[1:], mask[1:]), found[1:])
    hidden = torch.where(mask[..., None], h, 1e3)
    other = part(hidden, mask)
    kept = mask if other.shape[1] == 7 else torch.ones(other.shape[:3], dtype=torch.bool)
    assert torch.equal(other[kept], found[kept])  # what is masked reaches nobody else
    assert not torch.allclose(part(hidden, None), part(h, None))
    assert part(tokens(1, 5, 9), None).shape[2] == 9
    assert part(tokens(2, 7, 0), torch.empty(2, 7, 0, dtype=torch.bool)).shape[2] == 0
    for one in module.parameters():
        one.grad = None
    part(h, mask).square().sum().backward()
    for name, one in module.named_parameters():  # the bias of keys shifts all scores of a query alike
        useful = one.grad[[*range(8), *range(16, 24)]] if name == "qkv.bias" else one.grad
        assert name == "key.bias" or (useful.flatten(1) if useful.dim() > 1 else useful[:, None]).abs().sum(1).min() > 0
    assert torch.autograd.gradcheck(lambda x: part(x, mask[:1, -3:, :1]), (h[:1, -3:, :1].clone().requires_grad_(),))


def test_decays_are_not_rounded_to_sixteen_bits() -> None:
    """Two days and more of one content in steps of ten minutes: the slow channels come as far as in 32 bits."""
    torch.manual_seed(0)
    layer, exact = LinearTemporalEncoder(8).bfloat16(), LinearTemporalEncoder(8)
    exact.load_state_dict(layer.state_dict())
    h = tokens(1, 1, 2, double=False).bfloat16().expand(1, 336, 2, 8)
    torch.testing.assert_close(layer(h, 10.0).float(), exact(h.float(), 10.0), rtol=0, atol=0.005)


def test_dropout_is_for_training_only() -> None:
    h = tokens(double=False)
    for layer in (TemporalAttention(8, 2, 0.5), LinearTemporalEncoder(8, dropout=0.5)):
        arguments = (h, HOURS) if isinstance(layer, TemporalAttention) else (h,)
        assert torch.equal(layer.eval()(*arguments), layer(*arguments))
        assert not torch.equal(layer.train()(*arguments), layer(*arguments))


@pytest.mark.parametrize("kind", [TemporalAttention, FutureQueries])
@pytest.mark.parametrize("heads", [0, 3, 8])
def test_heads_that_do_not_fit_are_refused(kind: type[nn.Module], heads: int) -> None:
    with pytest.raises(InputError, match="heads"):
        kind(8, heads)


def test_a_real_week_in_tokens_of_an_hour(shared_data: Path) -> None:
    """168 tokens of 207 sensors in single precision: the scan still equals the loop to 1e-5."""
    speed = torch.from_numpy(np.load(shared_data / "los_loop" / "speed.npz")["speed_mph"].astype(np.float32))
    values = (speed[None, :, :20, None] - 58) / 13
    torch.manual_seed(0)
    h, mask = TimePatches(60, 8, 1)(values, torch.ones_like(values, dtype=torch.bool), 5)
    assert h.shape == (1, 168, 20, 8)
    layer = LinearTemporalEncoder(8)
    rate, value, gate = layer.inside[0](h).chunk(3, -1)
    decay, state, states = (-nn.functional.softplus(rate)).exp(), torch.zeros(1, 20, 8), []
    for t in range(168):
        state = decay[:, t] * state + (1 - decay[:, t]) * value[:, t]
        states.append(state)
    expected = layer.out(torch.stack(states, 1) * nn.functional.silu(gate))
    torch.testing.assert_close(layer(h, 60.0, mask), expected, rtol=1e-5, atol=1e-5)
