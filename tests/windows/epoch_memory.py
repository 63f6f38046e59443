"""Iterate one epoch of windows in a process of its own and print what memory it took, as JSON.

    python tests/windows/epoch_memory.py SENSORS memory|disk FOLDER [speed.npz of pems_bay_16]

Five months of five-minute readings at SENSORS places: those of the file, repeated, or noise.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from stgraph.graph import Channel, DynamicHeteroGraph, Signal, TimeAxis, load, save
from stgraph.windows import City, PartBatches, TrainingBatches, loader

ROWS = 43_476
NEEDS = frozenset({"profile"})


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tiled(sensors: int, file: str | None) -> Signal:
    """Values and mask ``[T, sensors, 1]``, filled column by column so that nothing else of that size is held."""
    values = np.empty((ROWS, sensors, 1), np.float32)
    mask = np.empty((ROWS, sensors, 1), bool)
    if file is None:
        source = np.random.default_rng(0).normal(28, 4, (ROWS, 16)).astype(np.float32)
    else:
        source = np.load(file, allow_pickle=False)["speed_mph"] * np.float32(0.44704)
    for sensor in range(sensors):
        values[:, sensor, 0] = source[:, sensor % 16]
        mask[:, sensor, 0] = source[:, sensor % 16] != 0
    return Signal(values, mask, [Channel("speed", "speed", "mph")])


def graph_of(signal: Signal) -> DynamicHeteroGraph:
    """A graph whose sensors carry the signal."""
    graph = DynamicHeteroGraph(time=TimeAxis(1_483_257_600, 300, ROWS, "America/Los_Angeles"))
    graph["sensor"].node_id = np.array([str(i) for i in range(signal.shape[1])])
    graph.add_signal("sensor", "readings", signal)
    return graph


def main(sensors: int, form: str, folder: str, file: str | None = None) -> None:
    """Windows of all parts, in order and (some on disk, all in memory) shuffled; then print the peak."""
    if form == "write":
        save(graph_of(tiled(sensors, file)), Path(folder) / "city.stg")
        return
    small = graph_of(tiled(2, None))
    save(small, Path(folder) / f"{form}.stg")
    City(load(Path(folder) / f"{form}.stg", in_memory=form == "memory")).window([50], NEEDS)  # everything is imported
    before = resident()
    graph = load(Path(folder) / "city.stg", in_memory=False) if form == "disk" else graph_of(tiled(sensors, file))
    city = City(graph)
    started = time.perf_counter()
    batches = windows = 0
    for part in ("validation", "test"):
        for window in loader(PartBatches(city, part, 32, NEEDS)):
            batches, windows = batches + 1, windows + window.batch_size
    training = TrainingBatches([city], 32, 10**9, needs=NEEDS)
    training.steps = training.steps_per_pass if form == "memory" else 10
    for window in loader(training):
        batches, windows = batches + 1, windows + window.batch_size
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"signal": city.signal.nbytes, "increase": peak - before, "windows": windows,
                      "share": (peak - before) / city.signal.nbytes, "ms_per_batch": 1e3 * seconds / batches}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
