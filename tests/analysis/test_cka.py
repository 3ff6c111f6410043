"""CKA against the definitions in NumPy and float64, and what must hold of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.tiny import tiny_clip
from torch import Tensor

import radapt
from radapt.analysis import (
    attention_maps,
    attention_sensitivity,
    cka,
    frequency_response,
    kernel_spectrum,
    perturbation_spectrum,
)
from radapt.analysis.cka import _gram, _u_centred
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.models import VLM
from radapt.models.hf_clip import clip

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

SIDE = 32


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC_1 as Nguyen et al. (2021) write it in equation 3."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    whole = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
    return whole / (n * (n - 3))


def hidden(model: VLM, pixels: Tensor, tokens: str) -> list[np.ndarray]:
    """Hidden states as ``transformers`` gives them: images x values."""
    with torch.no_grad():
        outputs = model.model.vision_model(pixel_values=model.normalize(pixels), output_hidden_states=True)
    states = [state.double().numpy() for state in outputs.hidden_states]
    pick = {"all": lambda x: x.reshape(len(x), -1), "class": lambda x: x[:, 0], "mean": lambda x: x.mean(1)}
    # The class token enters the first block the same for all images.
    return [pick[tokens](state) for state in states[tokens == "class" :]]


def reference(model: VLM, other: VLM, batches: list[Tensor], tokens: str) -> np.ndarray:
    sums: dict[str, Any] = {"xy": 0.0, "xx": 0.0, "yy": 0.0}
    for pixels in batches:
        columns, rows = ([x @ x.T for x in hidden(each, pixels, tokens)] for each in (model, other))
        sums["xy"] = sums["xy"] + np.array([[hsic(k, m) for k in columns] for m in rows])
        sums["xx"] = sums["xx"] + np.array([hsic(k, k) for k in columns])
        sums["yy"] = sums["yy"] + np.array([hsic(m, m) for m in rows])
    return sums["xy"] / np.sqrt(sums["yy"][:, None] * sums["xx"])


def images(*sizes: int) -> list[Tensor]:
    return list(torch.rand(sum(sizes), 3, SIDE, SIDE).split(list(sizes)))


def deep(layers: int, width: int = 32) -> VLM:
    """A CLIP of another shape."""
    base = tiny_clip("other", side=SIDE, seed=3, factor=10.0)
    config = type(base.model.config).from_dict(base.model.config.to_dict())
    config.vision_config.num_hidden_layers, config.vision_config.hidden_size = layers, width
    torch.manual_seed(7)
    model = type(base.model)(config).eval().requires_grad_(False)
    return clip("deep", model, base.tokenizer, base.processor)


@pytest.mark.parametrize("tokens", ["all", "class", "mean"])
def test_it_is_the_definition_in_float64(tiny_vlm: VLM, tokens: str) -> None:
    other, batches = tiny_clip("other", side=SIDE, seed=1, factor=10.0), images(6, 9, 4)
    found = cka(tiny_vlm, other, iter(batches), tokens=tokens)
    assert np.abs(np.array(found.values) - reference(tiny_vlm, other, batches, tokens)).max() < 1e-6
    assert found.rows == found.columns == ("Emb.", "B1", "B2")[tokens == "class" :]
    assert (found.row_label, found.column_label) == ("block of other", "block of tiny/clip")


def test_depths_and_widths_may_differ(tiny_vlm: VLM) -> None:
    other, batches = deep(3, 48), images(8, 8)
    found = cka(tiny_vlm, other, batches)
    assert found.rows == ("Emb.", "B1", "B2", "B3")
    assert found.columns == ("Emb.", "B1", "B2")
    assert np.abs(np.array(found.values) - reference(tiny_vlm, other, batches, "all")).max() < 1e-6
    turned = cka(other, tiny_vlm, batches)
    assert np.allclose(np.array(turned.values), np.array(found.values).T, atol=1e-12)


def test_a_model_is_like_itself_and_like_its_copy(tiny_vlm: VLM) -> None:
    batches = images(8, 8)
    for other in (tiny_vlm, tiny_clip("copy", side=SIDE, factor=10.0)):
        values = np.array(cka(tiny_vlm, other, batches).values)
        assert np.abs(np.diag(values) - 1).max() < 1e-6
        assert np.allclose(values, values.T, atol=1e-9)


def test_a_last_batch_that_is_too_small_is_joined_to_the_one_before(tiny_vlm: VLM) -> None:
    other, pixels = tiny_clip("other", side=SIDE, seed=1, factor=10.0), torch.rand(19, 3, SIDE, SIDE)
    assert cka(tiny_vlm, other, pixels.split(8)) == cka(tiny_vlm, other, pixels.split([8, 11]))


def test_the_sums_do_not_hang_on_the_batch_size() -> None:
    # The mean of the estimates on many small batches is that on all images; a biased one is not.
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4000, 3))
    y = x @ draw.normal(size=(3, 2)) + draw.normal(size=(4000, 2))
    small = np.mean([hsic_of(x[rows], y[rows]) for rows in np.arange(4000).reshape(-1, 5)])
    assert small == pytest.approx(hsic_of(x[:1500], y[:1500]), rel=0.15)


def hsic_of(x: np.ndarray, y: np.ndarray) -> float:
    centred = _u_centred(torch.stack([_gram(torch.from_numpy(each)) for each in (x, y)]))
    return float((centred[0] * centred[1]).sum()) / (len(x) * (len(x) - 3))


@settings(max_examples=40)
@given(
    st.integers(4, 9).flatmap(
        lambda n: st.tuples(
            arrays(np.float64, (n, 3), elements=st.floats(-5, 5)), arrays(np.float64, (n, 2), elements=st.floats(-5, 5))
        )
    ),
    st.floats(-100, 100),
)
def test_the_inner_product_of_centred_matrices_is_the_estimate(xy: tuple[np.ndarray, np.ndarray], far: float) -> None:
    x, y = xy
    expected = hsic(x @ x.T, y @ y.T)
    assert hsic_of(x, y) == pytest.approx(expected, abs=1e-8)
    # It does not hang on where the values lie.
    assert hsic_of(x + far, y - far) == pytest.approx(expected, abs=1e-5)


def test_values_far_from_zero_lose_no_digits() -> None:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    near, far = (_u_centred(_gram(each)[None]) for each in (x, x + 1e6))
    assert torch.allclose(near, far, atol=1e-7)


@pytest.mark.slow
def test_no_activation_outlives_its_batch(tiny_vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    handles = [
        block.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
        for block in tiny_vlm.tower.blocks
    ]

    def batches() -> Iterator[Tensor]:
        for _ in range(6):
            gc.collect()
            alive.append(sum(each() is not None for each in seen))
            yield torch.rand(4, 3, SIDE, SIDE)

    cka(tiny_vlm, tiny_vlm, batches())
    for handle in handles:
        handle.remove()
    assert len(seen) == 12
    assert alive == [0] * 6


def test_a_qwen_is_compared_by_its_images(tiny_qwen: Any) -> None:
    model = radapt.load(tiny_qwen)
    values = np.array(cka(model, model, images(5, 6)).values)
    assert values.shape == (3, 3)
    assert np.abs(np.diag(values) - 1).max() < 1e-6
    with pytest.raises(ModelError, match="has no class token; use tokens 'all' or 'mean'"):
        cka(model, model, images(5), tokens="class")


def test_wrong_input_is_refused(tiny_vlm: VLM) -> None:
    with pytest.raises(SettingsError, match="unknown choice of tokens 'classs'; did you mean 'class'"):
        cka(tiny_vlm, tiny_vlm, images(5), tokens="classs")
    with pytest.raises(ModelError, match="tiny/clip takes 32 x 32 and tiny takes 48 x 48 pixels"):
        cka(tiny_vlm, tiny_clip(), images(5))
    with pytest.raises(InputError, match="CKA needs at least 4 images per batch, got 3"):
        cka(tiny_vlm, tiny_vlm, images(3))
    with pytest.raises(InputError, match="needs images, got no batch"):
        cka(tiny_vlm, tiny_vlm, [])
    with pytest.raises(InputError, match=r"Emb\. of tiny/clip gives the same for all images"):
        cka(tiny_vlm, tiny_vlm, [torch.ones(5, 3, SIDE, SIDE)])


def test_an_adapter_is_part_of_what_is_analysed() -> None:
    name = "cka"
    models, twins = [{"CLIP": tiny_clip("one", factor=10.0), "other": tiny_clip("two", seed=1)} for _ in range(2)]
    bare = radapt.analyze(name, models, data="shapes", n=8, quiet=True)
    adapter = radapt.training_free(models["CLIP"], alpha=0.9)
    with adapter.attach(models["CLIP"]), adapter.attach(twins["CLIP"]):
        defended = radapt.analyze(name, models, data="shapes", n=8, quiet=True)
        assert radapt.analyze(name, twins, data="shapes", n=8, quiet=True) == defended
        assert models["CLIP"].defended
    assert defended != bare
    assert radapt.analyze(name, models, data="shapes", n=8, quiet=True) == bare


@pytest.mark.parametrize("wrong", [255.0, float("nan"), -1.0])
def test_images_out_of_range_are_refused(wrong: float, tiny_vlm: VLM) -> None:
    pixels = torch.rand(5, 3, SIDE, SIDE)
    assert cka(tiny_vlm, tiny_vlm, pixels) == cka(tiny_vlm, tiny_vlm, [pixels])  # a tensor is one batch
    for call in (
        lambda given: cka(tiny_vlm, tiny_vlm, [given]),
        lambda given: attention_sensitivity(tiny_vlm, None, [given]),
        lambda given: attention_maps([tiny_vlm], given),
    ):
        call(pixels)
        with pytest.raises(InputError, match=r"images (must lie in \[0, 1\]|of sample 0 contain NaN)"):
            call(pixels * wrong)
    if wrong != wrong:
        with pytest.raises(InputError, match="NaN"):
            perturbation_spectrum(pixels, pixels * wrong)
    assert perturbation_spectrum(pixels, 0.5 * pixels) == perturbation_spectrum([pixels], [0.5 * pixels])


@pytest.mark.usefixtures("unchecked")
def test_models_are_given_alone_in_a_list_or_by_label(tiny_vlm: VLM) -> None:
    one = frequency_response(tiny_vlm)
    assert one == frequency_response([tiny_vlm]) == frequency_response({tiny_vlm.name: tiny_vlm})
    with pytest.raises(InputError, match="two of the models have one name"):
        frequency_response([tiny_vlm, tiny_vlm])
    with pytest.raises(InputError, match=r"needs loaded models, radapt.load\(...\), got 'micro/clip'"):
        frequency_response(["micro/clip"])  # type: ignore[list-item]


def test_spectra_of_weights_refuse_an_adapter() -> None:
    model, other = tiny_clip("one"), tiny_clip("two", seed=1)
    with radapt.training_free(model).attach(other):
        for call in (lambda: kernel_spectrum(model, other), lambda: frequency_response(other)):
            with pytest.raises(InputError, match="two carries an adapter"):
                call()


def test_a_replacement_refuses_an_adapter() -> None:
    models = {"CLIP": tiny_clip("one"), "other": tiny_clip("two")}
    adapter = radapt.training_free(models["CLIP"])
    for carrier in models.values():
        with adapter.attach(carrier), pytest.raises((SettingsError, AdapterError), match="carries an adapter"):
            radapt.analyze("replacement", models, data="shapes", n=2, quiet=True)
