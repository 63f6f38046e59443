"""Diffusion and rectified flow: sample paths of the future, or of what is missing; the mask is the task."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stgraph.errors import InputError
from stgraph.objectives.masks import MASKS, draw_mask
from stgraph.objectives.protocols import Denoises, require
from stgraph.objectives.views import hide, joint, normal, scale_of, seeded, uniform
from stgraph.windows import Window


class CosineDiffusion:
    r"""Variance-preserving diffusion ``z = a x + b e`` with the cosine schedule, sampled without noise (DDIM).

    .. math:: a(t) = \frac{\cos(\frac{\pi}{2} \frac{t' + s}{1 + s})}{\cos(\frac{\pi}{2} \frac{s}{1 + s})}, \quad
              b = \sqrt{1 - a^2}, \quad t' = 0.995 t, \quad s = 0.008

    J. Ho, A. Jain, P. Abbeel: Denoising Diffusion Probabilistic Models, NeurIPS 2020; A. Nichol, P. Dhariwal: Improved
    DDPM, ICML 2021 (schedule); T. Salimans, J. Ho: Progressive Distillation, ICLR 2022 (``v``); J. Song, C. Meng, S.
    Ermon: DDIM, ICLR 2021 (sampler). Time is continuous; it ends just before ``a`` is 0, where ``x`` could no longer
    be told from ``e``.

    Args:
        predicts: What the model answers: the noise ``e`` (``eps``) or ``v = a e - b x``.
    """

    LAST, OFFSET = 0.995, 0.008

    def __init__(self, predicts: Literal["eps", "v"] = "v") -> None:
        self.predicts = predicts

    def shares(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the value and of the noise there is at times in ``[0, 1]``, of the same shape."""
        angle = (self.LAST * time + self.OFFSET) / (1 + self.OFFSET) * (math.pi / 2)
        start = math.cos(self.OFFSET / (1 + self.OFFSET) * (math.pi / 2))
        a = (angle.cos() / start).clamp(max=1)
        return a, (1 - a.square()).clamp(min=0).sqrt()

    def draw_time(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Times to train at, ``[count]``: even over ``[0, 1)``."""
        return uniform((count,), device, generator)

    def grid(self, steps: int) -> Tensor:
        """Times of the sampler, from 1 to 0, ``[steps + 1]``."""
        return torch.linspace(1, 0, steps + 1)

    def mix(self, value: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """The noisy value at a time that broadcasts."""
        a, b = self.shares(time)
        return a * value + b * noise

    def target(self, value: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the model ought to answer."""
        a, b = self.shares(time)
        return noise if self.predicts == "eps" else a * noise - b * value

    def estimate(self, noisy: Tensor, answer: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The clean value and the noise that an answer stands for."""
        a, b = self.shares(time)
        if self.predicts == "eps":
            return (noisy - b * answer) / a, answer
        return a * noisy - b * answer, b * noisy + a * answer

    def move(self, noisy: Tensor, answer: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """One step of the sampler from a time to an earlier one."""
        value, noise = self.estimate(noisy, answer, time)
        return self.mix(value, noise, to)


class RectifiedFlow:
    r"""Straight lines ``z = (1 - t) x + t e`` with velocity ``v = e - x``, followed by Euler steps.

    X. Liu, C. Gong, Q. Liu: Flow Straight and Fast, ICLR 2023. Times are logit-normal and shifted toward the noise,
    ``t' = k t / (1 + (k - 1) t)`` (P. Esser et al., Scaling Rectified Flow Transformers, ICML 2024), as in UrbanDiT.

    Args:
        shift: ``k``; 1 shifts nothing, UrbanDiT has 3.
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def draw_time(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Times to train at, ``[count]``."""
        return self._shifted(normal((count,), device, generator).sigmoid())

    def grid(self, steps: int) -> Tensor:
        """Times of the sampler, from 1 to 0, ``[steps + 1]``."""
        return self._shifted(torch.linspace(1, 0, steps + 1))

    def mix(self, value: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """The noisy value at a time that broadcasts."""
        return (1 - time) * value + time * noise

    def target(self, value: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the model ought to answer: the velocity."""
        return noise - value

    def estimate(self, noisy: Tensor, answer: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The clean value and the noise that an answer stands for; at time 0 the value is the noisy one."""
        return noisy - time * answer, noisy + (1 - time) * answer

    def move(self, noisy: Tensor, answer: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """One step of the sampler from a time to an earlier one."""
        return noisy - (time - to) * answer

    def _shifted(self, time: Tensor) -> Tensor:
        return self.shift * time / (1 + (self.shift - 1) * time)


class DiffusionForecast(nn.Module):
    r"""Learn the noise in what is hidden, given what is known.

    .. math:: L = \frac{1}{|M|} \sum_{M} (f(z_t, t, known) - target)^2

    over the hidden entries ``M``, all of which were observed; in deviations of each channel. The known entries stay
    clean in the noisy input, as in UrbanDiT (Y. Yuan et al., arXiv 2411.12164). One task of ``tasks`` is drawn for
    each batch: ``future`` hides the wanted steps of the joint window of ``T + H`` steps (DiffSTG, SIGSPATIAL 2023);
    every other mask of the registry hides a share ``rate`` of the ``T`` input steps alone (PriSTI, ICDE 2023).

    Args:
        process: ``flow`` (rectified flow), ``v`` or ``eps`` (cosine diffusion).
        tasks: ``future`` or masks of :data:`stgraph.objectives.masks.MASKS`.
        rate: Share to hide for the masks.
        minutes: Length of a run of a mask.
        shift: Shift of the times of a flow.

    Raises:
        InputError: for an unknown process or task.
    """

    def __init__(self, process: Literal["flow", "v", "eps"] = "flow", tasks: Sequence[str] = ("future",),
                 rate: float = 0.25, minutes: float = 60.0, shift: float = 1.0) -> None:
        super().__init__()
        if process not in ("flow", "v", "eps"):
            raise InputError("unknown process", field="process", value=process, remedy="use flow, v or eps")
        if not tasks or not set(tasks) <= set(MASKS):
            raise InputError("unknown task", field="tasks", value=tasks, remedy=f"use some of {', '.join(MASKS)}")
        if not shift > 0 or not minutes > 0:
            raise InputError("must be positive", field="shift, minutes", value=(shift, minutes))
        if not 0 <= rate <= 1:
            raise InputError("a share lies between 0 and 1", field="rate", value=rate)
        self.process = RectifiedFlow(shift) if process == "flow" else CosineDiffusion(process)
        self.tasks, self.rate, self.minutes = tuple(tasks), rate, minutes

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that does not denoise.

        Raises:
            InputError: naming it.
        """
        require(model, Denoises, "diffusion")

    def forward(self, model: Denoises, window: Window) -> dict[str, Tensor]:
        """The loss of one batch: ``{"diffusion": scalar}``; 0 where nothing hidden was observed."""
        task = self.tasks[int(torch.randint(len(self.tasks), ()))]
        whole, hidden = self.pose(window, task)
        known, scored = whole.mask & ~hidden, whole.mask & hidden
        mean, deviation = scale_of(whole)
        value = torch.where(whole.mask, (whole.values - mean) / deviation, 0)
        time = self.process.draw_time(len(value), value.device)
        at, noise = time[:, None, None, None], torch.randn_like(value)
        noisy = torch.where(known, value, self.process.mix(value, noise, at))
        answer = model.denoise(hide(whole, hidden), noisy, time, known)
        error = torch.where(scored, answer - self.process.target(value, noise, at), 0)
        return {"diffusion": error.square().sum() / scored.sum().clamp(min=1)}

    def pose(self, window: Window, task: str) -> tuple[Window, Tensor]:
        """The window of a task and what it hides of it, ``[B, L, N, C]`` bool."""
        if task == "future":
            whole = joint(window)
            return whole, _late(whole, window.horizon)
        length = max(1, round(self.minutes * 60 / window.city.time.step))
        return window, draw_mask(task, window.mask, self.rate, length=length)

    def sample(self, model: Denoises, window: Window, n: int = 10, steps: int = 20, seed: int | None = None) -> Tensor:
        """Sample paths of the wanted steps, ``[n, B, H, N, C]`` in SI units; targets are not read.

        With ``steps=1`` each path is one answer of the model to nothing but noise: of an ideal model, the conditional
        mean.

        Args:
            model: The denoiser; it is in evaluation mode meanwhile.
            window: Input steps.
            n: Paths.
            steps: Steps from noise to value.
            seed: Seed of the noise; None draws from torch's generator.
        """
        whole = joint(window)
        late = _late(whole, window.horizon)
        return self._solve(model, hide(whole, late), n, steps, seed)[:, :, -window.horizon:]

    def impute(self, model: Denoises, window: Window, n: int = 10, steps: int = 20, seed: int | None = None) -> Tensor:
        """Sample values of the input steps that were not observed, ``[n, B, T, N, C]`` in SI units.

        What was observed is given back to the last bit; targets are not read.

        Args:
            model: The denoiser.
            window: Input steps with gaps.
            n: Samples.
            steps: Steps from noise to value.
            seed: Seed of the noise.
        """
        found = self._solve(model, hide(window, torch.zeros_like(window.mask)), n, steps, seed)
        return torch.where(window.mask, window.values, found)

    @torch.no_grad()
    def _solve(self, model: Denoises, blind: Window, n: int, steps: int, seed: int | None) -> Tensor:
        """Follow the process from noise to values, known ones held; ``[n, B, L, N, C]`` in SI units."""
        if n < 1 or steps < 1:
            raise InputError("at least one sample in at least one step", field="n, steps", value=(n, steps))
        mean, deviation = scale_of(blind)
        known, generator = blind.mask, seeded(seed)
        value = torch.where(known, (blind.values - mean) / deviation, 0)
        times = self.process.grid(steps).to(value)
        paths = []
        with _evaluating(model):
            for _ in range(n):
                noisy = normal(value.shape, value.device, generator).to(value)
                for time, to in pairwise(times):
                    noisy = torch.where(known, value, noisy)
                    answer = model.denoise(blind, noisy, time.expand(len(value)), known)
                    noisy = self.process.move(noisy, answer, time, to)
                paths.append(noisy * deviation + mean)
        return torch.stack(paths)


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """A model in evaluation mode, put back afterwards."""
    before = getattr(model, "training", False)
    if before:
        model.eval()
    try:
        yield
    finally:
        if before:
            model.train()


def _late(whole: Window, horizon: int) -> Tensor:
    """The wanted steps of a joint window, ``[B, T + H, N, C]`` bool."""
    steps = whole.values.shape[1]
    late = torch.arange(steps, device=whole.values.device) >= steps - horizon
    return late[:, None, None].expand(whole.values.shape)
