"""Response: the gain of the patch embedding by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch

from radapt.data import Dataset
from radapt.errors import InputError
from radapt.models import VLM
from radapt.results.plots import Curves, Line, Plot
from radapt.spectral import radial, ring_sums

from ._analysis import Analysis, by_name
from ._kernels import kernels

__all__ = ["ANALYSIS", "FrequencyResponse", "frequency_response"]

_FEATURES = 64
"""Kernels transformed at a time: those of a large model, padded to its image size, would not fit into memory."""


def frequency_response(models: VLM | Sequence[VLM] | Mapping[str, VLM]) -> Curves:
    """How strongly patch embeddings respond to a grey grating, by its frequency.

    ``G(f) = sqrt(mean_k |W_k(f)|^2)`` over the features ``k``, where ``W_k(f) = sum_c DTFT(kernel_kc)(f) / std_c`` is
    the feature's response to the grating ``exp(2 pi i f . x)`` in all three colour channels, ``std`` the model's
    normalisation; then the mean over directions, in rings one cycle per image wide. The closed form: nothing is
    measured.

    Args:
        models: a model, or several, in a list or by the name of their line.

    Returns:
        One line per model from 0 to 0.5 cycles per pixel, in units of a feature per unit of grey level.

    Raises:
        InputError: there are no models, or one carries an adapter.
        ModelError: a patch embedding is of an unknown kind.
    """
    named = by_name(models)
    if not named:
        raise InputError("a frequency response needs at least one model")
    return Curves(
        title="Response of the patch embedding to gratings",
        x_label="frequency (cycles per pixel)",
        y_label="gain (feature per grey level)",
        lines=tuple(_response(name, model) for name, model in named.items()),
    )


def _response(name: str, model: VLM) -> Line:
    size = max(*model.image_size, model.tower.patch_size)
    weights = kernels(model)
    std = torch.tensor(model.tower.std, dtype=torch.float64, device="cpu").view(3, 1, 1)
    grey = (weights / std).sum(1)
    power = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    for part in grey.split(_FEATURES):
        power += torch.fft.fft2(part, s=(size, size)).abs().square().sum(0)
    gain = (power / len(grey)).sqrt()
    # The corners beyond the highest frequency of an upright grating hold diagonal ones only.
    ring = (radial(size, size) * size).round().long()
    rings = size // 2 + 1
    sums, counts = (ring_sums(each[None], ring, rings)[0] for each in (gain, torch.ones_like(gain)))
    return Line(name=name, x=tuple(k / size for k in range(rings)), y=tuple((sums / counts).tolist()))


@final
@dataclass(frozen=True, kw_only=True)
class FrequencyResponse(Analysis):
    """Gain of the patch embedding by frequency; see :func:`frequency_response`."""

    name: ClassVar[str] = "response"

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        return [frequency_response(models)]


ANALYSIS = FrequencyResponse
