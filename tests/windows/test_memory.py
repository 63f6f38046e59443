"""Memory does not grow with the number of windows: an epoch costs little beyond the signal itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stgraph.graph import TimeAxis, save

SCRIPT = Path(__file__).with_name("epoch_memory.py")
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the size of a process in /proc")


def run(*arguments: object) -> dict[str, float]:
    """What the script prints."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_epoch_in_memory_holds_under_one_and_a_half_signals(tmp_path: Path) -> None:
    found = run("memory", tmp_path, "--sensors", 400)
    assert found["windows"] > 34_000  # materialised, they would take 24 signals
    assert 1.0 < found["share"] < 1.5


def test_a_signal_on_disk_stays_there(tmp_path: Path, make_city, readings) -> None:
    values, mask = (np.tile(part, (1, 40, 1)) for part in readings(43_476, nodes=15, channels=1))
    save(make_city(values, mask, TimeAxis(0, 300, len(values))).graph, tmp_path / "city.stg")
    found = run("disk", tmp_path)
    assert found["signal"] == 43_476 * 600 * 5
    assert found["windows"] > 4_300
    assert found["share"] < 0.75
