"""Bugs planted in the kernels are found: what the emulator and the checks are for.

Each bug is one replacement in a copy of the sources. A barrier that is missing or a wrong number must make a check
fail, an access out of bounds must be reported by AddressSanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulated import ROOT, compile_kernels, sanitizer_environment

CHECKS = Path(__file__).with_name("emulated_checks.py")
SANITIZE = ("-fsanitize=address", "-fno-omit-frame-pointer", "-g1")


@dataclass(frozen=True)
class Mutant:
    """One planted bug: in ``file`` the text ``old`` becomes ``new``, and ``group`` must find it in ``kernel``."""

    what: str
    kernel: str
    group: str
    old: str
    new: str
    file: str = ""
    sanitize: bool = False


MUTANTS = [
    Mutant("no barrier between staging and reading", "staged", "staged", "  __syncthreads();\n", ""),
    Mutant("a row beyond the last", "spmm", "spmm", "if (row >= p.rows.count ||", "if (row > p.rows.count ||",
           sanitize=True),
    Mutant("a slot beyond the halo", "staged", "staged", "slot < count; slot", "slot <= count; slot", sanitize=True),
    Mutant("an entry beyond the last", "sddmm", "sddmm", "if (own < p.rows.entries)", "if (own <= p.rows.entries)",
           sanitize=True),
    Mutant("channels beyond the last", "attention", "attention", "if (channel + i < p.width) to[", "to[",
           file="attention.cuh", sanitize=True),
    Mutant("places computed in 32 bits", "spmm", "far", "load<scalar_t, kCount>(x + from * row_stride)",
           "load<scalar_t, kCount>(x + static_cast<int32_t>(from * row_stride))", file="rows.cuh"),
    Mutant("vectors where nothing is aligned", "spmm", "spmm",
           "call.width % count == 0 && aligned(call.x, bytes, count)", "call.width % count == 0", file="rows.cuh"),
    Mutant("the last four entries taken twice", "spmm", "spmm", "entry + kInFlight <= end;", "entry + 3 <= end;",
           file="rows.cuh"),
    Mutant("a row at the limit summed by nobody", "spmm", "long_rows", "end - begin > kWindow",
           "end - begin >= kWindow"),
    Mutant("the first part of a long row looked for in the wrong place", "spmm", "long_rows",
           "int side = p.rows.rowptr[row] > first;", "int side = p.rows.rowptr[row] >= first;"),
    Mutant("the last part of a long row left out", "spmm", "long_rows",
           "(p.rows.rowptr[row + 1] + kWindow - 1) / kWindow", "p.rows.rowptr[row + 1] / kWindow"),
    Mutant("a row looked for one too far", "spmm", "long_rows", "if (rowptr[middle + 1] <= entry)",
           "if (rowptr[middle + 1] < entry)", file="common.cuh"),
    Mutant("a NaN lost in a maximum", "spmm", "not_a_number",
           " || (given != given && value[channel] == value[channel])", "", file="rows.cuh"),
    Mutant("the weight of another head", "spmm", "spmm", "/ p.head_width * p.weight.head",
           "% p.head_width * p.weight.head", file="rows.cuh"),
    Mutant("weights in the order of the entries", "spmm", "spmm", "edge.data ? edge[entry] : entry", "entry",
           file="common.cuh"),
    Mutant("a mean of an empty row", "spmm", "spmm", "entries > 0 ? entries : 1", "entries", file="rows.cuh"),
    Mutant("blocks of 2048 threads", "gather", "gather", "kThreads = 256", "kThreads = 2048", file="common.cuh"),
    Mutant("a shuffle that adds too few lanes", "sddmm", "sddmm", "int step = p.lanes / 2;", "int step = p.lanes / 4;"),
    Mutant("lanes without an entry write", "sddmm", "sddmm", "own_edge = -1;", "own_edge = 0;"),
    Mutant("groups merged without their scale", "attention", "attention", "other_mass * theirs", "other_mass"),
    Mutant("lanes leave before a shuffle", "attention", "attention",
           "    if constexpr (kDot) given = over_lanes(p, given);\n    if (!active) continue;\n    acc_t own",
           "    if (!active) continue;\n    if constexpr (kDot) given = over_lanes(p, given);\n    acc_t own"),
    Mutant("an empty row divided by its mass", "attention", "attention", "mass == 0 ? acc_t(0) : 1 / mass", "1 / mass"),
    Mutant("a row of -inf in the backward pass", "attention", "minus_infinity",
           "(lse == minus_infinity<acc_t>() ? acc_t(0) : lse)", "lse"),
    Mutant("values that were dropped get a gradient", "attention", "attention", "    chance *= kept;\n", ""),
    Mutant("a score over the first channels of a wide head", "attention", "attention",
           "first < p.width; first += 4 * p.lanes", "first < 128; first += 4 * p.lanes", file="attention.cuh"),
    Mutant("the same tile of a wide head twice", "attention", "attention", "tile % p.channel_tiles * kTile", "0",
           file="attention.cuh"),
    Mutant("the last tile of a wide head left out", "attention", "attention",
           "static_cast<int>(divide_up(call.width, kTile))", "static_cast<int>(call.width / kTile)"),
    Mutant("scores that overflow", "attention", "attention", "best = own > best ? own : best;",
           "best = own > best ? acc_t(0) : best;"),
]


def build(mutant: Mutant, work: Path, emulator: Path) -> Path:
    """The kernel with its bug, compiled in a folder of its own."""
    shutil.copytree(ROOT / "cuda", work / "cuda")
    shutil.copytree(ROOT / "emulator", work / "emulator")
    file = work / "cuda" / (mutant.file or f"{mutant.kernel}.cu")
    text = file.read_text(encoding="utf-8")
    assert text.count(mutant.old) >= 1, f"{file.name} no longer has the text that is to be replaced"
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    names = (mutant.kernel, "gather", "sddmm") if mutant.group == "far" else (mutant.kernel,)
    flags = ("-DSTGRAPH_FLOAT32_ONLY", "-Wno-error") if mutant.group != "far" else ("-Wno-error",)
    return compile_kernels(work / "out", names, work, (*flags, *(SANITIZE if mutant.sanitize else ())),
                           () if mutant.sanitize else (emulator,))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_planted_bugs_are_found(mutant: Mutant, tmp_path: Path, library: Path) -> None:
    made = build(mutant, tmp_path, library.parent / "emulator.o")
    environment = sanitizer_environment() if mutant.sanitize else dict(os.environ)
    done = subprocess.run([sys.executable, str(CHECKS), str(made), mutant.group], capture_output=True, text=True,
                          check=False, timeout=120, env=environment)
    if mutant.sanitize:
        assert done.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stdout + done.stderr[-2000:]
        assert f"{mutant.kernel}.cu:" in done.stderr or ".cuh:" in done.stderr, "the report names the kernel's line"
    elif mutant.group == "far":
        assert done.returncode != 0, "an address 2^31 numbers off was not noticed"
    else:
        assert done.returncode == 1, done.stdout + done.stderr[-2000:]
        assert "Error" in done.stdout
