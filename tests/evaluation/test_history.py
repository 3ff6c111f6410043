"""What a results file was asked before, and in which order, makes no figure and no flag another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import radapt
from radapt.data import Dataset, load_dataset
from radapt.evaluation import _sanity
from radapt.results import WORST_CASE, Result, Results, paired_tests, with_worst_cases

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sanity, "QUERIES", 20)


def levels(pixels: Tensor) -> Tensor:
    """Without a gradient."""
    return (pixels * 4).round() / 4


def asked(file: Path, candidates: Any = "micro/clip", **changes: Any) -> list[Result]:
    """What is measured of a model, with the worst cases, as the file has it then."""
    given: dict[str, Any] = {"data": "shapes", "n": 8, "attack": "pgd", "options": {"steps": 3}, "eps": "1/255"}
    given |= {"source": "self", "undefended": "micro/clip", "chunk_size": 8, "batch_size": 8, "quiet": True}
    radapt.evaluate(candidates, results=file, **{**given, **changes})
    with Results(file, read_only=True) as results:
        return with_worst_cases(results)


def said(results: list[Result]) -> list[tuple[object, ...]]:
    """All but the time that it took."""
    return sorted(
        (each.setting.attack, each.setting.source, each.percent, each.n, each.checked, *sorted(each.flags.items()))
        for each in results
    )


def rows(data: Dataset, positions: list[int]) -> Dataset:
    return replace(data, images=data.images[positions], labels=data.labels[positions])


def test_fewer_samples_have_their_own_checks(tmp_path: Path) -> None:
    data = load_dataset("shapes", n=24, quiet=True)
    whole = asked(tmp_path / "r", data=data, n=None)
    part = rows(data, list(range(8)))
    alone = said(asked(tmp_path / "alone", data=part, n=None))
    assert said(asked(tmp_path / "r", data=part, n=None)) == alone
    assert said(asked(tmp_path / "r", data=data, n=None)) == said(whole)
    assert said(asked(tmp_path / "copied", data=part, n=None, reuse=tmp_path / "r")) == alone
    with Results(tmp_path / "merged") as merged, Results(tmp_path / "alone", read_only=True) as few:
        merged.merge(few)
    with Results(tmp_path / "merged") as merged, Results(tmp_path / "r", read_only=True) as many:
        merged.merge(many)
    assert said(asked(tmp_path / "merged", data=data, n=None)) == said(whole)


@pytest.mark.parametrize("first", [None, "micro/clip"])
def test_whether_the_undefended_model_survives_is_said_where_it_is_named(first: str | None, tmp_path: Path) -> None:
    second = "micro/clip" if first is None else "micro/tecoa"
    asked(tmp_path / "r", undefended=first)
    again = said(asked(tmp_path / "r", undefended=second))
    assert again == said(asked(tmp_path / "alone", undefended=second))
    assert any("undefended survives" in str(each) for each in again) == (second == "micro/clip")


def test_a_worst_case_has_the_flags_of_every_attack_in_whatever_order(tmp_path: Path) -> None:
    masked = {"masked": ("micro/clip", levels)}
    orders = (["pgd", "fgsm"], ["fgsm", "pgd"])
    both = [
        asked(tmp_path / str(number), masked, attack=names, eps="4/255", options={"pgd.steps": 3}, n=16)
        for number, names in enumerate(orders)
    ]
    worst = [next(each for each in results if each.setting.attack == WORST_CASE) for results in both]
    assert worst[0].flags == worst[1].flags
    assert worst[0].setting == worst[1].setting
    for name in ("zero gradient", "large ball"):
        text = str(worst[0].flags[name])
        assert text.index("fgsm: ") < text.index("pgd: ")
    seeds = [tmp_path / name for name in ("zero first", "one first")]
    for file, numbers in zip(seeds, ((0, 1), (1, 0)), strict=True):
        for seed in numbers:
            found = asked(file, masked, eps="4/255", seed=seed)
    again = [asked(file, masked, eps="4/255", seed=0)[-1] for file in seeds]
    assert found[-1].setting.attack == WORST_CASE
    assert again[0].flags == again[1].flags
    assert again[0].setting == again[1].setting


def test_of_several_transfers_the_one_that_fools_most_is_named(tmp_path: Path) -> None:
    texts = []
    for number, sources in enumerate((["undefended", "twin", "self"], ["twin", "undefended", "self"])):
        models = {"masked": ("micro/clip", levels), "twin": "micro/fare"}
        found = asked(tmp_path / str(number), models, n=24, eps="8/255", source=sources, sanity=False)
        texts += [each.flags.get("weaker than transfer") for each in found if each.setting.attack == WORST_CASE]
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]
    assert any(texts)


@pytest.mark.parametrize(
    ("data", "model", "changes"),
    [
        ("shapeworld-retrieval", "micro/clip", ({"n": 30}, {"n": 12})),
        ("shapeworld-captions", "micro/llava", ({"target": "a"}, {"target": "a small red ring"})),
    ],
)
def test_answers_to_different_questions_are_not_compared(
    data: str, model: str, changes: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    for name, change in zip("AB", changes, strict=True):
        own = {name: model if name == "A" else (model, levels)}
        asked(tmp_path / "r", own, data=data, attack=None, options=None, eps=None, source=None, undefended=None,
              sanity=False, **change)  # fmt: skip
    with Results(tmp_path / "r", read_only=True) as results:
        assert {each.setting.method for each in results.all()} == {"A", "B"}
        assert paired_tests(results) == []


def test_images_that_are_kept_are_of_the_samples_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radapt.reports._gallery import gallery_of

    def shown(file: Path) -> list[int]:
        with Results(file, read_only=True) as results:
            return [each.position for each in gallery_of(results, with_worst_cases(results), 50).shown]

    plain: dict[str, Any] = {"sanity": False, "chunk_size": 24}
    data = load_dataset("shapes", n=24, quiet=True)
    asked(tmp_path / "r", data=data, n=None, **plain)
    few = rows(data, [0, 1, 2])
    asked(tmp_path / "r", data=few, n=None, **plain)
    asked(tmp_path / "alone", data=few, n=None, **plain)
    assert shown(tmp_path / "r") == shown(tmp_path / "alone")
    # A sample is right now that was wrong: it is among the first four, and what was the fourth is not.
    wrong = replace(data, labels=(data.labels + (torch.arange(24) < 2)) % len(data.classes))
    asked(tmp_path / "mended", data=wrong, n=None, **plain)
    asked(tmp_path / "mended", data=data, n=None, **plain)
    asked(tmp_path / "new", data=data, n=None, **plain)
    assert shown(tmp_path / "mended") == shown(tmp_path / "new")


def nan_on(number: int) -> Callable[[Tensor], Tensor]:
    """A preprocessor that gives no number where the first pixel is that of one image."""
    image = load_dataset("shapes", n=16, quiet=True).pixels([number])

    def broken(pixels: Tensor) -> Tensor:
        same = (pixels - image).abs().flatten(1).amax(1) == 0
        return pixels.masked_fill(same[:, None, None, None], torch.nan)

    return broken


@pytest.mark.parametrize("chunk_size", [1, 4, 16])
def test_one_image_without_a_number_is_one_in_a_chunk_of_any_size(chunk_size: int, tmp_path: Path) -> None:
    found = asked(tmp_path / "r", {"it": ("micro/clip", nan_on(3))}, n=16, attack=None, options=None, eps=None,
                  source=None, undefended=None, sanity=False, chunk_size=chunk_size)  # fmt: skip
    assert [each.flags for each in found] == [{"not finite": "NaN on 1 of 16 samples, counted as wrong"}]
