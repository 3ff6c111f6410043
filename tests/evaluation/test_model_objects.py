"""Models, datasets and tasks as objects, which change between evaluations and while they run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from tests.models.generative import llava_parts
from tests.tiny import own_labels, tiny_clip
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import radapt
from radapt.adapters import adapter_of, shallow, training_free
from radapt.errors import AdapterError, CheckError, InputError, ModelError
from radapt.evaluation import Models, evaluate
from radapt.evaluation.vqa import VQA
from radapt.models import VLM
from radapt.models.llava import llava

SETTINGS: dict[str, Any] = {"attack": None, "quiet": True, "sanity": False}


def clean(model: Any, data: Any, file: Path) -> float:
    return evaluate(model, data=data, results=file, **SETTINGS)[0].percent


@pytest.mark.parametrize("what", ["images", "labels"])
def test_a_dataset_that_was_changed_in_place_is_measured_again(what: str, tmp_path: Path) -> None:
    model = tiny_clip(factor=10.0)
    data = own_labels(model, 8)
    assert clean(model, data, tmp_path / "r.sqlite") == 100
    if what == "images":
        data.images[:] = np.roll(data.images, 1, axis=0)
    else:
        data.labels[:] = (data.labels + 1) % len(data.classes)
    changed = clean(model, data, tmp_path / "r.sqlite")
    assert changed == clean(model, data, tmp_path / "fresh.sqlite") < 100


def test_a_task_asks_a_model_again_in_every_evaluation(tmp_path: Path) -> None:
    model: Any = llava("tiny", *llava_parts())
    data = radapt.load_dataset("shapeworld-vqa", n=4, size=model.image_size[0])
    task = VQA(data)
    for file in ("first", "second"):
        evaluate(model, data=task, results=tmp_path / f"{file}.sqlite", **SETTINGS)
        with radapt.Results(tmp_path / f"{file}.sqlite", read_only=True) as results:
            relative = [each.percent for each in results.all() if each.setting.metric == "relative"]
        assert relative == [100]
        with torch.no_grad():
            for weight in model.model.lm_head.parameters():
                weight.copy_(weight.flip(0))


class Meddling(nn.Module):
    """A defence that changes nothing, and meanwhile puts an adapter on the model, as another thread might."""

    def __init__(self, model: VLM) -> None:
        super().__init__()
        self._meddle: Any = lambda: training_free(tiny_clip(), alpha=0.5).attach(model)

    def forward(self, pixels: Tensor) -> Tensor:
        if self._meddle is not None:
            self._meddle = self._meddle() and None
        return pixels


def test_what_is_put_on_a_model_while_it_is_measured_is_an_error(tmp_path: Path) -> None:
    model = tiny_clip(factor=10.0)
    data = own_labels(model, 4)
    defence = radapt.evaluation.InputDefence(Meddling(model), fingerprint="meddling")
    with pytest.raises(CheckError, match="something was put on tiny or taken off it while"):
        evaluate((model, defence), data=data, results=tmp_path / "r.sqlite", **SETTINGS)
    with radapt.Results(tmp_path / "r.sqlite", read_only=True) as results:
        assert not [each for each in results.all() if each.n]


def test_an_attachment_that_has_ended_cannot_be_entered_again() -> None:
    model = tiny_clip()
    attachment = training_free(model, alpha=0.5).attach(model)
    with attachment:
        assert model.defended
    with pytest.raises(AdapterError, match="has ended"), attachment:
        pass


def test_the_adapter_that_a_model_carries_takes_itself_off() -> None:
    model = tiny_clip()
    training_free(model, alpha=0.5).attach(model)
    found = adapter_of(model)
    assert found is not None
    found.detach()
    assert not model.defended


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_prompts_that_peft_adds_are_refused() -> None:
    model: Any = llava("tiny", *llava_parts())
    text = get_peft_model(model.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=32,
                          num_transformer_submodules=1, num_attention_heads=4, num_layers=2))  # fmt: skip
    with pytest.raises(ModelError, match="PromptTuningConfig of PEFT adds prompts"):
        radapt.load(text, name="prompted", tokenizer=model.tokenizer, processor=model.processor)


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_each_wrapped_object_is_kept_with_its_model() -> None:
    models, model = Models(), tiny_clip()

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.get_base_model = lambda: inner

    for seed in range(20):
        inner: Any = copy.deepcopy(model.model)
        inner.seed = seed
        found: Any = models.get(Wrapper(inner))
        assert found.model.seed == seed


def test_a_tokenizer_that_pads_on_the_left_changes_no_embedding() -> None:
    model: Any = tiny_clip()
    texts = ["a photo of a red circle", "a circle"]
    expected = model.encode_text(texts)
    model.tokenizer.padding_side = "left"
    assert torch.equal(model.encode_text(texts), expected)


def test_a_parametrized_layer_is_refused_and_the_model_stays_whole() -> None:
    model: Any = tiny_clip()
    weight_norm(model.model.vision_model.encoder.layers[0].self_attn.q_proj)
    pixels = torch.rand(4, 3, 48, 48)
    before = model.encode_image(pixels)
    with pytest.raises(AdapterError, match="is computed by a parametrization"):
        shallow(model, pixels, layers="attention:0", steps=1, batch_size=2, attack_steps=1, quiet=True)
    assert torch.equal(model.encode_image(pixels), before)


def test_data_parallel_is_looked_into() -> None:
    model = tiny_clip()
    wrapped: Any = nn.DataParallel(model.model)
    loaded = radapt.load(wrapped, name="parallel", tokenizer=model.tokenizer, processor=model.processor)
    assert loaded.model is model.model


def test_a_classifier_may_change_its_precision_between_evaluations(tmp_path: Path) -> None:
    data = own_labels(tiny_clip(), 4)
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, len(data.classes))).eval()
    for number, kind in enumerate((torch.float32, torch.bfloat16, torch.float64)):
        model = radapt.models.ClassifierModel("own", own, image_size=(48, 48)) if number == 0 else model
        own.to(kind)
        clean({"own": model}, data, tmp_path / "r.sqlite")


def test_a_defence_that_gives_no_images_is_refused(tmp_path: Path) -> None:
    model = tiny_clip()
    with pytest.raises(InputError, match=r"a defence maps images to images of the same shape.*got \(4, 3\)"):
        clean((model, lambda pixels: pixels.mean((2, 3))), own_labels(model, 4), tmp_path / "r.sqlite")


def test_a_second_name_is_that_of_a_second_object() -> None:
    model = tiny_clip()
    other = radapt.load(model, name="other")
    assert (model.name, other.name) == ("tiny", "other")
    assert other.model is model.model


def test_images_of_another_size_are_told_or_refused(tmp_path: Path) -> None:
    data = radapt.load_dataset("shapes", n=4, size=64)
    with pytest.warns(UserWarning, match=r"shapes has images of \(64, 64\), and tiny was made for \(48, 48\)"):
        clean(tiny_clip(), data, tmp_path / "r.sqlite")
    speaker: Any = llava("tiny", *llava_parts())
    other = radapt.load_dataset("shapeworld-vqa", n=2, size=2 * speaker.image_size[0])
    with pytest.raises(ModelError, match=r"tiny takes images of \d+ x \d+ pixels, got"):
        clean(speaker, other, tmp_path / "r.sqlite")
