"""Objectives: ``objective(model, window) -> {name: loss}``; a run lists several with weights."""

from stgraph.objectives.attributes import MaskedAttributes
from stgraph.objectives.balance import GradientBalance
from stgraph.objectives.contrastive import Contrast, SpatialContrast, TemporalContrast
from stgraph.objectives.diffusion import DiffusionForecast
from stgraph.objectives.graph_prior import GraphPrior
from stgraph.objectives.masked import DecoupledMasked, MaskedModelling
from stgraph.objectives.masks import MASKS, draw_decoupled, draw_mask
from stgraph.objectives.registry import make_objective, objective_names, parse_objectives
from stgraph.objectives.regression import MaskedRegression

__all__ = ["MASKS", "Contrast", "DecoupledMasked", "DiffusionForecast", "GradientBalance", "GraphPrior",
           "MaskedAttributes", "MaskedModelling", "MaskedRegression", "SpatialContrast", "TemporalContrast",
           "draw_decoupled", "draw_mask",
           "make_objective", "objective_names", "parse_objectives"]
