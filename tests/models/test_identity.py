"""The fingerprint of a model is that of what it computes: not of where it lies, nor of what passes leave behind."""

from __future__ import annotations

import copy
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.models.generative import SIDE, llava_parts, qwen_parts
from tests.tiny import tiny_clip
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPMLP

import radapt
from radapt.adapters import data_driven, graft, shallow, training_free
from radapt.analysis import frequency_response
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.evaluation import InputDefence
from radapt.models import VLM, DualEncoder
from radapt.models.llava import llava
from radapt.models.qwen_vl import qwen_vl

BUILDERS: dict[str, Callable[[], VLM]] = {
    "clip": tiny_clip,
    "llava": lambda: llava("tiny", *llava_parts()),
    "llava-next": lambda: llava("tiny", *llava_parts(next_=True)),
    "siglip-llava": lambda: llava("tiny", *llava_parts(tower="siglip")),
    "qwen2.5": lambda: qwen_vl("tiny", *qwen_parts(three=False)),
    "qwen3": lambda: qwen_vl("tiny", *qwen_parts(three=True)),
}


def test_a_model_is_the_same_wherever_it_lies(tiny_vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_vlm.save_pretrained(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = {radapt.load(each).fingerprint for each in (tmp_path / "here", tmp_path / "elsewhere", "./here")}
    assert len(found) == 1


@pytest.mark.parametrize("family", BUILDERS)
def test_a_pass_changes_no_fingerprint(family: str) -> None:
    model = BUILDERS[family]()
    before = model.fingerprint
    pixels = torch.rand(1, 3, *model.image_size)
    model.encode_image(pixels)
    if family != "clip":
        speaker: Any = model
        speaker.generate(pixels, ["what?"], max_new_tokens=2)
    else:
        model.model.vision_model(pixels, output_hidden_states=True, output_attentions=True)
    assert model.fingerprint == before


def test_recomputing_changes_no_fingerprint() -> None:
    model, other = (llava("tiny", *llava_parts()) for _ in range(2))
    other.gradient_checkpointing = True
    assert model.fingerprint == other.fingerprint


class Gate(nn.Module):
    """A layer of one's own around one of the model's; its factors are no buffers."""

    def __init__(self, inner: nn.Module, by: float) -> None:
        super().__init__()
        self.inner, self.by = inner, [by]

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.inner(states)
        return found * self.by[0]


def gate(model: Any, by: float) -> None:
    layer = model.model.vision_model.encoder.layers[0]
    layer.mlp = Gate(layer.mlp, by)


def method(model: Any, by: float) -> None:
    mlp = model.model.vision_model.encoder.layers[0].mlp
    own = mlp.forward
    mlp.forward = types.MethodType(lambda self, states: own(states) * by, mlp)


def hooked(model: Any, by: float) -> None:
    model.model.vision_model.encoder.layers[0].mlp.register_forward_hook(lambda module, args, output: output * by)


def repeated(model: Any, by: float) -> None:
    layers = model.model.vision_model.encoder.layers
    layers.append(layers[0 if by < 1 else 1])


def scored(model: Any, by: float) -> None:
    def attention(module: Any, *given: Any, **named: Any) -> Any:
        output, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *given, **named)
        return output * by, weights

    ALL_ATTENTION_FUNCTIONS.register("own", attention)
    model.model.vision_model.config._attn_implementation = "own"


def encoded(model: Any, by: float) -> None:
    whole = model.encode_image
    model.encode_image = lambda pixels: whole(pixels * by)


CHANGES = [gate, method, hooked, repeated, scored, encoded]


@pytest.mark.parametrize("change", CHANGES)
def test_where_outputs_move_the_fingerprint_does(change: Callable[[Any, float], None]) -> None:
    pixels, found = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)), []
    for by in (None, 0.5, 1.5, 1.5):
        model = tiny_clip(factor=10.0)
        if by is not None:
            change(model, by)
        before = model.fingerprint
        found.append((before, model.encode_image(pixels)))
        assert model.fingerprint == before
    for at, (fingerprint, output) in enumerate(found):
        for other, moved in found[:at]:
            assert (fingerprint == other) == torch.allclose(output, moved)


def test_a_patch_of_a_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = tiny_clip(), CLIPMLP.forward
    digests = [model.fingerprint]
    for by in (0.5, 0.7):
        monkeypatch.setattr(CLIPMLP, "forward", lambda self, states, by=by: whole(self, states) * by)
        digests.append(model.fingerprint)
    assert len(set(digests)) == 3
    monkeypatch.undo()
    assert model.fingerprint == digests[0]


def test_a_family_of_ones_own_counts_with_what_it_holds() -> None:
    class Own(DualEncoder):
        net: Any = None

        def encode_image(self, pixels: Tensor) -> Tensor:
            return super().encode_image(self.net(pixels))

    class Other(DualEncoder):
        net: Any = None

        def encode_image(self, pixels: Tensor) -> Tensor:
            return super().encode_image(1 - self.net(pixels))

    digests = []
    for kind, bias in ((DualEncoder, 0.0), (Own, 0.0), (Own, 0.1), (Other, 0.1)):
        model: Any = tiny_clip()
        model.__class__ = kind
        model.net = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            model.net.weight.fill_(0.1)
            model.net.bias.fill_(bias)
        digests.append(model.fingerprint)
    assert len(set(digests)) == 4


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_which_low_rank_adapters_are_on_counts() -> None:
    model = tiny_clip()
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned: Any = get_peft_model(model.model, lora)
    tuned.add_adapter("other", lora)
    loaded: Any = radapt.load(tuned, name="tuned", tokenizer=model.tokenizer, processor=model.processor)
    pixels, found = torch.rand(1, 3, 48, 48), []

    def note() -> None:
        found.append((loaded.fingerprint, loaded.encode_image(pixels)))

    note()
    tuned.set_adapter("other")
    note()
    with tuned.disable_adapter():
        note()
    for layer in tuned.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("other", 3.0)
    note()
    assert len({fingerprint for fingerprint, _ in found}) == 4
    assert all(not torch.allclose(output, found[at][1]) for at, (_, output) in enumerate(found[1:]))


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_weights_that_torch_quantised_count() -> None:
    digests = []
    for scale in (1.0, 1.0, 2.0):
        model = tiny_clip()
        with torch.no_grad():
            for name, weight in model.model.named_parameters():
                if name.endswith("fc1.weight"):
                    weight *= scale
        model.model = torch.ao.quantization.quantize_dynamic(model.model, {nn.Linear})
        digests.append(model.fingerprint)
    assert digests[0] == digests[1] != digests[2]


def test_a_normalisation_in_an_array_counts() -> None:
    model: Any = tiny_clip()
    digests = []
    for mean in ([0.5] * 3, np.full(3, 0.5), np.full(3, 0.4)):
        model.processor.image_mean = mean
        digests.append(model.fingerprint)
    assert len(set(digests)) >= 2
    assert digests[2] not in digests[:2]


@pytest.mark.parametrize("settings", [{"alpha": 1}, {"alpha": 0}, {"alpha": 0.5, "cutoff": 1}])
def test_an_adapter_of_whole_numbers_is_the_same_when_it_is_read(settings: dict[str, Any], tmp_path: Path) -> None:
    adapter = training_free(tiny_clip(), **settings)
    adapter.save_pretrained(tmp_path)
    assert radapt.Adapter.from_pretrained(tmp_path).fingerprint == adapter.fingerprint


def test_a_training_begins_with_deltas_of_its_own_model_alone() -> None:
    clip, twin, other = tiny_clip(), tiny_clip(), tiny_clip(seed=2, factor=3.0)
    with torch.no_grad():
        for weight in twin.tower.root.parameters():
            weight += 0.1 * torch.randn_like(weight)
    start = graft(clip, twin, weights={"block:0": 1.0})
    settings: dict[str, Any] = {"layers": "embedding+block:0", "steps": 1, "batch_size": 2, "quiet": True}
    shallow(clip, torch.rand(2, 3, 48, 48), start=start, **settings)
    with pytest.raises(AdapterError, match="differences from other weights"):
        shallow(other, torch.rand(2, 3, 48, 48), start=start, **settings)


def half(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels, 3, 1, 1)


def test_a_defence_sees_the_image_of_a_model_that_looks_at_tiles() -> None:
    model: Any = llava("tiny", *llava_parts(next_=True))
    pixels, seen = torch.rand(2, 3, 2 * SIDE, 2 * SIDE), list[torch.Size]()

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape)
        return half(images)

    expected = model.encode_image(half(pixels))
    with InputDefence(watched, fingerprint="half").attach(model):
        assert torch.allclose(model.encode_image(pixels), expected, atol=1e-6)
    assert set(seen) == {pixels.shape}


def test_a_response_is_not_that_of_an_adapter(tiny_vlm: Any) -> None:
    with training_free(tiny_vlm, cutoff=0.1).attach(tiny_vlm), pytest.raises(InputError, match="carries an adapter"):
        frequency_response({"tiny": tiny_vlm})


def test_an_anchor_is_not_trained_behind_another_defence() -> None:
    model = tiny_clip()
    with InputDefence(half).attach(model), pytest.raises(SettingsError, match="carries an input defence"):
        data_driven(model, torch.rand(2, 3, 48, 48), steps=1, quiet=True)


def test_what_is_loaded_moves_where_it_is_told_and_takes_nothing_else() -> None:
    model = tiny_clip()
    assert radapt.load(model) is model
    assert next(radapt.load(model, device="meta").model.parameters()).is_meta
    for wrong in ({"device_map": "auto"}, {"base": "micro/clip"}):
        with pytest.raises(ModelError, match="is loaded already"):
            radapt.load(tiny_clip(), **wrong)


def test_weights_that_are_not_in_memory_are_named(tiny_vlm: Any) -> None:
    from accelerate import cpu_offload

    offloaded = copy.deepcopy(tiny_vlm)
    cpu_offload(offloaded.model, execution_device=torch.device("cpu"))
    with pytest.raises(ModelError, match="not in memory"):
        _ = offloaded.fingerprint
    with pytest.raises(ModelError, match="not in memory"):
        radapt.load(offloaded.model, processor=tiny_vlm.processor)
