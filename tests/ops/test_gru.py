"""Gates of a recurrent unit: exact to a few last places, the same as PyTorch's cell, in any layout."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stgraph.errors import InputError
from stgraph.ops import backend, gru
from stgraph.ops.gru import gru_blend, gru_gate
from stgraph.ops.library import node_major, ops
from stgraph.ops.names import NAMESPACE

native = pytest.mark.skipif(backend().name != "native", reason="no compiled kernels")
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-15, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def every_size(dtype: torch.dtype) -> Tensor:
    """Numbers of every size between the smallest and where the functions are flat, both signs, and ends."""
    kind, whole, flat = (np.float32, np.uint32, 110.0) if dtype == torch.float32 else (np.float64, np.uint64, 750.0)
    bits = np.linspace(1, float(kind(flat).view(whole)), 400_003).astype(whole)
    sizes = np.concatenate([bits.view(kind), np.arange(0, 20, 1e-4, kind), np.linspace(80, flat, 9999, dtype=kind),
                            kind([0.0, np.finfo(kind).max, np.inf])])
    return torch.from_numpy(np.concatenate([sizes, -sizes]))


def last_places(got: Tensor, wanted: Any) -> float:
    """The largest error in units of the last place of the right answer, smallest numbers included."""
    place = np.spacing(np.abs(wanted).astype(got.numpy().dtype)).astype(wanted.dtype)
    return float((np.abs(got.numpy().astype(wanted.dtype) - wanted) / place).max())


def exact(x: Tensor) -> Any:
    """In more digits than the numbers have."""
    return x.numpy().astype(np.float64 if x.dtype == torch.float32 else np.longdouble)


PRECISE = (torch.float32, pytest.param(torch.float64, marks=pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= 52, reason="numpy has nothing wider than float64 here")))


@native
@pytest.mark.parametrize("dtype", PRECISE)
def test_sigmoid_is_right_to_four_last_places(dtype: torch.dtype) -> None:
    x = every_size(dtype)
    one = torch.ones_like(x)
    z, reset = gru_gate(x[None, :, None], x[None, :, None], one[None, :, None])
    small = np.exp(-np.abs(exact(x)))
    wanted = np.where(x.numpy() >= 0, 1, small) / (1 + small)
    assert last_places(z.flatten(), wanted) < 4
    assert torch.equal(z, reset)


@native
@pytest.mark.parametrize("dtype", PRECISE)
def test_tanh_is_right_to_four_last_places(dtype: torch.dtype) -> None:
    x = every_size(dtype)
    zero = torch.zeros_like(x)
    out = gru_blend(zero[:, None], zero[:, None], x[:, None]).flatten()
    assert last_places(out, np.tanh(exact(x))) < 4
    assert torch.equal(out.signbit(), x.signbit() & (x != 0))  # 0 * h + 1 * tanh(-0) is 0


@native
def test_not_a_number_stays_one_and_goes_nowhere() -> None:
    x = numbers(3, 40, 5, dtype=torch.float32)
    bad = x.clone()
    bad[1, 7, 2] = float("nan")
    place = bad.isnan()
    z, kept = gru_gate(bad, bad, x)
    assert torch.equal(z.isnan(), place)
    assert torch.equal(kept.isnan(), place)
    assert torch.equal(gru_blend(x, x, bad).isnan(), place)


@native
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 1), (3, 15), (7, 16), (2, 3, 5, 33), (1, 40, 300, 64)], ids=str)
def test_kernels_equal_pytorch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    lead = (1,) * (4 - len(shape)) + shape
    tolerance = TOLERANCE[dtype]
    for name, count in (("gru_gate", 3), ("gru_gate_backward", 5), ("gru_blend", 3), ("gru_blend_backward", 4)):
        inputs = [numbers(*lead, dtype=dtype, seed=seed) for seed in range(count)]
        made, wanted = getattr(ops, name)(*inputs), gru.TWINS[name](*(one.double() for one in inputs))
        pairs = zip(made, wanted, strict=True) if isinstance(made, tuple) else [(made, wanted)]
        for one, other in pairs:
            assert one.dtype == dtype
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=30 * tolerance)


def layouts(shape: tuple[int, int, int, int], seed: int) -> dict[str, Tensor]:
    b, t, n, f = shape
    return {"slabs": numbers(*shape, seed=seed), "nodes": numbers(n, b, t, f, seed=seed).permute(1, 2, 0, 3),
            "slice": numbers(b, t, n, 2 * f, seed=seed)[..., f:], "step": numbers(b, 2 * t, n, f, seed=seed)[:, ::2],
            "odd": numbers(t, n, b, f, seed=seed).permute(2, 0, 1, 3),
            "same": numbers(1, 1, n, f, seed=seed).expand(shape)}


@native
def test_any_layout_gives_the_same_in_that_of_the_state() -> None:
    from stgraph.ops import copies

    copies.count = 0
    kinds = list(layouts((2, 3, 5, 7), 0))
    for first, second, third in itertools.product(kinds, repeat=3):
        z, r, h = (layouts((2, 3, 5, 7), seed)[kind] for seed, kind in enumerate((first, second, third)))
        for one, other in zip(gru_gate(z, r, h), gru_gate(z.contiguous(), r.contiguous(), h.contiguous()), strict=True):
            assert torch.equal(one, other)
            assert one.permute(2, 0, 1, 3).is_contiguous() if node_major(h) else one.is_contiguous()
        assert torch.equal(gru_blend(z, h, r), gru_blend(z.contiguous(), h.contiguous(), r.contiguous()))
    assert copies.count == 0


@pytest.mark.usefixtures("kernels")
def test_one_step_is_that_of_pytorchs_cell() -> None:
    """PyTorch puts the reset gate behind the product with the state; without biases there, on either side is the same
    if the product is with a diagonal matrix, and all else is equal."""
    cell = torch.nn.GRUCell(4, 6, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh[12:] = torch.diag(numbers(6))
        cell.bias_hh[12:] = 0
    x, h = numbers(9, 4), numbers(9, 6, seed=2)
    of_x, of_h = x @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh
    r_pre, z_pre = (of_x + of_h)[:, :6], (of_x + of_h)[:, 6:12]
    z, kept = gru_gate(z_pre, r_pre, h)
    out = gru_blend(z, h, of_x[:, 12:] + kept @ cell.weight_hh[12:].T)
    torch.testing.assert_close(out, cell(x, h), rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("kernels")
def test_gradients() -> None:
    parts = [numbers(2, 5, 3, seed=seed).requires_grad_() for seed in range(3)]
    for function in (gru_gate, gru_blend):
        assert torch.autograd.gradcheck(function, parts)
        assert torch.autograd.gradgradcheck(function, parts)
    by_node = [numbers(5, 2, 3, seed=seed).permute(1, 0, 2).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(gru_blend, by_node)


@pytest.mark.usefixtures("kernels")
def test_opcheck() -> None:
    here = getattr(torch.ops, NAMESPACE)
    for layout, name, count in (("slabs", "gru_gate", 3), ("nodes", "gru_blend", 3), ("nodes", "gru_gate_backward", 5),
                                ("slabs", "gru_blend_backward", 4)):
        parts = [layouts((2, 3, 4, 5), seed)[layout].float().detach().requires_grad_() for seed in range(count)]
        torch.library.opcheck(getattr(here, name).default, tuple(parts))


@pytest.mark.usefixtures("kernels")
def test_compiles_whole() -> None:
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def step(both: Tensor, h: Tensor) -> Tensor:
        z, kept = gru_gate(*both.split(h.shape[-1], -1), h)
        return gru_blend(z, h, kept)

    for nodes in (4, 9):
        both, h = numbers(2, nodes, 6).requires_grad_(), numbers(2, nodes, 3, seed=2).requires_grad_()
        out = step(both, h)
        z, r = both.sigmoid().split(3, -1)
        wanted = z * h + (1 - z) * (r * h).tanh()
        torch.testing.assert_close(out, wanted)
        for one, other in zip(torch.autograd.grad(out.sum(), (both, h)), torch.autograd.grad(wanted.sum(), (both, h)),
                              strict=True):
            torch.testing.assert_close(one, other)


PROGRAM = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from stgraph.ops.gru import gru_blend, gru_gate
parts = [torch.randn(3, 700, 65, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in range(3)]
z, kept = gru_gate(*parts)
out = gru_blend(z, parts[2], kept)
grads = torch.autograd.grad(out.square().sum(), parts)
print(hashlib.sha256(b"".join(part.detach().numpy().tobytes() for part in (z, kept, out, *grads))).hexdigest())
"""


LEVEL = """
import numpy as np, torch
from stgraph.ops.gru import gru_blend, gru_gate
for dtype, wide in ((torch.float32, np.float64), (torch.float64, np.longdouble)):
    x = torch.cat([torch.linspace(-110, 110, 20001, dtype=dtype), torch.logspace(-30, 0, 2001, dtype=dtype)])[:, None]
    zero, exact = torch.zeros_like(x), x.numpy().astype(wide)
    small = np.exp(-np.abs(exact))
    for got, wanted in ((gru_gate(x, x, x)[0], np.where(exact >= 0, 1, small) / (1 + small)),
                        (gru_blend(zero, zero, x), np.tanh(exact))):
        place = np.spacing(np.abs(wanted).astype(got.numpy().dtype))
        print(dtype, float((np.abs(got.numpy() - wanted) / place).max()))
    half = (2 * x).clamp(-9, 9).to(torch.bfloat16)
    print(dtype, 100 * float((gru_gate(half, half, half)[0].float() - half.float().sigmoid()).abs().max()))
"""


@native
@pytest.mark.parametrize("level", ["avx512", "avx2", "baseline"])
def test_every_level_of_the_processor_is_as_exact(level: str) -> None:
    said = subprocess.run([sys.executable, "-c", LEVEL], check=True, capture_output=True, text=True,
                          env={**os.environ, "STGRAPH_CPU": level}).stdout.split()
    assert len(said) == 12
    assert all(float(error) < 4 for error in said[1::2]), said


@native
def test_any_number_of_threads_gives_the_same_bits() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    said = {subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], check=True, capture_output=True, text=True,
                           env=environment).stdout for threads in (1, 2, 3)}
    assert len(said) == 1


@pytest.mark.parametrize(("field", "call"), [
    ("h", lambda z, r, h: gru_gate(z, r, h.long())),
    ("h", lambda z, r, h: gru_gate(z, r, h[0, 0])),
    ("z_pre", lambda z, r, h: gru_gate(z[1:], r, h)),
    ("r_pre", lambda z, r, h: gru_gate(z, r.double(), h)),
    ("z", lambda z, r, h: gru_blend(z[..., :1], h, r)),
    ("candidate_pre", lambda z, r, h: gru_blend(z, h, None)),
])
def test_bad_input_is_named(field: str, call: Callable[..., object]) -> None:
    with pytest.raises(InputError) as caught:
        call(*(torch.ones(2, 3, 4) for _ in range(3)))
    assert caught.value.field == field
