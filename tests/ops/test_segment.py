"""Segments and gathered rows equal slow loops, and each is the gradient of the other."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from stgraph import ops
from stgraph.errors import InputError
from stgraph.ops.names import NAMESPACE

pytestmark = pytest.mark.usefixtures("kernels")
POINTERS = ([0], [0, 0, 0], [0, 3, 3, 4, 9], [0, 700], [0, 1, 2, 3])


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow(ptr: list[int], src: Tensor, reduce: str) -> Tensor:
    parts = [src[..., a:b, :].double() for a, b in itertools.pairwise(ptr)]
    made = [part.new_zeros(part[..., 0:0, :].sum(-2).shape) if part.shape[-2] == 0
            else part.amax(-2) if reduce == "max" else getattr(part, reduce)(-2) for part in parts]
    return torch.stack(made, -2) if made else src[..., :0, :].double()


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("ptr", POINTERS, ids=str)
@pytest.mark.parametrize("width", [1, 3, 64, 100])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_segments(ptr: list[int], reduce: str, width: int, index: torch.dtype) -> None:
    src = numbers(2, ptr[-1], width)
    out = ops.segment_reduce(torch.tensor(ptr, dtype=index), src, reduce)
    torch.testing.assert_close(out, slow(ptr, src, reduce).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_segments_in_every_type_and_layout(reduce: str, dtype: torch.dtype) -> None:
    src = numbers(9, 2, 4, 20, dtype=dtype).permute(1, 2, 0, 3)
    out = ops.segment_reduce(torch.tensor([0, 2, 9]), src, reduce)
    assert out.permute(2, 0, 1, 3).is_contiguous()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(out.double(), slow([0, 2, 9], src, reduce), rtol=tolerance, atol=tolerance)


def test_a_maximum_keeps_nan() -> None:
    src = torch.tensor([[1.0], [float("nan")], [3.0], [2.0]])
    assert ops.segment_reduce(torch.tensor([0, 3, 4]), src, "max").isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("index", [[], [0], [4, 4, 4, 0, 1], list(range(5)) * 40], ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_gathered_rows(index: list[int], dtype: torch.dtype, width: int) -> None:
    for x in (numbers(2, 3, 5, width, dtype=dtype), numbers(5, 2, 3, width, dtype=dtype).permute(1, 2, 0, 3),
              numbers(2, 3, 5, width + 1, dtype=dtype)[..., 1:]):
        for kind in (torch.int32, torch.int64):
            assert torch.equal(ops.gather_rows(x, torch.tensor(index, dtype=kind)), x[:, :, index])


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_gradients_of_segments(reduce: str) -> None:
    ptr, src = torch.tensor([0, 3, 3, 4, 9]), numbers(2, 9, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda src: ops.segment_reduce(ptr, src, reduce), src)
    assert torch.autograd.gradgradcheck(lambda src: ops.segment_reduce(ptr, src, reduce), src)


def test_gradients_of_gathered_rows() -> None:
    index, x = torch.tensor([4, 4, 0, 2, 4]), numbers(2, 5, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.gather_rows(x, index), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.gather_rows(x, index), x)
    ops.gather_rows(x, index).sum().backward()
    assert x.grad[0].sum(-1).tolist() == [3, 0, 3, 0, 9]


def test_opcheck() -> None:
    here = getattr(torch.ops, NAMESPACE)
    src = numbers(2, 1, 9, 3).requires_grad_()
    for reduce in (0, 1, 2):
        torch.library.opcheck(here.segment_reduce.default, (torch.tensor([0, 3, 3, 4, 9]), src, reduce))
    index, rowptr, order = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 3, *[3] * 7]), torch.tensor([1, 0, 2])
    torch.library.opcheck(here.gather_rows.default, (src, index, rowptr, order))


def test_compiles_whole() -> None:
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def run(x: Tensor, index: Tensor, ptr: Tensor) -> Tensor:
        return ops.segment_reduce(ptr, ops.gather_rows(x, index), "sum")

    for rows in (4, 7):
        index, ptr = torch.arange(rows * 2) % 5, torch.arange(0, rows * 2 + 1, 2)
        x = numbers(5, 3).requires_grad_()
        out = run(x, index, ptr)
        torch.testing.assert_close(out, x[index].unflatten(0, (rows, 2)).sum(1))
        out.sum().backward()
        assert x.grad[:, 0].tolist() == torch.bincount(index, minlength=5).tolist()


@pytest.mark.parametrize(("field", "call"), [
    ("ptr", lambda x: ops.segment_reduce(torch.tensor([0, 2]), x)),
    ("ptr", lambda x: ops.segment_reduce(torch.tensor([0, 4, 2, 5]), x)),
    ("ptr", lambda x: ops.segment_reduce(torch.tensor([0.0, 5.0]), x)),
    ("ptr", lambda x: ops.segment_reduce([0, 5], x)),
    ("src", lambda x: ops.segment_reduce(torch.tensor([0, 5]), x.long())),
    ("reduce", lambda x: ops.segment_reduce(torch.tensor([0, 5]), x, "min")),
    ("index", lambda x: ops.gather_rows(x, torch.tensor([0, 5]))),
    ("index", lambda x: ops.gather_rows(x, torch.tensor([-1]))),
    ("index", lambda x: ops.gather_rows(x, torch.tensor([[1]]))),
    ("index", lambda x: ops.gather_rows(x, torch.tensor([0.5]))),
    ("x", lambda x: ops.gather_rows(x[0], torch.tensor([0]))),
])
def test_bad_input_is_named(field: str, call: object) -> None:
    with pytest.raises(InputError) as caught:
        call(torch.ones(5, 3))
    assert caught.value.field == field
