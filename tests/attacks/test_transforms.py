"""Looking through random models and preprocessors without a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from radapt.attacks import EOT, ClassificationObjective, Objective, Score, bpda, jpeg, make, round_8bit
from radapt.errors import SettingsError


class Noisy(Objective):
    """The n-th pass multiplies the loss by n, and is fooled in every second pass, for the first sample always."""

    losses = ("sum",)
    size = 2

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        self.passes += 1
        fooled = (index == 0) | (self.passes % 2 == 0)
        logits = self.passes * torch.ones(len(pixels), 3)
        return Score(self.passes * pixels.flatten(1).sum(1), fooled, logits)


def test_expectation_is_the_mean_of_the_passes() -> None:
    pixels = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    noisy = Noisy()
    score = EOT(noisy, 5)(pixels, torch.arange(2))
    assert noisy.passes == 5
    torch.testing.assert_close(score.loss, 3 * pixels.flatten(1).sum(1))
    (gradient,) = torch.autograd.grad(score.loss.sum(), pixels)
    torch.testing.assert_close(gradient, torch.full_like(pixels, 3.0))
    assert score.fooled.tolist() == [True, False]
    assert score.logits is not None
    assert score.logits.tolist() == [[3.0] * 3] * 2
    with pytest.raises(SettingsError, match="samples must be a whole number of at least 1"):
        EOT(noisy, 0)


def test_expectation_attacks_a_random_model_better_than_one_pass() -> None:
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(48, 4, generator=generator)
    pixels = torch.rand(40, 3, 4, 4, generator=generator)
    labels = (pixels.flatten(1) @ weights).argmax(1)

    def model(points: Tensor) -> Tensor:
        noise = 6 * torch.randn(len(points), 48, generator=generator)
        return (points.flatten(1) + noise.sign() * 0.6) @ weights

    attack = make("apgd", eps=0.03, steps=20)

    def gained(objective: object) -> float:
        outcome = attack(objective, pixels)  # type: ignore[arg-type]
        moved = outcome.pixels.flatten(1) @ weights
        right = moved.gather(1, labels[:, None]).squeeze(1)
        best = moved.scatter(1, labels[:, None], -torch.inf).amax(1)
        return float((best - right).mean())

    plain = ClassificationObjective(model, labels, 4, stop=False)
    assert gained(EOT(plain, 30)) > gained(plain)


def test_straight_through_has_the_values_of_one_map_and_the_gradient_of_another() -> None:
    pixels = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    weights = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    for backward, slope in ((None, weights), (lambda points: points**2, 2 * pixels.detach() * weights)):
        rounded = bpda(round_8bit, backward)(pixels)
        assert torch.equal(rounded.detach(), (pixels.detach() * 255).round() / 255)
        (gradient,) = torch.autograd.grad((rounded * weights).sum(), pixels)
        torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_a_defence_without_a_gradient_falls_through_its_approximation(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with torch.no_grad():
        model[1].weight.copy_(0.2 * torch.randn(4, 768, generator=generator))
    pixels = torch.rand(20, 3, 16, 16, generator=generator)
    compress = jpeg(60)
    labels = model(compress(pixels)).argmax(1).detach()
    attack = make(name, eps=0.1, steps=20)
    blind = attack(ClassificationObjective(lambda x: model(compress(x) + 0 * x), labels, 4), pixels)
    seeing = attack(ClassificationObjective(lambda x: model(bpda(compress)(x)), labels, 4), pixels)
    assert blind.zero_gradient[~blind.fooled].min() == 1
    assert seeing.fooled.float().mean() > 0.8 > blind.fooled.float().mean()


def test_jpeg_is_that_of_a_file() -> None:
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(pixels, 9, 1, 4)
    fine, coarse = (float((jpeg(quality)(smooth) - smooth).abs().mean()) for quality in (95, 5))
    assert fine < 0.01 < coarse
    assert torch.equal(jpeg(50)(smooth), jpeg(50)(smooth))
    for quality in (0, 96):
        with pytest.raises(SettingsError, match="quality must be a whole number of at least 1"):
            jpeg(quality)


def test_passes_of_a_mean_do_not_see_what_the_others_wrote() -> None:
    pixels, seen = torch.full((2, 3, 2, 2), 0.5), list[float]()

    def logits(x: Tensor) -> Tensor:
        seen.append(float(x.detach().mean()))
        return x.mul_(0.5).flatten(1)[:, :2]

    EOT(ClassificationObjective(logits, [0, 1], 2), 3)(pixels, torch.arange(2))
    assert seen == [0.5] * 3
    assert pixels.eq(0.5).all()
