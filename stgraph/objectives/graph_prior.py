"""The graph prior: a learned graph shall first resemble a known one, and less and less so."""

from __future__ import annotations

from torch import Tensor, nn

from stgraph.objectives.protocols import LearnsGraph, require
from stgraph.objectives.schedule import Fading
from stgraph.windows import Window


class GraphPrior(nn.Module):
    r"""Binary cross-entropy between the scores of candidate edges and a prior graph, with a weight that fades.

    .. math:: L = w_k \frac{1}{E} \sum_{e \in E} \mathrm{BCE}(\sigma(\theta_e), [e \in prior]), \quad
              w_k = \frac{w_0}{\lfloor k / every \rfloor + 1}

    STEP (Z. Shao et al., KDD 2022) scores all ``N^2`` pairs and counts epochs; here the model names its candidates and
    which of them the prior graph holds (:func:`stgraph.nn.learned_graph.find_candidates`), so cost and memory grow
    with the candidates, and ``k`` counts batches.

    Args:
        weight: The weight ``w_0`` of the first steps.
        every: Steps until the weight falls to a half, then to a third, and so on.
    """

    def __init__(self, weight: float = 1.0, every: int = 500) -> None:
        super().__init__()
        self.weight = Fading(weight, every)

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that learns no graph.

        Raises:
            InputError: naming it.
        """
        require(model, LearnsGraph, "graph_prior")

    def forward(self, model: LearnsGraph, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"graph_prior": scalar}``, its weight included."""
        return {"graph_prior": self.weight() * model.learned_graph(window).prior_loss()}
