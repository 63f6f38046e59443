"""Memory does not grow with the number of windows: an epoch costs little beyond the signal itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("epoch_memory.py")
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of a process in /proc")


def run(*arguments: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_epoch_in_memory_holds_under_one_and_a_half_signals(tmp_path: Path) -> None:
    found = json.loads(run(400, "memory", tmp_path))
    assert found["windows"] > 43_000  # materialised, they would take 24 signals
    assert 1.0 < found["share"] < 1.5


def test_a_signal_on_disk_stays_there(tmp_path: Path) -> None:
    run(400, "write", tmp_path)
    found = json.loads(run(400, "disk", tmp_path))
    assert found["windows"] > 13_000
    assert found["share"] < 0.75
