"""From tensors to CUDA kernels: the operators of torch run the device code on the emulator and equal PyTorch's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated import ROOT, SOURCES

from stgraph.ops.loader import TARGET

TORCH = Path(torch.__file__).parent
FLAGS = ("-std=c++20", "-O0", "-fPIC", "-Wno-psabi", "-Wno-attributes", f"-DTORCH_TARGET_VERSION={TARGET}",
         f"-I{TORCH / 'include'}")
PROGRAM = """
import ctypes, os
import emulated_operators
import torch
from stgraph.ops import Adjacency, attention, backend, library, plan, torch_backend
from stgraph.ops.library import ops
from stgraph.ops.regime import Regime

assert backend().reason == "CUDA kernels on the emulator", backend()
emulator = ctypes.CDLL(os.environ["STGRAPH_EMULATED"])
emulator.stgraph_emulator_blocks.restype = emulator.stgraph_emulator_shared.restype = ctypes.c_int64
torch.manual_seed(0)


def compare(name, expected, *arguments):
    before = emulator.stgraph_emulator_blocks()
    got = getattr(ops, name)(*arguments)
    assert emulator.stgraph_emulator_blocks() > before, f"{name} did not run on the emulator"
    wanted = expected(*arguments)
    for one, other in zip(got if isinstance(got, tuple) else (got,), wanted if isinstance(wanted, tuple) else (wanted,),
                          strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
        assert one.stride() == other.stride(), name


for sources, rows, edges in ((40, 30, 200), (3000, 5, 2500)):  # staged; from global memory, with long rows
    graph = Adjacency.of_edges(torch.stack([torch.randint(sources, (edges,)), torch.randint(rows, (edges,))]), sources,
                               rows)
    back = graph.transpose
    three, turned = (graph.rowptr, graph.col, graph.edge), (back.rowptr, back.col, back.edge)
    x, y = torch.randn(2, 3, sources, 16), torch.randn(2, 3, rows, 16)
    by_node = torch.randn(sources, 2, 3, 16).permute(1, 2, 0, 3)
    for reduce in (0, 1, 2):
        for features, weight in ((x, torch.randn(edges, 2, 1, 4)), (by_node, torch.randn(edges, 1, 1, 1)),
                                 (by_node, None)):
            compare("spmm", torch_backend.spmm, *three, weight, features, y, reduce, *turned)
    compare("sddmm", torch_backend.sddmm, *three, y, x, True, False, 4, *turned)
    compare("gather_rows", torch_backend.gather_rows, x, graph.col, None, None)

# blocks of rows with their halos: the same to the bit as row by row, forward and backward
graph = Adjacency.of_edges(torch.stack([(torch.arange(300)[:, None] + torch.arange(9)).flatten() % 300,
                                        torch.arange(300).repeat_interleave(9)]), 300, 300)
for index in (torch.int32, torch.int64):
    graph = Adjacency(graph.rowptr.to(index), graph.col.to(index), graph.edge.to(index), columns=300)
    graph.halo_plan(), graph.transpose.halo_plan()
    x, y = torch.randn(2, 3, 300, 16), torch.randn(2, 3, 300, 16)
    by_node, y_by_node = (torch.randn(300, 2, 3, 16).permute(1, 2, 0, 3) for _ in range(2))
    for reduce in (0, 1):
        for features, weight in ((x, torch.randn(2700, 2, 1, 4)), (by_node, torch.randn(2700, 1, 1, 1)),
                                 (by_node, None)):
            results = []
            for way in (Regime.BLOCK, Regime.ROWS):
                addend = y_by_node if features is by_node else y
                leaves = [part.detach().requires_grad_() for part in (features, addend, weight) if part is not None]
                out = plan.product(way, graph, leaves[0], leaves[2] if weight is not None else None, leaves[1], reduce)
                tile = 64 if features is by_node else 16
                assert way is Regime.ROWS or emulator.stgraph_emulator_shared() == graph.blocks.widest * tile * 4
                results.append((out, *torch.autograd.grad(out, leaves, torch.ones_like(out))))
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
                assert one.stride() == other.stride()

# spmm stages all sources exactly where the choice in Python says so
for sources, lead, width, dtype in ((781, (1, 1), 64, torch.float32), (782, (1, 1), 64, torch.float32),
                                    (782, (1, 1), 63, torch.float32), (1563, (1, 1), 64, torch.bfloat16),
                                    (1562, (1, 1), 64, torch.bfloat16), (391, (1, 1), 64, torch.float64),
                                    (900, (2, 2), 16, torch.float32), (900, (2, 2), 64, torch.float32)):
    graph = Adjacency.of_edges(torch.stack([torch.randint(sources, (60,)), torch.randint(40, (60,))]), sources, 40)
    x = torch.randn(*lead, sources, width).to(dtype)
    for features in (x, x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)):
        for reduce in (0, 1, 2):
            ops.spmm(*graph.parts, None, features, None, reduce, None, None, None)
            way = plan.decide(graph, features, reduce=reduce, device="cuda", lasting=False).regime
            assert (emulator.stgraph_emulator_shared() > 0) == (way is Regime.STAGED), (sources, width, reduce, way)

ptr = torch.tensor([0, 3, 3, 700, 701])
for reduce in (0, 1, 2):
    compare("segment_reduce", torch_backend.segment_reduce, ptr, torch.randn(1, 2, 701, 6), reduce)

graph = Adjacency.of_edges(torch.stack([torch.randint(20, (90,)), torch.randint(9, (90,))]), 20, 12)
back = graph.transpose
three, turned = (graph.rowptr, graph.col, graph.edge), (back.rowptr, back.col, back.edge)
value, bias = torch.randn(2, 3, 20, 4, 16), torch.randn(90, 4)
for name, axes in (("graph_attention", (4, 16)), ("gat_aggregate", (4,))):
    query, key = torch.randn(2, 3, 12, *axes), torch.randn(2, 3, 20, *axes)
    for dropout in (0.0, 0.25):
        leaves = [part.clone().requires_grad_() for part in (query, key, value, bias)]
        before = emulator.stgraph_emulator_blocks()
        out, lse = getattr(ops, name)(*three, *leaves, 0.3, dropout, 5, *turned)
        grad = torch.randn_like(out)
        got = torch.autograd.grad(out, leaves, grad)
        assert emulator.stgraph_emulator_blocks() > before
        # the same in float64, edge by edge
        q, k, v, b = (part.detach().double().requires_grad_() for part in leaves)
        row, col = graph.row.long(), graph.col.long()
        of_edge = b[graph.edge.long()]
        score = (q[:, :, row] * k[:, :, col]).sum(-1) * 0.3 + of_edge if len(axes) == 2 else \\
            torch.nn.functional.leaky_relu(q[:, :, row] + k[:, :, col] + of_edge, 0.3)
        mass = torch.zeros(2, 3, 12, 4, dtype=torch.float64).index_add(2, row, score.exp())
        torch.testing.assert_close(lse.double(), mass.log(), atol=1e-5, rtol=1e-5)
        if dropout:
            continue  # the mask is that of the checks in emulated_checks.py
        total = torch.zeros(2, 3, 12, 4, 16, dtype=torch.float64).index_add(
            2, row, (score.exp() / mass[:, :, row])[..., None] * v[:, :, col])
        torch.testing.assert_close(out.double(), total, atol=1e-5, rtol=1e-5)
        for one, other in zip(got, torch.autograd.grad(total, (q, k, v, b), grad.double()), strict=True):
            torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)
print("equal")
"""


def test_operators_run_the_device_code(build_folder: Path, library: Path) -> None:
    work = build_folder / "register"
    work.mkdir()
    subprocess.run(["g++", *FLAGS, "-DSTGRAPH_EMULATOR", "-c", str(ROOT / "cuda_register.cpp"), "-o",
                    str(work / "register.o")], check=True)
    objects = [str(library.parent / f"{name}.o") for name in (*SOURCES, "emulator")]
    subprocess.run(["g++", "-shared", str(work / "register.o"), *objects, "-o", str(work / "operators.so"),
                    f"-L{TORCH / 'lib'}", "-ltorch_cpu"], check=True)
    environment = {**os.environ, "STGRAPH_EMULATED": str(work / "operators.so"), "STGRAPH_KERNELS": "require",
                   "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT.parent)])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == ["equal"]


def test_the_glue_needs_only_the_stable_interface_of_torch(build_folder: Path, library: Path) -> None:
    """Compiled for a GPU: nothing of ATen or c10, no stream getter to link against, and every launcher exists."""
    made = build_folder / "glue.o"
    subprocess.run(["g++", *FLAGS, "-c", str(ROOT / "cuda_register.cpp"), "-o", str(made)], check=True)
    wanted = subprocess.run(["nm", "--undefined-only", "--format=just-symbols", str(made)], capture_output=True,
                            text=True, check=True).stdout.split()
    assert not [name for name in wanted if name.startswith(("_ZN2at", "_ZN3c10", "_ZNK2at", "_ZNK3c10"))]
    assert "aoti_torch_get_current_cuda_stream" not in wanted
    defined = subprocess.run(["nm", "-D", "--defined-only", "--format=just-symbols", str(library)], capture_output=True,
                             text=True, check=True).stdout.split()
    launchers = {name for name in wanted if name.startswith("stgraph_cuda_")}
    assert launchers <= set(defined)
    assert launchers == {name for name in defined if name.startswith("stgraph_cuda_")}, "a launcher is not in use"


@pytest.mark.parametrize("name", SOURCES)
def test_device_code_includes_nothing_of_torch(name: str) -> None:
    assert "torch" not in (ROOT / "cuda" / f"{name}.cu").read_text(encoding="utf-8")
