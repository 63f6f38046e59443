"""Scores: one metrics module, one evaluator, one significance test."""

from stgraph.evaluate.evaluate import Evaluation, evaluate, summarise
from stgraph.evaluate.metrics import MaskedErrors
from stgraph.evaluate.significance import block_bootstrap

__all__ = ["Evaluation", "MaskedErrors", "block_bootstrap", "evaluate", "summarise"]
