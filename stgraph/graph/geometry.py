"""Shapes of nodes: points, lines and polygons, kept as well-known binary (OGC 06-103r4), one piece of bytes each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from stgraph.errors import InputError

_HEADER = np.dtype([("order", "u1"), ("kind", "<u4"), ("points", "<u4")])
_POINT = np.dtype("V16")
_LINE = 2
_BLOCK = 1 << 14
KINDS = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon",
         7: "GeometryCollection"}


def _pieces(data: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """Bytes seen as pieces that may start at any byte: piece ``i`` starts at byte ``i``."""
    return np.ndarray((max(0, len(data) - kind.itemsize + 1),), kind, data, strides=(1,))


def _scatter(data: np.ndarray, places: np.ndarray, pieces: np.ndarray) -> None:
    """Write pieces at places, which are bytes."""
    if len(pieces):
        _pieces(data, pieces.dtype)[places] = pieces


class Geometry:
    """One shape per node, ``[N]``; an attribute of a node type like any other.

    Args:
        wkb: Binary column without missing entries.
    """

    def __init__(self, wkb: pa.Array | pa.ChunkedArray) -> None:
        array = wkb.combine_chunks() if isinstance(wkb, pa.ChunkedArray) else wkb
        self.wkb: pa.Array = array if pa.types.is_large_binary(array.type) else array.cast(pa.large_binary())

    @classmethod
    def from_shapely(cls, shapes: Any) -> Geometry:
        """From shapely shapes ``[N]``."""
        import shapely

        return cls(pa.array(shapely.to_wkb(np.asarray(shapes, dtype=object), byte_order=1), pa.large_binary()))

    @classmethod
    def from_lines(cls, ptr: np.ndarray, xy: np.ndarray) -> Geometry:
        """From polylines: line ``i`` has the points ``xy[ptr[i]:ptr[i + 1]]``.

        Args:
            ptr: ``[N + 1]`` int64.
            xy: ``[P, 2]`` float64.
        """
        count = len(ptr) - 1
        points = np.diff(ptr)
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(9 + 16 * points, out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        for start in range(0, count, _BLOCK):  # in blocks, so that the positions of points take no memory to speak of
            part = slice(start, min(start + _BLOCK, count))
            header = np.empty(part.stop - start, _HEADER)
            header["order"], header["kind"], header["points"] = 1, _LINE, points[part]
            _scatter(data, offsets[part], header)
            places = np.ascontiguousarray(xy[ptr[start]:ptr[part.stop]], "<f8").view(_POINT).reshape(-1)
            first = np.repeat(offsets[part] + 9 - 16 * (ptr[part] - ptr[start]), points[part])
            _scatter(data, first + 16 * np.arange(len(places)), places)
        return cls(pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)]))

    @classmethod
    def from_points(cls, xy: np.ndarray) -> Geometry:
        """From points ``[N, 2]`` float64."""
        record = np.empty(len(xy), np.dtype([("order", "u1"), ("kind", "<u4"), ("xy", "<f8", 2)]))
        record["order"], record["kind"], record["xy"] = 1, 1, xy
        offsets = np.arange(len(xy) + 1, dtype=np.int64) * record.dtype.itemsize
        return cls(pa.Array.from_buffers(pa.large_binary(), len(xy),
                                         [None, pa.py_buffer(offsets), pa.py_buffer(record.tobytes())]))

    @property
    def shape(self) -> tuple[int]:
        """``(N,)``."""
        return (len(self.wkb),)

    @property
    def ndim(self) -> int:
        """1."""
        return 1

    def __len__(self) -> int:
        return len(self.wkb)

    def __getitem__(self, index: Any) -> Geometry:
        """Some of the shapes, by positions, a mask or a slice."""
        if isinstance(index, slice):
            return Geometry(pa.concat_arrays([self.wkb[index]]))
        chosen = np.atleast_1d(np.asarray(index))
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return Geometry(self.wkb.take(pa.array(chosen.astype(np.int64))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.wkb.equals(other.wkb)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Geometry({len(self)} {' '.join(sorted(self.kinds()))})"

    def shapely(self) -> np.ndarray:
        """The shapes as shapely objects, ``[N]``.

        Raises:
            InputError: for bytes that are no shape.
        """
        import shapely

        try:
            found: np.ndarray = shapely.from_wkb(np.asarray(self.wkb.to_pylist(), dtype=object))
        except shapely.errors.GEOSException as error:
            raise InputError(f"not a shape in well-known binary: {error}", field="geometry",
                             remedy="write the shapes again") from error
        return found

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Points of every line: ``ptr [N + 1]`` int64 and ``xy [P, 2]`` float64.

        Raises:
            InputError: where a shape is not a line.
        """
        offsets = self._offsets()
        data = self._data()
        count = len(self)
        sizes = np.diff(offsets)
        short = sizes < 9
        header = np.zeros(count, _HEADER) if short.any() else \
            _pieces(data, _HEADER)[offsets[:-1]]
        wrong = short | (header["order"] != 1) | (header["kind"] != _LINE) | (
            9 + 16 * header["points"].astype(np.int64) != sizes)
        if wrong.any():
            raise InputError("a shape is not a line in two dimensions", field="geometry",
                             value=f"at {int(np.flatnonzero(wrong)[0])}, {int(wrong.sum())} in all",
                             remedy="give every segment one line")
        ptr = np.zeros(count + 1, np.int64)
        np.cumsum(header["points"], out=ptr[1:])
        first = np.repeat(offsets[:-1] + 9 - 16 * ptr[:-1], np.diff(ptr))
        xy = _pieces(data, _POINT)[first + 16 * np.arange(len(first))].view("<f8").reshape(-1, 2)
        return ptr, xy.astype(np.float64, copy=False)

    def kinds(self) -> set[str]:
        """Names of the kinds of shape that occur."""
        offsets, data = self._offsets(), self._data()
        starts = offsets[:-1][np.diff(offsets) >= 5]
        codes = data[starts + 1]  # little endian; the kinds are below 256
        return {KINDS.get(int(code), "Geometry") for code in np.flatnonzero(np.bincount(codes))}

    def _offsets(self) -> np.ndarray:
        buffer = self.wkb.buffers()[1]
        if buffer is None:
            return np.zeros(1, np.int64)
        return np.frombuffer(buffer, np.int64)[self.wkb.offset:self.wkb.offset + len(self) + 1]

    def _data(self) -> np.ndarray:
        buffer = self.wkb.buffers()[2]
        return np.zeros(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
