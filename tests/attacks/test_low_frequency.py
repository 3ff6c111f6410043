"""The low-frequency attack: its steps in float64 and NumPy, its spectrum, and what it can and cannot fool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape, cast, walk
from torch import Tensor

from radapt.adapters._gaussian import gaussian_filter
from radapt.attacks import ClassificationObjective, Outcome, make
from radapt.attacks._search import Evaluation
from radapt.attacks.low_frequency import LowFrequency
from radapt.errors import SettingsError

CUTOFF = 40 / 224
SIDE = 16


def sample_images(count: int, side: int = SIDE) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def frequency(side: int = SIDE) -> np.ndarray:
    """Distance from DC in cycles per pixel, of each entry of a 2D Fourier transform."""
    axis = np.fft.fftfreq(side)
    return np.hypot(axis[:, None], axis)


def blurred(image: np.ndarray, cutoff: float) -> np.ndarray:
    gain = np.exp(-(frequency(image.shape[-1]) ** 2) / (2 * cutoff**2))
    return np.fft.ifft2(np.fft.fft2(image) * gain).real


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.3)])
@pytest.mark.parametrize("cutoff", [CUTOFF, 0.08])
def test_every_step_is_apgds_on_coefficients_seen_through_the_filter(norm: str, eps: float, cutoff: float) -> None:
    clean = sample_images(4, 8).double()
    land, direction = Landscape(clean), torch.randn(clean.shape).double()
    attack = LowFrequency(norm=norm, eps=eps, cutoff=cutoff)
    path = walk(attack, clean, {"direction": direction}, land.entropy, 6)
    for sample in range(4):
        x0, drawn = clean[sample].numpy(), direction[sample].numpy()
        size = np.abs(drawn).max() if norm == "linf" else np.sqrt((drawn**2).sum())
        u = before = cast(norm, 2 * eps, x0 + 2 * eps * drawn / size, x0)
        # Six steps, well before APGD's first checkpoint: the step size is still twice the radius.
        for k in range(7):
            x = cast(norm, eps, x0 + blurred(u - x0, cutoff), x0)
            assert np.abs(path[k, sample] - x).max() < 1e-12
            gradient = blurred(land.entropy(sample, x)[1], cutoff)
            ascent = np.sign(gradient) if norm == "linf" else gradient / np.sqrt((gradient**2).sum())
            ahead = cast(norm, 2 * eps, u + 4 * eps * ascent, x0)
            if k > 0:
                ahead = cast(norm, 2 * eps, u + 0.75 * (ahead - u) + 0.25 * (u - before), x0)
            before, u = u, ahead


def test_the_filter_is_that_of_the_defence() -> None:
    images = torch.randn(2, 3, 9, 14)
    for cutoff in (0.05, CUTOFF, 0.4):
        ours = LowFrequency(eps=0.1, cutoff=cutoff)._filter(images)
        assert torch.allclose(ours, gaussian_filter(images, cutoff), atol=1e-6)


def attacked(name: str, land: Landscape, clean: Tensor, *, blur: bool = False, **settings: object) -> Outcome:
    """An attack on a landscape, seen through the defence's blur or bare."""

    def logits(pixels: Tensor) -> Tensor:
        return land.logits(gaussian_filter(pixels, CUTOFF) if blur else pixels)

    labels = logits(clean).argmax(1)
    return make(name, **settings)(ClassificationObjective(logits, labels, CLASSES), clean, batch_size=len(clean))


@pytest.mark.parametrize(("norm", "eps", "leak"), [("linf", 0.02, 0.06), ("l2", 0.3, 0.01)])
def test_the_perturbation_lies_in_the_pass_band(norm: str, eps: float, leak: float) -> None:
    clean = sample_images(12)
    shares = {}
    for name in ("low-frequency", "pgd"):
        outcome = attacked(name, Landscape(clean, rate=0.4), clean, norm=norm, eps=eps, steps=20)
        # Nothing is near black or white, so nothing was cut.
        power = np.abs(np.fft.fft2((outcome.pixels - clean).double().numpy())) ** 2
        shares[name] = power[..., frequency() > 2 * CUTOFF].sum() / power.sum()
    assert shares["low-frequency"] < leak
    assert shares["pgd"] > 0.3


def test_a_model_that_sees_the_high_band_alone_is_not_fooled() -> None:
    clean = sample_images(12)
    mask = torch.from_numpy(frequency() > 2.5 * CUTOFF)
    land = Landscape(clean, rate=0.4)

    def logits(pixels: Tensor) -> Tensor:
        return land.logits(torch.fft.ifft2(torch.fft.fft2(pixels.double()) * mask).real)

    objective = ClassificationObjective(logits, logits(clean).argmax(1), CLASSES)
    low, all_bands = (
        make(name, eps=0.03, steps=20)(objective, clean, batch_size=12) for name in ("low-frequency", "pgd")
    )
    assert all_bands.fooled.sum() >= 10
    assert low.fooled.sum() <= 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.006), ("l2", 0.15)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_behind_a_blur_is_fooled_nearly_as_often_as_by_pgd_with_as_many_passes(
    norm: str, eps: float, seed: int
) -> None:
    clean = sample_images(40)
    land = Landscape(clean, seed=seed)
    # It depends on what is left behind a blur, as a model that has learned to live with one does.
    spectrum = np.fft.fft2(land.inner.reshape(-1, 3, SIDE, SIDE)) * (frequency() <= CUTOFF)
    land.inner = 0.5 * np.fft.ifft2(spectrum).real.reshape(len(land.inner), -1)
    low, pgd = (
        attacked(name, land, clean, blur=True, norm=norm, eps=eps, steps=10) for name in ("low-frequency", "pgd")
    )
    assert 5 < pgd.fooled.sum() < 38
    # PGD's gradient has passed the blur already, and its images may lie anywhere in the ball; these may not.
    assert low.fooled.sum() >= 0.85 * pgd.fooled.sum()


def test_images_made_without_the_blur_get_through_it_more_often_than_those_of_pgd() -> None:
    clean = sample_images(40)
    land = Landscape(clean, rate=0.4)
    behind = land.logits(gaussian_filter(clean, CUTOFF)).argmax(1)
    through = {}
    for name in ("low-frequency", "pgd"):
        objective = ClassificationObjective(land.logits, land.labels, CLASSES, stop=False)
        images = make(name, eps=0.02, steps=10)(objective, clean, batch_size=40).pixels
        through[name] = int((land.logits(gaussian_filter(images, CUTOFF)).argmax(1) != behind).sum())
    assert through["low-frequency"] > through["pgd"]


def test_a_ball_as_wide_as_the_box_is_no_trouble() -> None:
    clean = sample_images(4)
    outcome = attacked("low-frequency", Landscape(clean), clean, eps=0.9, steps=10)
    assert outcome.fooled.all()


def test_a_warm_start_is_where_the_search_goes_on() -> None:
    clean = sample_images(3)
    attack = LowFrequency(eps=0.05, steps=30)
    _, state = attack.start(clean, {"direction": torch.randn(clean.shape)})
    warm = (clean + 0.04).clamp(0, 1)
    land = Landscape(clean, rate=0.01)
    leaf = warm.detach().requires_grad_(True)
    loss = ClassificationObjective(land.logits, land.labels, CLASSES)(leaf, torch.arange(3)).loss
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    current = Evaluation(warm, loss.detach(), torch.zeros(3, dtype=torch.bool), gradient)
    _, after = attack.step(clean, current, state, torch.zeros(3, dtype=torch.long))
    assert torch.equal(after["previous"], warm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": 0.0}, "cutoff must be a number above 0, got 0.0"),
        ({"cutoff": float("inf")}, "cutoff must be a number above 0, got inf"),
        ({"cut_off": 0.2}, "no setting 'cut_off'; did you mean 'cutoff'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("low-frequency", eps=0.1, **settings)
