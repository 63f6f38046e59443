"""What the numbers were taken on: processor, caches, versions, load, allocator; how fast it copies and multiplies."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stgraph.bench.timing import Call, Clock
from stgraph.errors import InputError
from stgraph.ops import backend
from stgraph.ops.loader import compiler
from stgraph.version import versions

NOT_ON_GPU = "not measured on a GPU"
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # numbers of glibc's mallopt
_FALLBACK_CACHE = 32 << 20
_GEMM = 768


def set_allocator(choice: str) -> dict[str, Any]:
    """Tell the C library's allocator to keep freed memory or not, for everything that runs in this process.

    Filling a fresh large tensor costs a page fault per 4 KiB where freed memory goes back to the system, many times
    what an operator costs. ``keep`` does what the environment does with ``MALLOC_MMAP_MAX_=0`` and
    ``MALLOC_TRIM_THRESHOLD_=100000000000``.

    Args:
        choice: ``keep`` or ``default``.

    Returns:
        What was set and how, and the page faults of filling a second fresh tensor of 64 MiB.

    Raises:
        InputError: for another choice.
    """
    if choice not in ("keep", "default"):
        raise InputError("no such allocator setting", field="--malloc", value=choice, remedy="keep or default")
    how = "as the environment has it"
    if choice == "keep":
        try:
            library = ctypes.CDLL(None)
            done = library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1)
            how = "set by mallopt for all ways alike" if done else "refused by mallopt"
            _settle()
        except (OSError, AttributeError, TypeError):
            how = "not glibc: as it is"
    given = {name: os.environ[name] for name in KEEP if name in os.environ}
    return {"choice": choice, "how": how, "environment": given, "faults_of_a_fresh_64_mib": _faults()}


def give_back_memory() -> None:
    """Let every block of more than 128 KiB go back to the system when it is freed, so that a peak shows all of them."""
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17)
    except (OSError, AttributeError, TypeError):
        return


def _faults(numbers: int = 1 << 24) -> int:
    """Page faults of filling a fresh tensor of float32, after another one was freed."""
    torch.empty(numbers).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(numbers).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _settle() -> None:
    """Free tensors until one is put where an earlier one was.

    At first glibc (before 2.38) cannot use the place of a freed tensor for one of the same size: aligned blocks are
    asked for with some slack, whose rest stays in a cache of a few small blocks and keeps neighbours apart. Once that
    cache is full, it can.
    """
    quiet = 0
    for _ in range(64):
        quiet = quiet + 1 if _faults(1 << 22) < 64 else 0
        if quiet == 3:
            return


# ---------------------------------------------------------------- description
def cache_sizes() -> dict[str, int]:
    """Bytes of the processor's data caches by level, as the system tells: L1, L2, L3."""
    found: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            size = (folder / "size").read_text().strip()
            level = (folder / "level").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size[:-1].isdigit():
            found[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20}.get(size[-1], 0)
    return found


def last_cache(device: str) -> int:
    """Bytes of the last-level cache of a device; 32 MiB where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", _FALLBACK_CACHE))
    return max(cache_sizes().values(), default=_FALLBACK_CACHE)


def processor() -> str:
    """Its name."""
    path = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines()
             if line.startswith("model name")] if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def load() -> float | None:
    """Programs that ran or waited in the last minute, in the mean; above 1 per core others shared the machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(device: str) -> dict[str, Any]:
    """The machine and the versions."""
    found = backend()
    gpu: Any = NOT_ON_GPU
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = {"name": properties.name, "memory_bytes": properties.total_memory, "l2_bytes": last_cache(device),
               "cuda": torch.version.cuda}
    return {
        "processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "caches": cache_sizes(),
        "system": f"{platform.system()} {platform.machine()}", "gpu": gpu,
        "versions": versions() | {"scipy": metadata.version("scipy"), "compiler": compiler() and _compiler_version()},
        "backend": {"name": found.name, "reason": found.reason, "cuda": found.cuda, "log": found.log},
    }


def _compiler_version() -> str | None:
    import subprocess

    done = subprocess.run([str(compiler()), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


# ---------------------------------------------------------------- what it can do
def copy_call(device: str) -> tuple[Call, int]:
    """A copy of a tensor twice as large as the last cache at least, and the bytes that it reads and writes."""
    size = max(2 * last_cache(device), 64 << 20)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), 2 * 4 * source.numel()


def gemm_call(device: str, dtype: torch.dtype) -> tuple[Call, int]:
    """A dense product in float32 (float64 for float64), and its operations."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    size = 8192 if torch.device(device).type == "cuda" else _GEMM
    left, right = (torch.ones(size, size, device=device, dtype=wide) for _ in range(2))
    out = torch.empty_like(left)
    return (lambda: torch.mm(left, right, out=out)), 2 * size**3


def abilities(device: str, dtype: torch.dtype, samples: int = 9) -> dict[str, float]:
    """Bytes per second of a copy and operations per second of a dense product, medians."""
    clock = Clock(device)
    found = {}
    for name, (call, amount) in {"copy_gb_s": copy_call(device), "gemm_gflop_s": gemm_call(device, dtype)}.items():
        times = [clock.sample([call], 1, [None])[0] for _ in range(samples + 1)][1:]
        found[name] = amount / float(np.median(times)) / 1e9
    return found
