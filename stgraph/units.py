"""Units of what a city measures: SI inside (m, s, m/s, veh/h), the source's own unit remembered.

A :class:`Unit` is a linear map to its SI unit, ``si = value * factor + offset``. Readings are stored in SI; scores,
forecasts and reports are given in the unit that the source used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stgraph.errors import InputError


@dataclass(frozen=True)
class Unit:
    """A unit and the way from it to SI.

    Args:
        name: As the user writes it, e.g. ``mph``.
        si: The SI unit it maps to, e.g. ``m/s``; a dimensionless count is ``1``.
        factor: ``si = value * factor + offset``.
        offset: Zero but for temperatures.
    """

    name: str
    si: str
    factor: float = 1.0
    offset: float = 0.0


_UNITS = {
    unit.name: unit
    for unit in (
        Unit("m/s", "m/s"),
        Unit("km/h", "m/s", 1 / 3.6),
        Unit("mph", "m/s", 0.44704),
        Unit("m", "m"),
        Unit("mm", "m", 0.001),
        Unit("km", "m", 1000.0),
        Unit("mile", "m", 1609.344),
        Unit("ft", "m", 0.3048),
        Unit("m2", "m2"),
        Unit("km2", "m2", 1e6),
        Unit("ha", "m2", 1e4),
        Unit("s", "s"),
        Unit("min", "s", 60.0),
        Unit("h", "s", 3600.0),
        Unit("veh/h", "veh/h"),
        Unit("veh/min", "veh/h", 60.0),
        Unit("veh/km", "veh/km"),
        Unit("1", "1"),
        Unit("count", "1"),
        Unit("persons", "1"),
        Unit("%", "1", 0.01),
        Unit("ug/m3", "ug/m3"),
        Unit("K", "K"),
        Unit("degC", "K", 1.0, 273.15),
        Unit("degF", "K", 5 / 9, 459.67 * 5 / 9),
        Unit("Pa", "Pa"),
        Unit("hPa", "Pa", 100.0),
        Unit("degree", "degree"),
    )
}
_ALIASES = {"kmh": "km/h", "kph": "km/h", "mi/h": "mph", "meter": "m", "metre": "m", "metres": "m", "miles": "mile",
            "mi": "mile", "percent": "%", "ratio": "1", "µg/m3": "ug/m3", "C": "degC", "F": "degF",
            "mbar": "hPa", "vph": "veh/h"}
_PER_INTERVAL = re.compile(r"^veh/(\d+)\s*(s|min|h)$")

QUANTITIES = {"speed": "m/s", "flow": "veh/h", "occupancy": "1", "density": "veh/km", "count": "1", "share": "1",
              "concentration": "ug/m3", "temperature": "K", "pressure": "Pa", "travel_time": "s", "value": "1"}
"""What can be measured, and its SI unit."""


def unit(name: str) -> Unit:
    """Look a unit up by name; ``veh/5min`` and the like become vehicles per hour.

    Raises:
        InputError: for a unit that is not known.
    """
    name = _ALIASES.get(name.strip(), name.strip())
    if name in _UNITS:
        return _UNITS[name]
    if match := _PER_INTERVAL.match(name):
        seconds = int(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]
        if seconds:
            return Unit(name, "veh/h", 3600.0 / seconds)
    raise InputError("unknown unit", field="unit", value=name, remedy=f"use one of {', '.join(_UNITS)}, or veh/5min")


def unit_for(quantity: str, name: str | None = None) -> Unit:
    """The unit of a quantity: the one named, which must measure it, or the quantity's SI unit.

    Raises:
        InputError: for a quantity that is not known, or a unit that does not measure it.
    """
    if quantity not in QUANTITIES:
        raise InputError("unknown quantity", field="quantity", value=quantity,
                         remedy=f"use one of {', '.join(QUANTITIES)}")
    if quantity == "value" and name is not None:  # an unnamed quantity takes any unit
        return unit(name)
    chosen = unit(name or QUANTITIES[quantity])
    if chosen.si != QUANTITIES[quantity]:
        raise InputError(f"a {quantity} is not measured in {chosen.name}", field="unit", value=chosen.name,
                         remedy=f"use a unit that converts to {QUANTITIES[quantity]}")
    return chosen
