"""Figures are of the model as it is, though the caller has autocast on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels
from torch import Tensor, nn

import radapt
from radapt.analysis import analyze, attention_maps, attention_sensitivity, cka
from radapt.models import VLM
from radapt.precision import own_precision
from radapt.results import Results

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning"),
    pytest.mark.filterwarnings("ignore:shapes has images of .48, 48.:UserWarning"),
]
SWITCHED_OFF = "switched off here: autocast on cpu; figures are of the model as it is"


def images(n: int = 8) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Head(nn.Module):
    """A linear classifier, which computes in half precision if it is told to, whatever is around it."""

    def __init__(self, half: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 32 * 32, 4, generator=torch.Generator().manual_seed(2)))
        self.half_precision = half

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half_precision or torch.is_autocast_enabled("cpu")):
            return (pixels.flatten(1) @ self.weight).float()


def outcome_of(head: Head) -> list[Tensor]:
    with own_precision(), torch.no_grad():
        labels = head(images()).argmax(1)
    found = radapt.attack(head, images(), labels, attack="apgd", eps=0.001, steps=4, quiet=True)
    return [found.pixels, found.fooled, found.loss, found.clean_loss, found.iterations]


def rows_of(model: VLM, folder: Path) -> list[Any]:
    file = folder / f"{len(list(folder.iterdir()))}.sqlite"
    with own_precision():
        data = own_labels(model, 6)
    radapt.evaluate(model, data=data, attack="pgd", options={"steps": 2}, source="self", results=file, quiet=True)
    with Results(file, read_only=True) as results:
        return [list(results.samples(each.setting)) for each in results.all(checks=True)]


MEASURED: dict[str, Callable[[VLM, Path], Any]] = {
    "attack": lambda model, folder: [each.tolist() for each in outcome_of(Head())],
    "evaluation": rows_of,
    "cka": lambda model, folder: cka(model, model, [images()]).values,
    "attention maps": lambda model, folder: attention_maps(model, images(2)).images,
    "attention sensitivity": lambda model, folder: attention_sensitivity(model, None, [images()]).values,
    "perturbations": lambda model, folder: analyze("perturbations", [model], data="shapes", n=6, quiet=True),
    "anchor": lambda model, folder: radapt.training_free(model).anchor.tolist(),
}


@pytest.mark.parametrize("what", MEASURED)
def test_the_callers_autocast_is_switched_off_and_told(what: str, tiny_vlm: VLM, tmp_path: Path) -> None:
    wanted = MEASURED[what](tiny_vlm, tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(UserWarning, match=SWITCHED_OFF):
            found = MEASURED[what](tiny_vlm, tmp_path)
        assert torch.is_autocast_enabled("cpu")
        half = tiny_vlm.encode_image(images(1))  # a model that is called directly is the caller's business
    assert half.dtype == torch.bfloat16
    assert str(found) == str(wanted)


def test_what_a_model_casts_itself_is_part_of_it() -> None:
    half, full = outcome_of(Head(half=True)), outcome_of(Head())
    assert not torch.equal(half[2], full[2])
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match=SWITCHED_OFF):
        torch.testing.assert_close(outcome_of(Head(half=True)), half, rtol=0, atol=0)


def test_a_training_may_attack_under_its_own_autocast() -> None:
    kinds = set[torch.dtype]()

    def logits(pixels: Tensor) -> Tensor:
        found = pixels.flatten(1) @ torch.ones(3 * 32 * 32, 2)
        kinds.add(found.dtype)
        return found

    objective = radapt.attacks.ClassificationObjective(logits, torch.zeros(8, dtype=torch.int64), 2, stop=False)
    with torch.autocast("cpu", torch.bfloat16):
        radapt.attacks.make("pgd", eps=0.01, steps=2).perturb(objective, images())
    assert kinds == {torch.bfloat16}


@own_precision()
def fails() -> None:
    assert not torch.is_autocast_enabled("cpu")
    raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore:switched off here. autocast on cpu:UserWarning")
def test_an_error_leaves_autocast_as_it_was() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ZeroDivisionError):
            fails()
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_products_are_not_rounded(precision: str, tiny_vlm: VLM, tmp_path: Path) -> None:
    wanted = rows_of(tiny_vlm, tmp_path)
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.warns(UserWarning, match="switched off here: products in tf32"):
            found = rows_of(tiny_vlm, tmp_path)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert str(found) == str(wanted)
