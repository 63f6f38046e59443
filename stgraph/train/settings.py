"""How a run is trained: everything but the model, the data and the budget."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stgraph.errors import InputError
from stgraph.objectives import make_objective

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainingSettings:
    """How a run is trained.

    Args:
        seed: Seed of the first weights, the order of the batches and the noise of dropout.
        batch_size: Windows in a batch.
        learning_rate: Highest learning rate of AdamW.
        weight_decay: Decoupled weight decay of AdamW.
        clip: Largest norm of the gradient.
        precision: ``32-true``, ``bf16-mixed`` or, on a GPU, ``16-mixed``.
        patience: Validations without a better score after which the run ends; None for never.
        objectives: Objectives with their weights: an objective, or the name of one with settings, such as
            ``masked(kind=block)``; see :mod:`stgraph.objectives.registry`. One that is given as a module is copied.
        balance: Whether to bring the gradient norms of several objectives to their mean, before the weights.
        weights: Share of batches from each city; None for in proportion to their windows.
        workers: Processes that cut windows; the result does not depend on it.
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        threads: Threads of torch on the CPU; None for what the model's size deserves.

    Raises:
        InputError: for a value out of range, or a precision that the device does not have.
    """

    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    clip: float = 5.0
    precision: str = "32-true"
    patience: int | None = None
    objectives: Sequence[tuple[str | nn.Module, float]] = (("mae", 1.0),)
    balance: bool = False
    weights: Sequence[float] | None = None
    workers: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise InputError("must be positive", field=name, value=getattr(self, name))
        for name in ("seed", "weight_decay", "workers"):
            if not getattr(self, name) >= 0:
                raise InputError("must not be negative", field=name, value=getattr(self, name))
        for name in ("patience", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError("must be at least 1", field=name, value=getattr(self, name))
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise InputError("not known", field=name, value=getattr(self, name),
                                 remedy=f"use one of {', '.join(known)}")
        if not self.objectives:
            raise InputError("nothing to train for", field="objectives", remedy="name at least one, such as mae")
        for item, _ in self.objectives:
            if isinstance(item, str):
                make_objective(item)  # refused now, before anything is written
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch finds no GPU", field="device", value="cuda", remedy="use --device cpu")
        if self.precision == "16-mixed" and not self.on_gpu:
            raise InputError("half precision needs a GPU", field="precision", value="16-mixed",
                             remedy="use bf16-mixed or 32-true on a CPU")

    @property
    def on_gpu(self) -> bool:
        """Whether the run uses a GPU."""
        return self.device != "cpu" and torch.cuda.is_available()

    @property
    def torch_device(self) -> torch.device:
        """Where the run computes."""
        return torch.device("cuda" if self.on_gpu else "cpu")

    def make_objectives(self, model: nn.Module | None = None) -> tuple[list[nn.Module], list[float]]:
        """The objectives as modules of this run's own, and their weights.

        Weights that an objective learns, such as a projection for contrast, follow from the seed alone.

        Args:
            model: The model to train; None leaves out what depends on it.

        Raises:
            InputError: where the model does not offer what an objective needs.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            modules = [make_objective(item) if isinstance(item, str) else copy.deepcopy(item)
                       for item, _ in self.objectives]
            for module in modules:
                prepare = getattr(module, "prepare", None)
                if model is not None and callable(prepare):
                    prepare(model)
        return modules, [float(weight) for _, weight in self.objectives]
