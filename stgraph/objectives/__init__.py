"""Objectives: ``objective(model, window) -> {name: loss}``; a run lists several with weights."""

from stgraph.objectives.regression import MaskedRegression

__all__ = ["MaskedRegression"]
