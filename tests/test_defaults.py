"""Nothing depends on torch's default type and device, which belong to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip

import radapt
from radapt.analysis import REGISTRY
from radapt.attacks import ClassificationObjective, make, names

SETTINGS: dict[str, dict[str, Any]] = {
    "fab": {"restarts": 2},
    "square": {"steps": 30},
    "cw": {"steps": 30},
    "mi-fgsm": {"diversity_prob": 0.5},
    "autoattack": {"n_queries": 20, "n_target_classes": 2},
}


@pytest.fixture(params=[torch.float64, torch.float16, "meta"], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Changes torch's default type, or its default device to one that holds no values, until the test is over."""

    def change() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(request.param)

    yield change
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "autoattack" else []) for name in names()]
)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.1)])
def test_an_attack_is_the_same_to_the_last_bit(name: str, norm: str, eps: float, default: Callable[[], None]) -> None:
    weight, pixels = 0.3 * torch.randn(108, 4), torch.rand(7, 3, 6, 6)
    objective = ClassificationObjective(lambda x: x.flatten(1) @ weight, (pixels.flatten(1) @ weight).argmax(1), 4)
    attack = make(name, norm=norm, eps=eps, **{"steps": 12, **SETTINGS.get(name, {})})
    expected = attack(objective, pixels, batch_size=4)
    default()
    outcome = attack(objective, pixels, batch_size=4)
    for field, value in vars(expected).items():
        assert torch.equal(getattr(outcome, field), value), field
        assert getattr(outcome, field).dtype == value.dtype, field


# Tokenizers and copies of a model are made by transformers, on the default device: there, only the type is changed.
TYPES = pytest.mark.parametrize("default", [torch.float64, torch.float16], ids=str, indirect=True)


@TYPES
@pytest.mark.slow
def test_an_evaluation_gives_the_same_figures(tmp_path: Path, default: Callable[[], None]) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 6)

    def figures(name: str) -> list[tuple[float, dict[str, object]]]:
        options = {"attack": "apgd", "eps": 2 / 255, "options": {"steps": 8}, "batch_size": 6, "quiet": True}
        found = radapt.evaluate(model, data=data, results=tmp_path / name, **options)
        return [(result.percent, dict(result.flags)) for result in found]

    expected = figures("before.sqlite")
    default()
    assert figures("after.sqlite") == expected


@TYPES
@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["static", "adaptive"])
def test_trainings_give_the_same_numbers(adversary: Any, default: Callable[[], None]) -> None:
    model = tiny_clip(factor=6.0)
    data = replace(own_labels(model, 6), split="train")

    def numbers() -> tuple[Any, ...]:
        anchor = radapt.data_driven(
            model, data.pixels(range(6)), adversary=adversary, steps=2, batch_size=3, quiet=True
        ).anchor
        return anchor.tolist(), radapt.finetune(
            "fare", model, data, steps=2, batch_size=3, attack_steps=2, quiet=True
        ).losses

    expected = numbers()
    default()
    assert numbers() == expected


@TYPES
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:tiny and tiny differ outside")
@pytest.mark.parametrize("name", REGISTRY.names())
def test_an_analysis_gives_the_same_plots(name: str, default: Callable[[], None]) -> None:
    models = {"one": tiny_clip(factor=6.0), "two": tiny_clip(factor=6.0, seed=1)}
    data = own_labels(models["one"], 6)
    expected = radapt.analyze(name, models, data=data, quiet=True)
    default()
    assert repr(radapt.analyze(name, models, data=data, quiet=True)) == repr(expected)
