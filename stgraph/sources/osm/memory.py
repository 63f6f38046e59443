"""How much memory a process takes, and how it takes less."""

from __future__ import annotations

import os
import resource
import sys


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def keep_no_spare_memory() -> None:
    """Let Arrow take memory from the C library instead of keeping its own, which :func:`give_back` does not reach.

    Only before pyarrow is imported.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def give_back() -> None:
    """Give memory that was freed, and that the C library (glibc) keeps for later, back to the system."""
    if sys.platform.startswith("linux"):
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
