"""Several losses in balance: each is weighted so that it pulls at the model as strongly as the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stgraph.errors import InputError


class GradientBalance(nn.Module):
    r"""Factors that bring the gradient norms of several losses to their mean.

    .. math:: f_k = \frac{1}{K} \sum_j g_j / g_k

    with ``g_k`` the running mean of the norm of the gradient of loss ``k`` in the shared parameters. After Z. Chen et
    al.: GradNorm, ICML 2018, in closed form instead of by descent, and without its training-rate term.

    Args:
        every: Calls from one look at the norms to the next; a look costs one more backward pass for each loss.
        smoothing: Share of the running mean that stays at each look.
    """

    def __init__(self, every: int = 10, smoothing: float = 0.9) -> None:
        super().__init__()
        if every < 1 or not 0 <= smoothing < 1:
            raise InputError("look at least every so many calls, and forget something", field="every, smoothing",
                             value=(every, smoothing))
        self.every, self.smoothing = every, smoothing
        self.calls, self.norms = 0, dict[str, float]()

    def forward(self, losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
        """The factor of each loss; a loss without gradient keeps 1.

        Args:
            losses: Scalars by name.
            parameters: What they share.
        """
        if self.calls % self.every == 0:
            shared = [parameter for parameter in parameters if parameter.requires_grad]
            for name, loss in losses.items():
                norm = _gradient_norm(loss, shared)
                old = self.norms.get(name)
                self.norms[name] = norm if old is None else self.smoothing * old + (1 - self.smoothing) * norm
        self.calls += 1
        norms = {name: self.norms.get(name, 0.0) for name in losses}
        pulling = [norm for norm in norms.values() if norm > 0]
        mean = sum(pulling) / max(1, len(pulling))
        return {name: mean / norm if norm > 0 else 1.0 for name, norm in norms.items()}

    def get_extra_state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"calls": self.calls, "norms": dict(self.norms)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`get_extra_state`."""
        self.calls, self.norms = int(state["calls"]), dict(state["norms"])


def _gradient_norm(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(sum((g.float().square().sum() for g in gradients if g is not None), torch.zeros(()))) ** 0.5
