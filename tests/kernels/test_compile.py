"""The CUDA sources compile for each architecture without spilling registers, and read 16 bytes at a time.

What the compiler says is kept in the cache folder under a hash of the sources and the compiler, so only changed sources
are compiled again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from emulated import ROOT, SOURCES

from stgraph.ops.loader import cache_folder

ARCHITECTURES = ("80", "90", "100")
FLAGS = ("-std=c++17", "-O3")
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: nothing compiles for a GPU here")


def report(name: str, tmp_path: Path) -> str:
    """The words of the compiler about one source for all architectures, and its intermediate code after a line of =."""
    digest = hashlib.sha256(" ".join((*FLAGS, *ARCHITECTURES)).encode())
    digest.update(subprocess.run([str(NVCC), "--version"], capture_output=True, check=True).stdout)
    for file in (ROOT / "cuda" / f"{name}.cu", *sorted((ROOT / "cuda").glob("*.h")),
                 *sorted((ROOT / "cuda").glob("*.cuh"))):
        digest.update(file.read_bytes())
    kept = cache_folder() / f"{name}-{digest.hexdigest()[:24]}.nvcc"
    if not kept.exists():
        codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
        done = subprocess.run([str(NVCC), *FLAGS, *codes, "-Xptxas", "-v", "-Xcompiler", "-fPIC", "--keep",
                               "--keep-dir", str(tmp_path), "-c", str(ROOT / "cuda" / f"{name}.cu"), "-o",
                               str(tmp_path / "out.o")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        intermediate = next(tmp_path.glob("*compute_90*.ptx")).read_text(encoding="utf-8")
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = tmp_path / "report"
        part.write_text(done.stdout + done.stderr + "\n=====\n" + intermediate, encoding="utf-8")
        moved = kept.with_suffix(f".{os.getpid()}")
        shutil.copy(part, moved)
        os.replace(moved, kept)
    return kept.read_text(encoding="utf-8")


def spills(words: str) -> list[str]:
    """The kernels that keep something on a stack, with what the compiler says of them."""
    found = []
    kernel = r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n(.*?)(?=\nptxas info    : Comp|\Z)"
    for name, architecture, body in re.findall(kernel, words, re.S):
        numbers = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", body)
        assert numbers, f"the compiler says nothing of the stack of {name}"
        if any(int(number) for number in numbers.groups()):
            found.append(f"sm_{architecture} {name}: {numbers[0]}")
    return found


@needs_nvcc
@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_spilled(name: str, tmp_path: Path) -> None:
    words, intermediate = report(name, tmp_path).split("\n=====\n")
    for architecture in ARCHITECTURES:
        assert f"for 'sm_{architecture}'" in words
    assert not spills(words)
    assert not re.search(r"warning", words), words[:2000]
    assert "ld.global.nc.v4" in intermediate, "rows are read 16 bytes at a time"
    assert ".local" not in intermediate, "no array lies in memory of its own"


def test_a_spill_is_seen() -> None:
    words = "".join(f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\n"
                    f"ptxas info    : Function properties for {name}\n"
                    f"    {2 * n} bytes stack frame, {n} bytes spill stores, {n} bytes spill loads\n"
                    f"ptxas info    : Used 48 registers\n" for name, n in (("_Zone", 4), ("_Ztwo", 0)))
    assert spills(words) == ["sm_90 _Zone: 8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads"]
