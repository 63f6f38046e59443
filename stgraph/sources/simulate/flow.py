"""Kinematic-wave traffic on a road network of a simulated city: the cell transmission model.

Daganzo, "The cell transmission model: a dynamic representation of highway traffic consistent with the hydrodynamic
theory", Transportation Research B 28 (1994), and "Part II: network traffic", B 29 (1995). Flow between two cells is
the smaller of what the upstream cell can send and what the downstream cell can receive under a triangular fundamental
diagram. Where ways part, vehicles keep their order and a blocked way holds up those behind, but for the share of them
that the road class lets pass. Where ways meet, a road that cannot take all shares its room among the approaches in
proportion to what they would send (Jin and Zhang, Transportation Research B 37, 2003). Vehicles that find no room wait
in a vertical queue at their origin, so none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stgraph.errors import InputError
from stgraph.sources.simulate.network import Moves, RoadNetwork

LONGEST_STEP = 30
"""Longest time step, s: coarser cells would blur queues."""

_SIDE_ENTRY = 0.25  # of a road's capacity: the most that trips may add at a junction which traffic already runs through
_NOTHING = 1e-12  # vehicles; below it a cell counts as empty


@dataclass(frozen=True)
class Cells:
    """Segments cut into cells that a vehicle at free speed needs at least one step to cross.

    Args:
        segment: Segment of each cell, ``[C]``; the cells of a segment follow one another downstream.
        length: Length of each cell, m, ``[C]``.
        first: First cell of each segment, ``[S]``.
        count: Number of cells of each segment, ``[S]``.
    """

    segment: np.ndarray
    length: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, network: RoadNetwork, step: float) -> Cells:
        """Cut a network for a time step of ``step`` seconds.

        Raises:
            InputError: where a segment is crossed in less than a step (Courant condition).
        """
        crossed = network.lengths / network.segments["free_speed"].to_numpy(np.float64)
        count = np.floor(crossed / step + 1e-9).astype(np.int64)
        if (count < 1).any():
            raise InputError("the time step is longer than the shortest segment takes", field="step", value=step,
                             remedy=f"use at most {crossed.min():.1f} s")
        first = np.concatenate([[0], np.cumsum(count)[:-1]])
        segment = np.repeat(np.arange(len(count)), count)
        return cls(segment, (network.lengths / count)[segment], first, count)

    def at(self, segment: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """The cell in which a place lies: segments ``[n]`` and metres from their start ``[n]`` to cells ``[n]``."""
        within = np.floor(np.asarray(offset) / self.length[self.first[segment]]).astype(np.int64)
        return self.first[segment] + np.clip(within, 0, self.count[segment] - 1)


@dataclass(frozen=True)
class Incident:
    """A stretch of road that loses a part of its capacity for a while.

    Args:
        segment: Segment it lies on.
        offset: Metres from the start of the segment.
        start: Seconds since the start of the simulation.
        end: Seconds since the start of the simulation.
        capacity_share: What is left of the capacity, 0 to 1.
    """

    segment: int
    offset: float
    start: float
    end: float
    capacity_share: float


@dataclass(frozen=True)
class FlowResult:
    """What happened on the roads; interval ``t`` covers ``[t, t + 1) * interval`` seconds.

    Args:
        cells: The cells.
        step: Time step, s.
        interval: Length of an interval, s.
        occupancy: Mean number of vehicles in each cell at the starts of the steps, ``[T, C]``.
        flow: Flow out of each cell, veh/h, ``[T, C]``.
        speed: Distance travelled over time spent (Edie) in each cell, m/s, ``[T, C]``; free speed where it is empty.
        vehicles: Per step, at its end: ``entered`` and ``left`` since the start, ``inside`` on the roads and
            ``queued`` at the origins; ``entered = left + inside + queued``.
    """

    cells: Cells
    step: float
    interval: float
    occupancy: np.ndarray
    flow: np.ndarray
    speed: np.ndarray
    vehicles: pd.DataFrame


def largest_step(network: RoadNetwork, interval: int) -> int:
    """Longest time step in whole seconds that divides the interval and obeys the Courant condition.

    Raises:
        InputError: where a segment is crossed within a second.
    """
    crossed = float((network.lengths / network.segments["free_speed"].to_numpy()).min())
    limit = min(crossed, LONGEST_STEP, interval)
    steps = [step for step in range(1, int(limit + 1e-9) + 1) if interval % step == 0]
    if not steps:
        raise InputError("a segment is crossed within a second", field="length_m", value=f"{crossed:.2f} s",
                         remedy="join very short segments to their neighbours")
    return steps[-1]


class CellTransmission:
    """The state of the roads and how it changes in a step.

    Args:
        network: The roads.
        moves: The ways on at junctions, with origins and destinations.
        step: Time step, s.
    """

    def __init__(self, network: RoadNetwork, moves: Moves, step: float) -> None:
        cells = Cells.of(network, step)
        road = network.segments.iloc[cells.segment]
        self.cells, self.step, self.moves = cells, step, moves
        self.capacity = road["capacity"].to_numpy(np.float64) * step / 3600.0  # vehicles per step
        self.jam = road["jam_density"].to_numpy(np.float64) / 1000.0 * cells.length  # vehicles
        self.free_share = road["free_speed"].to_numpy(np.float64) * step / cells.length  # at most 1
        self.wave_share = network.wave_speed[cells.segment] * step / cells.length
        self.last = cells.first + cells.count - 1
        self.green = np.ones(len(cells.segment))
        self.green[self.last] = network.segments["green_share"].to_numpy(np.float64)
        segments, zones = len(cells.first), len(moves.zones)
        leaves = network.segments["from_junction"].to_numpy()
        fed = np.isin(np.arange(segments), moves.target[moves.source < segments])
        entry = self.capacity[cells.first] * np.where(fed, _SIDE_ENTRY, 1.0)
        self.entry_capacity = np.array([entry[leaves == junction].sum() for junction in moves.zones])
        self.vehicles = np.zeros(len(cells.segment))
        self.queue = np.zeros(zones)
        self._segments = segments
        # Moves are sorted by source: where each source's moves begin, and positions among sources and targets.
        self._sources, self._begin, self._source = np.unique(moves.source, return_index=True, return_inverse=True)
        self._target = moves.target
        self._targets = segments + zones
        self._passing = np.append(network.segments["passing"].to_numpy(np.float64), np.ones(zones))[moves.source]
        self.close_lanes([])

    def close_lanes(self, incidents: Sequence[Incident]) -> None:
        """Set the capacity of every cell to what the incidents of the moment leave of it (the worst one counts)."""
        left = np.ones(len(self.capacity))
        for incident in incidents:
            cell = self.cells.at(np.array([incident.segment]), np.array([incident.offset]))
            left[cell] = np.minimum(left[cell], incident.capacity_share)
        self._receives = self.capacity * left
        self._sends = self._receives * self.green

    def advance(self, arrivals: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, float]:
        """One step.

        Args:
            arrivals: Vehicles that start a trip, per zone, ``[Z]``.
            shares: Share of each source's vehicles that take each move, ``[M]``.

        Returns:
            Vehicles that left each cell, ``[C]``, and the number that ended their trip.
        """
        self.queue += arrivals
        sending = np.minimum(self.vehicles * self.free_share, self._sends)
        receiving = np.minimum((self.jam - self.vehicles) * self.wave_share, self._receives)
        passed, arrived = self._junctions(sending, receiving, shares)
        segments = self._segments
        onward = np.minimum(sending[:-1], receiving[1:])  # from cell to cell
        onward[self.last[:-1]] = 0.0  # what leaves a segment goes through a junction
        out = np.empty_like(sending)
        out[:-1] = onward
        out[self.last] = passed[:segments]
        self.queue[self._sources[segments:] - segments] -= passed[segments:]
        self.vehicles -= out
        self.vehicles[1:] += onward
        self.vehicles[self.cells.first] += arrived[:segments]
        return out, float(arrived[segments:].sum())

    def _junctions(
        self, sending: np.ndarray, receiving: np.ndarray, shares: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vehicles that leave each source and reach each target in this step, by segment and then zone."""
        wish = np.concatenate([sending[self.last], np.minimum(self.queue, self.entry_capacity)])[self._sources]
        wanted = np.bincount(self._target, shares * wish[self._source], minlength=self._targets)
        room = np.ones(self._targets)  # every source gets the same share of its wish from a target
        np.minimum(room[:self._segments], receiving[self.cells.first] / np.maximum(wanted[:self._segments], _NOTHING),
                   out=room[:self._segments])
        way = np.where(shares > 0.0, room[self._target], 1.0)  # share of the wish that each way on takes
        held = np.minimum.reduceat(way, self._begin)[self._source]  # share where vehicles keep their order
        going = shares * wish[self._source] * (held + self._passing * (way - held))
        return np.bincount(self._source, going), np.bincount(self._target, going, minlength=self._targets)


def simulate_flow(
    network: RoadNetwork,
    moves: Moves,
    arrivals: np.ndarray,
    shares: Callable[[int], np.ndarray],
    *,
    interval: int,
    step: float | None = None,
    incidents: Sequence[Incident] = (),
) -> FlowResult:
    """Run the cell transmission model from empty roads.

    Args:
        network: The roads.
        moves: The ways on at junctions, with origins and destinations.
        arrivals: Vehicles that start a trip, per interval and zone, ``[T, Z]``; spread evenly over the interval.
        shares: Interval number to the share of each source's vehicles that take each move, ``[M]``; the shares of
            a source sum to one.
        interval: Length of an interval, s.
        step: Time step, s; None takes the largest that obeys the Courant condition.
        incidents: Capacity drops; their times count from the start.

    Returns:
        Occupancy, flow and speed per interval and cell, and the account of vehicles per step.

    Raises:
        InputError: where the step does not divide the interval or breaks the Courant condition, or vehicles arrive
            where no road starts.
    """
    _check_arrivals(arrivals, moves, len(network.segments))
    step = largest_step(network, interval) if step is None else step
    per_interval = round(interval / step)
    if abs(per_interval * step - interval) > 1e-9:
        raise InputError("the time step does not divide the interval", field="step", value=step,
                         remedy=f"choose a divisor of {interval} s")
    state = CellTransmission(network, moves, step)
    length, total = len(arrivals), len(arrivals) * per_interval
    occupancy, flow = (np.zeros((length, len(state.jam)), np.float32) for _ in range(2))
    account = np.empty((total, 3))
    changes = _changes(incidents, step)
    spent, moved = np.zeros(len(state.jam)), np.zeros(len(state.jam))
    for number in range(length):
        share, arriving = shares(number), arrivals[number] / per_interval
        spent[:], moved[:] = 0.0, 0.0
        for now in range(number * per_interval, (number + 1) * per_interval):
            if now in changes:
                state.close_lanes(changes[now])
            spent += state.vehicles
            out, ended = state.advance(arriving, share)
            moved += out
            account[now] = ended, state.vehicles.sum(), state.queue.sum()
        occupancy[number], flow[number] = spent / per_interval, moved * (3600.0 / interval)
    vehicles = pd.DataFrame({
        "entered": np.cumsum(np.repeat(arrivals.sum(axis=1) / per_interval, per_interval)),
        "left": np.cumsum(account[:, 0]), "inside": account[:, 1], "queued": account[:, 2],
    })
    free = network.segments["free_speed"].to_numpy(np.float32)[state.cells.segment]
    per_second = state.cells.length.astype(np.float32) / np.float32(3600.0)
    speed = np.where(occupancy > _NOTHING, flow * per_second / np.maximum(occupancy, np.float32(_NOTHING)), free)
    return FlowResult(state.cells, step, interval, occupancy, flow, np.minimum(speed, free), vehicles)


def _check_arrivals(arrivals: np.ndarray, moves: Moves, segments: int) -> None:
    if arrivals.ndim != 2 or arrivals.shape[1] != len(moves.zones):
        raise InputError("arrivals must have a row for each interval and a column for each zone", field="arrivals",
                         value=arrivals.shape, remedy=f"give [T, {len(moves.zones)}]")
    stuck = ~np.isin(segments + np.arange(len(moves.zones)), moves.source) & arrivals.any(axis=0)
    if stuck.any():
        raise InputError("vehicles arrive at a zone that is no origin", field="arrivals",
                         value=f"junction {moves.zones[stuck][0]}", remedy="name it among the origins")


def _changes(incidents: Sequence[Incident], step: float) -> dict[int, list[Incident]]:
    """The incidents in force from each step on at which one starts or ends."""
    spans = [(round(incident.start / step), round(incident.end / step), incident) for incident in incidents]
    moments = {moment for start, end, _ in spans for moment in (start, end)}
    return {moment: [incident for start, end, incident in spans if start <= moment < end] for moment in moments}
