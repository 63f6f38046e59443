"""A plugin for pytest: puts the emulated CUDA kernels in the place of the CPU's, for tests of the operators.

``STGRAPH_EMULATED`` names the library. Operators that have no CUDA kernel run in PyTorch's own ones.
"""

from __future__ import annotations

import os
from pathlib import Path

from stgraph.ops import loader

LIBRARY = Path(os.environ["STGRAPH_EMULATED"])


def _library(*_: object) -> tuple[Path, bool, str]:
    return LIBRARY, False, "CUDA kernels on the emulator"


loader._library = _library  # type: ignore[assignment]
