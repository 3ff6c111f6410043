from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from tests.models.generative import BUILDERS
from tests.models.openclip import CLIP, MODEL_CFG
from tests.models.test_contract import SAVED as CONTRACT
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import radapt
from radapt.errors import InputError, ModelError, SettingsError, UnknownModelError
from radapt.micro.llava import build_model as micro_llava
from radapt.micro.qwen_vl import build_model as micro_qwen
from radapt.models import VLM, Memory, estimate
from radapt.models.llava import LlavaNext
from radapt.models.siglip2 import Siglip2

Forward = Callable[[], torch.Tensor]
PROMPTS = ["what is the shape of it?", "is there a circle on the large object?", "what colour?"]
ANSWERS = ["a red circle", "yes", "a large green star"]
SAVED: dict[str, Callable[[Path], Path]] = {**CONTRACT, **BUILDERS}
MICRO: dict[str, Callable[[VLM], VLM]] = {"clip": lambda clip: clip, "llava": micro_llava, "qwen-vl": micro_qwen}


class Kept:
    """Holds what autograd saves; without its history, as a saved result would hold itself alive."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()


class Watch(TorchDispatchMode):
    """Notes the largest number of bytes that live at one time, beside those of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.own, self.peak = storages(model), 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.own:
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if sum(size for _, size in self.live.values()) > self.peak:  # those that have died by now still among them
            self.live = {key: value for key, value in self.live.items() if not value[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return output


def storages(model: torch.nn.Module) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}


def a_pass(
    vlm: Any, batch_size: int, size: tuple[int, int]
) -> tuple[Callable[[], torch.Tensor], torch.Tensor, dict[str, int]]:
    """One forward pass on random images, these images, and the lengths of its texts."""
    pixels = torch.rand(batch_size, 3, *size, requires_grad=True)
    if not hasattr(vlm, "gradient_checkpointing"):
        return lambda: vlm.encode_image(pixels).sum(), pixels, {}
    tokens = vlm.tokenize(PROMPTS[:batch_size], ANSWERS[:batch_size])
    lengths = {"prompt": tokens.ids.shape[1] - tokens.answer - 1, "answer": tokens.answer}
    return lambda: vlm.answer_scores(pixels, tokens)[0].sum(), pixels, lengths


def saved_bytes(vlm: VLM, forward: Forward) -> int:
    """Bytes that autograd holds after a forward pass, each storage once, weights excluded."""
    kept: WeakSet[Kept] = WeakSet()

    def pack(tensor: torch.Tensor) -> Kept:
        holder = Kept(tensor)
        kept.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        loss = forward()
    found = {each.tensor.untyped_storage()._cdata: each.tensor.untyped_storage().nbytes() for each in kept}
    assert loss.requires_grad
    return sum(size for key, size in found.items() if key not in storages(vlm.model))


def peak_bytes(vlm: VLM, forward: Forward, pixels: torch.Tensor) -> int:
    """Most bytes that live at one time on the way there and back, weights excluded."""
    with Watch(vlm.model) as watch:
        (gradient,) = torch.autograd.grad(forward(), pixels)
    assert gradient.abs().max() > 0
    return watch.peak


def compare(vlm: Any, folder: Path | str, batch_size: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    forward, pixels, lengths = a_pass(vlm, batch_size, size)
    options: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "image_size": size, **lengths}
    plain = estimate(folder, **options)
    assert plain.parameters == sum(p.numel() for p in vlm.model.parameters())
    assert plain.weights_bytes == plain.parameters * dtype.itemsize
    assert plain.parts[0].parameters == sum(
        p.numel() for name, p in vlm.tower.root.named_parameters() if "merger" not in name
    )
    kept = plain.activation_bytes - plain.parts[-1].activation_bytes  # there, on the way back, or both
    assert kept == pytest.approx(saved_bytes(vlm, forward), rel=0.1)
    copies = isinstance(vlm, LlavaNext | Siglip2)  # of pixels, which in a model as small as this outweigh all else
    if not copies:
        assert plain.activation_bytes == pytest.approx(peak_bytes(vlm, forward, pixels), rel=0.25)
    if lengths:
        vlm.gradient_checkpointing = True
        again = estimate(folder, **options, gradient_checkpointing=True)
        kept = again.activation_bytes - again.parts[-1].activation_bytes
        assert kept == pytest.approx(saved_bytes(vlm, forward), rel=0.25)
        if not copies:
            assert again.activation_bytes == pytest.approx(peak_bytes(vlm, forward, pixels), rel=0.25)
        assert again.activation_bytes < plain.activation_bytes
        assert again.weights_bytes == plain.weights_bytes


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", SAVED)
def test_the_estimate_is_what_a_tiny_model_takes(kind: str, batch_size: int, tmp_path: Path) -> None:
    folder = SAVED[kind](tmp_path / "model")
    vlm = radapt.load(folder)
    assert estimate(folder).image_size == vlm.image_size
    compare(vlm, folder, batch_size, vlm.image_size, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MICRO)
def test_the_estimate_is_what_a_small_model_takes_in_half_precision(kind: str, tmp_path: Path) -> None:
    vlm: Any = MICRO[kind](radapt.load("micro/clip"))
    vlm.save_pretrained(tmp_path)
    vlm.model.to(torch.bfloat16)
    compare(vlm, tmp_path, 2, vlm.image_size, torch.bfloat16)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_the_shape_of_the_images_counts(kind: str, tmp_path: Path) -> None:
    folder = BUILDERS[kind](tmp_path)
    compare(radapt.load(folder), folder, 1, (96, 32), torch.float32)


def a_configuration(folder: Path, **changes: Any) -> Path:
    """The published configuration of LLaVA 1.5 7B; nothing else lies there."""
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
    config = {"model_type": "llava", "vision_config": vision, "text_config": text, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_large_model_needs_its_configuration_alone(tmp_path: Path) -> None:
    memory = estimate(a_configuration(tmp_path), dtype="bfloat16", batch_size=4, gradient_checkpointing=True)
    assert [part.parameters for part in memory.parts] == [303_507_456, 20_979_712, 6_738_939_904, 0]
    assert memory.parameters == 7_063_427_072  # as published
    assert memory.weights_bytes == 2 * memory.parameters
    assert memory.total == memory.weights_bytes + memory.activation_bytes
    assert memory.image_size == (336, 336)
    plain = estimate(tmp_path, dtype="bfloat16", batch_size=4)
    assert plain.activation_bytes > 5 * memory.activation_bytes
    assert estimate(tmp_path, dtype="bfloat16", batch_size=8).activation_bytes == pytest.approx(
        2 * plain.activation_bytes, rel=0.01
    )
    lines = str(memory).splitlines()
    assert lines[0] == f"{tmp_path}, bfloat16, 4 images of 336 x 336, checkpointing"
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "vision tower", "projector", "language model", "on the way back",
    ]  # fmt: skip
    assert "7,063.4" in lines[6]
    assert lines[-1] == f"total {memory.total / 1e9:.2f} GB"


def test_nothing_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.nn.Module] = []

    def watched(vlm: VLM, *given: Any) -> Any:
        found.append(vlm.model)
        return stacks(vlm, *given)

    from radapt.models._activations import stacks

    monkeypatch.setattr("radapt.models._memory.stacks", watched)
    estimate(a_configuration(tmp_path))
    assert {parameter.device.type for parameter in found[0].parameters()} == {"meta"}


def test_what_ships_with_the_package_is_estimated_by_name() -> None:
    memory = estimate("micro/clip")
    assert isinstance(memory, Memory)
    assert (memory.model, memory.image_size) == ("micro/clip", (48, 48))
    assert memory.parameters == sum(p.numel() for p in radapt.load("micro/clip").model.parameters())
    assert [part.name for part in memory.parts] == ["vision tower", "projection", "text encoder", "on the way back"]


def test_what_cannot_be_estimated_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'micro/clip'"):
        estimate("micro/clop")
    with pytest.raises(SettingsError, match="batch_size must be at least 1, got 0"):
        estimate("micro/clip", batch_size=0)
    with pytest.raises(SettingsError, match="unknown dtype 'bf16'; did you mean 'bfloat16'"):
        estimate("micro/clip", dtype="bf16")
    with pytest.raises(ModelError, match="does not generate text; gradient_checkpointing is for"):
        estimate("micro/clip", gradient_checkpointing=True)
    with pytest.raises(InputError, match="multiples of 8 pixels, got 4 x 4"):
        estimate("micro/clip", image_size=4)
    with pytest.raises(InputError, match=r"takes images of \(336, 336\) only, got 224 x 224"):
        estimate(a_configuration(tmp_path), image_size=224)
    weights = tmp_path / "clip.pt"
    torch.save(CLIP(MODEL_CFG).state_dict(), weights)
    with pytest.raises(ModelError, match="is a file of weights"):
        estimate(weights)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"'llama' cannot be loaded.*Allowed: .*llava"):
        estimate(tmp_path)


def test_a_qwen_takes_multiples_of_its_merged_patches(tmp_path: Path) -> None:
    folder = BUILDERS["qwen3_vl"](tmp_path)
    with pytest.raises(InputError, match="multiples of 16 pixels, got 24 x 48"):
        estimate(folder, image_size=(24, 48))
    (folder / "preprocessor_config.json").unlink()
    assert estimate(folder).image_size == (448, 448)
