"""Retrieval: ranks against a naive computation, and attacks that spend their whole budget on one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import radapt
from radapt.attacks.apgd import APGD
from radapt.attacks.apgd_ensemble import APGDEnsemble
from radapt.attacks.pgd import PGD
from radapt.errors import InputError
from radapt.evaluation import Task
from radapt.evaluation.captioning import Captioning
from radapt.evaluation.retrieval import Retrieval
from radapt.models import VLM

N = 12


@pytest.fixture(scope="module")
def clip() -> VLM:
    return radapt.load("micro/clip")


def test_recall_is_that_of_sorted_cosines(clip: VLM) -> None:
    data = radapt.load_dataset("shapeworld-retrieval", n=N)
    # Pictures so noisy that many ranks are wrong.
    pixels = (data.pixels(range(N)) + 0.15 * torch.randn(N, 3, 48, 48)).clamp(0, 1)
    answers = Retrieval(data).bind(clip).answers(pixels, range(N), 5)
    with torch.no_grad():
        noisy, clean = (clip.encode_image(each).double().numpy() for each in (pixels, data.pixels(range(N))))
        texts = [text for texts in data.captions for text in texts]
        captions = clip.encode_text(texts).double().numpy()
    noisy, clean, captions = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (noisy, clean, captions))
    wrong = 0
    for at, answer in enumerate(answers):
        order = np.argsort(-(captions @ noisy[at]))
        rank = min(int(np.where(order == own)[0][0]) for own in range(3 * at, 3 * at + 3))
        assert answer.prediction == rank
        assert answer.score == (rank == 0)
        assert answer.text == texts[order[0]]
        gallery = clean.copy()
        gallery[at] = noisy[at]
        ranks = [int((np.argsort(-(gallery @ captions[3 * at + k])) == at).argmax()) for k in range(3)]
        for k in (1, 5, 10):
            assert answer.also[f"text to image recall@{k}"] == pytest.approx(np.mean([r < k for r in ranks]))
        assert answer.also["recall@5"] == (rank < 5)
        wrong += rank > 0
    assert 0 < wrong < N


@pytest.mark.slow
def test_an_attack_spends_its_whole_budget_and_lowers_every_recall(clip: VLM) -> None:
    data = radapt.load_dataset("shapeworld-retrieval", n=N)
    bound = Retrieval(data).bind(clip)
    settings = {"keys": data.keys, "seed": 0, "batch_size": 6, "stop": True}
    outcome = bound.attack(PGD(eps=8 / 255, steps=10), data.pixels(range(N)), range(N), **settings)  # type: ignore[arg-type]
    assert (outcome.iterations == 10).all()
    before, after = bound.answers(data.pixels(range(N)), range(N), 6), bound.answers(outcome.pixels, range(N), 6)
    assert outcome.fooled.tolist() == [answer.score == 0 for answer in after]
    for name in ("recall@5", "text to image recall@5"):
        assert sum(answer.also[name] for answer in after) < sum(answer.also[name] for answer in before)
    assert sum(answer.score for answer in after) < 3 < sum(answer.score for answer in before)
    # The others do not matter: one picture alone meets the same fate.
    alone = bound.attack(
        PGD(eps=8 / 255, steps=10), data.pixels([4]), [4], keys=[data.keys[4]], seed=0, batch_size=6, stop=True
    )
    assert torch.equal(alone.pixels[0], outcome.pixels[4])


@pytest.mark.slow
def test_an_ensemble_attacks_what_its_first_attack_leaves(clip: VLM) -> None:
    data = radapt.load_dataset("shapeworld-retrieval", n=N)
    bound = Retrieval(data).bind(clip)
    ensemble = APGDEnsemble(eps=4 / 255)
    first = APGD(eps=4 / 255, steps=ensemble.steps + ensemble.n_target_classes * ensemble.targeted_steps)
    found = {
        (name, stop): bound.attack(
            attack, data.pixels(range(N)), range(N), keys=data.keys, seed=0, batch_size=6, stop=stop
        )
        for name, attack in (("first", first), ("ensemble", ensemble))
        for stop in (True, False)
    }
    alone, both = found["first", True], found["ensemble", True]
    assert alone.fooled.sum() < both.fooled.sum()
    assert (both.fooled >= alone.fooled).all()
    later = both.stage == 1
    assert torch.equal(later, both.fooled & ~alone.fooled)
    # Where the first attack succeeds its image stays, which spent its whole budget.
    assert torch.equal(both.pixels[~later], alone.pixels[~later])
    assert (both.distance <= 4 / 255 + 1e-6).all()
    assert (both.backwards >= alone.backwards).all()
    answers = bound.answers(both.pixels, range(N), 6)
    assert both.fooled.tolist() == [answer.score == 0 for answer in answers]
    # Images for another model come of the first attack, as there are no verdicts.
    assert torch.equal(found["ensemble", False].pixels, alone.pixels)


def test_the_gallery_is_that_of_the_defended_model(clip: VLM) -> None:
    data = radapt.load_dataset("shapeworld-retrieval", n=N)
    adapter = radapt.training_free(clip, alpha=0.4)
    with adapter.attach(clip):
        bound = Retrieval(data).bind(clip)
        answer = bound.answers(data.pixels([0]), [0], 1)[0]
        with torch.no_grad():
            defended = torch.nn.functional.normalize(clip.encode_image(data.pixels(range(N))), dim=1)
    assert torch.allclose(bound._gallery, defended, atol=1e-6)  # type: ignore[attr-defined]
    assert answer.also["text to image recall@10"] in (0.0, 1 / 3, 2 / 3, 1.0)


@pytest.mark.parametrize("task", [Retrieval, Captioning])
def test_an_image_in_several_rows_is_warned_of(task: type[Task]) -> None:
    """As where a table has one row per caption: equal images defeat each other, and every row has one caption."""
    data = radapt.load_dataset("shapeworld-captions", n=4, quiet=True)
    rows = [(at, text) for at, texts in enumerate(data.captions) for text in texts[:2]]
    taken_apart = replace(
        data, images=data.images[[at for at, _ in rows]], captions=tuple((text,) for _, text in rows), corpus=()
    )
    with pytest.warns(UserWarning, match="4 of 8 samples are of an image that an earlier one is of, too"):
        task(taken_apart)
    task(data)


def test_wrong_data_is_explained() -> None:
    with pytest.raises(InputError, match="has no captions"):
        Retrieval(radapt.load_dataset("shapes", n=3))
    with pytest.raises(InputError, match="at least two images, got 1"):
        Retrieval(radapt.load_dataset("shapeworld-retrieval", n=1))


def test_an_image_without_numbers_is_not_found(clip: VLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = radapt.load_dataset("shapeworld-retrieval", n=N)
    encode, bad = clip.encode_image, data.pixels([2])
    plain = Retrieval(data).bind(clip).answers(data.pixels(range(N)), range(N), 5)

    def broken(pixels: torch.Tensor) -> torch.Tensor:
        near = (pixels - bad).abs().flatten(1).amax(1) < 0.1
        return encode(pixels).where(~near[:, None], torch.nan)

    monkeypatch.setattr(clip, "encode_image", broken)
    answers = Retrieval(data).bind(clip).answers(data.pixels(range(N)), range(N), 5)
    assert [answer.finite for answer in answers] == [at != 2 for at in range(N)]
    assert answers[2].score == 0
    assert set(answers[2].also) == set(plain[2].also)
    assert not any(answers[2].also.values())
    (result,) = (
        each
        for each in radapt.evaluate(clip, data=data, attack=None, results=tmp_path / "r", sanity=False, quiet=True)
        if each.main
    )
    assert "NaN on 1 of 12 samples" in str(result.flags["not finite"])
    monkeypatch.setattr(clip, "encode_image", lambda pixels: torch.nan * encode(pixels))
    with pytest.raises(InputError, match="puts out NaN on every image of shapeworld-retrieval"):
        radapt.evaluate(clip, data=data, attack=None, results=tmp_path / "s", sanity=False, quiet=True)
