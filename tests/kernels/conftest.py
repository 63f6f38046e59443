"""The CUDA sources, compiled once per session for the emulator."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # emulated.py, emulated_checks.py

from emulated import Kernels, compile_kernels


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels lie during the tests."""
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def library(build_folder: Path) -> Path:
    """All kernels with the emulator."""
    return compile_kernels(build_folder / "all")


@pytest.fixture
def kernels(library: Path) -> Kernels:
    """All kernels, callable on numpy arrays."""
    return Kernels(library)
