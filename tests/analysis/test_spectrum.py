"""Spectra against NumPy, gratings that really go through the module, and Parseval's theorem."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import SHAPE, lively, tiny_clip
from torch import Tensor
from transformers import Siglip2Config, Siglip2Model

import radapt
from radapt.analysis import frequency_response, kernel_spectrum, perturbation_spectrum
from radapt.errors import InputError, ModelError, SettingsError
from radapt.models import VLM

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

SIDE = 32


def tiny_siglip2() -> VLM:
    """A SigLIP 2 of variable resolution, whose patch embedding is a linear map."""
    vision = {**SHAPE, "patch_size": 8, "num_patches": 16}
    model = lively(Siglip2Model(Siglip2Config(vision_config=vision, text_config={**SHAPE, "vocab_size": 80})))
    return radapt.load(model)


@pytest.fixture(params=["clip", "qwen", "siglip2"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    """Patch embeddings that are a Conv2d, a Conv3d and a Linear."""
    if request.param == "siglip2":
        return tiny_siglip2()
    found = request.getfixturevalue("tiny_vlm" if request.param == "clip" else "tiny_qwen")
    return found if isinstance(found, VLM) else radapt.load(found)


def embedded(model: VLM, images: Tensor) -> Tensor:
    """What the patch embedding gives for the first patch of images, before anything is added."""
    got: list[Tensor] = []
    handle = model.tower.patch_embedding.register_forward_hook(lambda module, args, output: got.append(output))
    with torch.no_grad():
        model.encode_image(images)
    handle.remove()
    output = got[0]
    features = output.shape[1] if output.ndim > 3 else output.shape[-1]
    if output.ndim == 4:
        return output[:, :, 0, 0]
    return output.reshape(len(images), -1, features)[:, 0]


def test_the_response_is_what_gratings_measure(vlm: VLM) -> None:
    line = frequency_response({"it": vlm}).lines[0]
    size = max(vlm.image_size)
    assert line.x == tuple(k / size for k in range(size // 2 + 1))
    height = width = 2 * vlm.tower.patch_size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grey = embedded(vlm, torch.full((1, 3, height, width), 0.5)).double()
    for ring in (0, 1, size // 16, size // 2):
        reach = range(-ring - 1, ring + 2)
        found = [(u, v) for u in reach for v in reach if round(math.hypot(u, v)) == ring]
        # The highest ring holds each frequency of the edge once: -N/2 and N/2 are the same wave.
        found = list(dict.fromkeys((u % size, v % size) for u, v in found))
        angles = torch.stack([2 * math.pi * (u * y + v * x) / size for u, v in found])
        # Amplitude 1/2 around grey, as pixels lie in [0, 1]; two phases make a complex wave.
        waves = torch.cat([0.5 + 0.5 * angles.cos(), 0.5 + 0.5 * angles.sin()])[:, None].expand(-1, 3, -1, -1)
        real, imaginary = (2 * (embedded(vlm, waves.float()).double() - grey)).chunk(2)
        gains = (real**2 + imaginary**2).mean(1).sqrt()
        assert line.y[ring] == pytest.approx(float(gains.mean()), rel=1e-3)


def test_the_kernel_spectrum_is_the_difference_of_mean_magnitudes(tiny_vlm: VLM) -> None:
    twin = tiny_clip("twin", side=SIDE, seed=1, factor=12.0)
    before, after = (
        np.abs(np.fft.fft2(each.tower.patch_embedding.weight.double().numpy())).mean((0, 1))
        for each in (tiny_vlm, twin)
    )
    raw, relative = (np.array(kernel_spectrum(tiny_vlm, twin, scale=s).values) for s in ("raw", "relative"))
    assert np.allclose(raw, np.fft.fftshift(after - before), atol=1e-9)
    assert np.allclose(relative, raw / before.mean(), atol=1e-9)
    found = kernel_spectrum(tiny_vlm, twin)
    assert np.allclose(found.values, relative)
    assert found.rows == found.columns == ("-4", "-3", "-2", "-1", "0", "1", "2", "3")
    assert found.centre == 0
    assert not np.array(kernel_spectrum(tiny_vlm, tiny_vlm).values).any()


def test_a_kernel_that_gains_a_constant_gains_at_dc_alone(vlm: VLM) -> None:
    twin = copy.copy(vlm)
    twin.model = copy.deepcopy(vlm.model)
    with torch.no_grad():
        weight = twin.tower.patch_embedding.weight
        # The same sign as the kernel's own mean, so that the magnitude at DC grows.
        axes = tuple(range(1, weight.ndim))
        weight += 0.01 * weight.mean(axes, keepdim=True).sign()
    values = np.array(kernel_spectrum(vlm, twin, scale="raw").values)
    at = values[4, 4]
    values[4, 4] = 0
    assert abs(at) > 1e-3
    assert np.abs(values).max() < 1e-5


def images(count: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(count, 3, height, width).double()


@settings(max_examples=25)
@given(st.integers(4, 20), st.integers(4, 20), st.integers(1, 24), st.integers(0, 2**31))
def test_the_shares_add_up_and_their_energy_is_the_squared_length(h: int, w: int, bands: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    clean, change = (torch.rand(1, 3, h, w, generator=draw).double() for _ in range(2))
    line = perturbation_spectrum([clean], [clean + change], bands=bands).lines[0]
    assert len(line.x) == bands
    assert sum(line.y) == pytest.approx(100)
    # Parseval: the share of a band times the squared length is the energy of the change with all else taken away.
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    spectrum = np.fft.fft2(change.numpy())
    band = min(bands - 1, int(radius[-1, 1] * bands / math.sqrt(0.5)))
    inside = np.minimum(bands - 1, np.floor(radius * bands / math.sqrt(0.5))) == band
    kept = np.fft.ifft2(spectrum * inside).real
    assert line.y[band] / 100 * float(change.square().sum()) == pytest.approx((kept**2).sum())


def test_a_grating_lies_in_its_band_and_images_count_alike() -> None:
    clean = 0.5 * torch.ones(3, 3, 16, 16).double()
    wave = torch.cos(2 * math.pi * 4 * torch.arange(16) / 16).double().expand(3, 16, 16)
    flat = torch.ones(3, 16, 16).double()
    adversarial = clean + torch.stack([0.01 * wave, 0.4 * flat, 0 * flat])
    found = perturbation_spectrum(clean.split(2), adversarial.split(2), "mine", bands=8)
    [line] = found.lines
    assert line.name == "mine"
    assert "n = 2" in found.title
    # 0.25 cycles per pixel lie in the third of eight bands up to 0.707; the image that did not change does not count.
    assert np.allclose(line.y, [50, 0, 50, 0, 0, 0, 0, 0], atol=1e-9)
    assert np.allclose(line.x, (np.arange(8) + 0.5) * math.sqrt(0.5) / 8)
    assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))


def test_wrong_input_is_refused(tiny_vlm: VLM) -> None:
    with pytest.raises(SettingsError, match="unknown scale 'relativ'; did you mean 'relative'"):
        kernel_spectrum(tiny_vlm, tiny_vlm, scale="relativ")
    broken = tiny_clip("broken", side=SIDE)
    embeddings = broken.model.vision_model.embeddings
    embeddings.patch_embedding = torch.nn.Conv2d(3, 32, 4, 4)
    with pytest.raises(ModelError, match="broken embeds its patches with a Conv2d"):
        frequency_response({"broken": broken})
    with pytest.raises(InputError, match="at least one model"):
        frequency_response({})
    with pytest.raises(SettingsError, match="bands must be a whole number of at least 1, got 0"):
        perturbation_spectrum([images(2)], [images(2)], bands=0)
    with pytest.raises(InputError, match=r"one shape, got \(2, 3, 16, 16\) and none"):
        perturbation_spectrum([images(2)] * 2, [images(2)])
    with pytest.raises(InputError, match=r"one shape, got \(2, 3, 16, 16\) and \(1, 3, 16, 16\)"):
        perturbation_spectrum([images(2)], [images(1)])
    same = images(2)
    with pytest.raises(InputError, match="no image has a perturbation"):
        perturbation_spectrum([same], [same])


def test_patches_of_different_sizes_have_no_spectrum_in_common(tiny_vlm: VLM) -> None:
    config = tiny_vlm.model.config.to_dict()
    config["vision_config"]["patch_size"] = 4
    other = radapt.load(type(tiny_vlm.model)(type(tiny_vlm.model.config).from_dict(config)))
    with pytest.raises(ModelError, match="the patches of tiny/clip have 8 pixels a side, those of CLIPModel 4"):
        kernel_spectrum(tiny_vlm, other)
    lines = frequency_response({"one": tiny_vlm, "two": other}).lines
    assert [line.name for line in lines] == ["one", "two"]
