"""Spectra: which frequencies the patch embedding takes up, and in which adversarial perturbations lie."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import torch
from jaxtyping import Float
from torch import Tensor

from radapt._interval import score_interval
from radapt.analyze._batches import Batches
from radapt.analyze._kernel import kernels
from radapt.analyze._radial import HIGHEST, radial, ring_sums
from radapt.errors import InputError, ModelError, SettingsError
from radapt.find import nearest
from radapt.models import VLM
from radapt.plots import Curves, Heatmap, Line
from radapt.types import Pixels

__all__ = ["frequency_response", "kernel_spectrum", "perturbation_spectrum"]

_SCALES = ("relative", "raw")
_FEATURES = 64
"""Kernels transformed at a time: those of a large model, padded to its image size, would not fit into memory."""


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


def frequency_response(models: Mapping[str, VLM]) -> Curves:
    """How strongly patch embeddings respond to a grey grating, by its frequency.

    ``G(f) = sqrt(mean_k |W_k(f)|^2)`` over the features ``k``, where ``W_k(f) = sum_c DTFT(kernel_kc)(f) / std_c`` is
    the feature's response to the grating ``exp(2 pi i f . x)`` in all three colour channels, ``std`` the model's
    normalisation; then the mean over directions, in rings one cycle per image wide. The closed form: nothing is
    measured.

    Args:
        models: models by the name of their line.

    Returns:
        One line per model from 0 to 0.5 cycles per pixel, in units of a feature per unit of grey level.

    Raises:
        InputError: there are no models.
        ModelError: a patch embedding is of an unknown kind.
    """
    if not models:
        raise InputError("a frequency response needs at least one model")
    return Curves(
        title="Response of the patch embedding to gratings",
        x_label="frequency (cycles per pixel)",
        y_label="gain (feature per grey level)",
        lines=tuple(_response(name, model) for name, model in models.items()),
    )


def _response(name: str, model: VLM) -> Line:
    size = max(*model.image_size, model.tower.patch_size)
    weights = kernels(model)
    std = torch.tensor(model.tower.std, dtype=torch.float64).view(3, 1, 1)
    grey = (weights / std).sum(1)
    power = torch.zeros(size, size).double()
    for part in grey.split(_FEATURES):
        power += torch.fft.fft2(part, s=(size, size)).abs().square().sum(0)
    gain = (power / len(grey)).sqrt()
    # The corners beyond the highest frequency of an upright grating hold diagonal ones only.
    ring = (radial(size, size) * size).round().long()
    rings = size // 2 + 1
    sums, counts = (ring_sums(each[None], ring, rings)[0] for each in (gain, torch.ones_like(gain)))
    return Line(name=name, x=tuple(k / size for k in range(rings)), y=tuple((sums / counts).tolist()))


def perturbation_spectrum(
    clean: Batches, adversarial: Batches, name: str = "perturbation", *, bands: int = 16
) -> Curves:
    """In which frequencies the energy of adversarial perturbations lies.

    The share of a band is ``sum |DFT(x' - x)(f)|^2`` over the frequencies of the band and the colour channels, divided
    by the same over all frequencies (by Parseval's theorem the squared length of the perturbation); then the mean over
    images. Images without a perturbation, such as those that were misclassified before, do not count.

    Args:
        clean, adversarial: batches of images in [0, 1], the same in the same order.
        name: name of the line.
        bands: number of bands of equal width from 0 to 0.707 cycles per pixel, the highest frequency there is. More
            than about half as many as an image has pixels a side leave bands empty.

    Returns:
        One line, the middle of each band against its share, with 95 % intervals.

    Raises:
        SettingsError: ``bands`` is not a whole number of at least 1.
        InputError: the batches do not match, or no image has a perturbation.
    """
    if isinstance(bands, bool) or not isinstance(bands, int) or bands < 1:
        raise SettingsError(f"bands must be a whole number of at least 1, got {bands!r}")
    total, squares, images = torch.zeros(bands).double(), torch.zeros(bands).double(), 0
    for before, after in zip_longest(clean, adversarial):
        if before is None or after is None or before.shape != after.shape:
            shapes = " and ".join("none" if each is None else str(tuple(each.shape)) for each in (before, after))
            raise InputError(f"clean and adversarial batches must have one shape, got {shapes}")
        shares = _shares(after.detach().cpu().double() - before.detach().cpu().double(), bands)
        total += shares.sum(0)
        squares += shares.square().sum(0)
        images += len(shares)
    if not images:
        raise InputError("no image has a perturbation; give clean images and those made from them by an attack")
    limits = [
        score_interval(min(one, images), two, images, proportion=True)
        for one, two in zip(total.tolist(), squares.tolist(), strict=True)
    ]
    return Curves(
        title=f"Spectrum of adversarial perturbations (n = {images})",
        x_label="frequency (cycles per pixel)",
        y_label="share of the energy (%)",
        lines=(
            Line(
                name=name,
                x=tuple((band + 0.5) * HIGHEST / bands for band in range(bands)),
                y=tuple((100 * total / images).tolist()),
                low=tuple(low for low, _ in limits),
                high=tuple(high for _, high in limits),
            ),
        ),
    )


def _shares(change: Pixels, bands: int) -> Float[Tensor, "images bands"]:
    """Share of the energy of each perturbation in each band; none for a perturbation that is zero."""
    height, width = change.shape[-2:]
    ring = (radial(height, width) * bands / HIGHEST).floor().long().clamp(max=bands - 1)
    power = torch.fft.fft2(change).abs().square().sum(1)
    sums = ring_sums(power, ring, bands)
    there = change.flatten(1).any(1)
    return sums[there] / sums[there].sum(1, keepdim=True)
