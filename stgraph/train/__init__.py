"""Training: one door for models trained by gradient, by a formula, or not at all.

Lightning is imported when the first model is trained by gradient, not before.
"""

from stgraph.train.budget import Budget
from stgraph.train.fitting import Trained, fit
from stgraph.train.interrupt import TrainingInterrupted

__all__ = ["Budget", "Trained", "TrainingInterrupted", "fit"]
