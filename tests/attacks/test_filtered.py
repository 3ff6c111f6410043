"""Attacks that take the steps of another: that one is built once, not at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from radapt.attacks import ClassificationObjective, make
from radapt.attacks._filtered import _coefficients
from radapt.attacks.apgd import APGD
from radapt.attacks.pgd import PGD


@pytest.mark.parametrize(
    ("name", "inner", "settings"),
    [
        ("cw", PGD, {}),
        ("mi-fgsm", PGD, {}),
        ("mi-fgsm", PGD, {"diversity_prob": 0.5}),
        ("band", APGD, {"low": 0.1, "high": 0.4}),
        ("low-frequency", APGD, {}),
        ("low-frequency", APGD, {"norm": "l2"}),
    ],
)
def test_the_inner_search_is_built_once(
    name: str,
    inner: type,
    settings: dict[str, Any],
    pixels: Tensor,
    attacked: Callable[[nn.Module, Tensor], ClassificationObjective],
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[object] = []
    build = inner.__post_init__  # type: ignore[attr-defined]

    def counting(self: object) -> None:
        built.append(self)
        build(self)

    _coefficients.cache_clear()
    monkeypatch.setattr(inner, "__post_init__", counting)
    attack = make(name, eps=0.01, steps=9, **settings)
    objective = attacked(model, pixels)
    outcome = attack(objective, pixels, batch_size=4)
    assert outcome.iterations.max() == 9
    assert len(built) == 1
    attack(objective, pixels, batch_size=4)
    assert len(built) == 1


def test_images_of_another_size_have_a_search_of_their_own() -> None:
    attack = make("band", eps=0.01, low=0.1, high=0.4)
    small, large = _coefficients(attack, 6, 6), _coefficients(attack, 16, 16)
    assert small.eps != large.eps
    assert _coefficients(attack, 6, 6) is small
    assert _coefficients(make("band", eps=0.02, low=0.1, high=0.4), 6, 6).eps == pytest.approx(2 * small.eps)
