"""The time that is left of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from radapt.evaluation import _pace
from radapt.evaluation._pace import Pace
from radapt.evaluation._units import Unit
from radapt.results import Setting


def unit(number: int, attack: str = "", *, dataset: str = "shapes", shared: str = "", n: int = 100) -> Unit:
    given: dict[str, Any] = {"method": "m", "model": "m", "dataset": dataset, "n": n, "version": "1"}
    ball: dict[str, Any] = {"attack": attack, "norm": "linf", "eps": 0.1, "source": "undefended" if shared else "self"}
    return Unit(
        number=number,
        setting=Setting(**given, **ball) if attack else Setting(**given),
        clean=Setting(**given) if attack else None,
        digests=("",) * n,
        white_box=bool(attack) and not shared,
        shared=shared,
        undefended=False,
        low=0.0,
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_result_goes_on_at_its_own_pace_and_others_at_that_of_their_kind() -> None:
    clock = Clock()
    units = [unit(0), unit(1, "pgd"), unit(2, dataset="digits"), unit(3, "pgd", dataset="digits", n=10)]
    pace = Pace(units, clock)
    assert pace.seconds is None
    pace.took(units[0], 50, None)  # they were there before, and say nothing
    assert pace.seconds is None
    pace.took(units[0], 50, 5.0)
    pace.took(units[1], 10, 20.0)
    clock.now = 25.0
    assert pace.seconds == pytest.approx(90 * 2 + 100 * 0.1 + 10 * 2)
    pace.took(units[1], 90, 90 * 2)
    pace.took(units[1], 0, 50.0)  # checks are a part of what each sample of a kind costs
    clock.now += 230
    assert pace.seconds == pytest.approx(10 + 10 * 2.5)
    pace.took(units[2], 100, 10.0)
    pace.took(units[3], 10, 1.0)
    assert pace.seconds == 0


def test_another_attack_is_taken_at_the_pace_of_attacks_and_images_that_are_there_at_their_own() -> None:
    units = [unit(0), unit(1, "pgd", shared="a"), unit(2, "pgd", shared="a"), unit(3, "square"), unit(4, "pgd")]
    pace = Pace(units, Clock())
    pace.took(units[0], 100, 10.0)
    pace.took(units[1], 100, 300.0)
    assert pace.seconds is None  # how long it takes to score images that are there
    pace.took(units[2], 50, 5.0)
    assert pace.seconds == pytest.approx((50 * 0.1 + 200 * 3.0) / (315 / 1e-9), rel=1e-6)


def test_several_workers_share_what_is_left() -> None:
    clock = Clock()
    units = [unit(0, n=400)]
    pace = Pace(units, clock)
    for _ in range(4):
        pace.took(units[0], 50, 10.0)  # four workers at once
    clock.now = 10.0
    assert pace.seconds == pytest.approx(200 * 0.2 / 4)


def test_the_bar_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pace.Progress, "__init__", _narrow(_pace.Progress.__init__))
    units = [unit(0), unit(1, "pgd")]
    with _pace.progress(units, quiet=False) as advance:
        advance(units[0], 100, 0.0)
        advance(units[1], 50, 1.0)
    assert "left" in capsys.readouterr().out


def _narrow(make: Any) -> Any:
    def made(self: Any, *columns: Any, **settings: Any) -> None:
        make(self, *columns, **{**settings, "transient": False})

    return made
