from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.errors import ModelError, SettingsError
from radapt.finetuning import Twin, finetune
from radapt.finetuning.agft import AGFT
from radapt.models import load

ROWS = torch.tensor([6, 1, 4])


def cosines(model: Any, pixels: Tensor, classifier: Tensor) -> Any:
    """In float64."""
    with torch.no_grad():
        embedding = model.encode_image(pixels).double().numpy()
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ classifier.double().numpy().T


def softmax(logits: Any) -> Any:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("method", "scale", "ratio"), [(AGFT(), 180.0, 0.4), (AGFT(inverse_temperature=20.0, ratio=1.0), 20.0, 1.0)]
)
def test_it_is_cross_entropy_with_the_softened_probabilities_of_the_original(
    twin: Twin, method: AGFT, scale: float, ratio: float
) -> None:
    clean = twin.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    wanted = softmax(ratio * scale * cosines(twin.original, clean, twin.classifier))
    given = np.log(softmax(scale * cosines(twin.tuned, adversarial, twin.classifier)) + 1e-300)
    expected = -(wanted * given).sum(1)
    loss = method.loss(twin, ROWS, clean, adversarial)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-3)
    with torch.no_grad():
        score = method.objective(twin, ROWS, clean)(adversarial[[2, 0]], torch.tensor([2, 0]))
    assert score.loss.tolist() == pytest.approx(expected[[2, 0]], rel=1e-3)
    assert not score.fooled.any()


def test_labels_are_not_used_but_classes_are_needed(twin: Twin) -> None:
    clean = twin.data.pixels(ROWS)
    other = replace(twin, data=replace(twin.data, labels=twin.data.labels.flip(0)))
    assert AGFT().loss(twin, ROWS, clean, clean).item() == AGFT().loss(other, ROWS, clean, clean).item()
    assert AGFT.needs_labels


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0.0}, {"ratio": 1.5}, {"inverse_temperature": 0.0}, {"inverse_temperature": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        AGFT(**wrong)


def test_its_settings_are_recorded(tiny_vlm: Any, tiny_shapes: Any) -> None:
    options: dict[str, Any] = {"steps": 1, "batch_size": 4, "attack_steps": 1, "quiet": True}
    made = finetune(AGFT(ratio=0.7), tiny_vlm, tiny_shapes(4), **options)
    assert made.recipe["options"] == {"inverse_temperature": 180.0, "ratio": 0.7}


def test_a_model_without_texts_is_refused(tiny_shapes: Any) -> None:
    with pytest.raises(ModelError, match="no text encoder"):
        finetune(
            "agft",
            load("micro/llava"),
            replace(tiny_shapes(8), images=np.zeros((8, 48, 48, 3), np.uint8)),
            batch_size=4,
        )
