"""Signals: shapes, channels, parts of what lies in memory and of what lies on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.graph.signal import Channel, LazyArray, Signal, in_memory

CHANNELS = [Channel("speed", "speed", "mph"), Channel("flow", "flow", "veh/5min"), Channel("share", "share", "%")]


class Disk:
    """An array that remembers which rows were read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.dtype, self.shape = values, values.dtype, values.shape
        self.rows: list[tuple[int, int]] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.rows.append((rows.start, rows.stop))
        return self.values[rows]


@given(st.data())
def test_a_part_on_disk_is_the_part_in_memory(data: st.DataObject) -> None:
    values = np.arange(10 * 4 * 3, dtype=np.float32).reshape(10, 4, 3)
    mask = values % 7 > 0
    plain, lazy = Signal(values, mask, CHANNELS), Signal(Disk(values), Disk(mask), CHANNELS)
    for _ in range(data.draw(st.integers(1, 3))):
        length, places, _ = plain.shape
        start = data.draw(st.integers(0, length))
        part = {
            "rows": data.draw(st.sampled_from([None, slice(start, data.draw(st.integers(start, length)))])),
            "nodes": data.draw(st.none() | st.lists(st.integers(0, places - 1), min_size=1, max_size=5)),
            "channels": data.draw(st.none() | st.permutations(plain.channel_names)),
        }
        plain, lazy = plain.select(**part), lazy.select(**part)
    assert plain.channels == lazy.channels
    assert plain.shape == lazy.shape
    stop = data.draw(st.integers(0, plain.shape[0]))
    for one, other in zip(plain.read(0, stop), lazy.read(0, stop), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(lazy.values[:], plain.values)


def test_choosing_reads_nothing_and_reading_reads_only_its_rows() -> None:
    disk = Disk(np.zeros((100, 4, 3), np.float32))
    part = Signal(disk, None, CHANNELS).select(nodes=[1, 2], channels=["flow"], rows=slice(20, 60))
    assert disk.rows == []
    values, mask = part.read(5, 7)
    assert disk.rows == [(25, 27)]
    assert values.shape == mask.shape == (2, 2, 1)
    assert mask.all()


def test_a_memory_map_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "values.npy", np.arange(24.0).reshape(4, 3, 2))
    values = np.load(tmp_path / "values.npy", mmap_mode="r")
    assert not in_memory(values)
    part = Signal(values, None, CHANNELS[:2]).select(nodes=[2, 0])
    assert isinstance(part.values, LazyArray)
    np.testing.assert_array_equal(part.read(1, 2)[0], values[1:2, [2, 0]])


def test_rows_in_memory_are_a_view_and_a_copy_is_not() -> None:
    signal = Signal(np.zeros((4, 3, 2)), np.ones((4, 3, 2), bool), CHANNELS[:2])
    assert np.shares_memory(signal.select(rows=slice(1, 3)).values, signal.values)
    assert signal.select() is signal
    copy = signal.copy()
    assert not np.shares_memory(copy.values, signal.values)
    assert not np.shares_memory(copy.mask, signal.mask)


def test_values_go_back_to_the_unit_of_the_source() -> None:
    signal = Signal(np.array([[[10 * 0.44704, 1200.0, 0.5]]]), None, CHANNELS)
    assert [signal.to_source(signal.values[..., i], i).item() for i in range(3)] == pytest.approx([10, 100, 50])
    assert [channel.unit for channel in signal.channels] == ["m/s", "veh/h", "1"]
    assert pickle.loads(pickle.dumps(signal)).channels == signal.channels
    assert [Channel.from_dict(channel.to_dict()) for channel in signal.channels] == list(signal.channels)


@pytest.mark.parametrize(("values", "mask", "channels", "field"), [
    (np.zeros((4, 3)), None, CHANNELS, "values"),
    (np.zeros((4, 3, 3)), np.ones((4, 3, 2), bool), CHANNELS, "mask"),
    (np.zeros((4, 3, 2)), None, CHANNELS, "channels"),
])
def test_parts_that_do_not_fit(values: np.ndarray, mask: np.ndarray | None, channels: list[Channel],
                               field: str) -> None:
    with pytest.raises(InputError) as caught:
        Signal(values, mask, channels)
    assert caught.value.field == field


def test_a_channel_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"speed, flow"):
        Signal(np.zeros((1, 1, 2)), None, CHANNELS[:2]).select(channels=["noise"])
