from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipModel,
)

import radapt
from radapt.adapters import Adapter, capture_anchor, data_driven, graft, model_guided, training_free
from radapt.errors import AdapterError, InputError, SettingsError
from radapt.experiments import tune
from radapt.models import Layout, place_tokens, tower_of

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")


def attention_output(model: Any, attention: Any, run: Any) -> Tensor:
    """What the first attention really gives, by a hook of the test's own."""
    seen: list[Tensor] = []
    handle = attention.register_forward_hook(lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("image", "value"), [("white", 1.0), ("grey", 0.5), ("black", 0.0)])
def test_the_anchor_is_the_first_attention_on_a_uniform_image(tiny_clip: Any, image: str, value: float) -> None:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((value - mean) / std)[None, :, None, None].expand(1, 3, 32, 32)
    vision = tiny_clip.vision_model
    expected = attention_output(tiny_clip, vision.encoder.layers[0].self_attn, lambda: vision(pixel_values=pixels))
    anchor = capture_anchor(tiny_clip, image=image)
    assert anchor.shape == (17, 32)
    assert torch.allclose(anchor, expected[0], atol=1e-6)
    assert not anchor.requires_grad


def test_a_vlm_uses_its_own_normalisation(tiny_vlm: Any) -> None:
    vision = tiny_vlm.model.vision_model
    pixels = torch.full((1, 3, 32, 32), (1 - 0.5) / 0.25)
    expected = attention_output(vision, vision.encoder.layers[0].self_attn, lambda: vision(pixel_values=pixels))
    assert torch.allclose(capture_anchor(tiny_vlm), expected[0], atol=1e-6)


def test_the_anchor_of_a_qwen_is_stored_row_by_row(tiny_qwen: Any) -> None:
    visual = tiny_qwen.model.visual
    patches = torch.ones(16, 3 * 2 * 8 * 8)  # (1 - 0.5) / 0.5
    run = lambda: visual(patches, grid_thw=torch.tensor([[1, 4, 4]]))  # noqa: E731
    sequence = attention_output(visual, visual.blocks[0].attn, run)
    merged = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]  # row-major number at each position
    anchor = capture_anchor(tiny_qwen)
    assert torch.allclose(anchor[merged], sequence, atol=1e-6)
    assert not torch.allclose(anchor, sequence, atol=1e-3)
    assert torch.equal(place_tokens(anchor, (4, 4), (4, 4), Layout(merge=2)), anchor[merged])


def test_a_llava_has_the_anchor_of_its_clip(tiny_clip: Any, tiny_llava: Any) -> None:
    assert torch.equal(capture_anchor(tiny_llava), capture_anchor(tiny_clip))


def test_capturing_leaves_no_hook_behind(tiny_clip: Any) -> None:
    capture_anchor(tiny_clip)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_clip.modules())


def test_a_model_with_an_adapter_is_refused(tiny_clip: Any) -> None:
    with training_free(tiny_clip).attach(tiny_clip), pytest.raises(SettingsError, match="detach the model's adapter"):
        capture_anchor(tiny_clip)


def test_an_unknown_image_gets_the_nearest(tiny_clip: Any) -> None:
    with pytest.raises(SettingsError, match="did you mean 'white'"):
        capture_anchor(tiny_clip, image="whit")


def test_training_free_stores_its_settings(tiny_vlm: Any) -> None:
    adapter = training_free(tiny_vlm, cutoff=0.2, alpha=0.6, mix="add", image="grey")
    settings = adapter.settings
    assert (settings.cutoff, settings.alpha, settings.mix) == (0.2, 0.6, "add")
    assert (settings.width, settings.grid, settings.prefix, settings.patch_size) == (32, (4, 4), 1, 8)
    assert (settings.method, settings.base_model, settings.origin) == ("training-free", "tiny/clip", {"image": "grey"})
    assert torch.equal(adapter.anchor, capture_anchor(tiny_vlm, image="grey"))
    assert training_free(tiny_vlm).settings.d0 == pytest.approx(40)


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_model_guided_takes_the_anchor_of_the_guide(tiny_vlm: Any) -> None:
    guide = radapt.load(type(tiny_vlm.model)(tiny_vlm.model.config).eval())
    adapter = model_guided(tiny_vlm, guide, alpha=0.5)
    assert torch.equal(adapter.anchor, capture_anchor(guide))
    assert not torch.allclose(adapter.anchor, capture_anchor(tiny_vlm))
    assert (adapter.settings.method, adapter.settings.base_model) == ("model-guided", "tiny/clip")
    assert adapter.settings.origin == {"guide": guide.name, "image": "white"}
    grey = model_guided(tiny_vlm, guide, image="grey")
    assert torch.equal(grey.anchor, capture_anchor(guide, image="grey"))
    assert grey.settings.origin["image"] == "grey"


def test_a_guide_of_another_kind_is_refused(tiny_vlm: Any, tiny_qwen: Any) -> None:
    with pytest.raises(AdapterError, match=re.escape("must be a fine-tuned twin")):
        model_guided(tiny_vlm, tiny_qwen)


def test_no_verb_makes_an_anchor_through_another_adapter(tiny_vlm: Any, tmp_path: Path) -> None:
    pixels, plain, twin = torch.rand(4, 3, 32, 32), copy.deepcopy(tiny_vlm), copy.deepcopy(tiny_vlm)
    adapter = training_free(tiny_vlm)
    adapter.attach(tiny_vlm)
    for make in (
        lambda: training_free(tiny_vlm),
        lambda: training_free(tiny_vlm.model),
        lambda: data_driven(tiny_vlm, pixels, steps=1, batch_size=2, quiet=True),
        lambda: model_guided(plain, tiny_vlm),
        lambda: capture_anchor(tiny_vlm),
    ):
        with pytest.raises(SettingsError, match=r"detach the model's adapter|carries an adapter; detach it"):
            make()
    # The anchor comes from the guide alone, whatever the model carries.
    assert torch.equal(model_guided(tiny_vlm, twin).anchor, model_guided(plain, twin).anchor)
    with pytest.raises(SettingsError, match="carries an adapter"):
        tune(tiny_vlm, adapter, data="shapes", n=2, results=tmp_path / "r.sqlite")


@pytest.mark.parametrize("family", ["clip", "siglip", "llava"])
def test_images_may_be_larger_than_their_patches(family: str, tiny_llava: Any) -> None:
    """As those of SigLIP so400m: 384 pixels, of which 27 patches of 14 take 378."""
    if family == "llava":
        model: Any = tiny_llava
        tower = CLIPVisionModel(CLIPVisionConfig(**{**model.config.vision_config.to_dict(), "image_size": 35}))
        model.model.vision_tower = tower.eval()
    else:
        kind, config = {"clip": (CLIPModel, CLIPConfig), "siglip": (SiglipModel, SiglipConfig)}[family]
        sides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {**sides, "vocab_size": 50_000, "max_position_embeddings": 8}
        model = kind(config(vision_config={**sides, "image_size": 35, "patch_size": 8}, text_config=text)).eval()
    tower = tower_of(model)
    assert (tower.grid, tower.image_size) == ((4, 4), (35, 35))
    shown = torch.rand(3, 3, 35, 35)
    run = lambda: tower.run(tower.normalize(shown.mean(0, keepdim=True)))  # noqa: E731
    (expected,) = attention_output(model, tower.attention, run)
    assert torch.allclose(capture_anchor(model, image="mean", pixels=shown), expected, atol=1e-6)
    with pytest.raises(InputError, match="must be N x 3 x 35 x 35"):
        capture_anchor(model, image="mean", pixels=shown[:, :, :32, :32])
    with training_free(model, alpha=0.5).attach(model):
        tower.run(tower.normalize(shown))


def test_a_guessed_normalisation_is_told_of(tiny_clip: Any, tiny_vlm: Any) -> None:
    with pytest.warns(UserWarning, match="CLIPModel came without an image processor: .* mean 0.4815") as told:
        capture_anchor(tiny_clip)
    with pytest.warns(UserWarning, match="came without") as guided:
        model_guided(tiny_vlm, tiny_vlm.model)
    assert len(told) == len(guided) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_free(tiny_vlm)


def test_an_anchor_is_used_as_it_is_saved_whatever_its_type(tiny_vlm: VLM, tmp_path: Path) -> None:
    made = training_free(tiny_vlm, alpha=0.7)
    assert made.anchor is not None
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        adapter = Adapter(made.settings, made.anchor.to(kind))
        adapter.save_pretrained(tmp_path / str(kind))
        read = Adapter.from_pretrained(tmp_path / str(kind))
        assert read.fingerprint == adapter.fingerprint
        with torch.no_grad():
            with adapter.attach(tiny_vlm):
                ours = tiny_vlm.encode_image(pixels)
            with read.attach(tiny_vlm):
                assert torch.equal(tiny_vlm.encode_image(pixels), ours)


def test_what_an_adapter_s_fingerprint_says_is_what_passes_do(tiny_vlm: VLM) -> None:
    """``.data`` changes without a count of changes."""
    adapter = training_free(tiny_vlm, alpha=0.7)
    assert adapter.anchor is not None
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), adapter.attach(tiny_vlm):
        before, named = tiny_vlm.encode_image(pixels), tiny_vlm.tower.mounted().fingerprint
        adapter.anchor.data.zero_()
        mount = tiny_vlm.tower.mounted()
        assert mount.fingerprint == adapter.fingerprint != named
        after = tiny_vlm.encode_image(pixels)
        assert not torch.equal(after, before)
    with torch.no_grad(), Adapter(adapter.settings, torch.zeros_like(adapter.anchor)).attach(tiny_vlm):
        assert torch.equal(tiny_vlm.encode_image(pixels), after)


def test_deltas_that_changed_since_they_were_added_have_no_fingerprint(tiny_vlm: VLM) -> None:
    adapter = graft(tiny_vlm, changed_twin(tiny_vlm))
    first = next(iter(adapter.deltas.values()))
    assert isinstance(first, torch.Tensor)
    attachment = adapter.attach(tiny_vlm)
    first.data.neg_()
    with pytest.raises(AdapterError, match="changed in place while it was on a model"):
        _ = tiny_vlm.tower.mounted().fingerprint
    with pytest.warns(UserWarning, match="changed with an adapter's deltas in it"):
        attachment.detach()
    with adapter.attach(tiny_vlm):  # as it is now
        adapter.deltas.clear()  # a list of its own
        assert tiny_vlm.tower.mounted().fingerprint != adapter.fingerprint
