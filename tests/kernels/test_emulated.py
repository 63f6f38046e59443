"""The CUDA kernels on the emulator: right on every input, in every order of threads, and inside their memory."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated import ROOT, Kernels, LaunchError, compile_kernels, graph_of, sanitizer_environment, structures
from emulated_checks import GROUPS, bits

CHECKS = Path(__file__).with_name("emulated_checks.py")


@pytest.mark.parametrize("group", GROUPS)
def test_kernels_equal_the_reference(kernels: Kernels, group: str) -> None:
    GROUPS[group](kernels)


def test_no_access_out_of_bounds(build_folder: Path) -> None:
    """The same checks with every access watched; ``far`` maps gigabytes, which the sanitizer cannot shadow."""
    library = compile_kernels(build_folder / "sanitized",
                              flags=("-fsanitize=address", "-fno-omit-frame-pointer", "-g1", "-DSTGRAPH_FLOAT32_ONLY"))
    groups = ",".join(name for name in GROUPS if name != "far")
    done = subprocess.run([sys.executable, str(CHECKS), str(library), groups], env=sanitizer_environment(),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.parametrize(("rows", "width", "batch"), [(1, 16, 5), (3, 4, 2)])
def test_a_batch_equals_its_entries_one_by_one(kernels: Kernels, rows: int, width: int, batch: int) -> None:
    rng = np.random.default_rng(0)
    g = graph_of(rng.integers(1, 9, rows), 6, rng)
    x = rng.standard_normal((batch, 2, 6, width)).astype(np.float32)
    together = kernels.spmm(g, x)[0]
    assert bits(together) == b"".join(bits(kernels.spmm(g, x[b:b + 1])[0]) for b in range(batch))


def test_unknown_types_are_refused(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    g = graph_of(np.array([2, 1]), 2, rng)
    call, _, _ = kernels._spmm_call(g, np.zeros((1, 1, 2, 4), np.float32), None, None, "sum", "float32", True)
    call.type = 9
    with pytest.raises(LaunchError, match="-1"):
        kernels.call("stgraph_cuda_spmm", call)


def test_the_header_is_read_as_a_compiler_reads_it(build_folder: Path) -> None:
    """Sizes of the structures that the tests build from the text of ``api.h``."""
    found = structures((ROOT / "cuda" / "api.h").read_text(encoding="utf-8"))
    names = [name for name in found if name.startswith("Stgraph")]
    source = build_folder / "sizes.cpp"
    source.write_text(f'#include "{ROOT / "cuda" / "api.h"}"\n#include <cstdio>\nint main() {{ '
                      + "".join(f'std::printf("%zu ", sizeof({name}));' for name in names) + " }\n", encoding="utf-8")
    subprocess.run(["g++", str(source), "-o", str(build_folder / "sizes")], check=True)
    printed = subprocess.run([str(build_folder / "sizes")], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(ctypes.sizeof(found[name])) for name in names]


# ---------------------------------------------------------------- the emulator itself
@pytest.fixture(scope="module")
def misuse(build_folder: Path, library: Path) -> ctypes.CDLL:
    work = build_folder / "misuse"
    work.mkdir()
    subprocess.run(["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-DSTGRAPH_EMULATOR", "-Wno-unknown-pragmas", "-x",
                    "c++", str(ROOT / "tests" / "misuse.cu"), "-x", "none", str(library.parent / "emulator.o"), "-o",
                    str(work / "misuse.so")], check=True)
    loaded = ctypes.CDLL(str(work / "misuse.so"))
    loaded.stgraph_emulator_error.restype = ctypes.c_char_p
    loaded.stgraph_emulator_configure.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    loaded.stgraph_test_misuse.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_int64]
    return loaded


def said(loaded: ctypes.CDLL, kind: int, seed: int, threads: int = 64, shared: int = 256, limit: int = 99 * 1024,
         blocks: int = 1) -> str:
    """What the emulator has to say about a kernel; empty where nothing is wrong."""
    out = np.zeros(2048, np.float32)
    loaded.stgraph_emulator_configure(seed, limit)
    code = loaded.stgraph_test_misuse(out.ctypes.data, kind, blocks, threads, shared)
    return loaded.stgraph_emulator_error().decode() if code else ""


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize(("kind", "words"), [
    (1, "barrier|wait at line"), (2, "different barriers"), (3, "has left|wait at line"), (4, "outside of its mask"),
    (5, "different places"), (6, "not in its own mask"), (7, "off its alignment"),
])
def test_misuse_is_refused(misuse: ctypes.CDLL, kind: int, words: str, seed: int) -> None:
    assert re.search(words, said(misuse, kind, seed))
    assert said(misuse, 0, seed) == "", "the emulator goes on after an error"


def test_limits_of_the_hardware(misuse: ctypes.CDLL) -> None:
    assert "1024 threads" in said(misuse, 0, 1, threads=1056, shared=8192)
    assert said(misuse, 0, 1, threads=1024, shared=8192) == ""
    assert "shared memory" in said(misuse, 0, 1, shared=99 * 1024 + 1)
    assert said(misuse, 0, 1, shared=100 * 1024, limit=227 * 1024) == ""
    for y, z in ((65536, 1), (1, 65536)):
        assert misuse.stgraph_test_grid(1, y, z) != 0
    assert misuse.stgraph_test_grid(1, 65535, 1) == 0


@pytest.mark.parametrize("seed", [0, 5])
def test_neighbours_see_what_was_written_before_a_barrier(misuse: ctypes.CDLL, seed: int) -> None:
    out = np.zeros(64, np.float32)
    misuse.stgraph_emulator_configure(seed, 99 * 1024)
    assert misuse.stgraph_test_misuse(out.ctypes.data, 0, 1, 64, 256) == 0
    assert (out == np.roll(np.arange(64), -1)).all()


def test_shared_memory_is_poison(misuse: ctypes.CDLL) -> None:
    out = np.zeros(64, np.float32)
    misuse.stgraph_emulator_configure(1, 99 * 1024)
    assert misuse.stgraph_test_misuse(out.ctypes.data, 8, 1, 64, 256) == 0
    assert np.isnan(out).all()
