"""The checks on what an attack hands back, and its interface to real models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from radapt.attacks import ClassificationObjective, EmbeddingObjective, Objective, Score, SearchAttack, make
from radapt.attacks._search import Evaluation, State
from radapt.attacks.pgd import PGD
from radapt.errors import CheckError


@dataclass(frozen=True, kw_only=True)
class Fixed(SearchAttack):
    """Goes to one fixed offset without asking for gradients, whatever the ball."""

    name: ClassVar[str] = "fixed"
    needs_gradient: ClassVar[bool] = False
    steps: int = 1
    offset: float = 0.0

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> State:
        return {"nothing": torch.zeros(())}

    def start(self, clean: Tensor, drawn: State) -> tuple[Tensor, State]:
        return clean + self.offset, {}

    def step(self, clean: Tensor, current: Evaluation, state: State, iteration: Tensor) -> tuple[Tensor, State]:
        return current.points, state


class Brightness(Objective):
    """Loss is the mean; fooled where it is above a limit."""

    losses = ("mean",)

    def __init__(self, size: int, limit: float = 10.0) -> None:
        self.size, self.limit = size, limit

    def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
        value = pixels.flatten(1).mean(1)
        return Score(value, (value > self.limit).detach())


IMAGES = torch.full((3, 3, 4, 4), 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.1, "offset": 0.1001}, "farther than eps = 0.1"),
        ({"eps": 0.1, "norm": "l2", "offset": 0.0146}, "farther than eps = 0.1"),
        ({"eps": 1.0, "offset": 0.6}, r"leave \[0, 1\]"),
        ({"eps": 0.1, "offset": float("inf")}, "not finite"),
    ],
)
def test_a_faulty_attack_is_caught(settings: dict[str, float], message: str) -> None:
    class Forgiving(Brightness):
        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            return super().__call__(pixels.nan_to_num(posinf=2.0), index)

    with pytest.raises(CheckError, match=f"images made by fixed.*{message}.*samples '0', '1', '2'"):
        Fixed(**settings)(Forgiving(3), IMAGES, batch_size=2)


def test_an_attack_without_gradients_runs_forward_passes_only() -> None:
    class Blind(Brightness):
        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            assert not pixels.requires_grad
            return super().__call__(pixels, index)

    outcome = Fixed(eps=0.1, offset=0.1)(Blind(3, limit=0.55), IMAGES, batch_size=2)
    assert outcome.fooled.all()
    assert not outcome.backwards.any()
    assert outcome.forwards.tolist() == [4, 4, 4]
    assert not outcome.zero_gradient.any()


def test_success_that_the_fresh_pass_does_not_confirm_does_not_count() -> None:
    class Moody(Brightness):
        """Sample 1 is fooled only in the very pass that the attack makes."""

        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            score = super().__call__(pixels, index)
            return Score(score.loss, score.fooled | ((index == 1) & pixels.requires_grad))

    outcome = PGD(eps=0.1, steps=4)(Moody(3), IMAGES, batch_size=2)
    assert outcome.fooled.tolist() == [False, False, False]
    assert outcome.unconfirmed.tolist() == [False, True, False]


@pytest.mark.filterwarnings("ignore:switched off here. autocast on cpu:UserWarning")
def test_all_passes_are_in_the_models_own_precision() -> None:
    kinds: set[torch.dtype] = set()
    weight = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))

    def logits(pixels: Tensor) -> Tensor:
        result = pixels.flatten(1) @ weight
        kinds.add(result.dtype)
        return result

    labels = (IMAGES.flatten(1) @ weight).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        outcome = PGD(eps=0.01, steps=2)(ClassificationObjective(logits, labels, 3), IMAGES, batch_size=3)
    assert kinds == {torch.float32}
    exact = torch.nn.functional.cross_entropy(outcome.pixels.flatten(1) @ weight, labels, reduction="none")
    assert torch.allclose(outcome.loss, exact, atol=1e-6)


def test_half_precision_images_come_back_in_float32() -> None:
    outcome = PGD(eps=0.1, steps=2)(Brightness(3), IMAGES.half(), batch_size=2)
    assert outcome.pixels.dtype == torch.float32
    assert torch.allclose(outcome.pixels, torch.tensor(0.6), atol=1e-6)


def test_a_warm_start_is_brought_into_the_ball_and_serves_the_first_restart_only() -> None:
    seen: list[Tensor] = []

    class Watched(Brightness):
        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Score:
            seen.append(pixels.detach())
            return super().__call__(pixels, index)

    attack = PGD(eps=0.1, steps=2, restarts=2, step_size=1e-3)
    attack(Watched(3), IMAGES, batch_size=3, start=torch.zeros_like(IMAGES))
    clean, first, _, _, second = seen[:5]
    assert torch.equal(clean, IMAGES)
    assert torch.allclose(first, torch.tensor(0.4), atol=1e-6)
    # The second restart is random again.
    assert ((second - 0.4).abs() > 0.01).float().mean() > 0.8


def test_an_embedding_moves_away_from_its_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 5, generator=generator)
    objective = EmbeddingObjective(lambda pixels: pixels.flatten(1) @ weight, IMAGES.flatten(1) @ weight)
    outcome = make("apgd", eps=0.1, steps=30)(objective, IMAGES, batch_size=2)
    assert not outcome.fooled.any()
    assert outcome.loss_rose.all()
    # A convex loss is largest in a corner of the cube; a good attack gets close to the best of many corners.
    corners = torch.randn(5000, 48, generator=generator).sign() * 0.1 @ weight
    assert outcome.loss.min() > corners.square().sum(1).max()


def test_settings_are_plain_and_frozen() -> None:
    attack = make("pgd", eps=0.1)
    assert asdict(attack) == {
        "norm": "linf",
        "eps": 0.1,
        "steps": 20,
        "restarts": 1,
        "loss": "",
        "step_size": None,
        "random_start": True,
        "momentum": 0.0,
    }
    with pytest.raises(AttributeError):
        attack.eps = 1.0  # type: ignore[misc]
