"""Activations: what each part of a model keeps for the gradient of the pixels; the formula is that of ``estimate``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.activations import QuickGELUActivation

from ._generative import Generative
from ._tower import Tower
from ._vlm import VLM
from .llava import Llava, LlavaNext

__all__ = ["Stack", "stacks"]

_FLOAT = 4
_JOINTS = ("merger", "multi_modal_projector", "image_newline", "visual_projection")


@dataclass(frozen=True)
class Stack:
    """A part of a model, with those of its blocks that lie between the pixels and the loss; sizes in bytes.

    Args:
        name: of the part.
        parameters: number of them.
        blocks: number of its blocks.
        entry: the input of one block.
        block: what one block keeps.
        back: the gradients that are added in the backward pass through one block.
        ends: what is kept outside of the blocks.
    """

    name: str
    parameters: int
    blocks: int = 0
    entry: int = 0
    block: int = 0
    back: int = 0
    ends: int = 0


def stacks(vlm: VLM, size: tuple[int, int], batch_size: int, text: int, answer: int, item: int) -> list[Stack]:
    """Vision tower, projector, and language model or text encoder.

    Args:
        vlm: the model, with or without storage.
        size: height and width of the images.
        batch_size: images per pass.
        text: tokens of prompt and answer.
        answer: those of them that are the answer's.
        item: bytes of an element.
    """
    tower, model = vlm.tower, _untyped(vlm.model)
    patches, tiles = (size[0] // tower.patch_size) * (size[1] // tower.patch_size), 1
    if isinstance(vlm, LlavaNext):  # the tiles, and the image shrunk to one
        side = model.config.vision_config.image_size
        tiles = 1 + (size[0] // side) * (size[1] // side)
        patches = tiles * (side // tower.patch_size) ** 2
    patches, tokens = batch_size * patches, batch_size * (patches + tiles * tower.layout.prefix)
    own, joint, rest = _parameters(vlm)
    ends = item * (patches * _pixels(tower) + tokens * tower.width * (_outer_norms(tower) + _pooled(vlm)))
    vision = replace(
        _stack(tower.blocks, tokens, item), name="vision tower", parameters=own, blocks=_used(vlm), ends=ends
    )
    if not isinstance(vlm, Generative):
        return [vision, Stack("projection", joint), Stack("text encoder", rest)]
    config = model.config.get_text_config()
    length = vlm.image_tokens(*size) + text
    mask = batch_size * length**2 if batch_size > 1 else 0
    ends = _FLOAT * batch_size * (length * config.hidden_size + answer * config.vocab_size)
    language = _stack(model.get_decoder().layers, batch_size * length, item, mask=mask)
    language = replace(language, name="language model", parameters=rest, ends=ends)
    return [vision, Stack("projector", joint, ends=_joined(tower, patches, config.hidden_size, item)), language]


def _untyped(module: nn.Module) -> Any:
    return module


def _parameters(vlm: VLM) -> tuple[int, int, int]:
    """Number of parameters of the vision tower, of what joins it to the rest, and of the rest."""
    root = vlm.tower.name_in(vlm.model)
    counts = [0, 0, 0]
    for name, parameter in vlm.model.named_parameters():
        part = 1 if any(each in name for each in _JOINTS) else 0 if name.startswith(f"{root}.") else 2
        counts[part] += parameter.numel()
    return counts[0], counts[1], counts[2]


def _used(vlm: VLM) -> int:
    """Number of the tower's blocks that lie between the pixels and what is read of them."""
    count = len(vlm.tower.blocks)
    if not isinstance(vlm, Llava):
        return count
    chosen = vlm.model.config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(layer if layer >= 0 else count + 1 + layer for layer in layers)


def _stack(blocks: nn.ModuleList, tokens: int, item: int, *, mask: int = 0) -> Stack:
    """What blocks of one kind keep of so many tokens, where each of them also keeps a mask of so many elements."""
    block = blocks[0]
    linear = {name.rpartition(".")[2]: m for name, m in block.named_modules() if isinstance(m, nn.Linear)}
    fused, gate = linear.get("qkv"), linear.get("gate_proj")
    queries = fused.out_features // 3 if fused else linear["q_proj"].out_features
    own_keys = queries if fused else linear["k_proj"].out_features
    low, high = 2 * queries + 2 * (queries if mask else own_keys) + (2 * queries if fused else 0), 0
    if gate:
        hidden, times = gate.out_features, 3
    else:
        hidden = next(linear[name] for name in ("fc1", "linear_fc1") if name in linear).out_features
        times = 2 if any(isinstance(module, QuickGELUActivation) for module in block.modules()) else 1
    features = {"q_norm": queries, "k_norm": own_keys}
    for name, module in block.named_modules():
        if _is_norm(module):
            size = features.get(name.rpartition(".")[2], module.weight.numel())
            low, high = (low, high + size) if _in_float(module) else (low + size, high)
    return Stack(
        "",
        0,
        blocks=len(blocks),
        entry=item * tokens * (fused or linear["q_proj"]).in_features,
        block=item * (tokens * (low + times * hidden) + mask) + _FLOAT * tokens * high,
        back=item * tokens * hidden * (2 if times == 1 else 3),
    )


def _joined(tower: Tower, patches: int, width: int, item: int) -> int:
    """Bytes that the projector keeps: LLaVA's activation, or the norm and the activation of each of Qwen's mergers."""
    norms = [module for name, module in tower.root.named_modules() if _is_norm(module) and "merger" in name]
    each = [tower.width * (item + (_FLOAT if _in_float(norm) else item)) for norm in norms]
    return patches * (sum(each) if norms else width * item)


def _outer_norms(tower: Tower) -> int:
    """Number of norms that every token passes outside of the blocks and the projector."""
    inner = {id(module) for block in tower.blocks for module in block.modules()}
    outer = [(name, m) for name, m in tower.root.named_modules() if _is_norm(m) and id(m) not in inner]
    return sum("merger" not in name and "head." not in name for name, _ in outer)


def _pooled(vlm: VLM) -> int:
    """Keys and values of SigLIP's attention pooling, as multiples of the width."""
    return 2 if hasattr(vlm.tower.root, "head") and not isinstance(vlm, Generative) else 0


def _pixels(tower: Tower) -> int:
    """Elements per patch that the patch embedding keeps: a convolution keeps its input, a linear layer does not."""
    embedding = _untyped(tower.patch_embedding)
    return 0 if isinstance(embedding, nn.Linear) else int(embedding.weight[0].numel())


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _in_float(norm: nn.Module) -> bool:
    return "RMSNorm" in type(norm).__name__
