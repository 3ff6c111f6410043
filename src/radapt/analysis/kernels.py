"""Kernels: which frequencies the patch embedding takes up, and how a twin's differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import torch

from radapt.data import Dataset
from radapt.errors import ModelError, SettingsError
from radapt.models import VLM
from radapt.registry import nearest
from radapt.results.plots import Heatmap, Plot

from ._analysis import Analysis, original_and_twins
from ._kernels import kernels

__all__ = ["ANALYSIS", "KernelSpectrum", "kernel_spectrum"]

_SCALES = ("relative", "raw")


def kernel_spectrum(model: VLM, twin: VLM, *, scale: str = "relative") -> Heatmap:
    """How the spectrum of the patch-embedding kernels changed from a model to its twin (figure 3a of the paper).

    ``D(u, v) = S_twin(u, v) - S_model(u, v)`` with ``S(u, v) = mean |DFT(kernel)(u, v)|`` over all kernels, those of
    each feature and colour channel, DC in the middle. The unit of the paper's figure is not known; that ``relative``
    is meant is our reading.

    Args:
        model, twin: models with patches of one size.
        scale: ``relative``: divided by the mean of ``S_model`` over all frequencies; ``raw``: as it is, in units of the
            weights.

    Returns:
        Vertical frequencies in rows, horizontal ones in columns, in cycles per patch.

    Raises:
        SettingsError: an unknown scale.
        InputError: a model carries an adapter.
        ModelError: the patches differ in size, or a patch embedding is of an unknown kind.
    """
    if scale not in _SCALES:
        raise SettingsError(f"unknown scale {scale!r}{nearest(scale, _SCALES)}")
    sizes = [each.tower.patch_size for each in (model, twin)]
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the patches of {model.name} have {sizes[0]} pixels a side, those of {twin.name} {sizes[1]}: their "
            "spectra have no frequencies in common; take models with one patch size"
        )
    before, after = (torch.fft.fft2(kernels(each)).abs().mean((0, 1)) for each in (model, twin))
    change = torch.fft.fftshift(after - before)
    unit = before.mean() if scale == "relative" else 1.0
    size = sizes[0]
    names = tuple(str(number - size // 2) for number in range(size))
    return Heatmap(
        title=f"Spectrum of the patch embedding: {twin.name} minus {model.name}",
        row_label="vertical frequency (cycles per patch)",
        column_label="horizontal frequency (cycles per patch)",
        rows=names,
        columns=names,
        values=tuple(tuple(row) for row in (change / unit).tolist()),
        value_label=f"change (1: mean magnitude of {model.name})" if scale == "relative" else "change of magnitude",
        centre=0.0,
    )


@final
@dataclass(frozen=True, kw_only=True)
class KernelSpectrum(Analysis):
    """Spectrum of the patch embedding, twin minus original; see :func:`kernel_spectrum`.

    Args:
        scale: ``relative`` or ``raw``.
    """

    name: ClassVar[str] = "kernels"
    scale: str = "relative"

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        (name, model), others = original_and_twins(models, self.name)
        return [
            replace(
                kernel_spectrum(model, other, scale=self.scale),
                title=f"Patch embedding: spectrum of {label} minus that of {name}",
            )
            for label, other in others
        ]


ANALYSIS = KernelSpectrum
