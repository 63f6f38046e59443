"""Which street is nearest to a point, and which streets are within a radius: exactly, for millions of points.

Lines are sampled every few metres and the samples put into a KD-tree. A leg (the straight piece between two points of
a line) none of whose samples is within ``r`` is itself no nearer than ``r`` less half the distance between samples; so
once a leg is found that is nearer than that, no other can win. Where the samples asked for do not settle the answer,
four times as many are asked for.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from stgraph.errors import InputError
from stgraph.roads.network import Roads

SPACING = 40.0
"""Largest distance between samples along a leg, m."""

TIE = 1e-6
"""Distances that differ by less are equal, m: of two streets the one with the lower segment number comes first."""

_BLOCK = 1 << 18  # distances from points to samples held at a time
_SQUARE = 250.0  # m: points within a square of this side are looked up one after the other


@dataclass(frozen=True)
class Snapped:
    """The nearest place on a street of each of ``n`` points.

    Args:
        segment: ``[n]`` int64, the segment; of a two-way street the one with the lower number. -1 where no street is
            within the limit, or the point is not finite.
        offset: ``[n]`` metres after the start of the segment; NaN where there is none.
        distance: ``[n]`` metres from the point to the street; infinite where there is none.
        point: ``[n, 2]`` the place on the street in local metres; NaN where there is none.
    """

    segment: np.ndarray
    offset: np.ndarray
    distance: np.ndarray
    point: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """The directed segments near each of ``n`` points: rows ``ptr[i]`` to ``ptr[i + 1]`` belong to point ``i``.

    Rows of a point are in order of distance, streets equally far in the order of their lower segment number, and the
    two directions of a street one after the other.

    Args:
        ptr: ``[n + 1]`` int64.
        segment: ``[rows]`` int64.
        offset: ``[rows]`` metres after the start of the segment, at its place nearest to the point.
        distance: ``[rows]`` metres from the point to that place.
        heading: ``[rows]`` degrees clockwise from north in which the segment is driven there, 0 to 360.
    """

    ptr: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    distance: np.ndarray
    heading: np.ndarray


class SegmentIndex:
    """An index of the streets of a road network, in its local metres.

    A street here is a line without direction: a segment, together with the one in the other direction if there is one.

    Args:
        roads: The network.
    """

    def __init__(self, roads: Roads) -> None:
        self.length = roads.length
        number = np.arange(len(roads.length))
        self.other = np.where(roads.reverse[roads.reverse] == number, roads.reverse, -1)  # pairs, not three of a kind
        street = number[((self.other < 0) | (number <= self.other)) & (True if roads.alive is None else roads.alive)]
        legs = np.diff(roads.line_ptr)[street] - 1
        point = _ranges(roads.line_ptr[street], legs)
        start = roads.line_metres[point]
        along = roads.line_metres[point + 1] - start
        size = np.hypot(along[:, 0], along[:, 1])
        self._segment = np.repeat(street, legs)  # of each leg, ascending
        self._before = roads.along[point]
        self._extent = roads.along[point + 1] - self._before
        self._heading = roads.heading(self._segment, self._before + self._extent / 2)
        inverse = np.divide(1.0, size * size, out=np.zeros(len(size)), where=size > 0)
        self._leg = np.column_stack([start, along, inverse])
        pieces = np.maximum(np.ceil(size / SPACING), 1).astype(np.int64)
        self._leg_of = np.repeat(np.arange(len(size)), pieces)  # of each sample
        share = (_ranges(np.zeros_like(pieces), pieces) + 0.5) / pieces[self._leg_of]
        self._halves = (size / pieces / 2)[self._leg_of]  # how far a leg reaches from each of its samples
        self._half = float(self._halves.max(initial=0.0))
        self._tree = cKDTree(start[self._leg_of] + share[:, None] * along[self._leg_of])

    # ---------------------------------------------------------------- the nearest
    def nearest(self, xy: np.ndarray, limit: float = np.inf) -> Snapped:
        """The nearest place on any street, whatever its direction: the same as by looking at every street.

        Args:
            xy: ``[n, 2]`` points in local metres (``roads.to_metres``).
            limit: Largest distance, m.

        Raises:
            InputError: where the points are not ``[n, 2]``, or the limit is negative or not a number.
        """
        xy = _checked(xy, limit, "limit")
        distance, won = np.full(len(xy), np.inf), np.zeros(len(xy), np.int64)
        samples, count, rows = len(self._leg_of), 4, self._in_squares(xy)

        def look(block: np.ndarray) -> np.ndarray:
            near, sample = self._tree.query(xy[block], k=np.arange(1, count + 1),
                                            distance_upper_bound=limit + self._half + 3 * TIE)
            leg = self._leg_of.take(sample, mode="clip")
            found, _ = self._refine(xy[block, None], leg)
            found[sample == samples] = np.inf  # fewer than that many within the bound
            best = found.min(1)
            distance[block] = best
            won[block] = np.where(found <= best[:, None] + TIE, leg, len(self._leg)).min(1)
            return block[best + TIE > near[:, -1] - self._half]  # a street further on may be nearer

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the work is done outside of the interpreter
            while len(rows):
                size = max(_BLOCK // count, 1)
                rows = np.concatenate(list(pool.map(look, (rows[at:at + size] for at in range(0, len(rows), size)))))
                count = min(4 * count, samples + 1)
        distance[distance > limit + TIE] = np.inf
        segment, offset, point = np.full(len(xy), -1), np.full(len(xy), np.nan), np.full((len(xy), 2), np.nan)
        there = np.flatnonzero(distance < np.inf)
        leg = won[there]
        distance[there], share = self._refine(xy[there], leg)
        segment[there] = self._segment[leg]
        offset[there] = self._offset(leg, share)
        point[there] = self._leg[leg, 0:2] + share[:, None] * self._leg[leg, 2:4]
        return Snapped(segment, offset, distance, point)

    # ---------------------------------------------------------------- all within a radius
    def within(self, xy: np.ndarray, radius: float, most: int = 16) -> Candidates:
        """The segments of all streets within a radius, in both directions where a street has two, nearest first.

        Args:
            xy: ``[n, 2]`` points in local metres. About 40 bytes are needed for each row of the result, so give very
                many points in parts.
            radius: m.
            most: How many streets at most for each point, the nearest.

        Raises:
            InputError: where the points are not ``[n, 2]``, or a number is out of range.
        """
        xy = _checked(xy, radius, "radius")
        if most < 1 or radius == np.inf:
            raise InputError("out of range", field="most" if most < 1 else "radius", value=most if most < 1 else radius,
                             remedy="give a positive number of streets, and a radius in metres")
        known = np.flatnonzero(np.isfinite(xy).all(1)) if len(self._leg_of) else np.zeros(0, np.int64)
        parts, counts = [self._directed(known[:0], known[:0], np.zeros(0), np.zeros(0))], np.zeros(len(xy), np.int64)
        start, size = 0, 64
        while start < len(known):
            rows = known[start:start + size]
            near = cKDTree(xy[rows], balanced_tree=False, compact_nodes=False).sparse_distance_matrix(
                self._tree, radius + self._half + 2 * TIE, output_type="ndarray")
            start += size
            size = min(8 * size, size * _BLOCK // max(len(near), 1) + 1, _BLOCK)
            near = near[near["v"] <= radius + self._halves.take(near["j"]) + 2 * TIE]
            row, leg = near["i"], self._leg_of.take(near["j"])
            distance, share = self._refine(xy.take(rows.take(row), axis=0), leg)
            inside = np.flatnonzero(distance <= radius + TIE)
            kept = inside[self._one_per_street(row.take(inside), leg.take(inside), distance.take(inside), most)]
            parts.append(self._directed(row.take(kept), leg.take(kept), distance.take(kept), share.take(kept)))
            counts[rows] = np.bincount(parts[-1][0], minlength=len(rows))
        _, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Candidates(np.concatenate([[0], np.cumsum(counts)]), *columns)

    def _one_per_street(self, row: np.ndarray, leg: np.ndarray, distance: np.ndarray, most: int) -> np.ndarray:
        """Positions of the nearest leg of each street of each row, nearest first, at most ``most`` for a row."""
        order = np.argsort(row * len(self._leg) + leg)  # legs of one street stand together
        row, segment = row.take(order), self._segment.take(leg.take(order))
        steps = np.rint(distance.take(order) / TIE).astype(np.int64)
        first = np.flatnonzero(_changes(row) | _changes(segment))
        least = np.repeat(np.minimum.reduceat(steps, first), np.diff(first, append=len(row))) if len(row) else steps
        best = np.flatnonzero(steps == least)
        best = best[_changes(row[best]) | _changes(segment[best])]
        row, steps = row[best], steps[best]
        by_distance = np.argsort(row * (int(steps.max(initial=0)) + 1) + steps, kind="stable")
        row = row[by_distance]
        new = np.flatnonzero(_changes(row))
        rank = np.arange(len(row)) - np.repeat(new, np.diff(new, append=len(row)))
        return order[best[by_distance[rank < most]]]

    def _directed(self, row: np.ndarray, leg: np.ndarray, distance: np.ndarray,
                  share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row, segment, offset, distance and heading of both directions of streets, one after the other."""
        both = 1 + (self.other >= 0).take(self._segment.take(leg))
        back = np.cumsum(both)[both == 2] - 1
        again = np.repeat(np.arange(len(leg)), both)
        leg = leg.take(again)
        segment, heading = self._segment.take(leg), self._heading.take(leg)
        offset = self._offset(leg, share.take(again))
        segment[back] = self.other[segment[back]]
        offset[back] = self.length[segment[back]] - offset[back]
        heading[back] = (heading[back] + 180.0) % 360.0
        return row.take(again), segment, offset, distance.take(again), heading

    # ---------------------------------------------------------------- shared
    def _in_squares(self, xy: np.ndarray) -> np.ndarray:
        """Numbers of the points that are finite, those of one square one after the other; none without streets."""
        rows = np.flatnonzero(np.isfinite(xy).all(1)) if len(self._leg_of) else np.zeros(0, np.int64)
        square = np.floor(xy[rows] / _SQUARE)
        return rows[np.lexsort((square[:, 0], square[:, 1]))]

    def _refine(self, xy: np.ndarray, leg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance of points ``[..., 2]`` to legs ``[...]``, and the share of the leg before the nearest place."""
        x, y, east, north, inverse = np.moveaxis(self._leg.take(leg, axis=0), -1, 0)
        x, y = xy[..., 0] - x, xy[..., 1] - y
        share = np.clip((x * east + y * north) * inverse, 0.0, 1.0)
        x, y = x - share * east, y - share * north
        return np.sqrt(x * x + y * y), share

    def _offset(self, leg: np.ndarray, share: np.ndarray) -> np.ndarray:
        return self._before.take(leg) + share * self._extent.take(leg)


def _checked(xy: np.ndarray, limit: float, field: str) -> np.ndarray:
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError("points have an east and a north coordinate", field="xy", value=list(xy.shape),
                         remedy="give them as [n, 2] in local metres")
    if not limit >= 0:
        raise InputError("out of range", field=field, value=limit, remedy="give metres, not negative")
    return xy


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``first[i], first[i] + 1, ...``, ``count[i]`` numbers each, one after the other."""
    return np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether each value differs from the one before it; the first does."""
    out = np.ones(len(values), bool)
    out[1:] = values[1:] != values[:-1]
    return out
