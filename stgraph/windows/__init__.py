"""From a graph's signal to batches: the split, the descriptors of the training rows, the windows."""

from stgraph.windows.city import City
from stgraph.windows.context import Context
from stgraph.windows.layer import AttributeWindow, Layer
from stgraph.windows.loader import PartBatches, TrainingBatches, loader
from stgraph.windows.split import PARTS, Split
from stgraph.windows.window import Calendar, Forecast, Window, long_history, long_minutes

__all__ = ["PARTS", "AttributeWindow", "Calendar", "City", "Context", "Forecast", "Layer", "PartBatches", "Split",
           "TrainingBatches", "Window", "loader", "long_history", "long_minutes"]
