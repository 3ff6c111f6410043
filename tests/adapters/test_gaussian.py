from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from radapt.adapters import adapt
from radapt.adapters._gaussian import cutoff_from_d0, gaussian_filter
from radapt.errors import SettingsError
from radapt.models import VLM
from radapt.spectral import gaussian_response as response

SIZES = st.integers(1, 40)
CUTOFFS = st.floats(0.02, 2.0)


def transfer(height: int, width: int, cutoff: float) -> NDArray[np.float64]:
    """H(u, v) = exp(-D^2 / (2 D0^2)) with D in cycles per pixel."""
    v, u = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    return np.exp(-(u**2 + v**2) / (2 * cutoff**2))


def reference(images: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
    filtered = np.fft.ifft2(np.fft.fft2(images) * transfer(*images.shape[-2:], cutoff)).real
    return np.asarray(filtered, dtype=np.float64)


@pytest.mark.parametrize("method", ["fft", "separable", "auto"])
@settings(max_examples=40)
@given(height=SIZES, width=SIZES, cutoff=CUTOFFS, seed=st.integers(0, 99))
def test_equals_the_closed_form_in_float64(method: str, height: int, width: int, cutoff: float, seed: int) -> None:
    images = np.random.default_rng(seed).random((2, 3, height, width))
    filtered = gaussian_filter(torch.from_numpy(images).float(), cutoff, method=method)
    assert filtered.shape == images.shape
    np.testing.assert_allclose(filtered.numpy(), reference(images, cutoff), atol=1e-5)


def test_the_default_of_large_images_is_as_exact() -> None:
    images = np.random.default_rng(0).random((1, 30, 515))
    filtered = gaussian_filter(torch.from_numpy(images).float(), 0.179)
    np.testing.assert_allclose(filtered.numpy(), reference(images, 0.179), atol=1e-5)


@pytest.mark.parametrize("method", ["fft", "separable"])
def test_a_cosine_is_attenuated_by_exactly_the_response(method: str) -> None:
    height, width, cutoff = 20, 31, cutoff_from_d0(40)
    y, x = np.mgrid[:height, :width]
    for v, u in [(0, 0), (1, 0), (3, 7), (10, 15)]:
        wave = np.cos(2 * np.pi * (v * y / height + u * x / width))
        gain = np.exp(-((v / height) ** 2 + (u / width) ** 2) / (2 * (40 / 224) ** 2))
        filtered = gaussian_filter(torch.from_numpy(wave).float(), cutoff, method=method)
        np.testing.assert_allclose(filtered.numpy(), gain * wave, atol=2e-6)


@pytest.mark.parametrize(("d0", "size"), [(40, 224), (20, 224), (40, 336), (9, 48)])
def test_d0_cycles_of_an_image_pass_with_exp_of_minus_a_half(d0: int, size: int) -> None:
    assert response(size, cutoff_from_d0(d0, size))[d0].item() == pytest.approx(np.exp(-0.5), rel=1e-12)


def test_d0_is_meant_at_224_pixels() -> None:
    assert cutoff_from_d0(40) == cutoff_from_d0(40, 224) == 40 / 224


@pytest.mark.parametrize("method", ["fft", "separable"])
def test_uniform_images_pass_and_so_does_the_mean(method: str) -> None:
    uniform = torch.full((2, 3, 17, 24), 0.7)
    assert torch.allclose(gaussian_filter(uniform, 0.05, method=method), uniform, atol=1e-6)
    images = torch.rand(2, 3, 17, 24)
    filtered = gaussian_filter(images, 0.05, method=method)
    assert torch.allclose(filtered.mean((-2, -1)), images.mean((-2, -1)), atol=1e-6)


def test_commutes_with_normalisation() -> None:
    images, mean, std = torch.rand(2, 3, 16, 16), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.3, 0.5])
    mean, std = mean[:, None, None], std[:, None, None]
    after = gaussian_filter((images - mean) / std, 0.1)
    assert torch.allclose(after, (gaussian_filter(images, 0.1) - mean) / std, atol=1e-5)


def test_an_infinite_cut_off_passes_everything() -> None:
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(gaussian_filter(images, float("inf")), images)
    assert torch.allclose(gaussian_filter(images, 1e6), images, atol=1e-6)


@pytest.mark.parametrize("method", ["fft", "separable"])
def test_autocast_does_not_lower_the_precision(method: str) -> None:
    images = torch.rand(1, 3, 24, 24)
    exact = gaussian_filter(images, 0.179, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_filter(images, 0.179, method=method), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keeps_the_type_of_the_images(dtype: torch.dtype) -> None:
    images = torch.rand(1, 3, 24, 24).to(dtype)
    filtered = gaussian_filter(images, 0.179)
    assert filtered.dtype == dtype
    assert torch.equal(filtered, gaussian_filter(images.float(), 0.179).to(dtype))


@pytest.mark.parametrize("method", ["fft", "separable"])
def test_the_gradient_is_the_filter_itself(method: str) -> None:
    # H is real and symmetric, so the filter is its own adjoint.
    images, weights = torch.rand(1, 2, 9, 14, requires_grad=True), torch.rand(1, 2, 9, 14)
    (gradient,) = torch.autograd.grad((gaussian_filter(images, 0.1, method=method) * weights).sum(), images)
    np.testing.assert_allclose(gradient.numpy(), reference(weights.double().numpy(), 0.1), atol=1e-5)


@pytest.mark.parametrize(("method", "cutoff"), [("fft", 0.1234), ("separable", 0.1235)])
def test_gradients_exist_after_a_first_use_in_inference_mode(method: str, cutoff: float) -> None:
    with torch.inference_mode():
        gaussian_filter(torch.rand(1, 3, 11, 13), cutoff, method=method)
    images = torch.rand(1, 3, 11, 13, requires_grad=True)
    gaussian_filter(images, cutoff, method=method).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad, torch.ones_like(images), atol=1e-5)  # unit gain at DC


@pytest.mark.parametrize("cutoff", [0.0, -0.1, float("nan")])
def test_a_cut_off_must_be_positive(cutoff: float) -> None:
    with pytest.raises(SettingsError, match="must be > 0"):
        gaussian_filter(torch.rand(1, 3, 8, 8), cutoff)


def test_an_unknown_method_gets_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'separable'"):
        gaussian_filter(torch.rand(1, 3, 8, 8), 0.1, method="seperable")


def test_a_cutoff_is_given_in_one_unit(tiny_vlm: VLM) -> None:
    assert adapt("training-free", tiny_vlm, cutoff=0.1).settings.cutoff == 0.1
    assert adapt("training-free", tiny_vlm, d0=0).settings.cutoff is None
    with pytest.raises(SettingsError, match="cutoff and d0 are one setting in two units"):
        adapt("training-free", tiny_vlm, cutoff=0.1, d0=40)
