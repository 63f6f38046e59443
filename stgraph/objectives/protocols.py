"""What a model must offer beside ``forward`` to be trained by an objective, one small protocol for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.windows import Window

if TYPE_CHECKING:
    from stgraph.nn.learned_graph import LearnedGraph  # it loads the kernels, which most runs do without


@runtime_checkable
class Reconstructs(Protocol):
    """For masked modelling: fill in what was hidden."""

    def reconstruct(self, window: Window, hidden: Tensor) -> Tensor:
        """Values ``[B, L, N, C]`` in SI units for every entry of the window.

        Args:
            window: ``L`` steps from which the hidden values were taken out already: their value is 0, their mask False.
            hidden: ``[B, L, N, C]`` bool, True where a value was there and is wanted back.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """For contrast: one vector a node.

    Attributes:
        embedding_width: Length ``D`` of a vector.
    """

    embedding_width: int

    def embed(self, window: Window) -> Tensor:
        """The state of each node after the last step of the window, ``[B, N, D]``."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """For diffusion and flow: what is the noise in these values?"""

    def denoise(self, window: Window, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The noise, or the velocity, ``[B, L, N, C]``; what it is, the objective says.

        Args:
            window: ``L`` steps of which only the known values are left in; the future is part of the window.
            noisy: ``[B, L, N, C]`` values in deviations from the mean of their channel; the known ones without noise.
            time: ``[B]`` from 0 (clean) to 1 (nothing but noise).
            condition: ``[B, L, N, C]`` bool, True where the value is known.
        """
        ...


@runtime_checkable
class LearnsGraph(Protocol):
    """For the graph prior: the graph that the model learned."""

    def learned_graph(self, window: Window) -> LearnedGraph:
        """Candidate edges with their scores; the prior graph is marked among them."""
        ...


_OFFERS: dict[Any, str] = {Reconstructs: "reconstruct(window, hidden)", Embeds: "embed(window) and embedding_width",
           Denoises: "denoise(window, noisy, time, condition)", LearnsGraph: "learned_graph(window)"}


def require(model: nn.Module, protocol: type, objective: str) -> None:
    """Refuse a model that does not offer what an objective asks for.

    Raises:
        InputError: naming the model, the objective and what is missing.
    """
    if not isinstance(model, protocol):
        name = getattr(model, "name", type(model).__name__)
        raise InputError(f"the model '{name}' cannot be trained by '{objective}': it does not offer "
                         f"{_OFFERS[protocol]}", field="objectives", value=objective,
                         remedy="use a model that does, or leave the objective out")
