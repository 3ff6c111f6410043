from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.errors import ModelError
from radapt.finetuning._method import Twin
from radapt.finetuning.tga import TGA, attention

ROWS = torch.tensor([6, 1, 4])


def enlarged(maps: Any, side: int) -> Any:
    """Bilinear interpolation, pixel centres on pixel centres, written out."""
    small = maps.shape[1]
    place = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
    low = np.floor(place).astype(int)
    high, share = np.minimum(low + 1, small - 1), place - low
    rows = maps[:, low] * (1 - share)[:, None] + maps[:, high] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, high] * share


def reference(model: Any, pixels: Tensor, texts: Tensor) -> Any:
    """Attention maps in float64, from the tower's last hidden states."""
    vision, projection = model.model.vision_model, model.model.visual_projection
    with torch.no_grad():
        hidden = vision(pixel_values=(pixels - 0.5) / 0.25).last_hidden_state[:, 1:].double().numpy()
    norm, weight = vision.post_layernorm, projection.weight.detach().double().numpy()
    centred = hidden - hidden.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    patches = (scaled * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()) @ weight.T
    unit = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    cosine = np.einsum("bpe,be->bp", unit, texts.double().numpy())
    low, high = cosine.min(1, keepdims=True), cosine.max(1, keepdims=True)
    return enlarged(((cosine - low) / (high - low)).reshape(-1, 4, 4), 32)


def test_maps_are_those_of_the_written_out_formula(twin: Twin) -> None:
    pixels, texts = twin.data.pixels(ROWS), twin.classifier[twin.data.labels[ROWS]]
    with torch.no_grad():
        maps = attention(twin.tuned, pixels, texts)
    assert np.abs(maps.numpy() - reference(twin.tuned, pixels, texts)).max() < 1e-4
    assert maps.shape == (3, 32, 32)
    assert 0 <= maps.min() < 0.2
    assert 0.8 < maps.max() <= 1


def test_half_precision_ends_with_the_embeddings(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, texts = twin.data.pixels(ROWS), twin.classifier[twin.data.labels[ROWS]]
    with torch.no_grad():
        patches, maps = twin.tuned.encode_patches(pixels), attention(twin.tuned, pixels, texts)
        monkeypatch.setattr(type(twin.tuned), "encode_patches", lambda self, pixels: patches)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attention(twin.tuned, pixels, texts), maps)


def test_it_is_cross_entropy_with_two_distances_of_attention(twin: Twin) -> None:
    clean, labels = twin.data.pixels(ROWS), twin.data.labels[ROWS]
    adversarial, texts = (clean + 0.05).clamp(0, 1), twin.classifier[labels]
    wanted = reference(twin.original, clean, texts)
    distances = [
        np.sqrt(((reference(twin.tuned, pixels, texts) - wanted) ** 2).sum((1, 2))).mean()
        for pixels in (adversarial, clean)
    ]
    with torch.no_grad():
        logits = twin.tuned.logits(adversarial, twin.classifier).double()
        entropy = (logits.logsumexp(1) - logits[torch.arange(3), labels]).mean().item()
        loss = TGA().loss(twin, ROWS, clean, adversarial).item()
        score = TGA().objective(twin, ROWS, clean)(adversarial[[1]], torch.tensor([1]))
    assert loss == pytest.approx(entropy + 0.08 * distances[0] + 0.05 * distances[1], rel=1e-4)
    assert abs(distances[0] - distances[1]) > 0.1
    assert all(distance > 1 for distance in distances)
    assert score.loss.item() == pytest.approx(
        (logits.logsumexp(1) - logits[torch.arange(3), labels])[1].item(), rel=1e-4
    )


def test_gradients_are_finite_where_nothing_has_moved_yet(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data = tiny_shapes(3)
    twin = Twin(original=tiny_vlm, tuned=tiny_vlm, data=data, classifier=tiny_vlm.classifier(data.prompts))
    weight = tiny_vlm.model.visual_projection.weight.requires_grad_()
    pixels = data.pixels(range(3))
    loss = TGA().loss(twin, torch.arange(3), pixels, pixels)
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


def test_a_model_that_pools_by_attention_is_refused(tiny_siglip: Any) -> None:
    with pytest.raises(ModelError, match=r"tiny/siglip has no projection of single patches; this needs a CLIP"):
        attention(tiny_siglip, torch.rand(1, 3, 32, 32), torch.rand(1, 32))
