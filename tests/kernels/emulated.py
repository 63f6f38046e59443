"""Builds the CUDA sources for the emulator and calls them on numpy arrays."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2] / "kernels"
SOURCES = tuple(sorted(path.stem for path in (ROOT / "cuda").glob("*.cu")))
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
STORED = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": np.uint16}
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "float16": 1.2e-3, "bfloat16": 9e-3}
REDUCE = {"sum": 0, "mean": 1, "max": 2}
ANY = np.ndarray[Any, Any]


# ---------------------------------------------------------------- building
def compile_kernels(work: Path, names: tuple[str, ...] = SOURCES, root: Path = ROOT, flags: tuple[str, ...] = (),
                    objects: tuple[Path, ...] = ()) -> Path:
    """Compile kernels with the emulator into one library; ready ``objects`` are linked in."""
    work.mkdir(parents=True, exist_ok=True)
    base = ["g++", "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
            "-DSTGRAPH_EMULATOR", *flags]
    sources = {name: root / "cuda" / f"{name}.cu" for name in names}
    if not objects:
        sources["emulator"] = root / "emulator" / "emulator.cpp"
    running = [subprocess.Popen([*base, "-x", "c++", "-c", str(source), "-o", str(work / f"{name}.o")],
                                stderr=subprocess.PIPE, text=True) for name, source in sources.items()]
    for process in running:
        said = process.communicate()[1]
        if process.returncode:
            raise RuntimeError(said)
    made = [str(work / f"{name}.o") for name in sources]
    library = work / "kernels.so"
    subprocess.run(["g++", "-shared", *flags, *made, *map(str, objects), "-o", str(library)], check=True)
    return library


# ---------------------------------------------------------------- numbers
def rounded(values: ANY, dtype: str) -> ANY:
    """As they are stored in ``dtype``; bfloat16 as the upper halves of floats, to nearest even."""
    if dtype != "bfloat16":
        return values.astype(STORED[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = np.where(np.isnan(values), 0x7FC00000, bits + 0x7FFF + (bits >> 16 & 1))
    return (bits >> 16).astype(np.uint16)


def widened(values: ANY) -> ANY:
    """In float64."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def poisoned(shape: tuple[int, ...], dtype: Any) -> ANY:
    """All bits set: NaN in every floating type."""
    out = np.empty(shape, dtype)
    out.reshape(-1).view(np.uint8).fill(0xFF)
    return out


def arrange(values: ANY, layout: str) -> ANY:
    """``[B, T, N, F]`` with other strides: ``batch``, ``node``, or ``odd`` (off its alignment, with gaps)."""
    if layout == "node":
        return np.ascontiguousarray(values.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)
    if layout == "odd":
        b, t, n, f = values.shape
        space = poisoned((b, t, n, f + 3), values.dtype)
        space[..., 1:f + 1] = values
        return space[..., 1:f + 1]
    return np.ascontiguousarray(values)


def empty_like(x: ANY, rows: int, dtype: Any = None) -> ANY:
    """Poison in the layout of ``x [B, T, N, F]``."""
    b, t, n, f = x.shape
    dtype = dtype or x.dtype
    by_node = n > 1 and (b == 1 or x.strides[2] > x.strides[0]) and (t == 1 or x.strides[2] > x.strides[1])
    return poisoned((rows, b, t, f), dtype).transpose(1, 2, 0, 3) if by_node else poisoned((b, t, rows, f), dtype)


# ---------------------------------------------------------------- graphs
@dataclass(frozen=True)
class Graph:
    """In-edges as compressed rows; ``edge`` maps entries to edges."""

    rowptr: ANY
    col: ANY
    edge: ANY | None
    columns: int

    @property
    def rows(self) -> int:
        return len(self.rowptr) - 1

    @property
    def entries(self) -> int:
        return len(self.col)

    @property
    def row(self) -> ANY:
        return np.repeat(np.arange(self.rows), np.diff(self.rowptr))

    @property
    def edges(self) -> ANY:
        return np.arange(self.entries) if self.edge is None else self.edge

    def transpose(self) -> Graph:
        order = np.argsort(self.col, kind="stable")
        rowptr = np.searchsorted(self.col[order], np.arange(self.columns + 1)).astype(self.col.dtype)
        kind = self.col.dtype
        return Graph(rowptr, self.row[order].astype(kind), self.edges[order].astype(kind), self.rows)


def graph_of(degrees: ANY, columns: int, rng: np.random.Generator, index: Any = np.int32, edge: bool = False) -> Graph:
    """Random sources, so with repeated edges and self loops."""
    rowptr = np.concatenate([[0], np.cumsum(degrees)]).astype(index)
    col = rng.integers(0, max(columns, 1), rowptr[-1]).astype(index)
    return Graph(rowptr, col, rng.permutation(rowptr[-1]).astype(index) if edge else None, columns)


# ---------------------------------------------------------------- the C interface
_C = {"const void*": ctypes.c_void_p, "void*": ctypes.c_void_p, "int64_t*": ctypes.c_void_p, "int64_t": ctypes.c_int64,
      "double": ctypes.c_double}


def structures(header: str) -> dict[str, Any]:
    """The structures of ``api.h`` as ctypes, read from the header so that both cannot differ."""
    known: dict[str, Any] = dict(_C)
    for name, body in re.findall(r"struct (\w+) \{\n(.*?)\n\};", header, re.S):
        fields = re.findall(r"^\s*([\w ]+\*?)\s(\w+);", body, re.M)
        known[name] = type(name, (ctypes.Structure,), {"_fields_": [(field, known[kind]) for kind, field in fields]})
    return known


class LaunchError(Exception):
    """What the emulator found wrong, or the code that a launcher gave back."""


class Kernels:
    """The emulated kernels on numpy arrays."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.types = structures((ROOT / "cuda" / "api.h").read_text(encoding="utf-8"))
        self.library.stgraph_emulator_error.restype = ctypes.c_char_p
        self.library.stgraph_emulator_configure.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
        self.configure(1)

    def configure(self, seed: int, shared_limit: int = 227 * 1024) -> None:
        """The order of threads (0: as numbered) and the shared memory of a block in bytes."""
        self.library.stgraph_emulator_configure(seed, shared_limit)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*[ctypes.byref(a) for a in arguments], None)
        if code:
            raise LaunchError(f"{name}: {code}: {self.library.stgraph_emulator_error().decode()}")

    def tensor(self, x: ANY | None) -> Any:
        """``[B, T, N, F]`` or ``[B, T, N, H, D]``."""
        if x is None:
            return self.types["StgraphTensor"]()
        step = [s // x.itemsize for s in x.strides]
        return self.types["StgraphTensor"](x.ctypes.data, *step[:3], step[3])

    def graph(self, g: Graph, col: bool = True) -> Any:
        edge = None if g.edge is None else g.edge.ctypes.data
        return self.types["StgraphGraph"](g.rowptr.ctypes.data, g.col.ctypes.data if col else None, edge,
                                          int(g.col.itemsize == 8), g.rows, g.entries)

    def _spmm_call(self, g: Graph, x: ANY, weight: ANY | None, addend: ANY | None, reduce: str, dtype: str,
                   col: bool) -> tuple[Any, ANY, ANY | None]:
        out = empty_like(x, g.rows)
        argument = empty_like(x, g.rows, np.int64) if reduce == "max" else None
        call = self.types["StgraphSpmm"](graph=self.graph(g, col), x=self.tensor(x), addend=self.tensor(addend),
                                         out=self.tensor(out), type=TYPES[dtype], reduce=REDUCE[reduce],
                                         batch=x.shape[0], time=x.shape[1], width=x.shape[3], heads=1)
        if weight is not None:
            steps = [0 if n == 1 and i else s // weight.itemsize
                     for i, (n, s) in enumerate(zip(weight.shape, weight.strides, strict=True))]
            call.weight = self.types["StgraphWeight"](weight.ctypes.data, *steps)
            call.heads = weight.shape[3]
        if argument is not None:
            call.argument = argument.ctypes.data
        return call, out, argument

    def spmm(self, g: Graph, x: ANY, weight: ANY | None = None, addend: ANY | None = None, reduce: str = "sum",
             dtype: str = "float32", split: bool = True, col: bool = True) -> tuple[ANY, ANY | None]:
        call, out, argument = self._spmm_call(g, x, weight, addend, reduce, dtype, col)
        self.library.stgraph_cuda_spmm_workspace.restype = ctypes.c_int64
        space = poisoned((self.library.stgraph_cuda_spmm_workspace(ctypes.byref(call)),), np.uint8)
        call.workspace = space.ctypes.data if split and len(space) else None
        self.call("stgraph_cuda_spmm", call)
        return out, argument

    def staged(self, g: Graph, x: ANY, weight: ANY | None = None, addend: ANY | None = None, reduce: str = "sum",
               dtype: str = "float32", row_block: int = 128, plan: Any = None) -> ANY:
        """``plan``: pointer, halo and local of a row-block plan, or None to stage all sources."""
        call, out, _ = self._spmm_call(g, x, weight, addend, reduce, dtype, True)
        if plan is None:
            halo = self.types["StgraphHalo"](None, None, None, row_block, g.columns)
        else:
            plan = [np.ascontiguousarray(part, g.col.dtype) for part in plan]
            halo = self.types["StgraphHalo"](*[part.ctypes.data for part in plan], row_block,
                                             int(np.diff(plan[0]).max(initial=0)))
        self.call("stgraph_cuda_spmm_staged", call, halo)
        return out

    def sddmm(self, g: Graph, a: ANY, b: ANY, heads: int, by_batch: bool, by_time: bool, dtype: str) -> ANY:
        out = poisoned((g.entries, a.shape[0] if by_batch else 1, a.shape[1] if by_time else 1, heads), a.dtype)
        self.call("stgraph_cuda_sddmm", self.types["StgraphSddmm"](
            graph=self.graph(g), a=self.tensor(a), b=self.tensor(b), out=out.ctypes.data, type=TYPES[dtype],
            batch=a.shape[0], time=a.shape[1], width=a.shape[3], heads=heads, by_batch=by_batch, by_time=by_time))
        return out

    def gather_rows(self, x: ANY, index: ANY) -> ANY:
        out = empty_like(x, len(index))
        self.call("stgraph_cuda_gather_rows", self.types["StgraphGather"](
            index=index.ctypes.data, wide=index.itemsize == 8, rows=len(index), x=self.tensor(x), out=self.tensor(out),
            element=x.itemsize, batch=x.shape[0], time=x.shape[1], width=x.shape[3]))
        return out

    def attention(self, g: Graph, q: ANY, k: ANY, v: ANY, bias: ANY | None, factor: float, dtype: str,
                  dropout: float = 0.0, seed: int = 0, grad: ANY | None = None) -> dict[str, ANY]:
        """Forward, and backward where ``grad`` is given; ``q [B, T, N, H, D]``, or ``[B, T, N, H]`` for scores."""
        b, t, _, heads, width = v.shape
        wide = np.float64 if dtype == "float64" else np.float32
        got = {"out": poisoned((b, t, g.rows, heads, width), v.dtype), "lse": poisoned((b, t, g.rows, heads), wide)}
        call = self.types["StgraphAttention"](
            graph=self.graph(g), q=self.tensor(q), k=self.tensor(k), v=self.tensor(v), out=self.tensor(got["out"]),
            lse=self.tensor(got["lse"]), type=TYPES[dtype], dot=q.ndim == 5, batch=b, time=t, heads=heads, width=width,
            factor=factor, dropout=dropout, seed=seed)
        if bias is not None:
            call.bias, call.bias_edge, call.bias_head = bias.ctypes.data, *[s // bias.itemsize for s in bias.strides]
        self.call("stgraph_cuda_attention", call)
        if grad is not None:
            back = g.transpose()
            got |= {"q": poisoned(q.shape, q.dtype), "k": poisoned(k.shape, k.dtype), "v": poisoned(v.shape, v.dtype),
                    "bias": poisoned((g.entries, heads), wide), "delta": poisoned(got["lse"].shape, wide)}
            call.transpose, call.grad, call.delta = self.graph(back), self.tensor(grad), self.tensor(got["delta"])
            call.grad_q, call.grad_k, call.grad_v = (self.tensor(got[name]) for name in "qkv")
            call.grad_bias = got["bias"].ctypes.data
            for name in ("rows", "columns", "edges"):
                self.call(f"stgraph_cuda_attention_{name}", call)
        return got


def sanitizer_environment() -> dict[str, str]:
    """Environment in which Python may load a library built with AddressSanitizer."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return {**os.environ, "LD_PRELOAD": runtime.strip(),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1"}
