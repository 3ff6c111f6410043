from __future__ import annotations

import copy
import gc
import importlib
import pickle
import weakref
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from radapt.adapters import (
    Adapter,
    AdapterSettings,
    attached,
    detach,
    gaussian_filter,
    model_guided,
    training_free,
)
from radapt.errors import AdapterError, SettingsError
from radapt.models import Layout, place_tokens

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

CUTOFF = 40 / 224


def embed(model: Any, pixels: Tensor) -> Tensor:
    result: Tensor = model.vision_model(pixel_values=pixels).pooler_output
    return result


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32)


def made_for(**changes: Any) -> Adapter:
    """An adapter whose tower differs from the tiny CLIP's in some respect."""
    fits = {"width": 32, "grid": (4, 4), "prefix": 1, "patch_size": 8}
    settings = AdapterSettings(cutoff=CUTOFF, alpha=1.0, method="test", base_model="other/model", **{**fits, **changes})
    tokens = settings.prefix + settings.grid[0] * settings.grid[1]
    return Adapter(settings, torch.randn(tokens, settings.width))


@pytest.mark.parametrize("mix", ["interpolate", "add"])
@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 1.5])
def test_blends_the_first_attention_as_the_formula_says(tiny_clip: Any, pixels: Tensor, mix: str, alpha: float) -> None:
    attention = tiny_clip.vision_model.encoder.layers[0].self_attn
    seen: dict[str, Tensor] = {}
    before = attention.register_forward_hook(lambda m, i, o: seen.update(attention=o[0].double()))
    with training_free(tiny_clip, alpha=alpha, mix=mix).attach(tiny_clip):
        after = attention.register_forward_hook(lambda m, i, o: seen.update(blended=o[0].double()))
        embed(tiny_clip, pixels)
    before.remove(), after.remove()
    anchor = training_free(tiny_clip).anchor.double()
    kept = 1 - alpha if mix == "interpolate" else 1
    assert torch.allclose(seen["blended"], kept * seen["attention"] + alpha * anchor, atol=1e-5)
    assert not torch.allclose(seen["blended"], seen["attention"], atol=1e-2)


def test_the_blend_enters_the_residual_sum(tiny_clip: Any, pixels: Tensor) -> None:
    layer = tiny_clip.vision_model.encoder.layers[0]
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, i: seen.update(x=i[0])),
        layer.layer_norm2.register_forward_pre_hook(lambda m, i: seen.update(sum=i[0])),
    ]
    adapter = training_free(tiny_clip, alpha=1.0)
    with adapter.attach(tiny_clip):
        embed(tiny_clip, pixels)
    for handle in handles:
        handle.remove()
    assert torch.allclose(seen["sum"], seen["x"] + adapter.anchor, atol=1e-5)


def test_alpha_0_is_the_filter_alone_and_no_cutoff_the_anchor_alone(tiny_clip: Any, pixels: Tensor) -> None:
    expected = embed(tiny_clip, gaussian_filter(pixels, CUTOFF))
    with training_free(tiny_clip, alpha=0.0).attach(tiny_clip):
        assert torch.equal(embed(tiny_clip, pixels), expected)
    both = training_free(tiny_clip, alpha=0.5)
    with both.attach(tiny_clip):
        expected = embed(tiny_clip, pixels)
    with both.change(cutoff=None).attach(tiny_clip):
        assert torch.equal(embed(tiny_clip, gaussian_filter(pixels, CUTOFF)), expected)
        assert not torch.allclose(embed(tiny_clip, pixels), expected, atol=1e-3)


def test_attaching_changes_the_output_and_detaching_restores_it_to_the_bit(tiny_clip: Any, pixels: Tensor) -> None:
    before, weights = embed(tiny_clip, pixels), {k: v.clone() for k, v in tiny_clip.state_dict().items()}
    adapter = training_free(tiny_clip)
    for leave in ("attachment", "adapter", "function", "context"):
        attachment = adapter.attach(tiny_clip)
        assert attached(tiny_clip)
        assert attachment.active
        assert (embed(tiny_clip, pixels) - before).abs().max() > 1e-2
        now = tiny_clip.state_dict()
        assert list(now) == list(weights)
        assert all(torch.equal(now[name], value) for name, value in weights.items())
        if leave == "attachment":
            attachment.detach()
        elif leave == "adapter":
            adapter.detach()
        elif leave == "function":
            assert detach(tiny_clip)
        else:
            with attachment:
                pass
        assert not attached(tiny_clip)
        assert not attachment.active
        assert hooks(tiny_clip) == 0
        assert torch.equal(embed(tiny_clip, pixels), before)
    assert not detach(tiny_clip)


def test_an_error_inside_the_context_still_restores_the_model(tiny_clip: Any, pixels: Tensor) -> None:
    before = embed(tiny_clip, pixels)
    with pytest.raises(ZeroDivisionError), training_free(tiny_clip).attach(tiny_clip):
        _ = 1 / 0
    assert torch.equal(embed(tiny_clip, pixels), before)


def test_hooks_of_others_stay(tiny_clip: Any, pixels: Tensor) -> None:
    calls: list[str] = []
    attention = tiny_clip.vision_model.encoder.layers[0].self_attn
    attention.register_forward_hook(lambda m, i, o: calls.append("attention"))
    tiny_clip.vision_model.register_forward_pre_hook(lambda m, i: calls.append("root"))
    adapter = training_free(tiny_clip)
    calls.clear()
    with adapter.attach(tiny_clip):
        embed(tiny_clip, pixels)
    embed(tiny_clip, pixels)
    assert calls == ["root", "attention"] * 2


def test_a_second_adapter_is_refused_and_the_first_one_stays(tiny_clip: Any, pixels: Tensor) -> None:
    first, second = training_free(tiny_clip, alpha=0.4), training_free(tiny_clip, alpha=0.9)
    attachment = first.attach(tiny_clip)
    expected = embed(tiny_clip, pixels)
    with pytest.raises(AdapterError, match="already carries an adapter"):
        second.attach(tiny_clip)
    second.detach()
    assert torch.equal(embed(tiny_clip, pixels), expected)
    attachment.detach()
    other = second.attach(tiny_clip)
    attachment.detach()  # over already: it must not remove the other adapter
    assert attached(tiny_clip)
    other.detach()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, "width 32 instead of 64"),
        ({"patch_size": 16}, "patch size 8 instead of 16"),
        ({"prefix": 0}, "prefix tokens 1 instead of 0"),
    ],
)
def test_an_adapter_of_another_tower_is_refused(tiny_clip: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=f"other/model.*{message}"):
        made_for(**changes).attach(tiny_clip)
    assert hooks(tiny_clip) == 0


def test_the_anchor_is_interpolated_to_another_image_size(tiny_clip: Any) -> None:
    adapter, seen = training_free(tiny_clip, alpha=1.0), []
    attention = tiny_clip.vision_model.encoder.layers[0].self_attn
    with adapter.attach(tiny_clip):
        handle = attention.register_forward_hook(lambda m, i, o: seen.append(o[0]))
        for height, width in ((48, 24), (32, 32), (40, 64)):
            tiny_clip.vision_model(pixel_values=torch.randn(2, 3, height, width), interpolate_pos_encoding=True)
            grid = (height // 8, width // 8)
            expected = place_tokens(adapter.anchor, (4, 4), grid, Layout(prefix=1))
            assert torch.allclose(seen.pop(), expected.expand(2, -1, -1), atol=1e-6)
    handle.remove()


def test_an_adapter_for_another_grid_is_interpolated(tiny_clip: Any, pixels: Tensor) -> None:
    adapter, seen = made_for(grid=(7, 7)), []
    with adapter.attach(tiny_clip):
        attention = tiny_clip.vision_model.encoder.layers[0].self_attn
        handle = attention.register_forward_hook(lambda m, i, o: seen.append(o[0]))
        embed(tiny_clip, pixels)
    handle.remove()
    expected = place_tokens(adapter.anchor, (7, 7), (4, 4), Layout(prefix=1))
    assert torch.allclose(seen[0], expected.expand(3, -1, -1), atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_anchor_that_is_not_finite_is_refused(tiny_clip: Any, value: float) -> None:
    good = training_free(tiny_clip)
    bad = good.anchor.clone()
    bad[3, 5] = value
    with pytest.raises(AdapterError, match="1 values that are not finite"):
        Adapter(good.settings, bad)


def test_an_anchor_of_the_wrong_shape_is_refused(tiny_clip: Any) -> None:
    good = training_free(tiny_clip)
    with pytest.raises(AdapterError, match=r"\(16, 32\), its settings ask for \(17, 32\)"):
        Adapter(good.settings, good.anchor[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": float("nan")}, "alpha must be finite and >= 0"),
        ({"alpha": float("inf")}, "alpha must be finite and >= 0"),
        ({"alpha": -0.1}, "alpha must be finite and >= 0"),
        ({"cutoff": 0.0}, "cutoff must be > 0"),
        ({"cutoff": float("nan")}, "cutoff must be > 0"),
        ({"mix": "ad"}, "did you mean 'add'"),
        ({"alhpa": 1.0}, "did you mean 'alpha'"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_clip: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        training_free(tiny_clip).change(**changes)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"alpha": 1e30}, {"alpha": float("nan")}, {"alpha": "1"}, {"alpha": True}, {"alpha": None}),
        *({"cutoff": 1e-30}, {"cutoff": 1e30}, {"cutoff": float("inf")}, {"cutoff": "0.1"}),
        *({"block": -1}, {"block": 10**9}, {"block": 1.0}, {"block": True}, {"block": 10**30}, {"block": "0"}),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_a_pass(
    tiny_vlm: Any, monkeypatch: pytest.MonkeyPatch, unchecked: None, wrong: dict[str, Any]
) -> None:
    for name in ("training_free", "model_guided"):
        module = importlib.import_module(f"radapt.adapters.{name}")
        monkeypatch.setattr(module, "capture_anchor", Mock(side_effect=AssertionError("a pass")))
    for make in (training_free, partial(model_guided, guide=tiny_vlm)):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            make(tiny_vlm, **wrong)


def test_change_leaves_the_adapter_itself_alone(tiny_clip: Any) -> None:
    adapter = training_free(tiny_clip, alpha=0.4)
    other = adapter.change(alpha=0.9, cutoff=None, mix="add")
    assert (other.settings.alpha, other.settings.cutoff, other.settings.mix) == (0.9, None, "add")
    assert (adapter.settings.alpha, adapter.settings.mix) == (0.4, "interpolate")
    assert torch.equal(other.anchor, adapter.anchor)


def test_the_fingerprint_names_what_changes_the_output(tiny_clip: Any) -> None:
    adapter = training_free(tiny_clip, alpha=0.4)
    moved = Adapter(adapter.settings, adapter.anchor + 1e-3)
    prints = {a.fingerprint for a in (adapter, moved, adapter.change(alpha=0.5), adapter.change(cutoff=None))}
    assert len(prints | {adapter.change(mix="add").fingerprint}) == 5
    assert adapter.change(base_model="renamed").fingerprint == adapter.fingerprint
    assert moved.change(alpha=0.0).fingerprint == adapter.change(alpha=0.0).fingerprint  # the anchor has no effect


def test_a_deep_copy_keeps_the_adapter_and_loses_it_by_itself(tiny_clip: Any, pixels: Tensor) -> None:
    before = embed(tiny_clip, pixels)
    adapter = training_free(tiny_clip)
    with adapter.attach(tiny_clip):
        adapted = embed(tiny_clip, pixels)
        twin = copy.deepcopy(tiny_clip)
    assert torch.equal(embed(tiny_clip, pixels), before)
    assert attached(twin)
    assert torch.equal(embed(twin, pixels), adapted)
    assert detach(twin)
    assert torch.equal(embed(twin, pixels), before)


def test_two_models_carry_two_adapters(tiny_clip: Any, pixels: Tensor) -> None:
    other = copy.deepcopy(tiny_clip)
    weak, strong = training_free(tiny_clip, alpha=0.2), training_free(tiny_clip, alpha=1.0)
    with weak.attach(tiny_clip):
        expected = embed(tiny_clip, pixels)
        with strong.attach(other):
            assert torch.equal(embed(tiny_clip, pixels), expected)
            assert not torch.allclose(embed(other, pixels), expected, atol=1e-3)
        assert torch.equal(embed(tiny_clip, pixels), expected)
        with weak.attach(other):  # one adapter on two models
            assert torch.equal(embed(other, pixels), expected)
            weak.detach()
            assert not attached(tiny_clip)
            assert not attached(other)


def test_an_adapter_keeps_no_model_that_it_is_not_on(tiny_clip: Any) -> None:
    adapter, model = training_free(tiny_clip), copy.deepcopy(tiny_clip)
    with adapter.attach(model):
        assert len(pickle.dumps(adapter)) < 2 * len(pickle.dumps(adapter.change()))
        assert attached(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    with adapter.attach(tiny_clip):
        copied = copy.deepcopy(adapter)
        copied.detach()
        assert attached(tiny_clip)
        adapter.detach()
        assert not attached(tiny_clip)


def test_train_and_eval_keep_the_adapter(tiny_clip: Any, pixels: Tensor) -> None:
    with training_free(tiny_clip).attach(tiny_clip):
        expected = embed(tiny_clip, pixels)
        assert torch.equal(embed(tiny_clip.train(), pixels), expected)
        assert torch.equal(embed(tiny_clip.eval(), pixels), expected)


def test_autocast_stays_close_to_full_precision(tiny_clip: Any, pixels: Tensor) -> None:
    with training_free(tiny_clip, alpha=0.7).attach(tiny_clip):
        exact = embed(tiny_clip, pixels)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = embed(tiny_clip, pixels)
    assert torch.cosine_similarity(rounded.float(), exact).min() > 0.99


def test_a_model_in_half_precision_can_be_adapted(tiny_clip: Any, pixels: Tensor) -> None:
    adapter = training_free(tiny_clip, alpha=0.7)
    with adapter.attach(tiny_clip):
        exact = embed(tiny_clip, pixels)
    half = tiny_clip.to(torch.bfloat16)
    assert training_free(half).anchor.dtype == torch.float32
    with adapter.attach(half):
        rounded = embed(half, pixels.to(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(rounded.float(), exact).min() > 0.99


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_gradients_reach_the_pixels_after_a_first_use_in_inference_mode(tiny_clip: Any, alpha: float) -> None:
    with training_free(tiny_clip, alpha=alpha).attach(tiny_clip):
        with torch.inference_mode():
            embed(tiny_clip, torch.rand(1, 3, 32, 32))
        pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(embed(tiny_clip, pixels).square().sum(), pixels)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("compile_first", [True, False])
def test_a_compiled_model_always_obeys(tiny_clip: Any, pixels: Tensor, compile_first: bool) -> None:
    adapter = training_free(tiny_clip, alpha=0.6)
    plain = embed(tiny_clip, pixels)
    with adapter.attach(tiny_clip):
        adapted = embed(tiny_clip, pixels)
    vision = torch.compile(tiny_clip.vision_model, backend="eager")
    run = lambda: vision(pixel_values=pixels).pooler_output  # noqa: E731
    if compile_first:
        assert torch.allclose(run(), plain, atol=1e-5)
    with adapter.attach(tiny_clip):
        assert torch.allclose(run(), adapted, atol=1e-5)
    assert torch.allclose(run(), plain, atol=1e-5)
    with adapter.change(alpha=0.0).attach(tiny_clip):
        expected = embed(tiny_clip, pixels)
        assert torch.allclose(run(), expected, atol=1e-5)
    assert torch.allclose(run(), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_wrapper_can_be_adapted_itself(tiny_clip: Any, pixels: Tensor) -> None:
    adapter = training_free(tiny_clip, alpha=0.6)
    tokens = torch.tensor([[2, 5, 3]])
    with adapter.attach(tiny_clip):
        expected = tiny_clip(input_ids=tokens, pixel_values=pixels).vision_model_output.pooler_output
    compiled = torch.compile(tiny_clip, backend="eager")
    with adapter.attach(compiled):
        assert attached(tiny_clip)
        result = compiled(input_ids=tokens, pixel_values=pixels).vision_model_output.pooler_output
        assert torch.allclose(result, expected, atol=1e-5)
    assert detach(compiled) is False
