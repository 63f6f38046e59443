"""The shape of a simulated city: a grid of arterials inside a freeway ring, with arms that lead out to gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stgraph.errors import InputError
from stgraph.sources.simulate.network import NetworkBuilder, RoadNetwork


@dataclass(frozen=True)
class CityPlan:
    """How large a simulated city is.

    Args:
        rows: Arterial junctions from south to north.
        columns: Arterial junctions from west to east.
        exits: Interchanges of the ring with ramps to the arterials and a suburb of their own.
        gates: Interchanges of the ring with a freeway arm to the world outside.
        sensors: Sensors, unless the user says otherwise.
        incidents_per_day: Mean number of incidents.
        trips: Recorded trips, unless the user says otherwise.
    """

    rows: int
    columns: int
    exits: int
    gates: int
    sensors: int
    incidents_per_day: float
    trips: int


PLANS = {
    "small": CityPlan(3, 3, 4, 2, 16, 4.0, 40),
    "default": CityPlan(5, 5, 8, 4, 80, 8.0, 400),
    "large": CityPlan(9, 9, 16, 8, 240, 20.0, 1000),
}

_SPACING = 900.0  # m between arterial junctions
_CARRIAGEWAY = 12.0  # m from the middle of a freeway to one of its two carriageways
_INTERCHANGE = 640.0  # m of freeway between an exit and the entry after it
_CROSSING = 400.0  # m from the ring to the crossing at which its ramps end
_ARM = 4500.0  # m from the ring's hub to a gate


def plan_of(size: str) -> CityPlan:
    """The plan with that name.

    Raises:
        InputError: for a size that is not known.
    """
    if size not in PLANS:
        raise InputError("unknown size of a simulated city", field="size", value=size,
                         remedy=f"use one of {', '.join(PLANS)}")
    return PLANS[size]


def lay_out(plan: CityPlan, rng: np.random.Generator) -> RoadNetwork:
    """Draw the roads of a simulated city; the same generator state gives the same roads."""
    builder = NetworkBuilder()
    grid = _arterials(builder, plan, rng)
    ring = _Ring(builder, plan, rng)
    total = plan.exits + plan.gates
    for number in range(total):
        ring.interchange(number * 2.0 * np.pi / total)
    ring.join()
    edge = np.unique(np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]]))
    for number in range(total):
        if number % (total // plan.gates) == 0:
            ring.arm(number)
        else:
            ring.suburb(number, edge)
    return builder.build()


def _arterials(builder: NetworkBuilder, plan: CityPlan, rng: np.random.Generator) -> np.ndarray:
    """A slightly crooked grid of two-way streets; returns the junctions ``[rows, columns]``."""
    grid = np.empty((plan.rows, plan.columns), dtype=np.int64)
    for row, column in np.ndindex(grid.shape):
        crooked = rng.uniform(-0.07, 0.07, 2)
        x = (column - (plan.columns - 1) / 2 + crooked[0]) * _SPACING
        y = (row - (plan.rows - 1) / 2 + crooked[1]) * _SPACING
        grid[row, column] = builder.junction((x, y))
    neighbours = [*zip(grid[:, :-1].ravel(), grid[:, 1:].ravel(), strict=True),
                  *zip(grid[:-1].ravel(), grid[1:].ravel(), strict=True)]
    for one, other in neighbours:
        pace = rng.uniform(0.92, 1.12)
        builder.segment(int(one), int(other), "arterial", pace=pace)
        builder.segment(int(other), int(one), "arterial", pace=pace)
    return grid


class _Ring:
    """A freeway ring of two carriageways: the outer one runs counterclockwise, the inner one clockwise."""

    def __init__(self, builder: NetworkBuilder, plan: CityPlan, rng: np.random.Generator) -> None:
        half = np.hypot(plan.rows - 1, plan.columns - 1) * _SPACING / 2
        needed = (plan.exits + plan.gates) * 1.8 * _INTERCHANGE / (2 * np.pi)  # room for all interchanges
        self.builder, self.rng = builder, rng
        self.radius = max(half + _SPACING, needed)
        self.tilt = rng.uniform(0.0, 2.0 * np.pi)
        self.angles: list[float] = []
        self.exits: list[tuple[int, int]] = []  # (outer, inner) of each interchange
        self.entries: list[tuple[int, int]] = []

    def place(self, angle: float | np.ndarray, aside: float = 0.0) -> np.ndarray:
        """Local metres of points on the slightly oval ring, ``aside`` metres outside its middle line."""
        radius = self.radius * (1.0 + 0.04 * np.cos(2.0 * angle + self.tilt)) + aside
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)

    def interchange(self, angle: float) -> None:
        """Exit and entry of both carriageways; each carriageway meets the exit first."""
        half = _INTERCHANGE / 2 / self.radius / 0.95  # the oval is up to 4 % narrower than its mean radius
        self.angles.append(angle)
        corners = [self.builder.junction(self.place(angle + turn, aside), kind="freeway")
                   for turn, aside in ((-half, _CARRIAGEWAY), (half, -_CARRIAGEWAY),
                                       (half, _CARRIAGEWAY), (-half, -_CARRIAGEWAY))]
        self.exits.append((corners[0], corners[1]))
        self.entries.append((corners[2], corners[3]))
        for leave, enter in zip(self.exits[-1], self.entries[-1], strict=True):
            self.builder.segment(leave, enter, "freeway", pace=self.rng.uniform(0.95, 1.03))

    def join(self) -> None:
        """Freeway between neighbouring interchanges, both ways round."""
        half = _INTERCHANGE / 2 / self.radius / 0.95
        for number, angle in enumerate(self.angles):
            after = (number + 1) % len(self.angles)
            gap = (self.angles[after] - angle) % (2.0 * np.pi)
            bend = np.linspace(angle + half, angle + gap - half, 10)[1:-1]
            pace = self.rng.uniform(0.95, 1.03, 2)
            self.builder.segment(self.entries[number][0], self.exits[after][0], "freeway",
                                 via=self.place(bend, _CARRIAGEWAY), pace=pace[0])
            self.builder.segment(self.entries[after][1], self.exits[number][1], "freeway",
                                 via=self.place(bend[::-1], -_CARRIAGEWAY), pace=pace[1])

    def suburb(self, number: int, edge: np.ndarray) -> None:
        """Ramps to a crossing inside the ring; avenues from there to the grid's ``edge`` and to a suburb outside."""
        angle = self.angles[number]
        crossing = self.builder.junction(self.place(angle, -_CROSSING), kind="crossing")
        suburb = self.builder.junction(self.place(angle, _SPACING), kind="suburb")
        away = [np.hypot(*(self.place(angle) - self.builder.position(int(junction)))) for junction in edge]
        street = int(edge[int(np.argmin(away))])
        for leave, enter in zip(self.exits[number], self.entries[number], strict=True):
            self.builder.segment(leave, crossing, "off_ramp")
            self.builder.segment(crossing, enter, "on_ramp")
        for one, other in ((street, crossing), (crossing, suburb)):
            pace = self.rng.uniform(0.92, 1.12)
            self.builder.segment(one, other, "avenue", pace=pace)
            self.builder.segment(other, one, "avenue", pace=pace)

    def arm(self, number: int) -> None:
        """A two-way freeway from an interchange to a gate, over a hub outside the ring."""
        outward = np.array([np.cos(self.angles[number]), np.sin(self.angles[number])])
        aside = np.array([-outward[1], outward[0]]) * _CARRIAGEWAY
        middle = self.place(self.angles[number])
        hub_in, hub_out = (self.builder.junction(middle + outward * _SPACING + shift, kind="freeway")
                           for shift in (aside, -aside))
        gate = self.builder.junction(middle + outward * (_SPACING + _ARM), kind="gate")
        self.builder.segment(gate, hub_in, "freeway_arm")
        self.builder.segment(hub_out, gate, "freeway_arm")
        for leave, enter in zip(self.exits[number], self.entries[number], strict=True):
            self.builder.segment(leave, hub_out, "connector")
            self.builder.segment(hub_in, enter, "connector")
