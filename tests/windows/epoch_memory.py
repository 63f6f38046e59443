"""Iterate one epoch of windows in a process of its own and print what memory it took, as JSON.

    python tests/windows/epoch_memory.py memory FOLDER --sensors 2000 --source pems_bay_16/speed.npz
    python tests/windows/epoch_memory.py write FOLDER --sensors 2000 --source pems_bay_16/speed.npz
    python tests/windows/epoch_memory.py disk FOLDER

Five months of readings at many places: those of the file (five minutes, 16 places), repeated; or noise.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, load, save
from stgraph.windows import City, PartBatches, TrainingBatches, loader

NEEDS = frozenset({"profile"})


def resident(peak: bool = False) -> int:
    """Bytes of this process in memory now, or the most there ever were (getrusage would count the parent's too)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def tiled(sensors: int, step: int, file: str | None) -> DynamicHeteroGraph:
    """Readings of many sensors, filled column by column so that nothing else of that size is held."""
    rows = 43_476 * 300 // step
    if file is None:
        source = np.random.default_rng(0).normal(28, 4, (rows, 16)).astype(np.float32)
        source[::50] = 0
    else:
        source = np.load(file, allow_pickle=False)["speed_mph"] * np.float32(0.44704)
    values = np.empty((rows, sensors, 1), np.float32)
    mask = np.empty((rows, sensors, 1), bool)
    for sensor in range(sensors):
        values[:, sensor, 0] = source[:, sensor % 16]
        mask[:, sensor, 0] = source[:, sensor % 16] != 0
    graph = DynamicHeteroGraph(time=TimeAxis(1_483_257_600, step, rows, "America/Los_Angeles"))
    graph["sensor"].node_id = np.array([str(i) for i in range(sensors)])
    graph.add_signal("sensor", "readings", Signal(values, mask, [Channel("speed", "speed", "mph")]))
    return graph


def epoch(city: City, shuffled: int | None) -> tuple[int, int]:
    """Cut every window of validation in order, and an epoch (or some batches) of training, shuffled.

    Returns:
        Number of batches and of windows.
    """
    training = TrainingBatches([city], 32, 10**9, needs=NEEDS)
    training.steps = training.steps_per_pass if shuffled is None else shuffled
    parts = PartBatches(city, "validation", 32, NEEDS), training
    sizes = [window.batch_size for batches in parts for window in loader(batches)]
    return len(sizes), sum(sizes)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["memory", "write", "disk"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sensors", type=int, default=16)
    parser.add_argument("--step", type=int, default=300, help="seconds from one row of the noise to the next")
    parser.add_argument("--source")
    asked = parser.parse_args()
    path = asked.folder / "city.stg"
    if asked.form == "write":
        save(tiled(asked.sensors, asked.step, asked.source), path)
        return
    small = asked.folder / f"small-{asked.form}.stg"
    save(tiled(2, 3600, None), small)
    epoch(City(load(small, in_memory=asked.form == "memory")), 1)  # everything is imported
    before = resident()
    started = time.perf_counter()
    on_disk = asked.form == "disk"
    city = City(load(path, in_memory=False) if on_disk else tiled(asked.sensors, asked.step, asked.source))
    batches, windows = epoch(city, 10 if on_disk else None)
    seconds = time.perf_counter() - started
    increase = resident(peak=True) - before
    print(json.dumps({"signal": city.signal.nbytes, "increase": increase, "share": increase / city.signal.nbytes,
                      "windows": windows, "ms_per_batch": 1e3 * seconds / batches}))


if __name__ == "__main__":
    main()
