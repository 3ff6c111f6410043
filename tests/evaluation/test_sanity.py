"""The checks that run by themselves: they speak up on broken evaluations, and are silent on sound ones."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import own_labels, tiny_clip
from torch import Tensor

from radapt.adapters import training_free
from radapt.attacks import ClassificationObjective, Outcome, SearchAttack, make
from radapt.data import Dataset, load_dataset
from radapt.errors import InputError, ResultsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.evaluation._sanity import check_clean, check_model, check_undefended, check_white_box, signs_of
from radapt.evaluation.vqa import VQA
from radapt.evaluation.zero_shot import ZeroShot
from radapt.models import VLM, ClassifierModel, load
from radapt.results import CHECKS, WORST_CASE, Result, Results, with_worst_cases
from radapt.results.signs import flags_of as flags_from
from radapt.types import Norm

MASKED = Threat(attack="pgd", eps=2 / 255, source="self", options={"steps": 2, "random_start": False})


def flags_of(model: VLM, folder: Path, threat: Threat, **settings: object) -> list[Result]:
    with Results(folder / "r.sqlite") as results:
        return evaluate(
            [Candidate(method="CLIP", model=model)],
            data=[own_labels(model, 12)],
            threats=[threat],
            results=results,
            **{"batch_size": 12, "quiet": True, **settings},
        )


def defend(model: VLM, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    encode = type(
        model
    ).encode_image  # of the class: an object with a method of its own is another model to the results
    monkeypatch.setattr(type(model), "encode_image", lambda self, pixels: encode(self, change(pixels)))


def test_an_honest_model_gets_no_flag(tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    threat = Threat(attack="apgd", eps=8 / 255, source="self", options={"steps": 30})
    figures = flags_of(model, tmp_path, threat, undefended=model)
    assert figures[1].percent <= 10
    assert [dict(figure.flags) for figure in figures] == [{}, {}]


@pytest.mark.slow
def test_an_honest_model_that_partly_stands_gets_no_flag_for_its_gradients(tmp_path: Path) -> None:
    threat = Threat(attack="apgd", eps=1 / 255, source="self", options={"steps": 30})
    figures = flags_of(tiny_clip(), tmp_path, threat)
    assert 10 < figures[1].percent < 100
    assert [dict(figure.flags) for figure in figures] == [{}, {}]


@pytest.mark.slow
def test_an_undefended_model_that_stands_is_flagged(tmp_path: Path) -> None:
    model = tiny_clip()
    threat = Threat(attack="apgd", eps=1 / 255, source="self", options={"steps": 30})
    figures = flags_of(model, tmp_path, threat, undefended=model)
    assert set(figures[1].flags) == {"undefended survives"}
    assert "undefended survives: the undefended model keeps" in figures[1].row()["flags"]


@pytest.mark.slow
def test_a_random_model_is_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels + 0.05 * torch.randn_like(pixels)).clamp(0, 1))
    figures = flags_of(model, tmp_path, Threat(attack="pgd", eps=1 / 255, source="self", options={"steps": 2}))
    assert "EOT" in figures[0].flags["stochastic"]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps", "large"), [("linf", 2 / 255, "64/255"), ("l2", 0.2, "20.87 in l2")])
def test_masked_gradients_are_flagged(
    norm: Norm, eps: float, large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels * 4).round() / 4)  # the derivative of rounding is zero
    options = {"steps": 5, "random_start": False}
    figures = flags_of(model, tmp_path, Threat(attack="pgd", norm=norm, eps=eps, source="self", options=options))
    assert figures[1].percent == 100  # what the masked gradients pretend
    assert {"loss not rising", "zero gradient", "large ball"} <= set(figures[1].flags)
    assert figures[1].flags["large ball"] == f"at {large} still 12 of 12 samples are right: masked gradients?"
    assert figures[0].flags == {}


@pytest.mark.slow
def test_too_few_steps_are_flagged(tmp_path: Path) -> None:
    options = {"steps": 1, "step_size": 1 / 255, "random_start": False}
    figures = flags_of(tiny_clip(), tmp_path, Threat(attack="pgd", eps=8 / 255, source="self", options=options))
    assert "three times the steps fool" in figures[1].flags["more steps help"]


def test_checks_see_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_clip(), list[tuple[str, object]]()
    adapter = training_free(model, alpha=0.3)

    def check(name: str) -> Callable[..., object]:
        def checked(*given: Any, **named: Any) -> object:
            seen.append((name, model.tower.mounted() is not None))
            return ({}, {}) if name == "check_white_box" else {}

        return checked

    for place in ("_bench.check_model", "_bench.check_white_box", "_ledger.check_undefended"):
        monkeypatch.setattr(f"radapt.evaluation.{place}", check(place.partition(".")[2]))
    with Results(tmp_path / "r.sqlite") as results:
        candidates = [Candidate(method="R-Adapt", model=model, adapter=adapter)]
        settings = {"threats": [MASKED], "results": results, "undefended": model, "batch_size": 4, "quiet": True}
        evaluate(candidates, data=[own_labels(model, 4)], **settings)
    # The adapted model is not the undefended one, which alone must fall.
    assert seen == [("check_model", True), ("check_white_box", True)]


@pytest.mark.slow
def test_the_longer_attack_is_tried_on_the_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = tiny_clip(), list[tuple[Any, ...]]()
    data, attack = own_labels(model, 8), SearchAttack.__call__

    def watched(self: Any, objective: Any, pixels: Tensor, **named: Any) -> Outcome:
        outcome: Outcome = attack(self, objective, pixels, **named)
        given.append((self.eps, self.steps, pixels, named["keys"], named["seed"], objective.labels.tolist()))
        return outcome

    monkeypatch.setattr(SearchAttack, "__call__", watched)
    bound, images, few = ZeroShot(data).bind(model), data.pixels(range(8)), range(8)
    check_white_box(bound, MASKED, images, data.keys, few, survivors=[1, 4, 6], seed=5, batch_size=4)
    large, longer, square = given
    assert large[:2] == (64 / 255, 2)
    assert torch.equal(large[2], images)
    assert longer[:2] == (2 / 255, 6)
    assert torch.equal(longer[2], images[[1, 4, 6]])
    assert list(longer[3]) == [data.keys[row] for row in (1, 4, 6)]
    assert longer[4:] == (5, data.labels[[1, 4, 6]].tolist())
    assert square[:2] == (2 / 255, 500)
    assert torch.equal(square[2], images[[1, 4, 6]])
    given.clear()
    ensemble = Threat(attack="autoattack", eps=2 / 255, source="self", options={"steps": 5, "n_queries": 5})
    check_white_box(bound, ensemble, images, data.keys, few, survivors=[1, 4, 6], seed=5, batch_size=4)
    # Its own attacks in the large ball; then three times the steps of its first one, and Square.
    assert [each[:2] for each in given[-2:]] == [(2 / 255, 15), (2 / 255, 500)]
    assert {each[0] for each in given[:-2]} == {64 / 255}


def test_gradients_that_lead_nowhere_are_flagged_by_an_attack_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip(factor=6.0)
    defend(model, monkeypatch, lambda pixels: pixels.detach() + 0 * pixels)
    threat = Threat(attack="apgd", eps=8 / 255, source="self", options={"steps": 5})
    figures = flags_of(model, tmp_path, threat)
    clean, attacked, worst = figures
    assert "Square, which sees no gradients, fools" in attacked.flags["square beats gradients"]
    # What the checks found lowers robust accuracy, by at least as many samples as the flag tells.
    (more,) = re.findall(r"fools (\d+) more of 12", str(attacked.flags["square beats gradients"]))
    assert clean.percent == 100
    assert worst.setting.attack == WORST_CASE
    assert worst.setting.options["attacks"] == ["apgd from self", f"{CHECKS} from self"]
    # No result by itself, it stays in the file, is found again, and travels with a merge.
    assert flags_of(model, tmp_path, threat) == figures
    with Results(tmp_path / "r.sqlite") as results, Results(tmp_path / "merged.sqlite") as merged:
        assert CHECKS not in {each.setting.attack for each in results.all(superseded=True)}
        (stored,) = (each for each in results.all(checks=True) if each.setting.attack == CHECKS)
        assert stored.n >= int(more) > 0
        assert stored.percent == 0
        assert worst.percent == pytest.approx(attacked.percent - 100 * stored.n / 12)
        merged.merge(results)
        assert [each.percent for each in with_worst_cases(merged)] == [each.percent for each in figures]


@pytest.mark.slow
def test_checks_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels * 4).round() / 4)
    threat = Threat(attack="pgd", eps=2 / 255, source="self", options={"steps": 2})
    figures = flags_of(model, tmp_path, threat, sanity=False)
    # What the attack saw on its way costs nothing, and is kept; the checks beside it are not made.
    assert [set(figure.flags) for figure in figures] == [set(), {"loss not rising", "zero gradient"}]
    assert [figure.checked for figure in figures] == [False, False]
    later = flags_of(model, tmp_path, threat)
    assert [figure.checked for figure in later[:2]] == [True, True]
    assert "large ball" in later[1].flags
    assert [figure.seconds for figure in later[:2]] == [figure.seconds for figure in figures]  # none made again


def outcome(
    n: int, *, flat: int = 0, vanished: int = 0, failed: int = 0, unconfirmed: int = 0, idle: int = 0
) -> Outcome:
    """An outcome of ``n`` samples, the first ``idle`` of which were fooled from the start."""
    at = torch.arange(n)
    objective = ClassificationObjective(lambda pixels: pixels.flatten(1)[:, :3], torch.zeros_like(at), 3)
    return replace(
        make("pgd", eps=0.1, steps=1)(objective, torch.rand(n, 3, 2, 2)),
        unconfirmed=at >= n - unconfirmed,
        failed=at >= n - failed,
        fooled_8bit=at >= 0,
        loss_rose=(at >= idle) & (at < n - flat),
        iterations=(at >= idle).long(),
        zero_gradient=(at >= n - vanished).float(),
    )


def counted(*outcomes: Outcome, **named: bool) -> dict[str, object]:
    """The flags of all samples of some outcomes."""
    signs = [",".join(those) for each in outcomes for those in signs_of(each, white_box=True, **named)]
    return flags_from(signs, [int(steps) for each in outcomes for steps in each.iterations])


def test_signs_are_counted_over_batches_among_attacked_samples() -> None:
    first, second = outcome(50, flat=3, idle=10), outcome(50, vanished=4, idle=10)
    assert counted(first, second) == {}  # 5 % of 80 is 4: not more
    third = outcome(10, flat=2, vanished=1, failed=2, unconfirmed=1)
    whole = {
        "loss not rising": "the loss did not rise on 5 of 90 attacked samples",
        "zero gradient": "gradients were zero on 5 of 90 attacked samples",
        "failed": "the search ended early on 2 of 90 attacked samples: loss or gradient not finite",
        "unconfirmed": "a fresh pass did not confirm the success on 1 of 90 attacked samples",
    }
    assert counted(first, second, third) == counted(third, first, second) == whole
    assert counted(outcome(10, idle=10)) == {}


def test_signs_of_searches_with_and_without_gradients() -> None:
    at = torch.arange(10)
    odd = replace(outcome(10), fooled=at < 8, gradient_free=at < 3, backwards=at - 1, audited=at < 4, misjudged=at < 1)
    # Two were tried with gradients before: sample 0 has none, sample 1 has 0 passes, so one is left of three.
    assert signs_of(odd, white_box=True)[:5] == [
        ("audited", "misjudged"), ("audited",), ("without gradients", "audited"), ("audited",), ()
    ]  # fmt: skip
    more = replace(outcome(10), fooled=at < 8, fooled_8bit=at < 6, gradient_free=at > 5, backwards=at)
    assert counted(odd, more) == {
        "square beats gradients": "3 of 20 attacked samples were fooled without gradients only: masked gradients?",
        "abandoned too early": "1 of 4 checked searches succeeded after others like them would have been abandoned; "
        "let all run to their end (version=standard of autoattack, growth=None of other attacks)",
        "8 bits": "2 of 20 attacked samples are no longer fooled once their images are rounded to 8 bits",
    }


def test_of_an_attack_on_another_model_only_a_failure_is_a_sign() -> None:
    found = signs_of(outcome(6, flat=6, vanished=6, failed=2, unconfirmed=3), white_box=False)
    assert found == [()] * 4 + [("failed",)] * 2


def test_an_attack_that_keeps_only_what_fools_is_not_flagged_for_what_stands() -> None:
    found = counted(outcome(20, flat=9, vanished=2), raises_loss=False)
    assert found == {"zero gradient": "gradients were zero on 2 of 20 attacked samples"}


def signs(folder: Path, data: Dataset, model: VLM) -> dict[str, str]:
    """Flags of the white-box figure after one more run on the same results file, but for those of the checks."""
    with Results(folder / "r.sqlite") as results:
        candidates = [Candidate(method="CLIP", model=model)]
        evaluate(candidates, data=[data], threats=[MASKED], results=results, batch_size=4, chunk_size=4, quiet=True)
        flags = results.all()[1].flags
    return {name: str(text) for name, text in flags.items() if name in ("loss not rising", "zero gradient")}


@pytest.mark.slow
def test_signs_are_of_all_samples_whenever_they_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    with monkeypatch.context() as patch:
        defend(model, patch, lambda pixels: (pixels * 4).round() / 4)
        some, data = own_labels(model, 4), own_labels(model, 12)
        first = signs(tmp_path, some, model)
    assert first == {
        "loss not rising": "the loss did not rise on 4 of 4 attacked samples",
        "zero gradient": "gradients were zero on 4 of 4 attacked samples",
    }
    assert signs(tmp_path, data, model) == {name: text.replace("of 4", "of 8") for name, text in first.items()}
    assert signs(tmp_path, some, model) == first  # those that were added do not count where they are not asked for


def test_signs_of_an_interrupted_run_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, add, adds = tiny_clip(), Results.add, []

    def dies(self: Results, *given: Any, **named: Any) -> None:
        adds.append(1)
        if len(adds) == 5:  # three parts of the clean figure and one of the white-box figure are stored
            raise KeyboardInterrupt
        add(self, *given, **named)

    with monkeypatch.context() as patch:
        defend(model, patch, lambda pixels: (pixels * 4).round() / 4)
        patch.setattr(Results, "add", dies)
        masked = own_labels(model, 12)
        with pytest.raises(KeyboardInterrupt):
            signs(tmp_path, masked, model)
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        assert [figure.n for figure in results.all()] == [12, 4]
        stored = results.all()[1].flags
    assert stored["zero gradient"] == "gradients were zero on 4 of 4 attacked samples"
    with monkeypatch.context() as patch:
        defend(model, patch, lambda pixels: (pixels * 4).round() / 4)
        assert signs(tmp_path, masked, model) == signs(tmp_path / "whole", masked, model)


def test_the_undefended_model_may_keep_a_tenth() -> None:
    assert check_undefended([1.0] + 9 * [0.0]) == {}
    assert "keeps 2 of 10" in str(check_undefended([1.0, 1.0] + 8 * [0.0])["undefended survives"])


def test_repeated_passes_of_a_plain_model_agree() -> None:
    model = tiny_clip()
    assert check_model(model, own_labels(model, 4).pixels(range(4)), batch_size=4) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_gives_no_numbers_gets_no_figure(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 6)
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels: value + 0 * encode(pixels))
    options = {"attack": "apgd", "options": {"steps": 4}, "source": "self", "quiet": True}
    with pytest.raises(InputError, match="tiny puts out NaN on every image of shapes"):
        evaluate(model, data=data, results=tmp_path / "r", **options)
    assert check_model(model, data.pixels(range(6)), batch_size=4)["not finite"].startswith(
        "the embeddings of 6 of 6 images"
    )


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["apgd", "autoattack"])
def test_one_sample_without_numbers_counts_as_wrong_and_takes_no_other_with_it(attack: str, tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 5)
    prompts, bad = model.classifier(data.prompts), data.pixels([2])

    def plain(pixels: Tensor) -> Tensor:
        return model.logits(pixels, prompts)

    def broken(pixels: Tensor) -> Tensor:
        near = (pixels - bad).abs().flatten(1).amax(1) <= 4 / 255 + 1e-6
        return plain(pixels).where(~near[:, None], torch.nan)

    few = {"n_queries": 5, "n_target_classes": 2, "steps": 4} if attack == "autoattack" else {"steps": 4}
    options = {"data": data, "attack": attack, "eps": 1 / 255, "options": few, "batch_size": 2, "quiet": True}
    found = evaluate({"plain": plain, "broken": broken}, results=tmp_path / "r", sanity=True, **options)
    with Results(tmp_path / "r") as results:
        scores = {
            (each.setting.method, each.setting.source): [s.score for s in results.samples(each.setting)]
            for each in found
        }
    for source in ("", "self"):
        expected = scores["plain", source]
        assert scores["broken", source] == [score if at != 2 else 0.0 for at, score in enumerate(expected)]
    clean = next(each for each in found if each.setting.method == "broken" and each.kind == "clean")
    both = "NaN on 1 of 5 samples, counted as wrong; the embeddings of 1 of 5 images"
    assert str(clean.flags["not finite"]).startswith(both)
    white_box = next(each for each in found if each.setting.method == "broken" and each.kind == "white-box")
    with Results(tmp_path / "r") as results:
        assert results.samples(white_box.setting)[2].forwards == 0  # what is wrong without an attack is not attacked


@pytest.mark.parametrize("excluded", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_classifier_that_excludes_classes_is_not_flagged_and_a_random_one_is(excluded: float) -> None:
    def fixed(pixels: Tensor) -> Tensor:
        return pixels.flatten(1)[:, :3] + torch.tensor([0.0, excluded, 0.0])

    def noisy(pixels: Tensor) -> Tensor:
        return fixed(pixels) + torch.rand(len(pixels), 3)

    def zero(pixels: Tensor) -> Tensor:
        return 0 * pixels.flatten(1)[:, :3]

    def crowded(pixels: Tensor) -> Tensor:
        return fixed(pixels - 0.5 * pixels.mean(0))

    for function, names in ((fixed, []), (noisy, ["stochastic"]), (zero, []), (crowded, ["batch"])):
        model = ClassifierModel("mine", function, image_size=(6, 6))
        assert [*check_model(model, torch.rand(4, 3, 6, 6), batch_size=4)] == names


@pytest.mark.parametrize(("right", "flagged"), [(5, True), (6, False)])
def test_a_model_that_is_no_better_than_one_answer_is_flagged(right: int, flagged: bool) -> None:
    data = own_labels(tiny_clip(), 12)
    data = replace(data, labels=torch.tensor([1] * 5 + [0] * 4 + [2] * 3))
    task = ZeroShot(data)
    flags = check_clean(task, {at: float(at < right) for at in range(12)})
    assert [*flags] == (["chance"] if flagged else [])
    if flagged:
        assert f"always answering {data.classes[1]!r} is right on 5" in str(flags["chance"])
    assert check_clean(task, dict.fromkeys(range(5), 0.0)) == {}  # too few to say


@pytest.mark.parametrize("name", ["shapeworld-pope", "shapeworld-vqa"])
def test_a_model_that_always_says_the_same_is_flagged(name: str) -> None:
    task = VQA(load_dataset(name, n=24, quiet=True))
    answer, total = task.constant(range(24)) or ("", 0.0)
    bound: Any = task.bind(load("micro/llava"))

    def scored(text: str) -> dict[int, float]:
        return {at: bound.score(text, at).score for at in range(24)}

    scores = scored(answer)
    assert sum(scores.values()) == total < 24
    assert all(sum(scored(other).values()) <= total for other in ("yes", "no", "red", "circle"))
    assert f"always answering {answer!r}" in str(check_clean(task, scores)["chance"])
    wrong = next(at for at, score in scores.items() if score == 0)
    assert check_clean(task, scores | {wrong: 1.0}) == {}


def test_a_constant_model_is_not_crowned_for_what_cannot_be_fooled(tmp_path: Path) -> None:
    model = tiny_clip()
    data = own_labels(model, 24)
    classes = len(data.classes)

    def constant(pixels: Tensor) -> Tensor:
        return torch.eye(classes)[[0] * len(pixels)] + 0 * pixels.mean()

    whatever = ClassifierModel("constant", constant, image_size=data.image_size)
    clean, *_ = evaluate({"constant": whatever}, data=data, attack="fgsm", results=tmp_path / "r.sqlite", quiet=True)
    assert "chance" in clean.flags


def test_checks_take_no_larger_batches_and_a_failed_one_loses_nothing(tmp_path: Path) -> None:
    sizes, linear = list[int](), torch.nn.Linear(3, 12)

    def net(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return linear(pixels.mean((2, 3)))

    data = load_dataset("shapes", n=16)
    given: dict[str, Any] = {"data": data, "attack": "pgd", "options": {"steps": 1}, "source": "self", "quiet": True}
    evaluate({"net": net}, results=tmp_path / "a.sqlite", batch_size=4, **given)
    assert max(sizes) == 4

    def dying(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(sizes) > 4:  # the checks, after sixteen samples in four batches
            raise KeyboardInterrupt
        return linear(pixels.mean((2, 3)))

    sizes.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate({"net": dying}, results=tmp_path / "b.sqlite", batch_size=4, **given)
    with Results(tmp_path / "b.sqlite", read_only=True) as results:
        (clean,) = results.all()
    assert (clean.n, clean.checked) == (16, False)


def test_an_attack_on_the_source_that_could_not_be_carried_out_is_flagged(tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    data = own_labels(model, 6)
    prompts, bad = model.classifier(data.prompts), data.pixels([1, 4])

    def broken(pixels: Tensor) -> Tensor:
        near = (pixels[:, None] - bad).abs().flatten(2).amax(2).min(1).values <= 4 / 255 + 1e-6
        return model.logits(pixels, prompts).where(~near[:, None], torch.nan)

    options = {"data": data, "attack": "pgd", "eps": 1 / 255, "options": {"steps": 3}, "quiet": True}
    for source, flagged in ((broken, True), (lambda pixels: model.logits(pixels, prompts), False)):
        found = evaluate(
            {"model": model}, undefended=source, source="undefended", results=tmp_path / str(flagged), **options
        )
        (transfer,) = (each for each in found if each.kind == "transfer" and each.main)
        assert ("failed" in transfer.flags) == flagged
        if flagged:
            assert "the search ended early on 2 of 6 attacked samples" in str(transfer.flags["failed"])


def fooled_by_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Result]]:
    """Evaluates a model whose gradients lead nowhere, so that the checks fool what the attack does not."""
    model = tiny_clip(factor=6.0)
    defend(model, monkeypatch, lambda pixels: pixels.detach() + 0 * pixels)
    data = own_labels(model, 12)
    given: dict[str, Any] = {"attack": "pgd", "eps": 8 / 255, "options": {"steps": 1}, "source": "self", "quiet": True}

    def run(*, scaled: float = 1, flipped: bool = False, **settings: Any) -> list[Result]:
        with torch.no_grad():  # by a power of two: other weights, the same answers
            model.model.visual_projection.weight.mul_(scaled)
        asked = replace(data, images=data.images[:, ::-1].copy()) if flipped else data
        return evaluate({"A": model}, data=asked, results=tmp_path / "r.sqlite", **{**given, **settings})

    return run


def test_what_the_checks_fooled_counts_again_when_the_weights_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fooled_by_checks(tmp_path, monkeypatch)
    first = run()
    assert CHECKS in str(first[-1].setting.options["attacks"])
    assert run(scaled=2) != first
    assert run(scaled=0.5) == first
    run(scaled=2)
    assert run(scaled=0.5, sanity=False) == first
    run(flipped=True)
    assert [(each.percent, each.n) for each in run()] == [(each.percent, each.n) for each in first]


@pytest.mark.parametrize("change", ["DELETE FROM samples", "UPDATE samples SET score = 1"])
def test_what_the_checks_fooled_is_never_lost_in_silence(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fooled_by_checks(tmp_path, monkeypatch)
    first = run()
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        (found,) = (each.setting for each in results.all(checks=True) if each.setting.attack == CHECKS)
        lost = results.samples(found)[0].position
    with sqlite3.connect(tmp_path / "r.sqlite") as file:
        file.execute(f"{change} WHERE key = ? AND position = ?", (found.key, lost))
    file.close()
    with pytest.raises(ResultsError, match="damaged"), Results(tmp_path / "r.sqlite", read_only=True) as results:
        with_worst_cases(results)
    assert run() == first


def test_the_checks_see_no_more_samples_than_were_asked_for(tmp_path: Path) -> None:
    model = tiny_clip()
    given: dict[str, Any] = {"attack": None, "results": tmp_path / "r.sqlite", "quiet": True}
    evaluate(model, data=own_labels(model, 16), sanity=False, **given)
    (clean,) = evaluate(model, data=own_labels(model, 12), **given)
    assert (clean.n, clean.checked) == (12, True)
    assert clean.flags == evaluate(model, data=own_labels(model, 12), **{**given, "results": tmp_path / "f"})[0].flags
