"""The attack in a ring of frequencies: its steps in float64 and NumPy, its spectrum, and its strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.attacks.landscape import CLASSES, Landscape, cast, walk
from torch import Tensor

from radapt.attacks import ClassificationObjective, Outcome, make
from radapt.attacks.band import Band
from radapt.errors import SettingsError

SIDE = 16
RINGS = [(0.0, 0.15), (0.15, 0.3), (0.3, 0.75)]


def sample_images(count: int, height: int = SIDE, width: int = SIDE) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def inside(low: float, high: float, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    distance = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return (distance >= low) & (distance < high)


def filtered(image: np.ndarray, ring: np.ndarray) -> np.ndarray:
    return np.fft.ifft2(np.fft.fft2(image) * ring).real


def attacked(name: str, clean: Tensor, *, seed: int = 0, **settings: object) -> Outcome:
    land = Landscape(clean, rate=0.4, seed=seed)
    objective = ClassificationObjective(land.logits, land.labels, CLASSES)
    return make(name, **settings)(objective, clean, batch_size=len(clean))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.3)])
@pytest.mark.parametrize("low_high", [*RINGS, (0.0, 0.75)])
def test_every_step_is_apgds_on_coefficients_seen_through_the_ring(
    norm: str, eps: float, low_high: tuple[float, float]
) -> None:
    clean = sample_images(4, 8, 9).double()
    ring = inside(*low_high, 8, 9)
    radius = eps / math.sqrt(ring.mean())
    land, direction = Landscape(clean), torch.randn(clean.shape).double()
    attack = Band(norm=norm, eps=eps, low=low_high[0], high=low_high[1])
    path = walk(attack, clean, {"direction": direction}, land.entropy, 6)
    for sample in range(4):
        x0, drawn = clean[sample].numpy(), direction[sample].numpy()
        size = np.abs(drawn).max() if norm == "linf" else np.sqrt((drawn**2).sum())
        u = before = cast(norm, radius, x0 + radius * drawn / size, x0)
        # Six steps, well before APGD's first checkpoint: the step size is still twice the radius.
        for k in range(7):
            x = u
            for _ in range(2):
                x = cast(norm, eps, x0 + filtered(x - x0, ring), x0)
            assert np.abs(path[k, sample] - x).max() < 1e-11
            gradient = filtered(land.entropy(sample, x)[1], ring)
            ascent = np.sign(gradient) if norm == "linf" else gradient / np.sqrt((gradient**2).sum())
            ahead = cast(norm, radius, u + 2 * radius * ascent, x0)
            if k > 0:
                ahead = cast(norm, radius, u + 0.75 * (ahead - u) + 0.25 * (u - before), x0)
            before, u = u, ahead


def test_rings_that_touch_share_out_an_image() -> None:
    images = torch.randn(2, 3, 9, 14)
    parts = [Band(eps=0.1, low=low, high=high)._filter(images) for low, high in RINGS]
    assert torch.allclose(sum(parts), images, atol=1e-5)
    for (low, high), part in zip(RINGS, parts, strict=True):
        assert np.allclose(part, filtered(images.numpy(), inside(low, high, 9, 14)), atol=1e-5)


@pytest.mark.parametrize(("norm", "eps", "leak"), [("linf", 0.02, 0.05), ("l2", 0.3, 1e-6)])
@pytest.mark.parametrize("low_high", RINGS)
def test_the_perturbation_lies_in_the_ring(norm: str, eps: float, leak: float, low_high: tuple[float, float]) -> None:
    clean = sample_images(12)
    settings = {"norm": norm, "eps": eps, "steps": 20}
    ours = attacked("band", clean, low=low_high[0], high=low_high[1], **settings)
    outside = {}
    for name, outcome in (("band", ours), ("apgd", attacked("apgd", clean, **settings))):
        # Nothing is near black or white, so that only the ball cuts.
        power = np.abs(np.fft.fft2((outcome.pixels - clean).double().numpy())) ** 2
        outside[name] = power[..., ~inside(*low_high)].sum() / power.sum()
    assert outside["band"] < leak
    assert outside["apgd"] > 0.2


def test_cutting_at_black_and_white_leaks_little() -> None:
    clean = sample_images(12).round()
    outcome = attacked("band", clean, eps=0.03, steps=20, low=0.15, high=0.3)
    power = np.abs(np.fft.fft2((outcome.pixels - clean).double().numpy())) ** 2
    there = power.sum((1, 2, 3)) > 0
    assert there.sum() > 6
    assert power[there][..., ~inside(0.15, 0.3)].sum() / power[there].sum() < 0.3


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.003), ("l2", 0.06)])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_all_frequencies_it_is_as_strong_as_apgd(norm: str, eps: float, seed: int) -> None:
    clean = sample_images(60)
    band, apgd = (attacked(name, clean, seed=seed, norm=norm, eps=eps, steps=15) for name in ("band", "apgd"))
    assert 10 < apgd.fooled.sum() < 55
    # They draw other starting points.
    assert abs(int(band.fooled.sum()) - int(apgd.fooled.sum())) <= 3


def test_a_model_that_sees_another_ring_is_not_fooled() -> None:
    clean = sample_images(12)
    mask = torch.from_numpy(inside(0.35, 0.75))
    land = Landscape(clean, rate=0.4)

    def logits(pixels: Tensor) -> Tensor:
        return land.logits(torch.fft.ifft2(torch.fft.fft2(pixels.double()) * mask).real)

    objective = ClassificationObjective(logits, logits(clean).argmax(1), CLASSES)
    there, elsewhere = (
        make("band", eps=0.03, steps=20, low=low, high=high)(objective, clean, batch_size=12).fooled.sum()
        for low, high in ((0.35, 0.75), (0.0, 0.2))
    )
    assert there >= 10
    assert elsewhere <= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": -0.1}, "low must be a number of at least 0, 0.707107 at most, got -0.1"),
        ({"low": 0.8, "high": 0.9}, "low must be a number of at least 0, 0.707107 at most, got 0.8"),
        ({"low": 0.3, "high": 0.3}, "high must be above low, got 0.3 and 0.3"),
        ({"high": 0.0}, "high must be a number above 0, got 0.0"),
        ({"hihg": 0.2}, "no setting 'hihg'; did you mean 'high'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make("band", eps=0.1, **settings)


def test_a_ring_between_the_frequencies_of_an_image_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"16 x 16 pixels have no frequency from 0\.01 to 0\.05 .*0\.0625 apart"):
        attacked("band", sample_images(2), eps=0.03, low=0.01, high=0.05)
