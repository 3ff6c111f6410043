"""The checks that run by themselves: they speak up on broken evaluations, and are silent on sound ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import own_labels, tiny_clip
from torch import Tensor

from radapt.attacks import Outcome
from radapt.evaluate import Candidate, Threat, evaluate
from radapt.evaluate._sanity import Tally, check_model, check_undefended
from radapt.models import VLM
from radapt.results import Figure, Results


def flags_of(model: VLM, folder: Path, threat: Threat, **settings: object) -> list[Figure]:
    with Results(folder / "r.sqlite") as results:
        return evaluate(
            [Candidate(method="CLIP", model=model)],
            datasets=[own_labels(model, 12)],
            threats=[replace(threat, source="undefended"), threat],
            results=results,
            **{"slots": 12, "quiet": True, **settings},
        )


def defend(model: VLM, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels: encode(change(pixels)))


def test_an_honest_model_gets_no_flag(tmp_path: Path) -> None:
    model = tiny_clip(factor=6.0)
    threat = Threat(attack="apgd", eps=8 / 255, source="self", options={"steps": 30})
    figures = flags_of(model, tmp_path, threat, undefended=model)
    assert figures[2].percent <= 10
    assert [dict(figure.flags) for figure in figures] == [{}, {}, {}]


def test_an_honest_model_that_partly_stands_gets_no_flag_for_its_gradients(tmp_path: Path) -> None:
    threat = Threat(attack="apgd", eps=1 / 255, source="self", options={"steps": 30})
    figures = flags_of(tiny_clip(), tmp_path, threat)
    assert 10 < figures[2].percent < 100
    assert [dict(figure.flags) for figure in figures] == [{}, {}, {}]


def test_an_undefended_model_that_stands_is_flagged(tmp_path: Path) -> None:
    model = tiny_clip()
    threat = Threat(attack="apgd", eps=1 / 255, source="self", options={"steps": 30})
    figures = flags_of(model, tmp_path, threat, undefended=model)
    assert set(figures[2].flags) == {"undefended stands"}
    assert "undefended stands: the undefended model keeps" in figures[2].row()["flags"]


def test_a_random_model_is_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels + 0.05 * torch.randn_like(pixels)).clamp(0, 1))
    figures = flags_of(model, tmp_path, Threat(attack="pgd", eps=1 / 255, source="self", options={"steps": 2}))
    assert "EOT" in figures[0].flags["random"]


def test_masked_gradients_are_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels * 4).round() / 4)  # the derivative of rounding is zero
    options = {"steps": 5, "random_start": False}
    figures = flags_of(model, tmp_path, Threat(attack="pgd", eps=2 / 255, source="self", options=options))
    assert figures[2].percent == 100  # what the masked gradients pretend
    assert set(figures[2].flags) == {"loss not rising", "zero gradient", "large ball"}
    assert figures[2].flags["large ball"] == "at 64/255 still 12 of 12 samples are right: masked gradients?"
    assert figures[0].flags == {}


def test_too_few_steps_are_flagged(tmp_path: Path) -> None:
    options = {"steps": 1, "step_size": 1 / 255, "random_start": False}
    figures = flags_of(tiny_clip(), tmp_path, Threat(attack="pgd", eps=8 / 255, source="self", options=options))
    assert "3 steps fool" in figures[2].flags["more steps help"]


def test_checks_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_clip()
    defend(model, monkeypatch, lambda pixels: (pixels * 4).round() / 4)
    threat = Threat(attack="pgd", eps=2 / 255, source="self", options={"steps": 2})
    assert [dict(f.flags) for f in flags_of(model, tmp_path, threat, sanity=False)] == [{}, {}, {}]


def outcome(n: int, *, flat: int = 0, vanished: int = 0, unconfirmed: int = 0, idle: int = 0) -> Outcome:
    """An outcome of ``n`` samples, the first ``idle`` of which were fooled from the start."""
    at, ones = torch.arange(n), torch.ones(n, dtype=torch.int64)
    return Outcome(
        pixels=torch.zeros(n, 3, 2, 2),
        fooled=at < idle,
        unconfirmed=at >= n - unconfirmed,
        loss=torch.zeros(n),
        clean_loss=torch.zeros(n),
        loss_rose=(at >= idle) & (at < n - flat),
        distance=torch.zeros(n),
        iterations=ones * (at >= idle),
        forwards=ones,
        backwards=ones,
        zero_gradient=(at >= n - vanished).float(),
    )


def test_signs_are_counted_over_batches_among_attacked_samples() -> None:
    tally = Tally()
    tally.add(outcome(50, flat=3, idle=10))
    tally.add(outcome(50, vanished=4, idle=10))
    assert tally == Tally(attacked=80, flat=3, vanished=4, unconfirmed=0)
    assert tally.flags() == {}  # 5 % of 80 is 4: not more
    tally.add(outcome(10, flat=2, vanished=1, unconfirmed=1))
    assert tally.flags() == {
        "loss not rising": "on 5 of 90 attacked samples the loss did not rise",
        "zero gradient": "gradients were zero on 5 of 90 attacked samples",
        "unconfirmed": "1 successes were not confirmed by a fresh float32 pass",
    }
    idle = Tally()
    idle.add(outcome(10, idle=10))
    assert idle.flags() == {}


def test_the_undefended_model_may_keep_a_tenth() -> None:
    assert check_undefended([1.0] + 9 * [0.0]) == {}
    assert "keeps 2 of 10" in str(check_undefended([1.0, 1.0] + 8 * [0.0])["undefended stands"])


def test_repeated_passes_of_a_plain_model_agree() -> None:
    model = tiny_clip()
    assert check_model(model, own_labels(model, 4).pixels(range(4))) == {}
