"""Metric work happens on a plane around the place at hand, never in degrees and never in Web Mercator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stgraph.errors import InputError

if TYPE_CHECKING:
    from pyproj import Transformer


@dataclass(frozen=True)
class LocalProjection:
    """Azimuthal equidistant projection of WGS 84 around a place (Snyder, *Map Projections*, 1987, section 25).

    Lengths are right to 1 in 10,000 within 150 km of the middle, and to 1 in 1,000 within 500 km.

    Args:
        longitude: Of the middle, degrees.
        latitude: Of the middle, degrees.
    """

    longitude: float
    latitude: float

    @classmethod
    def around(cls, lonlat: np.ndarray) -> LocalProjection:
        """Around the middle of places ``[N, 2]`` in degrees, on whichever side of the 180th meridian they lie.

        Raises:
            InputError: where no place is known.
        """
        known = np.asarray(lonlat, np.float64)
        known = known[np.isfinite(known).all(1)]
        if not len(known):
            raise InputError("no place is known", field="lonlat", remedy="give longitudes and latitudes in degrees")
        middle = circular_mean(known[:, 0])
        east = (known[:, 0] - middle + 180.0) % 360.0 - 180.0
        return cls(float((middle + (east.min() + east.max()) / 2 + 180.0) % 360.0 - 180.0),
                   float((known[:, 1].min() + known[:, 1].max()) / 2))

    @cached_property
    def _transformers(self) -> tuple[Transformer, Transformer]:
        from pyproj import Transformer

        plane = f"+proj=aeqd +lon_0={self.longitude!r} +lat_0={self.latitude!r} +datum=WGS84 +units=m"
        return (Transformer.from_crs("EPSG:4326", plane, always_xy=True),
                Transformer.from_crs(plane, "EPSG:4326", always_xy=True))

    def metres(self, lonlat: np.ndarray) -> np.ndarray:
        """Local metres ``[N, 2]``, east and north of the middle, of places ``[N, 2]`` in degrees; NaN stays NaN."""
        return _apply(self._transformers[0], lonlat)

    def lonlat(self, xy: np.ndarray) -> np.ndarray:
        """The reverse of :meth:`metres`."""
        return _apply(self._transformers[1], xy)


def _apply(transformer: Transformer, xy: np.ndarray) -> np.ndarray:
    values = np.asarray(xy, np.float64).reshape(-1, 2)
    out = np.full(values.shape, np.nan)
    known = np.isfinite(values).all(1)
    out[known] = np.column_stack(transformer.transform(values[known, 0], values[known, 1]))
    return out


def circular_mean(longitude: np.ndarray) -> float:
    """Mean of angles in degrees on the circle."""
    angle = np.radians(longitude)
    return float(np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())))


EARTH_RADIUS = 6_371_009.0
"""Radius for great circles, m: the one of osmnx, so that lengths agree."""


def great_circle(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Haversine distance in m, ``[N]``, between places ``[N, 2]`` in degrees."""
    longitude1, latitude1 = np.radians(start).T
    longitude2, latitude2 = np.radians(end).T
    half = np.sin((latitude2 - latitude1) / 2) ** 2 + \
        np.cos(latitude1) * np.cos(latitude2) * np.sin((longitude2 - longitude1) / 2) ** 2
    return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
