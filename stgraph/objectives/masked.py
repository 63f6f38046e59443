"""Masked modelling: hide observed values, ask for them back, score what was hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.models import Forecaster
from stgraph.objectives.masks import MASKS, draw_mask
from stgraph.objectives.protocols import Reconstructs, require
from stgraph.objectives.regression import MaskedRegression
from stgraph.objectives.schedule import Ramp
from stgraph.objectives.views import hide, joint, long, seeded
from stgraph.windows import Window, long_minutes

_SPANS: dict[str, Callable[[Window], Window]] = {"past": lambda window: window, "joint": joint, "long": long}


class MaskedModelling(nn.Module):
    r"""Reconstruction of what a mask of the registry hides.

    .. math:: L = \frac{1}{|M|} \sum_{(t, n, c) \in M} \ell(\hat x_{tnc} / \sigma_c, x_{tnc} / \sigma_c)

    over the hidden entries ``M``, all of which were observed. The model gets a window from which they were taken out
    (:func:`stgraph.objectives.views.hide`), so it cannot see them. After K. He et al.: Masked Autoencoders Are
    Scalable Vision Learners, CVPR 2022, and STEP (KDD 2022), where one mask serves all samples and nodes of a batch;
    here each sample has its own and the count is exact.

    Args:
        kind: A key of :data:`stgraph.objectives.masks.MASKS`.
        rate: Share to hide.
        minutes: Length of a run for ``block`` and ``whole_step``: the same at any interval.
        span: ``past``: the input steps; ``joint``: input and wanted steps as one window; ``long``: the long history.
        loss: ``mae``, ``mse`` or ``huber``.
        last_rate: Share to hide at the end of a ramp; None keeps ``rate``.
        ramp_steps: Training steps of the ramp, from easy to hard.
        seed: Hide the same entries whenever called; None draws from torch's generator, anew each time.

    Raises:
        InputError: for an unknown mask, loss or span, or a share outside 0 to 1.
    """

    def __init__(self, kind: str = "random", rate: float = 0.25, minutes: float = 60.0,
                 span: Literal["past", "joint", "long"] = "past", loss: Literal["mae", "mse", "huber"] = "mae",
                 last_rate: float | None = None, ramp_steps: int = 0, seed: int | None = None) -> None:
        super().__init__()
        if kind not in MASKS:
            raise InputError("unknown mask", field="kind", value=kind, remedy=f"use one of {', '.join(MASKS)}")
        if span not in _SPANS:
            raise InputError("unknown span", field="span", value=span, remedy=f"use one of {', '.join(_SPANS)}")
        for name, value in (("rate", rate), ("last_rate", rate if last_rate is None else last_rate)):
            if not 0 <= value <= 1:
                raise InputError("a share lies between 0 and 1", field=name, value=value)
        if not minutes > 0:
            raise InputError("must be positive", field="minutes", value=minutes)
        self.kind, self.minutes, self.span, self.seed = kind, minutes, span, seed
        self.regression = MaskedRegression(loss)
        self.rate = Ramp(rate, rate if last_rate is None else last_rate, ramp_steps)

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that cannot reconstruct, or that reads no long history where that is to be hidden.

        Raises:
            InputError: naming it.
        """
        require(model, Reconstructs, "masked")
        if self.span == "long" and isinstance(model, Forecaster) and not long_minutes(model.capabilities.needs):
            raise InputError(f"the model '{model.name}' reads no long history", field="span", value="long",
                             remedy="use span=past, or a model that does, such as step_encoder")

    def forward(self, model: Reconstructs, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"masked": scalar}``; 0 where there was nothing to hide."""
        window = _SPANS[self.span](window)
        hidden = self.draw(window)
        answer = model.reconstruct(hide(window, hidden), hidden)
        scale = torch.from_numpy(window.city.context.deviation).to(answer)
        return {"masked": self.regression.loss(answer / scale, window.values / scale, hidden)}

    def draw(self, window: Window) -> Tensor:
        """What to hide of a window, ``[B, L, N, C]`` bool."""
        length = max(1, round(self.minutes * 60 / window.city.time.step))
        return draw_mask(self.kind, window.mask, self.rate(), length=length, generator=seeded(self.seed))


class DecoupledMasked(nn.Module):
    """Masked modelling apart in time and in space, for one encoder each.

    The one has to reconstruct whole runs of steps of all nodes, so it learns along time; the other whole nodes at all
    steps, so it learns across space. A model with two encoders offers them as ``reconstructors``, a mapping with
    ``time`` and ``node``; then each loss reaches its own encoder only. A model with one does both. After STD-MAE
    (IJCAI 2024); no code of the node's position in the file is involved here.

    Args:
        time_rate: Share of the runs of steps to hide.
        node_rate: Share of the nodes to hide.
        minutes: Length of a run.
        span: As for :class:`MaskedModelling`.
        loss: ``mae``, ``mse`` or ``huber``.
        seed: As for :class:`MaskedModelling`.
    """

    def __init__(self, time_rate: float = 0.25, node_rate: float = 0.25, minutes: float = 60.0,
                 span: Literal["past", "joint"] = "past", loss: Literal["mae", "mse", "huber"] = "mae",
                 seed: int | None = None) -> None:
        super().__init__()
        self.time = MaskedModelling("whole_step", time_rate, minutes, span, loss, seed=seed)
        self.node = MaskedModelling("whole_node", node_rate, minutes, span, loss, seed=seed)

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that cannot reconstruct.

        Raises:
            InputError: naming it, or what is missing.
        """
        for axis, encoder in _encoders(model).items():
            require(encoder, Reconstructs, f"decoupled ({axis})")

    def forward(self, model: nn.Module, window: Window) -> dict[str, Tensor]:
        """The losses of one batch: ``{"masked_time": scalar, "masked_node": scalar}``."""
        encoders = _encoders(model)
        return {"masked_time": self.time(encoders["time"], window)["masked"],
                "masked_node": self.node(encoders["node"], window)["masked"]}


def _encoders(model: nn.Module) -> dict[str, nn.Module]:
    found = getattr(model, "reconstructors", None)
    if found is None:
        return {"time": model, "node": model}
    if not isinstance(found, Mapping | nn.ModuleDict) or set(found.keys()) != {"time", "node"}:
        raise InputError("a decoupled model has two encoders, 'time' and 'node'", field="reconstructors",
                         value=type(found).__name__, remedy="give them as a mapping with these two names")
    return {axis: found[axis] for axis in ("time", "node")}
