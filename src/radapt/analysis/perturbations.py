"""Spectra: which frequencies the patch embedding takes up, and in which adversarial perturbations lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Float
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from radapt.attacks import ClassificationObjective, make
from radapt.data import Dataset
from radapt.errors import InputError, SettingsError
from radapt.io import fraction
from radapt.models import VLM, zero_shot
from radapt.results.intervals import score_interval
from radapt.results.plots import Curves, Line, Plot
from radapt.spectral import HIGHEST, radial, ring_sums
from radapt.text import one_line
from radapt.types import Pixels

from ._analysis import Analysis, image_batches
from ._batches import Batches, each_of

__all__ = ["ANALYSIS", "PerturbationSpectrum", "perturbation_spectrum"]


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
        InputError: the batches do not match, a value is not finite, or no image has a perturbation.
    """
    if isinstance(bands, bool) or not isinstance(bands, int) or bands < 1:
        raise SettingsError(f"bands must be a whole number of at least 1, got {bands!r}")
    total, squares = torch.zeros(2, bands, dtype=torch.float64, device="cpu").unbind()
    images = 0
    for before, after in zip_longest(each_of(clean), each_of(adversarial)):
        if before is None or after is None or before.shape != after.shape:
            shapes = " and ".join("none" if each is None else str(tuple(each.shape)) for each in (before, after))
            raise InputError(f"clean and adversarial batches must have one shape, got {shapes}")
        change = after.detach().cpu().double() - before.detach().cpu().double()
        if not change.isfinite().all():
            raise InputError("clean or adversarial images contain NaN or infinite values")
        shares = _shares(change, bands)
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


@final
@dataclass(frozen=True, kw_only=True)
class PerturbationSpectrum(Analysis):
    """In which frequencies the perturbations lie that an attack makes on each model; see :func:`perturbation_spectrum`.

    The attack spends its whole budget on every image.

    Args:
        attack: name of the attack.
        eps: its radius in pixel units, a number or a text such as ``4/255``.
        steps: its steps.
        bands: number of frequency bands.
    """

    name: ClassVar[str] = "perturbations"
    attack: str = "apgd"
    eps: float | str = 4 / 255
    steps: int = 20
    bands: int = 16

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        attack = make(self.attack, eps=fraction(self.eps), steps=self.steps)
        spectra = list[Curves]()
        for label, model in models.items():
            scorer = zero_shot(model)
            classifier = scorer.classifier(data.prompts)
            logits = partial(scorer.logits, classifier=classifier)
            clean = [part.to(model.device) for part in image_batches(data, label, quiet=True)]
            adversarial, first = list[Tensor](), 0
            for part in track(
                clean, description=escape(one_line(f"{self.attack} on {label}")), disable=quiet, transient=True
            ):
                rows = slice(first, first + len(part))
                objective = ClassificationObjective(logits, data.labels[rows], len(classifier), stop=False)
                adversarial.append(attack(objective, part, keys=data.keys[rows], batch_size=len(part)).pixels)
                first += len(part)
            spectra.append(perturbation_spectrum(clean, adversarial, label, bands=self.bands))
        title = f"Spectrum of adversarial perturbations (at most n = {len(data)})"
        return [replace(spectra[0], title=title, lines=tuple(line for each in spectra for line in each.lines))]


ANALYSIS = PerturbationSpectrum
