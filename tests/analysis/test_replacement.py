"""Replacement: what each stage takes from the twin, and that nothing else changes."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.tiny import changed_twin, tiny_clip
from torch import Tensor

import radapt
from radapt.analysis import interpolated, replaced, stage_candidates, stages
from radapt.errors import AdapterError, ModelError, SettingsError
from radapt.models import VLM

pytestmark = pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")

SIDE = 32
EVERY = {
    "progressive": ("Original", "Emb.", "B1-Attn", "B1", "B2", "Full"),
    "single": ("Original", "Emb.", "B1-Attn", "B1", "B2", "Head", "Full"),
    "reverse": ("Original", "Head", "B2", "B1", "Full"),
}
WHERE = {
    "Emb.": ("embeddings.", "pre_layrnorm."),
    "B1-Attn": ("encoder.layers.0.self_attn.",),
    "B1": ("encoder.layers.0.",),
    "B2": ("encoder.layers.1.",),
    "Head": ("post_layernorm.", "visual_projection."),
}
PIXELS = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def twin(tiny_vlm: VLM) -> VLM:
    """The tiny CLIP with all image weights changed, each by itself, and the same text encoder."""
    return changed_twin(tiny_vlm)


def taken(model: VLM, stage: VLM, twin: VLM) -> set[str]:
    """Names of the tensors that are the twin's; all others must be the model's."""
    ours, theirs, now = (each.model.state_dict() for each in (model, twin, stage))
    found = {
        name for name, value in now.items() if name in twin.image_parameters() and torch.equal(value, theirs[name])
    }
    assert all(torch.equal(now[name], ours[name]) for name in now if name not in found)
    return found


def expected(twin: VLM, *parts: str) -> set[str]:
    """Names of the tensors of parts of a CLIP."""
    names = {name: name.removeprefix("vision_model.") for name in twin.image_parameters()}
    return {name for name, short in names.items() if short.startswith(tuple(s for part in parts for s in WHERE[part]))}


@pytest.mark.parametrize("order", EVERY)
def test_the_stages_have_the_names_of_the_paper(tiny_vlm: VLM, order: str) -> None:
    assert stages(tiny_vlm, order) == EVERY[order]
    assert stages(tiny_vlm) == EVERY["progressive"]
    assert stages(tiny_vlm, "interpolation") == ("Original", "0.25", "0.5", "0.75", "Full")


@pytest.mark.parametrize("order", EVERY)
def test_a_stage_has_the_twins_weights_there_and_nowhere_else(tiny_vlm: VLM, twin: VLM, order: str) -> None:
    every, alone = set(twin.image_parameters()), {"B1-Attn": ("B1-Attn",)}
    for position, stage in enumerate(EVERY[order]):
        before = EVERY[order][1 : position + 1]
        parts = alone.get(stage, (stage,)) if order == "single" else before
        wanted = set() if stage == "Original" else every if stage == "Full" else expected(twin, *parts)
        assert taken(tiny_vlm, replaced(tiny_vlm, twin, stage, order=order), twin) == wanted


def test_stages_are_cumulative_and_all_parts_together_are_everything(tiny_vlm: VLM, twin: VLM) -> None:
    for order in ("progressive", "reverse"):
        sets = [taken(tiny_vlm, replaced(tiny_vlm, twin, s, order=order), twin) for s in stages(tiny_vlm, order)]
        assert all(small < large for small, large in pairwise(sets))
    assert expected(twin, *WHERE) == set(twin.image_parameters())


@pytest.mark.parametrize("order", EVERY)
def test_everything_is_the_twin_and_nothing_the_model_to_the_bit(tiny_vlm: VLM, twin: VLM, order: str) -> None:
    ours, theirs = tiny_vlm.encode_image(PIXELS), twin.encode_image(PIXELS)
    weights = {name: value.clone() for name, value in tiny_vlm.model.state_dict().items()}
    full = replaced(tiny_vlm, twin, "Full", order=order)
    assert torch.equal(full.encode_image(PIXELS), theirs)
    assert torch.equal(replaced(tiny_vlm, twin, "Original", order=order).encode_image(PIXELS), ours)
    for stage in stages(tiny_vlm, order):
        assert torch.equal(replaced(tiny_vlm, tiny_vlm, stage, order=order).encode_image(PIXELS), ours)
    assert torch.equal(tiny_vlm.encode_image(PIXELS), ours)
    assert all(torch.equal(value, weights[name]) for name, value in tiny_vlm.model.state_dict().items())
    assert tiny_vlm.name == "tiny/clip"
    assert full.name == f"tiny/clip ({order} Full, twin)"


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75])
def test_interpolation_mixes_all_weights_and_ends_with_either_model(tiny_vlm: VLM, twin: VLM, weight: float) -> None:
    half = replaced(tiny_vlm, twin, str(weight), order="interpolation")
    mine, its, now = (each.image_parameters() for each in (tiny_vlm, twin, half))
    assert set(now) == set(mine)
    for name, value in now.items():
        torch.testing.assert_close(value, (1 - weight) * mine[name] + weight * its[name])
    assert torch.equal(interpolated(tiny_vlm, twin, weight).encode_image(PIXELS), half.encode_image(PIXELS))
    for end, other in ((0, tiny_vlm), (1, twin)):
        assert torch.equal(interpolated(tiny_vlm, twin, end).encode_image(PIXELS), other.encode_image(PIXELS))
    assert torch.equal(interpolated(tiny_vlm, tiny_vlm, weight).encode_image(PIXELS), tiny_vlm.encode_image(PIXELS))
    assert half.name == f"tiny/clip (interpolation {weight}, twin)"


def test_every_part_may_have_a_weight_of_its_own(tiny_vlm: VLM, twin: VLM) -> None:
    model = interpolated(tiny_vlm, twin, {"embedding": 1, "block:0": 0.5, "head": 0.0})
    mine, its, now = (each.image_parameters() for each in (tiny_vlm, twin, model))
    for name, value in now.items():
        weight = 1.0 if name in expected(twin, "Emb.") else 0.5 if name in expected(twin, "B1") else 0.0
        torch.testing.assert_close(value, torch.lerp(mine[name], its[name], weight))
        assert (value.data_ptr() in (mine[name].data_ptr(), its[name].data_ptr())) == (weight != 0.5)
    assert model.name == "tiny/clip (on the way to twin: embedding 1, block:0 0.5, head 0)"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (1.5, "the weight of all must be a number from 0 .the model. to 1 .the twin., got 1.5"),
        (float("nan"), "got nan"),
        (True, "got True"),
        ({"embedding": "0.5"}, "the weight of embedding must be"),
        ({"block:0": 1, "attention:0": 0.5}, "'attention:0' and another part both name .*self_attn"),
        ({"block:7": 1}, "has blocks 0 to 1"),
        ({"embeding": 1}, "did you mean 'embedding'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_weights_that_make_no_sense_are_refused(tiny_vlm: VLM, twin: VLM, weights: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        interpolated(tiny_vlm, twin, weights)


def test_a_hybrid_takes_no_memory_of_its_own_and_changes_neither(tiny_vlm: VLM, twin: VLM) -> None:
    before = dict(tiny_vlm.model.named_parameters())
    hybrid = replaced(tiny_vlm, twin, "B1")
    places = {p.data_ptr() for each in (tiny_vlm, twin) for p in each.model.parameters()}
    assert {p.data_ptr() for p in hybrid.model.parameters()} <= places
    assert not any(p.requires_grad for p in hybrid.model.parameters())
    assert all(p is before[n] for n, p in tiny_vlm.model.named_parameters())  # the model has its own still
    radapt.training_free(tiny_vlm).attach(hybrid)
    assert tiny_vlm.tower.mounted() is None  # modules are not shared


def test_an_adapter_stays_on_the_copy_and_is_refused_on_the_twin(tiny_vlm: VLM, twin: VLM) -> None:
    radapt.training_free(tiny_vlm).attach(tiny_vlm)
    copied = replaced(tiny_vlm, twin, "Full")
    assert copied.tower.mounted() is not None
    with pytest.raises(AdapterError, match=r"tiny/clip carries an adapter.*radapt\.detach"):
        replaced(twin, tiny_vlm, "Full")


def test_a_twin_with_another_text_encoder_is_warned_about(tiny_vlm: VLM, twin: VLM) -> None:
    with torch.no_grad():
        twin.model.text_projection.weight += 1
    with pytest.warns(UserWarning, match="tiny/clip and twin differ outside of their vision encoders"):
        full = replaced(tiny_vlm, twin, "Full")
    assert torch.equal(full.encode_text(["a dot"]), tiny_vlm.encode_text(["a dot"]))


def test_unknown_names_are_refused(tiny_vlm: VLM, twin: VLM) -> None:
    with pytest.raises(SettingsError, match="unknown order 'progresive'; did you mean 'progressive'"):
        stages(tiny_vlm, "progresive")
    with pytest.raises(SettingsError, match="unknown order 'backward'"):
        replaced(tiny_vlm, twin, "Full", order="backward")
    with pytest.raises(SettingsError, match=r"unknown stage 'B1-Atn'; did you mean 'B1-Attn'\? Allowed: B1, B1-Attn"):
        replaced(tiny_vlm, twin, "B1-Atn")
    with pytest.raises(SettingsError, match="unknown stage 'B3'"):
        replaced(tiny_vlm, twin, "B3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "depth 2 against 3"),
        ({"hidden_size": 64}, "width 32 against 64"),
        ({"patch_size": 4}, "patch size 8 against 4"),
        ({"image_size": 48}, r"image size \(32, 32\) against \(48, 48\)"),
        ({"num_attention_heads": 2}, "num_attention_heads 4 against 2"),
        ({"hidden_act": "gelu"}, "hidden_act quick_gelu against gelu"),
        ({"intermediate_size": 32}, "parameters .* tensors of .* against"),
    ],
)
def test_models_that_are_no_twins_are_refused(tiny_vlm: VLM, changes: dict[str, Any], message: str) -> None:
    config = tiny_vlm.model.config.to_dict()
    config["vision_config"] |= changes
    other = radapt.load(type(tiny_vlm.model)(type(tiny_vlm.model.config).from_dict(config)))
    other.processor.image_mean, other.processor.image_std = [0.5] * 3, [0.25] * 3
    with pytest.raises(ModelError, match=f"tiny/clip and CLIPModel are no twins: {message}"):
        replaced(tiny_vlm, other, "B1")


def test_another_normalisation_or_family_is_refused(tiny_vlm: VLM, tiny_llava: Any) -> None:
    other = tiny_clip("other", side=SIDE, factor=10.0)
    other.processor.image_std = [0.3] * 3
    with pytest.raises(ModelError, match="tiny/clip and other are no twins: std"):
        replaced(tiny_vlm, other, "Full")
    with pytest.raises(ModelError, match="no twins: kind CLIPModel against LlavaForConditionalGeneration"):
        replaced(tiny_vlm, radapt.load(tiny_llava), "Full")


def embedded(model: VLM) -> Tensor:
    with torch.no_grad():
        return model.encode_image(PIXELS)


def test_a_llava_and_a_qwen_have_stages_too(tiny_llava: Any, tiny_qwen: Any) -> None:
    for module in (tiny_llava, tiny_qwen):
        model = radapt.load(module)
        twin = copy.copy(model)
        twin.model = copy.deepcopy(model.model)
        with torch.no_grad():
            for parameter in twin.image_parameters().values():
                parameter += 0.1 * torch.randn_like(parameter)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outputs = [embedded(replaced(model, twin, stage)) for stage in stages(model)]
        assert torch.equal(outputs[0], embedded(model))
        assert torch.equal(outputs[-1], embedded(twin))
        assert all(not torch.equal(one, two) for one, two in pairwise(outputs))


def test_stages_of_several_orders_have_names_of_their_own(tiny_vlm: VLM, twin: VLM) -> None:
    known = dict[str, VLM]()
    for order in (*EVERY, "interpolation"):
        candidates, positions, ticks = stage_candidates("CLIP", tiny_vlm, {"FARE": twin}, order)
        assert [each.method for each in candidates] == [each.method for each in positions[1:]]
        assert len(ticks) == len(positions)
        for each, stage in zip(candidates, ticks[1:], strict=True):
            assert each.model.fingerprint == replaced(tiny_vlm, twin, stage, order=order).fingerprint
            assert known.setdefault(each.method, each.model).fingerprint == each.model.fingerprint
    assert "FARE B1" in known
    assert "FARE Full" in known
