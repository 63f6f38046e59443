"""A simulated city: roads, kinematic-wave traffic, sensors, trips and events with known truth.

>>> from stgraph.sources.simulate import simulate_city
>>> city = simulate_city(seed=0, days=2, size="small")
>>> city.speed.shape
(576, 16)
"""

from stgraph.sources.simulate.city import SimulatedCity, simulate_city, write_source_files
from stgraph.sources.simulate.flow import FlowResult, Incident, simulate_flow
from stgraph.sources.simulate.network import Moves, NetworkBuilder, RoadNetwork

__all__ = ["FlowResult", "Incident", "Moves", "NetworkBuilder", "RoadNetwork", "SimulatedCity", "simulate_city",
           "simulate_flow", "write_source_files"]
