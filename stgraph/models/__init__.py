"""Forecasters: one short file each, imported only when asked for by name."""

from stgraph.models.base import CONTROLS, Capabilities, Forecaster, Sizes, config_from, model_class, model_names

__all__ = ["CONTROLS", "Capabilities", "Forecaster", "Sizes", "config_from", "model_class", "model_names"]
