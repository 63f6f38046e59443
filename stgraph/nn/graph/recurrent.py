"""A recurrent unit whose products are diffusion convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.nn.graph.common import Kept, Relation, glorot
from stgraph.nn.graph.convolution import check_walk, walk, walks_of
from stgraph.ops import shapes
from stgraph.ops.adjacency import Adjacency
from stgraph.ops.autocast import in_the_widest
from stgraph.ops.diffusion import Walks
from stgraph.ops.gru import gru_blend, gru_gate

if TYPE_CHECKING:
    from stgraph.graph import DynamicHeteroGraph


class GraphGRUCell(nn.Module):
    """Diffusion-convolution gated recurrent unit::

        z, r = sigmoid(G_z * [x; h] + b_z), sigmoid(G_r * [x; h] + b_r)
        c = tanh(G_c * [x; r h] + b_c)
        h' = z h + (1 - z) c

    ``G *`` is :class:`stgraph.nn.DiffusionConvolution`; ``b_z`` and ``b_r`` start at 1, ``b_c`` at 0. What ``x`` brings
    to the three is one convolution, over all steps at once in :meth:`sequence`; ``x`` and ``h`` are not put side by
    side. Without edges it is one recurrent unit shared by all nodes.

    Li, Yu, Shahabi and Liu, "Diffusion convolutional recurrent neural network: data-driven traffic forecasting",
    ICLR 2018.

    Args:
        inputs: Channels of ``x``.
        hidden: Channels of the state.
        steps: Length of the walks, K.
        both: Whether walks against the edges count too.
        recurrence: ``power`` or ``chebyshev``.

    Raises:
        InputError: for an unknown recurrence or a negative number of steps.

    Shapes: one step ``x [..., N, inputs]`` with ``state [..., N, hidden]`` and ``edge_weight [E]``; :meth:`sequence`
    takes ``x [..., T, N, inputs]`` with ``edge_weight [E]`` or ``[T, E]``.
    """

    def __init__(self, inputs: int, hidden: int, steps: int = 2, both: bool = True, recurrence: str = "power") -> None:
        super().__init__()
        check_walk(steps, recurrence)
        self.inputs, self.hidden, self.both, self.recurrence = inputs, hidden, both, recurrence
        matrices = 1 + steps * (2 if both else 1)
        fan_in = matrices * (inputs + hidden)
        self.weight = glorot(matrices, inputs, 3 * hidden, fan_in=fan_in, fan_out=hidden)  # of x: z, r, c
        self.gates = glorot(matrices, hidden, 2 * hidden, fan_in=fan_in, fan_out=hidden)   # of h: z, r
        self.candidate = glorot(matrices, hidden, hidden, fan_in=fan_in, fan_out=hidden)   # of r h
        self.bias = nn.Parameter(torch.cat([torch.ones(2 * hidden), torch.zeros(hidden)]))
        self._kept = Kept()

    def forward(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                relation: Relation | None = None, state: Tensor | None = None) -> Tensor:
        """One step: the next state ``[..., N, hidden]``; without a state from zeros."""
        walks = walks_of(self._kept, x, graph, edge_weight, relation)
        return self._step(walks, self._of_input(walks, x), self._state(state, x))

    def sequence(self, x: Tensor, graph: Adjacency | DynamicHeteroGraph, edge_weight: Tensor | str | None = None,
                 relation: Relation | None = None, state: Tensor | None = None) -> Tensor:
        """All steps of ``x [..., T, N, inputs]``: the states ``[..., T, N, hidden]``."""
        if x.dim() < 3:
            raise InputError("a sequence is [..., T, N, inputs]", field="x", value=list(x.shape),
                             remedy="call the cell itself for one step")
        walks = walks_of(self._kept, x, graph, edge_weight, relation)
        brought = self._of_input(walks, x)
        state = self._state(state, x.select(-3, 0) if x.shape[-3] else x.sum(-3))
        states = []
        for step in range(x.shape[-3]):
            state = self._step(_at(walks, step, x.dim()), brought.select(-3, step), state)
            states.append(state)
        return torch.stack(states, -3) if states else brought[..., :self.hidden]

    def _state(self, state: Tensor | None, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.hidden)
        return x.new_zeros(shape) if state is None else _fitting(state, x, shape)

    def _of_input(self, walks: Walks, x: Tensor) -> Tensor:
        return walk(walks, x, self.weight, self.bias, self.both, self.recurrence)

    def _step(self, walks: Walks, brought: Tensor, state: Tensor) -> Tensor:
        gates, candidate = brought.split((2 * self.hidden, self.hidden), -1)
        z_pre, r_pre = walk(walks, state, self.gates, gates, self.both, self.recurrence).split(self.hidden, -1)
        z, kept = gru_gate(z_pre, r_pre, state)
        return gru_blend(z, state, walk(walks, kept, self.candidate, candidate, self.both, self.recurrence))


@in_the_widest
def _fitting(state: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    shapes.same(state, x, "state", shape)
    return state


def _at(walks: Walks, step: int, axes: int) -> Walks:
    """The walks of one step; of features with three axes the operators take the first for the batch."""
    if walks.forward_weight.dim() == 1:
        return walks
    along, against = (weight[:, step, 0, 0] if axes == 3 else weight[:, 0, step, 0]
                      for weight in (walks.forward_weight, walks.backward_weight))
    return Walks(walks.forward, walks.backward, along, against)
