from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radapt.finetuning._method import Twin
from radapt.finetuning.pmg import PMG

ROWS = torch.tensor([6, 1, 4])


def softmax(model: Any, pixels: Tensor, classifier: Tensor) -> Any:
    """Of the zero-shot logits, in float64."""
    with torch.no_grad():
        embedding = model.encode_image(pixels).double().numpy()
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    raised = np.exp(model.logit_scale * unit @ classifier.double().numpy().T)
    return raised / raised.sum(1, keepdims=True)


def divergence(p: Any, q: Any) -> Any:
    return (p * np.log(p / q)).sum(1)


def test_it_is_cross_entropy_with_two_divergences(twin: Twin) -> None:
    clean = twin.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    ours = softmax(twin.tuned, adversarial, twin.classifier)
    original = softmax(twin.original, adversarial, twin.classifier)
    calm = softmax(twin.tuned, clean, twin.classifier)
    entropy = -np.log(ours[np.arange(3), twin.data.labels[ROWS].numpy()])
    parts = entropy, divergence(original, ours), divergence(calm, ours)
    assert all(part.mean() > 0.01 for part in parts)
    assert not np.allclose(divergence(ours, original).mean(), parts[1].mean(), rtol=0.01)
    assert not np.allclose(divergence(ours, calm).mean(), parts[2].mean(), rtol=0.01)
    loss = PMG().loss(twin, ROWS, clean, adversarial).item()
    assert loss == pytest.approx(sum(part.mean() for part in parts), rel=1e-4)
    with torch.no_grad():
        score = PMG().objective(twin, ROWS, clean)(adversarial[[2, 0]], torch.tensor([2, 0]))
    assert score.loss.tolist() == pytest.approx(entropy[[2, 0]], rel=1e-4)  # the attack maximises cross-entropy alone
    assert not score.fooled.any()


def test_gradients_flow_through_the_clean_images_too(twin: Twin) -> None:
    clean = twin.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    weight = twin.tuned.model.visual_projection.weight.requires_grad_()
    direction = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(PMG().loss(twin, ROWS, clean, adversarial), weight)

    def at(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * direction)
            loss = PMG().loss(twin, ROWS, clean, adversarial).item()
            weight.sub_(step * direction)
        return loss

    slope = (at(1e-3) - at(-1e-3)) / 2e-3
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=0.02)
    # Without the path through the clean images, the slope would be another.
    calm = twin.tuned.logits(clean, twin.classifier)
    adverse = twin.tuned.logits(adversarial, twin.classifier).detach()
    term = torch.nn.functional.kl_div(adverse.log_softmax(1), calm.log_softmax(1), log_target=True, reduction="none")
    (missing,) = torch.autograd.grad(term.sum(1).mean(), weight)
    assert abs((missing * direction).sum().item()) > 0.1 * abs(slope)
