"""The check of one model, from the command line and from Python."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import Result
from tests.tiny import own_labels

import radapt
from radapt.attacks.autoattack import AutoAttack
from radapt.attacks.pgd import PGD
from radapt.errors import SettingsError
from radapt.experiments.check import _threats, _transferred
from radapt.models import VLM
from radapt.results import Results

pytestmark = pytest.mark.filterwarnings("ignore:.* has images of .48, 48.:UserWarning")

Run = Callable[..., Result]
QUICK: dict[str, Any] = {"attack": ["pgd", "square"], "options": {"pgd.steps": 3, "square.steps": 10}, "quiet": True}


@pytest.mark.slow
def test_a_check_says_what_may_be_claimed_and_ends_with_a_status(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "check",
        "mine=micro/clip+micro/shallow",
        "--data",
        "shapes,digits",
        "--n",
        "6",
        "--quiet",
        "--out",
        "here",
    )
    words += ("--attack", "pgd,square", "--option", "pgd.steps=3", "--option", "square.steps=10", "--json", "c.json")
    done = run(*words, "--fail-under", "100", "--images", "seen")
    assert done.exit_code == 3
    assert "mine fails the check: on " in done.output
    facts = json.loads(Path("c.json").read_text())
    assert facts["passed"] is False
    assert "100 % were asked for" in facts["reason"]
    claims = {claim["claim"].split(" (")[0]: claim for claim in facts["claims"]}
    for claim in claims.values():
        assert f"{claim['claim']}: {claim['answer']}." in done.output
    assert "micro/clip, undefended" in "".join(claims)
    for figure in facts["figures"]:
        rows = [row for row in facts["results"] if row["dataset"] == figure["dataset"] and row["method"] == "mine"]
        white = [row["percent"] for row in rows if row["kind"] == "white-box"]
        assert figure["robust"][0] == min(white) <= figure["transfer"][0]
        assert figure["attacks"] == ["pgd", "square"]
        assert {row["attack"] for row in rows} == {"none", "pgd", "square", "worst case"}
    assert Path("here/report/report.html").exists()
    listed = json.loads(Path("seen/images.json").read_text())
    assert {each["source"] for each in listed} == {"self", "undefended"}
    for each in listed:
        with PIL.Image.open(Path("seen") / each["adversarial"]) as image:
            assert image.size == (48, 48)
    again = run(*words, "--fail-under", "0", "--no-such-thing")
    assert again.exit_code == 2
    passed = run(*words)
    assert passed.exit_code == 0, passed.output
    assert "asked for" not in passed.output


@pytest.mark.slow
def test_a_model_without_a_defence_is_its_own_undefended_one(tiny_vlm: VLM, tmp_path: Path) -> None:
    data = own_labels(tiny_vlm, 6)
    alone = radapt.check(tiny_vlm, data=data, n=None, out=tmp_path / "alone", fail_under=0, **QUICK)
    assert {result.kind for result in alone.results} == {"clean", "white-box"}
    assert len(alone.claims) == 2
    assert alone.passed == alone.figures[0].trusted
    adapter = radapt.training_free(tiny_vlm, alpha=0.4)
    attack = PGD(eps=8 / 255, steps=2)
    both = radapt.check((tiny_vlm, adapter), data=data, n=None, attack=attack, out=tmp_path / "both", quiet=True)
    assert {result.setting.method for result in both.results} == {tiny_vlm.name, f"{tiny_vlm.name}, undefended"}
    assert {result.setting.eps for result in both.results} == {0.0, 8 / 255}
    assert len(both.claims) == 5
    assert "8/255" in both.text


def test_what_makes_no_sense_is_refused(tiny_vlm: VLM, tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "out", "quiet": True}
    with pytest.raises(SettingsError, match="a check is of one model, got 2"):
        radapt.check([tiny_vlm, "micro/clip"], **given)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="fail_under must"):
        radapt.check(tiny_vlm, fail_under=101, **given)
    with pytest.raises(SettingsError, match="at least one attack"):
        radapt.check(tiny_vlm, attack=[], **given)
    with pytest.raises(SettingsError, match="unknown attack 'pdg'"):
        radapt.check(tiny_vlm, attack=["pdg"], **given)
    assert not (tmp_path / "out").exists()


def test_autoattack_gives_up_unless_something_else_is_asked_for_and_is_not_what_transfers() -> None:
    def versions(given: dict[str, object]) -> list[object]:
        threats = _threats(["autoattack", "pgd"], "2/255", None, given)
        return [dict(each.options).get("version") for each in threats]

    assert versions({}) == ["fast", None]
    assert versions({"autoattack.version": "standard"}) == ["standard", None]
    for given in (["autoattack"], [AutoAttack(eps=2 / 255, norm="l2")]):
        (first,) = _threats(given, None, None, {})
        transferred = _transferred(first)
        assert (transferred.name, transferred.source) == ("apgd-ensemble", "undefended")
        assert (transferred.eps, transferred.norm) == (first.eps, first.norm)
    (first,) = _threats(["pgd"], None, None, {"steps": 7})
    assert (_transferred(first).make(), _transferred(first).source) == (first.make(), "undefended")


def test_a_check_compares_what_it_is_of_whatever_its_folder_holds(
    tiny_vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("radapt.experiments.check")
    monkeypatch.setattr(module, "write_report", lambda *given: [])
    monkeypatch.setattr("radapt.evaluation._bench.check_white_box", lambda *given, **named: ({}, {}))
    shapes, colours = own_labels(tiny_vlm, 8), own_labels(tiny_vlm, 8, "colours")
    mine, theirs = (radapt.training_free(tiny_vlm, alpha=alpha) for alpha in (0.4, 0.9))

    def claims(out: str, adapter: Any = mine, **given: Any) -> dict[str, str]:
        settings: dict[str, Any] = {"data": shapes, "attack": "square", "eps": "1/255", "n": None, "quiet": True}
        settings["options"] = {"steps": 1}
        found = radapt.check((tiny_vlm, adapter), out=tmp_path / out, **{**settings, **given})
        return {claim.claim.split(" (")[0]: str(claim) for claim in found.claims}

    large = claims("one", eps="32/255")
    small = claims("two")
    more = f"It is more robust than {tiny_vlm.name}, undefended"
    assert large[more] != small[more]
    both = claims("one", data=[shapes, colours])
    assert "16 samples" in both[more]
    assert claims("one") == small  # after another radius and more datasets
    assert claims("one", eps="32/255") == large
    # Another defence was checked in this folder, with an attack that the model without one withstands less.
    claims("one", theirs, attack="pgd", options={"steps": 5})
    assert claims("one") == small


def test_the_images_of_every_attack_are_kept(tiny_vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radapt.evaluation._bench.check_white_box", lambda *given, **named: ({}, {}))
    test = own_labels(tiny_vlm, 4)
    data = [test, replace(test, split="validation", images=test.images[::-1].copy(), labels=test.labels.flip(0))]
    attacks = [PGD(eps=8 / 255, steps=1), PGD(eps=8 / 255, steps=3)]
    found = radapt.check(
        tiny_vlm, data=data, n=None, attack=attacks, out=tmp_path, images=tmp_path / "seen", quiet=True
    )
    listed = json.loads((tmp_path / "seen" / "images.json").read_text())
    with Results(found.file, read_only=True) as store:
        attacked = [each.setting for each in found.results if each.setting.attack == "pgd"]
        kept = {
            (each.split, each.options["steps"], example.position): (example.clean, example.adversarial)
            for each in attacked
            for example in store.examples(each)
        }
    assert len(kept) == 16
    assert len(set(kept.values())) > 8
    seen = {
        (each["split"], each["options"]["steps"], each["position"]): tuple(
            (tmp_path / "seen" / each[name]).read_bytes() for name in ("clean", "adversarial")
        )
        for each in listed
    }
    assert seen == kept


def test_attacks_in_several_balls_are_no_check(tiny_vlm: VLM, tmp_path: Path) -> None:
    attacks = [PGD(eps=8 / 255, steps=2), PGD(eps=4 / 255, steps=2)]
    with pytest.raises(SettingsError, match=r"in one ball, got l∞ 8/255, l∞ 4/255; check each ball by itself"):
        radapt.check(tiny_vlm, attack=attacks, out=tmp_path / "out", quiet=True)
