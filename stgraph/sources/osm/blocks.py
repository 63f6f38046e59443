"""The blocks of a PBF file that osmium wrote, as numpy columns.

Only plain (uncompressed) blobs as osmium writes them are read here: any other file goes through osmium first
(:mod:`stgraph.sources.osm.read`), which checks it. Format: https://wiki.openstreetmap.org/wiki/PBF_Format
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

NODES, WAYS = 2, 3  # numbers of the fields of a group
_DATA = b"OSMData"


@dataclass
class NodeBlock:
    """Nodes: ids ``[N]``, places ``[N, 2]`` int64 in 1e-7 degrees, longitude first, and the tags of all in one row.

    ``tags`` are places in ``strings``: key, value, key, value, 0 for each node in turn; empty where no node has any.
    """

    id: np.ndarray
    xy: np.ndarray
    tags: np.ndarray
    strings: list[bytes]


@dataclass
class WayBlock:
    """Ways: ids ``[W]``; nodes of way ``w`` are ``ref[ref_ptr[w]:ref_ptr[w + 1]]``, its tags ``key`` and ``value``
    (places in ``strings``) at ``tag_ptr``."""

    id: np.ndarray
    ref_ptr: np.ndarray
    ref: np.ndarray
    tag_ptr: np.ndarray
    key: np.ndarray
    value: np.ndarray
    strings: list[bytes]


def blocks(stream: BinaryIO, kind: int) -> Iterator[NodeBlock | WayBlock]:
    """The blocks of one kind (:data:`NODES` or :data:`WAYS`), in the order of the file; the others are passed over."""
    stream.seek(0)
    while head := stream.read(4):
        numbers, parts = _message(stream.read(int.from_bytes(head, "big")))
        data = stream.read(numbers[3])
        if parts[1] != _DATA:
            continue
        strings, groups = b"", []
        for number, value in _members(_message(data)[1][1]):  # field 1: the plain bytes of a blob
            if number == 1:
                strings = value
            elif number == 2:
                groups.append(value)
        for group in groups:
            if not group or group[0] >> 3 != kind:
                continue
            words = [value for _, value in _members(strings)]
            yield _nodes(group, words) if kind == NODES else _ways(group, words)


def _nodes(group: bytes, strings: list[bytes]) -> NodeBlock:
    parts = _message(_message(group)[1][NODES])[1]
    ids, longitude, latitude = (np.cumsum(unzigzag(varints(_bytes(parts[number])))) for number in (1, 9, 8))
    return NodeBlock(ids, np.column_stack([longitude, latitude]), varints(_bytes(parts.get(10, b""))), strings)


def _ways(group: bytes, strings: list[bytes]) -> WayBlock:
    data = _bytes(group)
    start, end = _spans(group)
    fields = _all_fields(data, start, end)
    ids = fields[1][0]
    tag_ptr, key = _packed(data, *fields[2])
    value = _packed(data, *fields[3])[1]
    ref_ptr, step = _packed(data, *fields[8])
    ref = np.cumsum(unzigzag(step))
    before = np.concatenate([[0], ref])[ref_ptr[:-1]]  # steps start anew in each way
    return WayBlock(ids, ref_ptr, ref - np.repeat(before, np.diff(ref_ptr)), tag_ptr,
                    key.astype(np.int64), value.astype(np.int64), strings)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def varints(data: np.ndarray) -> np.ndarray:
    """Numbers of a row of bytes, seven bits a byte, the lowest first, ``[n]`` uint64."""
    last = np.flatnonzero(data < 0x80)
    first = np.empty_like(last)
    first[:1] = 0
    first[1:] = last[:-1] + 1
    size = last - first
    value = (data[first] & 0x7F).astype(np.uint64)
    for place in range(1, int(size.max(initial=0)) + 1):
        longer = np.flatnonzero(size >= place)
        value[longer] |= (data[first[longer] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return value


def unzigzag(value: np.ndarray) -> np.ndarray:
    """Signed numbers from 0, -1, 1, -2, ... as 0, 1, 2, 3, ..., ``[n]`` int64."""
    half = (value >> np.uint64(1)).astype(np.int64)
    return half ^ -(value & np.uint64(1)).astype(np.int64)


def _spans(group: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where each member of a group starts and ends."""
    starts, ends = [], []
    position, size = 0, len(group)
    while position < size:
        length = group[position + 1]
        if length < 0x80:  # nearly all: worth the line
            position += 2
        else:
            length, position = _varint(group, position + 1)
        starts.append(position)
        position += length
        ends.append(position)
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _all_fields(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Fields of many messages at once, a field of each in every round: number -> (value or start ``[W]``, end)."""
    found = {number: (np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)) for number in range(16)}
    position, row = start.copy(), np.arange(len(start))
    while len(row):
        key = data[position]
        value, position = _varints_at(data, position + 1)
        long = key & 7 == 2
        after = np.where(long, position + value, position)
        for number in np.flatnonzero(np.bincount(key >> 3)).tolist():
            here = key >> 3 == number
            found[number][0][row[here]] = np.where(long, position, value)[here]
            found[number][1][row[here]] = after[here]
        more = after < end[row]
        row, position = row[more], after[more]
    return found


def _varints_at(data: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers at some places, ``[n]`` int64, and the places after them."""
    value = np.zeros(len(position), np.int64)
    place, open_ = position.copy(), np.arange(len(position))
    for shift in range(0, 64, 7):
        byte = data[place[open_]]
        value[open_] |= (byte & 0x7F).astype(np.int64) << shift
        place[open_] += 1
        open_ = open_[byte >= 0x80]
        if not len(open_):
            break
    return value, place


def _packed(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of numbers between starts and ends (ascending): ``ptr [W + 1]`` and all numbers."""
    size = end - start
    offset = np.concatenate([[0], np.cumsum(size)])
    inside = data[np.arange(offset[-1]) + np.repeat(start - offset[:-1], size)]
    count = np.concatenate([[0], np.cumsum(inside < 0x80)])
    return count[offset], varints(inside)


def _members(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a message that have a length, with their numbers."""
    position, size = 0, len(data)
    while position < size:
        key = data[position]
        number = key >> 3
        if key >= 0x80:
            key, position = _varint(data, position)
            number = key >> 3
        else:
            position += 1
        value, position = _varint(data, position)
        if key & 7 == 2:
            yield number, data[position:position + value]
            position += value


def _message(data: bytes) -> tuple[dict[int, int], dict[int, bytes]]:
    """A small message: its numbers, and the fields that have a length."""
    numbers: dict[int, int] = {}
    parts: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value, position = _varint(data, position)
        if key & 7 == 2:
            parts[key >> 3] = data[position:position + value]
            position += value
        else:
            numbers[key >> 3] = value
    return numbers, parts


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, position + 1
