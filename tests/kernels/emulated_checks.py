"""What the emulated kernels must do, by group; every check draws its numbers from a seed.

Also a program: ``python emulated_checks.py LIBRARY GROUP,...`` runs groups in a process of its own, which is how builds
with AddressSanitizer and builds with planted bugs are run. It ends with 1 and the reason where a check fails.
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
from emulated import (
    ANY,
    TOLERANCE,
    Graph,
    Kernels,
    LaunchError,
    arrange,
    graph_of,
    poisoned,
    rounded,
    widened,
)

FLOATS = ("float32", "float64", "float16", "bfloat16")


def near(got: ANY, wanted: ANY, dtype: str, scale: float, what: str) -> None:
    """Equal but for rounding, NaN for NaN and infinity for infinity; ``scale`` is the size of what was summed."""
    got = widened(got) if got.dtype == np.uint16 else got.astype(np.float64)
    assert (np.isnan(got) == np.isnan(wanted)).all(), f"{what}: NaN in {np.isnan(got).sum()} places, wanted in " \
                                                       f"{np.isnan(wanted).sum()}"
    same = (got == wanted) | np.isnan(wanted)
    error = np.abs(np.where(same, 0, got - np.where(same, 0, wanted)))
    assert error.max(initial=0) <= TOLERANCE[dtype] * max(scale, 1), f"{what}: off by {error.max()} at scale {scale}"


def bits(x: ANY) -> bytes:
    return np.ascontiguousarray(x).tobytes()


ORDERS = [0, 7]
"""Orders of threads in which everything is run; 0: as numbered."""


def in_orders(kernels: Kernels, run: Any, shared_limit: int = 227 * 1024) -> Any:
    """The result of ``run``, which must be the same to the bit for threads in order and in shuffled orders."""
    results = []
    for seed in ORDERS:
        kernels.configure(seed, shared_limit)
        results.append(run())
    first = [part for part in (results[0] if isinstance(results[0], tuple) else (results[0],)) if part is not None]
    for other in results[1:]:
        parts = [part for part in (other if isinstance(other, tuple) else (other,)) if part is not None]
        assert all(bits(a) == bits(b) for a, b in zip(first, parts, strict=True)), "depends on the order of threads"
    return results[0]


def refused(run: Any) -> str:
    """Why a launch was refused; empty where it was not."""
    try:
        run()
    except LaunchError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- spmm
def reference_spmm(g: Graph, x: ANY, weight: ANY | None, addend: ANY | None, reduce: str) -> tuple[ANY, ANY, float]:
    """In float64, edge by edge: result, place of each maximum, and the size of the sums."""
    b, t, _, f = x.shape
    messages = widened(x)[:, :, g.col]
    if weight is not None:
        by = widened(weight)[g.edges].transpose(1, 2, 0, 3)
        messages = messages * np.repeat(by, f // by.shape[3], 3)
    out, argument = np.zeros((b, t, g.rows, f)), np.full((b, t, g.rows, f), -1)
    size = np.zeros((b, t, g.rows, f))
    np.add.at(size, (slice(None), slice(None), g.row), np.nan_to_num(np.abs(messages), posinf=0))
    if reduce == "max":
        for row in range(g.rows):
            span = slice(g.rowptr[row], g.rowptr[row + 1])
            if g.rowptr[row] < g.rowptr[row + 1]:
                place = np.argmax(messages[:, :, span], 2)  # numpy too: the first of equals, a NaN before all
                out[:, :, row] = np.take_along_axis(messages[:, :, span], place[:, :, None], 2)[:, :, 0]
                argument[:, :, row] = g.edges[span][place]
    else:
        np.add.at(out, (slice(None), slice(None), g.row), messages)
        if reduce == "mean":
            out /= np.maximum(np.diff(g.rowptr), 1)[:, None]
    if addend is not None:
        out += widened(addend)
    return out, argument, float(size.max(initial=0))


def check_spmm(kernels: Kernels, g: Graph, *, width: int, reduce: str = "sum", dtype: str = "float32", batch: int = 1,
               time: int = 1, weight: str | None = None, heads: int = 1, addend: bool = False, layout: str = "batch",
               seed: int = 0, staged: dict[str, Any] | None = None, shared_limit: int = 227 * 1024) -> None:
    rng = np.random.default_rng(seed)
    x = arrange(rounded(rng.standard_normal((batch, time, g.columns, width)), dtype), layout)
    shape = {None: None, "edge": (1, 1, 1), "head": (1, 1, heads), "time": (1, time, 1), "batch": (batch, 1, 1),
             "all": (batch, time, heads)}[weight]
    w = None if shape is None else rounded(rng.standard_normal((g.entries, *shape)), dtype)
    y = arrange(rounded(rng.standard_normal((batch, time, g.rows, width)), dtype), layout) if addend else None
    wanted, place, scale = reference_spmm(g, x, w, y, reduce)
    what = f"spmm {reduce} {dtype} {layout} B{batch} T{time} F{width} {weight} H{heads} N{g.rows} E{g.entries}"
    if staged is None:
        out, argument = in_orders(kernels, lambda: kernels.spmm(g, x, w, y, reduce, dtype), shared_limit)
    else:
        out = in_orders(kernels, lambda: kernels.staged(g, x, w, y, reduce, dtype, **staged), shared_limit)
        argument, what = None, f"staged {what}"
    near(out, wanted, dtype, scale, what)
    if argument is not None:
        assert (argument == place).all(), f"{what}: wrong edge"


WIDTHS = (1, 2, 3, 4, 5, 31, 32, 33, 64, 100, 257)


def spmm_cases(floats: tuple[str, ...]) -> list[dict[str, Any]]:
    """A walk through widths, weights, layouts, reductions and types: each value of each, not all combinations."""
    layouts, reductions = ("batch", "node", "odd"), ("sum", "mean", "max")
    cases: list[dict[str, Any]] = []
    for i, width in enumerate(WIDTHS):
        for j, weight in enumerate((None, "edge", "head", "time", "batch", "all")):
            n = i + j
            heads = next(h for h in (4, 3, 2, 1) if width % h == 0) if weight in ("head", "all") else 1
            cases.append({"width": width, "weight": weight, "heads": heads, "layout": layouts[n % 3],
                          "reduce": reductions[(n + j) % 3], "dtype": floats[n % len(floats)], "addend": n % 2 == 0,
                          "batch": 1 + n % 2, "time": 1 + j % 3, "seed": n})
    return cases


def spmm(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    rng = np.random.default_rng(1)
    small = [graph_of(rng.integers(0, 9, 13), 11, rng, index, edge)
             for index in (np.int32, np.int64) for edge in (False, True)]
    for number, case in enumerate(spmm_cases(floats)):
        check_spmm(kernels, small[number % 4], **case)
    for index in (np.int32, np.int64):
        for reduce in ("sum", "max"):
            check_spmm(kernels, graph_of(np.zeros(0, int), 3, rng, index), width=5, reduce=reduce)
            check_spmm(kernels, graph_of(np.zeros(4, int), 0, rng, index), width=4, reduce=reduce, addend=True)
            check_spmm(kernels, graph_of(np.array([0, 70, 0, 0, 3]), 2, rng, index), width=7, reduce=reduce)
    one = graph_of(np.array([3, 0, 2]), 4, rng)
    for width, batch in ((0, 1), (4, 0)):
        kernels.spmm(one, np.zeros((batch, 1, 4, width), np.float32))


def long_rows(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Rows around the limit at which they are split, at all positions of the windows."""
    rng = np.random.default_rng(2)
    shapes = ([513], [512, 512], [3, 1700, 0, 0, 600, 2, 513, 511], [512, 513, 1024, 1], [511, 0, 2000], [1024, 1024])
    for number, degrees in enumerate(shapes):
        g = graph_of(np.array(degrees), 40, rng, (np.int32, np.int64)[number % 2], number % 2 == 1)
        for reduce in ("sum", "mean", "max"):
            check_spmm(kernels, g, width=(4, 5)[number % 2], reduce=reduce, dtype=floats[number % len(floats)],
                       weight="edge", addend=True, batch=2, time=1 + number % 2, layout=("batch", "node")[number % 2])
    g = graph_of(np.array([5, 1500, 700]), 30, rng)
    x = rng.standard_normal((1, 1, 30, 8)).astype(np.float32)
    whole, parts = (kernels.spmm(g, x, split=split)[0] for split in (False, True))
    wanted, _, scale = reference_spmm(g, x, None, None, "sum")
    near(whole, wanted, "float32", scale, "long rows by one thread each")
    assert bits(whole[:, :, 0]) == bits(parts[:, :, 0]), "short rows do not depend on splitting"


def not_a_number(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """A NaN reaches exactly the rows that read it, whatever the reduction; infinities stay."""
    rng = np.random.default_rng(3)
    g = graph_of(np.array([4, 0, 7, 600, 2, 5]), 9, rng)
    for reduce in ("sum", "mean", "max"):
        x = rng.standard_normal((1, 1, 9, 4)).astype(np.float32)
        x[0, 0, 5, 1], x[0, 0, 2, 3] = np.nan, -np.inf
        wanted, place, scale = reference_spmm(g, x, None, None, reduce)
        out, argument = kernels.spmm(g, x, reduce=reduce)
        assert np.isnan(wanted).any()
        near(out, wanted, "float32", scale, f"NaN under {reduce}")
        assert argument is None or (argument == place).all()


def segments(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Without columns an entry reads its own row: a reduction of consecutive rows."""
    rng = np.random.default_rng(4)
    for number, reduce in enumerate(("sum", "mean", "max")):
        for degrees in ([3, 0, 9, 1], [600, 2, 0, 514], []):
            g = graph_of(np.array(degrees, int), 1, rng, (np.int64, np.int32)[number % 2])
            g = Graph(g.rowptr, np.arange(g.entries, dtype=g.col.dtype), None, g.entries)
            dtype = floats[number % len(floats)]
            x = rounded(rng.standard_normal((2, 1, g.entries, 6)), dtype)
            wanted, place, scale = reference_spmm(g, x, None, None, reduce)
            out, argument = in_orders(kernels, lambda g=g, x=x, reduce=reduce, dtype=dtype: kernels.spmm(
                g, x, reduce=reduce, dtype=dtype, col=False))
            near(out, wanted, dtype, scale, f"segment {reduce}")
            assert argument is None or (argument == place).all()


def far(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Rows that lie more than 2^31 numbers apart; the memory between them is never touched, so it costs nothing."""
    apart = 2**30 + 8
    unreserved = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which Python has no name for
    space = np.frombuffer(mmap.mmap(-1, (5 * apart + 64) * 2, flags=unreserved), np.float16)
    x = np.lib.stride_tricks.as_strided(space, (1, 1, 6, 8), (0, 0, apart * 2, 2))
    rng = np.random.default_rng(5)
    x[...] = rng.standard_normal(x.shape)
    values = np.ascontiguousarray(x)
    g = graph_of(np.array([4, 2, 5]), 6, rng)
    g.col[:5] = (5, 3, 2, 0, 5)
    near(kernels.spmm(g, x, dtype="float16")[0], reference_spmm(g, values, None, None, "sum")[0], "float16", 12, "far")
    index = np.array([5, 0, 3], np.int32)
    assert (kernels.gather_rows(x, index) == values[:, :, index]).all()
    got = kernels.sddmm(g, values[:, :, :3], x, 1, False, False, "float16")
    near(got[:, 0, 0], (values[:, :, :3][:, :, g.row].astype(float) * values[:, :, g.col]).sum((0, 1, 3))[:, None],
         "float16", 16, "far sddmm")


# ---------------------------------------------------------------- staged
def halo_plan(g: Graph, row_block: int) -> tuple[ANY, ANY, ANY]:
    """Blocks of rows, the distinct sources of each, and where each entry finds its own."""
    pointer, halo, local = [0], [], np.zeros(g.entries, int)
    for first in range(0, g.rows, row_block):
        span = slice(g.rowptr[first], g.rowptr[min(first + row_block, g.rows)])
        sources, local[span] = np.unique(g.col[span], return_inverse=True)
        halo.append(sources)
        pointer.append(pointer[-1] + len(sources))
    return np.array(pointer), np.concatenate([np.zeros(0, int), *halo]), local


def staged(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Sources in shared memory, all of them or the halo of each block of rows: the same sums."""
    rng = np.random.default_rng(6)
    graphs = [graph_of(rng.integers(0, 9, 40), 23, rng, index, edge)
              for index, edge in ((np.int32, False), (np.int64, True), (np.int32, True))]
    for number, case in enumerate(spmm_cases(floats)):
        if case["reduce"] == "max" or number % 2:
            continue
        g, row_block = graphs[number % 3], (64, 7, 16)[number % 3]
        check_spmm(kernels, g, **case, staged={"row_block": row_block})
        check_spmm(kernels, g, **case, staged={"row_block": row_block, "plan": halo_plan(g, row_block)})
    # a tile is narrowed until it fits
    check_spmm(kernels, graphs[0], width=256, staged={"row_block": 16}, shared_limit=23 * 16 * 4)
    assert "-2" in refused(lambda: check_spmm(kernels, graphs[0], width=256, staged={"row_block": 16},
                                              shared_limit=23 * 16 - 1))


# ---------------------------------------------------------------- sddmm and gather
def sddmm(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    rng = np.random.default_rng(7)
    shapes = [(1, 1), (2, 4), (3, 3), (8, 2), (33, 1), (64, 4), (100, 5), (257, 1), (600, 1)]
    for number, (width, heads) in enumerate(shapes * 2):
        g = graph_of(rng.integers(0, 12, 17), 9, rng, (np.int32, np.int64)[number % 2], number % 3 == 1)
        dtype, layout = floats[number % len(floats)], ("batch", "node", "odd")[number % 3]
        batch, time = 1 + number % 2, 1 + number // 2 % 3
        width = width if heads == 1 else width // heads * heads or heads
        by_batch, by_time = number % 4 in (1, 3), number % 4 in (2, 3)
        a = arrange(rounded(rng.standard_normal((batch, time, g.rows, width)), dtype), layout)
        b = arrange(rounded(rng.standard_normal((batch, time, g.columns, width)), dtype), layout)
        got = in_orders(kernels, lambda a=a, b=b, g=g, h=heads, p=by_batch, q=by_time, d=dtype: kernels.sddmm(
            g, a, b, h, p, q, d))
        product = widened(a)[:, :, g.row] * widened(b)[:, :, g.col]
        size = np.abs(product).sum((0, 1, 3)).max(initial=0)
        product = product.reshape(batch, time, g.entries, heads, width // heads).sum(-1)
        product = product if by_batch else product.sum(0, keepdims=True)
        product = (product if by_time else product.sum(1, keepdims=True)).transpose(2, 0, 1, 3)
        wanted = np.empty_like(product)
        wanted[g.edges] = product
        near(got, wanted, dtype, size, f"sddmm F{width} H{heads} {dtype} {layout}")
    empty = np.zeros((1, 1, 4, 2), np.float32)
    assert kernels.sddmm(graph_of(np.zeros(4, int), 4, rng), empty, empty, 1, False, False, "float32").shape[0] == 0


def gather(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Rows are moved to the bit, also whole numbers."""
    rng = np.random.default_rng(8)
    for number, width in enumerate(WIDTHS):
        for kind in (np.float32, np.float64, np.float16, np.int64):
            x = rng.integers(-60000, 60000, (2, 1 + number % 3, 7, width)).astype(kind)
            x = arrange(x, ("batch", "node", "odd")[(number + np.dtype(kind).itemsize) % 3])
            index = rng.integers(0, 7, (19, 0, 300)[number % 3]).astype((np.int32, np.int64)[number % 2])
            assert bits(in_orders(kernels, lambda x=x, index=index: kernels.gather_rows(x, index))) == \
                bits(x[:, :, index])


# ---------------------------------------------------------------- attention
def mix(z: ANY) -> ANY:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def kept(g: Graph, batch: int, time: int, heads: int, dropout: float, seed: int) -> ANY:
    """0 or 1 / (1 - dropout) for each ``[B, T, entry, H]``."""
    slab = np.arange(batch * time).reshape(batch, time, 1, 1)
    place = (g.edges[:, None] * (batch * time) + slab) * heads + np.arange(heads)
    with np.errstate(over="ignore"):
        key = mix(np.array([seed]).astype(np.uint64))
        hashed = mix(key + np.uint64(0x9E3779B97F4A7C15) * place.astype(np.uint64)) >> np.uint64(40)
    return np.where(hashed < int(dropout * 2**24), 0.0, 1 / (1 - dropout))


def reference_attention(g: Graph, q: ANY, k: ANY, v: ANY, bias: ANY | None, factor: float, keep: ANY,
                        grad: ANY) -> dict[str, ANY]:
    """Forward and backward in float64 with everything per edge in memory."""
    q, k, v, grad = (widened(part) for part in (q, k, v, grad))
    b, t, _, heads, _ = v.shape
    of_edge = np.zeros((g.entries, heads)) if bias is None else widened(bias)[g.edges]
    if q.ndim == 5:
        score, slope = factor * (q[:, :, g.row] * k[:, :, g.col]).sum(-1) + of_edge, factor
    else:
        linear = q[:, :, g.row] + k[:, :, g.col] + of_edge
        slope = np.where(linear > 0, 1.0, factor)
        score = linear * slope
    rows = (slice(None), slice(None), g.row)
    best = np.full((b, t, g.rows, heads), -np.inf)
    np.maximum.at(best, rows, score)
    shift = np.where(np.isfinite(best), best, 0)
    raised, mass = np.exp(score - shift[rows]), np.zeros_like(best)
    np.add.at(mass, rows, raised)
    with np.errstate(divide="ignore"):
        lse = shift + np.log(mass)
    chance = raised / np.where(mass == 0, 1, mass)[rows]
    out = np.zeros((b, t, g.rows, *v.shape[3:]))
    np.add.at(out, rows, (chance * keep)[..., None] * v[:, :, g.col])
    delta = (grad * out).sum(-1)
    through = (grad[:, :, g.row] * v[:, :, g.col]).sum(-1) * keep
    change = chance * (through - delta[rows])
    got = {"out": out, "lse": lse, "delta": delta, "q": np.zeros(q.shape), "k": np.zeros(k.shape),
           "v": np.zeros(v.shape), "bias": np.zeros((g.entries, heads))}
    own = change * slope
    columns = (slice(None), slice(None), g.col)
    np.add.at(got["q"], rows, own[..., None] * k[:, :, g.col] if q.ndim == 5 else own)
    np.add.at(got["k"], columns, own[..., None] * q[:, :, g.row] if q.ndim == 5 else own)
    np.add.at(got["v"], columns, (chance * keep)[..., None] * grad[:, :, g.row])
    got["bias"][g.edges] = (change if q.ndim == 5 else own).sum((0, 1))
    return got


def spaced(values: ANY, layout: str) -> ANY:
    """``[B, T, N, H, D]`` or ``[B, T, N, H]`` with nodes slowest, or off its alignment."""
    if layout == "node":
        return np.ascontiguousarray(np.moveaxis(values, 2, 0)).transpose(1, 2, 0, *range(3, values.ndim))
    if layout == "odd":
        space = poisoned((*values.shape[:-1], values.shape[-1] + 1), values.dtype)
        space[..., 1:] = values
        return space[..., 1:]
    return values


def check_attention(kernels: Kernels, g: Graph, *, dot: bool, width: int, heads: int = 1, dtype: str = "float32",
                    batch: int = 1, time: int = 1, bias: bool = False, dropout: float = 0.0, layout: str = "batch",
                    size: float = 1.0, seed: int = 0, orders: bool = True) -> None:
    rng = np.random.default_rng(seed)

    def draw(nodes: int, *axes: int) -> ANY:
        return rounded(size * rng.standard_normal((batch, time, nodes, *axes)), dtype)

    axes = (heads, width) if dot else (heads,)
    q, k = spaced(draw(g.rows, *axes), layout if dot else "batch"), spaced(draw(g.columns, *axes), layout if dot else
                                                                          "batch")
    v, grad = spaced(draw(g.columns, heads, width), layout), draw(g.rows, heads, width)
    of_edge = rounded(rng.standard_normal((g.entries, heads)), dtype) if bias else None
    factor = width**-0.5 if dot else 0.2
    keep = kept(g, batch, time, heads, dropout, seed) if dropout else np.ones(1)
    wanted = reference_attention(g, q, k, v, of_edge, factor, keep, grad)

    def run() -> tuple[ANY, ...]:
        got = kernels.attention(g, q, k, v, of_edge, factor, dtype, dropout, seed, grad)
        return tuple(got[name] for name in wanted)

    result = in_orders(kernels, run) if orders else run()
    what = f"attention dot={dot} {dtype} {layout} H{heads} D{width} N{g.rows} E{g.entries} p{dropout}"
    for name, got in zip(wanted, result, strict=True):
        # 16-bit gradients start from a rounded result; sums of scores lose what exponentials then magnify
        scale = 4 * size**2 * (1 + float(np.abs(np.where(np.isfinite(wanted[name]), wanted[name], 0)).max(initial=0)))
        near(got, wanted[name], dtype, scale * (4 if name not in ("out", "lse") else 1), f"{what}: {name}")


def attention_cases(floats: tuple[str, ...]) -> list[dict[str, Any]]:
    cases = []
    for number, width in enumerate((1, 2, 3, 4, 7, 8, 16, 32, 33, 64, 128, 129, 256, 257, 300, 514)):
        for dot in (True, False):
            n = number + dot
            cases.append({"dot": dot, "width": width, "heads": (1, 4, 3, 8, 9)[n % 5] if width < 64 else 1 + n % 2,
                          "dtype": floats[(number + 2 * dot) % len(floats)], "batch": 1 + n % 2, "time": 1 + n // 2 % 2,
                          "bias": n % 2 == 0, "dropout": (0.0, 0.3, 0.0)[n % 3],
                          "layout": ("batch", "node", "odd")[number % 3], "seed": n})
    return cases


def attention(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    rng = np.random.default_rng(9)
    cases = attention_cases(floats)
    for number, case in enumerate(cases if len(floats) > 1 else cases[::3]):
        degrees = rng.integers(0, 7, 6)
        degrees[number % 6], degrees[(number + 1) % 6] = 0, 37
        check_attention(kernels, graph_of(degrees, 5, rng, (np.int32, np.int64)[number % 2], number % 2 == 0), **case)
    for degrees in ([], [0, 0, 0]):
        check_attention(kernels, graph_of(np.array(degrees, int), 2, rng), dot=True, width=8, heads=2)
    for dot in (True, False):  # heads wider than a warp holds
        check_attention(kernels, graph_of(np.array([3, 0, 7]), 4, rng, edge=True), dot=dot, width=600, heads=3, batch=2,
                        bias=True, dropout=0.3, seed=1, dtype=floats[-1])
    # scores of some thousands do not overflow
    check_attention(kernels, graph_of(np.array([3, 40, 1]), 9, rng), dot=False, width=4, size=2e3)


def minus_infinity(kernels: Kernels, floats: tuple[str, ...] = FLOATS) -> None:
    """Edges of score -inf do not count; a row of them only gives 0 and -inf, and no gradients but 0."""
    rng = np.random.default_rng(10)
    g = graph_of(np.array([5, 40, 1, 0, 3]), 6, rng)
    v, grad = (rng.standard_normal((1, 1, n, 2, 8)).astype(np.float32) for n in (6, 5))
    bias = np.zeros((g.entries, 2), np.float32)
    bias[:5], bias[7:20] = -np.inf, -np.inf
    for axes in ((2, 8), (2,)):
        q, k = (rng.standard_normal((1, 1, n, *axes)).astype(np.float32) for n in (5, 6))
        got = kernels.attention(g, q, k, v, bias, 0.3, "float32", grad=grad)
        wanted = reference_attention(g, q, k, v, bias, 0.3, np.ones(1), grad)
        for name, part in wanted.items():
            near(got[name], part, "float32", 40, f"-inf: {name}")
        assert (got["out"][0, 0, 0] == 0).all()
        assert (got["lse"][0, 0, 0] == -np.inf).all()


GROUPS = {function.__name__: function for function in (spmm, long_rows, not_a_number, segments, far, staged, sddmm,
                                                       gather, attention, minus_infinity)}


if __name__ == "__main__":
    # one order and one type of numbers: what is looked for there depends on neither
    ORDERS[:] = [7]
    try:
        for group in sys.argv[2].split(","):
            GROUPS[group](Kernels(Path(sys.argv[1])), ("float32",))
    except (AssertionError, LaunchError) as problem:
        print(f"{type(problem).__name__}: {problem}")
        sys.exit(1)
