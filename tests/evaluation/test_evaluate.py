from __future__ import annotations

import io
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import SLOTS, own_labels, tiny_clip
from torch import Tensor

from radapt.adapters import Adapter, training_free
from radapt.attacks import ClassificationObjective, Outcome, make, names
from radapt.data import Dataset, load_dataset
from radapt.errors import InputError, RadaptError, SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.evaluation.zero_shot import ZeroShot
from radapt.models import VLM, ClassifierModel, load, patch_attention
from radapt.results import Example, Result, Results, Sample

EPS = 3 / 255
TRANSFER = Threat(attack="pgd", eps=EPS, source="undefended", options={"steps": 4})
WHITE_BOX = Threat(attack="apgd", eps=EPS, source="self", options={"steps": 6})


@pytest.fixture
def clip() -> VLM:
    return tiny_clip()


@pytest.fixture
def adapter(clip: VLM) -> Adapter:
    return training_free(clip, alpha=0.3, cutoff=0.3)


def lines(clip: VLM, adapter: Adapter) -> list[Candidate]:
    return [Candidate(method="CLIP", model=clip), Candidate(method="R-Adapt", model=clip, adapter=adapter)]


def run(path: Path, candidates: Any, data: Dataset, *threats: Threat, **settings: object) -> list[Result]:
    with Results(path) as results:
        return evaluate(
            candidates,
            data=[data],
            threats=threats,
            results=results,
            **{"batch_size": SLOTS, "quiet": True, "sanity": False, **settings},
        )


def rows(path: Path) -> dict[tuple[str, str, str], list[Sample]]:
    """Stored samples by method, attack and source."""
    with Results(path, read_only=True) as results:
        settings = [figure.setting for figure in results.all()]
        return {(s.method, s.attack, s.source): results.samples(s) for s in settings}


def direct(model: VLM, data: Dataset, threat: Threat, *, stop: bool, seed: int = 0) -> Outcome:
    """The same attack, called directly on the model as it stands."""
    classifier = model.classifier(data.prompts)
    objective = ClassificationObjective(lambda x: model.logits(x, classifier), data.labels, len(classifier), stop=stop)
    attack = make(threat.attack, eps=threat.eps, norm=threat.norm, **threat.options)
    return attack(objective, data.pixels(range(len(data))), keys=data.keys, seed=seed, batch_size=SLOTS)


def says(model: VLM, data: Dataset, pixels: Tensor) -> list[int]:
    with torch.no_grad():
        return model.logits(pixels, model.classifier(data.prompts)).argmax(1).tolist()


def losses_of(samples: Sequence[Sample], outcome: Outcome) -> tuple[list[float], list[float]]:
    """Losses of the samples that were attacked, as stored and as an attack on all samples gives them."""
    tried = [each for each in samples if each.loss is not None]
    assert tried
    return [each.loss or 0.0 for each in tried], [outcome.loss[each.position].item() for each in tried]


def percent(predictions: Sequence[int], data: Dataset) -> float:
    return 100 * float(np.mean([p == t for p, t in zip(predictions, data.labels.tolist(), strict=True)]))


def test_figures_equal_a_computation_by_hand(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data = own_labels(clip, 10)
    figures = run(tmp_path / "r.sqlite", lines(clip, adapter), data, TRANSFER, WHITE_BOX, seed=3)

    images = data.pixels(range(10))
    transferred = direct(clip, data, TRANSFER, stop=False, seed=3)
    against_clip = direct(clip, data, WHITE_BOX, stop=True, seed=3)
    expected = [says(clip, data, x) for x in (images, against_clip.pixels)]
    with adapter.attach(clip):
        against_both = direct(clip, data, WHITE_BOX, stop=True, seed=3)
        adapted = [says(clip, data, x) for x in (images, transferred.pixels, against_both.pixels)]
    kept = [said == label for said, label in zip(adapted[0], data.labels.tolist(), strict=True)]
    assert not all(kept)  # what is wrong without any attack is not attacked, and stays wrong
    for answers in adapted[1:]:
        answers[:] = [said if right else was for said, right, was in zip(answers, kept, adapted[0], strict=True)]
    expected += adapted

    assert [f.percent for f in figures] == pytest.approx([percent(p, data) for p in expected])
    assert figures[0].percent == 100
    assert figures[1].percent == pytest.approx(100 * float((~against_clip.fooled).float().mean()))
    assert figures[4].percent == pytest.approx(100 * float((~against_both.fooled).float().mean()))
    # CLIP attacked from CLIP is no transfer.
    assert [f.kind for f in figures] == ["clean", "white-box", "clean", "transfer", "white-box"]
    stored = rows(tmp_path / "r.sqlite")
    assert [[s.prediction for s in samples] for samples in stored.values()] == expected
    attacks = {("R-Adapt", "pgd"): transferred, ("CLIP", "apgd"): against_clip, ("R-Adapt", "apgd"): against_both}
    for (method, attack), outcome in attacks.items():
        (samples,) = (found for key, found in stored.items() if key[:2] == (method, attack))
        tried = kept if method == "R-Adapt" else [True] * 10
        # Of other samples in the batch, the last bits of a pass depend.
        assert [s.loss for s in samples if s.loss is not None] == pytest.approx(
            [loss for loss, right in zip(outcome.loss.tolist(), tried, strict=True) if right], rel=1e-4
        )
        assert [s.loss is not None for s in samples] == tried
    for samples in stored.values():
        assert [s.position for s in samples] == list(range(10))
        assert [s.label for s in samples] == data.labels.tolist()
        assert [s.score for s in samples] == [float(s.prediction == s.label) for s in samples]


def test_transferred_images_are_made_without_the_adapter(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data = own_labels(clip, 6)
    run(tmp_path / "r.sqlite", [Candidate(method="R-Adapt", model=clip, adapter=adapter)], data, TRANSFER)
    samples = rows(tmp_path / "r.sqlite")["R-Adapt", "pgd", "undefended"]
    bare = direct(clip, data, TRANSFER, stop=False)
    with adapter.attach(clip):
        through = direct(clip, data, TRANSFER, stop=False)
    stored, expected = losses_of(samples, bare)
    assert stored == expected
    assert stored != losses_of(samples, through)[1]
    # The whole budget is spent on every sample that was right, fooled or not.
    assert {s.iterations for s in samples if s.loss is not None} == {4}
    assert max(s.distance for s in samples) <= EPS + 1e-6


def test_a_white_box_attack_goes_through_the_adapter(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data = own_labels(clip, 6)
    run(tmp_path / "r.sqlite", [Candidate(method="R-Adapt", model=clip, adapter=adapter)], data, WHITE_BOX)
    samples = rows(tmp_path / "r.sqlite")["R-Adapt", "apgd", "self"]
    bare = direct(clip, data, WHITE_BOX, stop=True)
    with adapter.attach(clip):
        through = direct(clip, data, WHITE_BOX, stop=True)
    stored, expected = losses_of(samples, through)
    assert stored == pytest.approx(expected, rel=1e-4)
    assert stored != pytest.approx(losses_of(samples, bare)[1], rel=1e-3)
    for name in ("iterations", "backwards"):
        assert [getattr(s, name) for s in samples] == getattr(through, name).tolist()


def test_a_candidate_can_be_the_source_by_its_name(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data, other = own_labels(clip, 6), tiny_clip("other", seed=1)
    candidates = [*lines(clip, adapter), Candidate(method="Twin", model=other)]
    threats = [Threat(attack="pgd", eps=EPS, source=name, options={"steps": 4}) for name in ("Twin", "R-Adapt")]
    figures = run(tmp_path / "r.sqlite", candidates, data, *threats)
    stored = rows(tmp_path / "r.sqlite")
    from_twin = direct(other, data, TRANSFER, stop=False)
    with adapter.attach(clip):
        from_adapted = direct(clip, data, TRANSFER, stop=False)
    assert operator.eq(*losses_of(stored["CLIP", "pgd", "Twin"], from_twin))
    assert [s.prediction for s in stored["CLIP", "pgd", "Twin"]] == says(clip, data, from_twin.pixels)
    assert operator.eq(*losses_of(stored["Twin", "pgd", "R-Adapt"], from_adapted))
    by_source = {f.setting.source: f for f in figures if f.setting.method == "CLIP"}
    assert by_source["Twin"].kind == "transfer"
    assert by_source["Twin"].setting.options["source_model"] == "other"
    assert by_source["R-Adapt"].setting.options["source_model"] == f"tiny+{adapter.fingerprint}"


def test_undefended_can_be_another_model(clip: VLM, tmp_path: Path) -> None:
    data, other = own_labels(clip, 4), tiny_clip("other", seed=1)
    run(tmp_path / "r.sqlite", [Candidate(method="CLIP", model=clip)], data, TRANSFER, undefended=other)
    samples = rows(tmp_path / "r.sqlite")["CLIP", "pgd", "undefended"]
    assert [s.loss for s in samples] == direct(other, data, TRANSFER, stop=False).loss.tolist()


def test_a_figure_says_all_that_it_depends_on(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    import radapt

    figures = run(tmp_path / "r.sqlite", lines(clip, adapter), own_labels(clip, 4), TRANSFER, WHITE_BOX, seed=5)
    clean, transfer, white_box = (figure.setting for figure in figures[2:5])
    for setting in (clean, transfer, white_box):
        assert (setting.model, setting.adapter) == ("tiny", adapter.fingerprint)
        assert (setting.task, setting.dataset, setting.split, setting.n) == ("zero-shot", "shapes", "test", 4)
        assert setting.version == radapt.__version__
    assert (clean.attack, clean.source, clean.eps, clean.seed) == ("none", "", 0.0, 0)
    assert (transfer.attack, transfer.norm, transfer.eps, transfer.seed) == ("pgd", "linf", EPS, 5)
    # Settings that were not given are written down too, so that a changed default makes another figure.
    assert transfer.options["random_start"] is True
    assert transfer.options["source_model"] == "tiny"
    assert white_box.options == {"steps": 6, "restarts": 1, "loss": "", "rho": 0.75, "growth": None}
    assert len({figure.setting.key for figure in figures[:5]}) == 5


@pytest.mark.slow
def test_more_samples_extend_a_figure(
    clip: VLM, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, (few, many) = lines(clip, adapter), (own_labels(clip, n) for n in (5, 11))
    run(tmp_path / "grown.sqlite", candidates, few, TRANSFER, WHITE_BOX)
    run(tmp_path / "once.sqlite", candidates, many, TRANSFER, WHITE_BOX)
    added: list[int] = []
    add = Results.add

    def watched(self: Results, setting: object, samples: Sequence[Sample], **more: object) -> None:
        added.extend(sample.position for sample in samples)
        add(self, setting, samples, **more)

    monkeypatch.setattr(Results, "add", watched)
    figures = run(tmp_path / "grown.sqlite", candidates, many, TRANSFER, WHITE_BOX)
    # The chunk that grew is measured whole.
    assert sorted(added) == sorted(5 * list(range(11)))
    assert {(f.n, f.setting.n) for f in figures} == {(11, 11)}
    assert rows(tmp_path / "grown.sqlite") == rows(tmp_path / "once.sqlite")


@pytest.mark.slow
def test_sizes_in_any_order_give_the_same_rows(clip: VLM, tmp_path: Path) -> None:
    candidates = [Candidate(method="CLIP", model=clip)]
    for n in (7, 2, 12, 4):
        run(tmp_path / "mixed.sqlite", candidates, own_labels(clip, n), TRANSFER, WHITE_BOX, chunk_size=3)
    run(tmp_path / "mixed.sqlite", candidates, own_labels(clip, 12), TRANSFER, WHITE_BOX, chunk_size=3)
    run(tmp_path / "once.sqlite", candidates, own_labels(clip, 12), TRANSFER, WHITE_BOX, chunk_size=3)
    assert rows(tmp_path / "mixed.sqlite") == rows(tmp_path / "once.sqlite")


def test_transferred_images_of_one_data_set_are_not_shown_for_another(clip: VLM, tmp_path: Path) -> None:
    sets = [own_labels(clip, 12), own_labels(clip, 12, "colours")]
    one = [Candidate(method="R-Adapt", model=clip, adapter=training_free(clip, alpha=0.1, cutoff=0.5))]
    with Results(tmp_path / "r.sqlite") as results:
        plan = {"data": sets, "threats": [TRANSFER], "batch_size": SLOTS, "quiet": True, "sanity": False}
        figures = evaluate(one, results=results, **plan)
        stored = [results.samples(f.setting) for f in figures if f.kind == "transfer"]
    for data, samples in zip(sets, stored, strict=True):
        assert operator.eq(*losses_of(samples, direct(clip, data, TRANSFER, stop=False)))


def test_example_pictures_are_kept_for_attacks(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data = own_labels(clip, 6)
    figures = run(tmp_path / "r.sqlite", lines(clip, adapter), data, TRANSFER)
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        kept = [results.examples(figure.setting) for figure in figures]
    assert [len(examples) for examples in kept] == [0, 4, 0, 4]
    expected_pixels = direct(clip, data, TRANSFER, stop=False).pixels
    expected = (expected_pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    after = {s.position: s.prediction for s in rows(tmp_path / "r.sqlite")["R-Adapt", "pgd", "undefended"]}
    with adapter.attach(clip):
        before = says(clip, data, data.pixels(range(6)))
        shown = [example.position for example in kept[3]]
        looks = [patch_attention(clip, images[shown]) for images in (data.pixels(range(6)), expected_pixels)]
    assert not torch.equal(*looks)
    for at, example in enumerate(kept[3]):
        row = example.position
        for look, content in zip(looks, (example.attention_before, example.attention_after), strict=True):
            assert np.array_equal(picture(content), (look[at] * 255).round().byte().numpy())
        assert np.array_equal(picture(example.clean), data.images[row])
        assert np.array_equal(picture(example.adversarial), expected[row].numpy())
        assert example.truth == data.classes[int(data.labels[row])]
        assert example.before == data.classes[before[row]]
        assert example.after == data.classes[after[row]]
    assert isinstance(kept[3][0], Example)


def test_pictures_of_a_model_without_attention_maps_are_kept_without(tmp_path: Path, clip: VLM) -> None:
    data = own_labels(clip, 4)
    classifier = clip.classifier([[name] for name in data.classes])
    own = ClassifierModel("own", lambda pixels: clip.logits(pixels, classifier), image_size=clip.image_size)
    figures = run(tmp_path / "r.sqlite", [Candidate(method="own", model=own)], data, WHITE_BOX)
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        kept = [example for figure in figures for example in results.examples(figure.setting)]
    assert kept
    assert {(example.attention_before, example.attention_after) for example in kept} == {(b"", b"")}


def test_the_file_notes_who_measured_and_the_settings_of_adapters(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data = own_labels(clip, 4)
    figures = run(tmp_path / "r.sqlite", lines(clip, adapter), data, TRANSFER)
    run(tmp_path / "r.sqlite", lines(clip, adapter), data, TRANSFER)  # measures nothing, and is no run of its own
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        (noted,) = results.notes.runs()
        assert noted.device == "cpu"
        assert "torch" in noted.versions
        settings = results.notes.adapters()
    assert {figure.setting.adapter for figure in figures} == {"", *settings}
    assert next(iter(settings.values()))["alpha"] == adapter.settings.alpha


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_an_error_leaves_no_adapter_behind_and_keeps_what_was_done(
    clip: VLM, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, encode = own_labels(clip, 4), clip.encode_image

    def failing(pixels: Tensor) -> Tensor:
        if clip.tower.mounted() is not None and pixels.requires_grad:
            raise RuntimeError("out of memory")
        return encode(pixels)

    monkeypatch.setattr(clip, "encode_image", failing)
    with pytest.raises(RadaptError, match="out of memory"):
        run(tmp_path / "r.sqlite", lines(clip, adapter), data, WHITE_BOX)
    assert clip.tower.mounted() is None
    done = [("CLIP", "none", ""), ("CLIP", "apgd", "self"), ("R-Adapt", "none", "")]
    assert list(rows(tmp_path / "r.sqlite")) == done
    monkeypatch.undo()
    run(tmp_path / "r.sqlite", lines(clip, adapter), data, WHITE_BOX)
    assert clip.tower.mounted() is None
    assert len(rows(tmp_path / "r.sqlite")) == 4


def test_wrong_plans_are_refused_before_anything_is_computed(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    data, one = own_labels(clip, 2), [Candidate(method="CLIP", model=clip)]
    refused = {
        "nothing to evaluate": ([], data, ()),
        "different names, got CLIP, CLIP": ([*one, *one], data, ()),
        "'CLIP' and 'Same' have the same model name": ([*one, Candidate(method="Same", model=clip)], data, ()),
        "did you mean 'undefended'": (one, data, (Threat(attack="pgd", eps=EPS, source="undefnded"),)),
        "did you mean 'CLIP'": (one, data, (Threat(attack="pgd", eps=EPS, source="CLIPP"),)),
    }
    for message, (candidates, chosen, threats) in refused.items():
        with pytest.raises(SettingsError, match=message):
            run(tmp_path / "r.sqlite", candidates, chosen, *threats)
    with adapter.attach(clip), pytest.raises(SettingsError, match="'CLIP' carries an adapter already"):
        run(tmp_path / "r.sqlite", one, data)
    with Results(tmp_path / "r.sqlite", read_only=True) as results:
        assert results.all() == []


def test_an_unknown_dataset_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown dataset 'shaps'; did you mean 'shapes'"):
        evaluate("no-such/model", data=["textures", "shaps"], results=tmp_path / "r.sqlite")


def test_samples_are_opened_once(clip: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(
        "radapt.evaluation._inputs.load_dataset", lambda *a, **b: opened.append(b) or load_dataset(*a, **b)
    )
    evaluate(clip, data="shapes", n=2, attack=None, results=tmp_path / "r.sqlite", quiet=True)
    assert [each["n"] for each in opened] == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": "pdg", "eps": EPS, "source": "self"}, "did you mean 'pgd'"),
        ({"attack": "pgd", "eps": 4, "source": "self"}, "4/255 instead of 4"),
        ({"attack": "pgd", "eps": EPS, "source": ""}, "whose gradients"),
        ({"attack": "pgd", "eps": EPS, "source": "self", "norm": "l3"}, "norm"),
        ({"attack": "pgd", "eps": EPS, "source": "self", "options": {"stepz": 3}}, "did you mean 'steps'"),
        *(
            ({"attack": name, "eps": EPS, "source": "self", "options": {option: value}}, message)
            for name in ("pgd", "autoattack")
            for option, value, message in (
                ("eps", 1.0, "eps is given twice, as eps= of the threat and as the option eps=1.0"),
                ("eps", EPS, "eps is given twice"),
                ("norm", "l2", "norm is given twice, as norm= of the threat"),
                ("source", "self", "source is given twice"),
                ("attack", "fgsm", "attack is given twice"),
                ("name", "fgsm", "name is given twice, as attack= of the threat"),
                ("seed", 3, "seed is given twice, as seed= of the evaluation"),
                ("batch_size", 3, "batch_size is given twice, as batch_size= of the evaluation"),
            )
        ),
        ({"attack": "cw", "eps": EPS, "source": "self", "options": {"loss": "ce"}}, "cw has no loss 'ce'"),
        ({"attack": "pgd", "eps": EPS, "source": "self", "options": {"targeted": True}}, "no setting 'targeted'"),
        (
            {"attack": make("pgd", eps=EPS), "source": "self", "eps": 1.0},
            "says its eps itself, eps=.*threat says eps=1.0",
        ),
        ({"attack": make("pgd", eps=EPS), "source": "self", "norm": "l2"}, "says its norm itself"),
        ({"attack": make("pgd", eps=EPS), "source": "self", "options": {"eps": 1.0}}, "says its options itself"),
        ({"attack": make("autoattack", eps=EPS), "source": "self", "options": {"steps": 3}}, "says its options itself"),
    ],
)
def test_a_wrong_threat_is_refused_when_it_is_made(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Threat(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 1.0}, "eps is given twice: in the call, and by the attack PGD"),
        ({"eps": 4 / 255}, "eps is given twice"),
        ({"eps": ["1/255", "2/255"]}, "eps is given twice"),
        ({"norm": "l2"}, "norm is given twice"),
        ({"options": {"steps": 3}}, "options is given twice"),
    ],
)
def test_settings_beside_an_attack_that_has_its_own_are_refused(
    settings: dict[str, object], message: str, clip: VLM, tmp_path: Path
) -> None:
    attack = make("pgd", eps=EPS, steps=2)
    with pytest.raises(SettingsError, match=message):
        evaluate(clip, data=own_labels(clip, 2), attack=attack, results=tmp_path / "r.sqlite", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 4 / 255},
        {"norm": "linf"},
        {"source": "self"},
        {"options": {"steps": 3}},
        {"attack": "pgd"},
        {"attack": None},
    ],
)
def test_settings_beside_threats_are_refused(settings: dict[str, object], clip: VLM, tmp_path: Path) -> None:
    (name,) = settings
    with pytest.raises(SettingsError, match=f"{name} is given twice: in the call, and by threats="):
        evaluate(clip, data=own_labels(clip, 2), threats=[WHITE_BOX], results=tmp_path / "r.sqlite", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_attack_may_be_given_as_an_object(name: str, clip: VLM, tmp_path: Path) -> None:
    few: dict[str, dict[str, object]] = {
        "autoattack": {"n_queries": 5, "n_target_classes": 2},
        "cw": {"steps": 10},
        "apgd": {"loss": "dlr-targeted", "restarts": 2},
        "fab": {"loss": "margin-targeted", "restarts": 2},
    }
    attack = make(name, eps=2 / 255, **{"steps": 4, **few.get(name, {})})
    data = own_labels(clip, 3)
    prompts = clip.classifier(data.prompts)
    own = _Own(clip, prompts)
    given = {"module": own, "function": lambda pixels: clip.logits(pixels, prompts), "CLIP": clip}
    options = {"data": data, "batch_size": 3, "quiet": True, "sanity": False}
    found = evaluate(given, attack=attack, source="self", results=tmp_path / "r.sqlite", **options)
    under_attack = [result.percent for result in found if result.setting.attack == name]
    assert len(under_attack) == 3
    assert len(set(under_attack)) == 1
    threat = Threat(attack=attack, source="self")
    (_, again) = evaluate({"module": own}, threats=[threat], results=tmp_path / "s.sqlite", **options)
    assert again.percent == under_attack[0]
    assert threat.settings() == Threat(attack=name, eps=2 / 255, source="self", options=threat.settings()).settings()


class _Own(torch.nn.Module):
    def __init__(self, clip: VLM, prompts: Tensor) -> None:
        super().__init__()
        self.clip, self.prompts = clip, prompts

    def forward(self, pixels: Tensor) -> Tensor:
        return self.clip.logits(pixels.sub_(0.5).add_(0.5), self.prompts)


def test_zero_shot_counts_a_tie_as_wrong_as_attacks_do(clip: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    data = own_labels(clip, 3)
    logits = torch.zeros(3, 12)
    data.labels[:] = torch.tensor([2, 2, 2])
    logits[0, 2], logits[1, 5] = 1.0, 1.0  # right; wrong; a tie of all
    monkeypatch.setattr(clip, "logits", lambda pixels, classifier: logits)
    task = ZeroShot(data)
    answers = task.bind(clip).answer(data.pixels(range(3)), range(3))
    assert [a.score for a in answers] == [1.0, 0.0, 0.0]
    assert [a.prediction for a in answers[:2]] == [2, 5]
    assert answers[2].prediction != 2
    assert [a.text for a in answers] == [data.classes[a.prediction] for a in answers]
    assert (task.truth(0), task.label(0)) == (data.classes[2], 2)
    fooled = task.bind(clip).objective(range(3), stop=True)(data.pixels(range(3)), torch.arange(3)).fooled
    assert fooled.tolist() == [a.score == 0 for a in answers]


def test_zero_shot_needs_classes() -> None:
    with pytest.raises(InputError, match="shapeworld-retrieval has no classes"):
        ZeroShot(load_dataset("shapeworld-retrieval", n=2))


def test_several_attacks_in_one_call_and_their_worst_case(clip: VLM, adapter: Adapter, tmp_path: Path) -> None:
    pair, data = lines(clip, adapter), own_labels(clip, 8)
    settings = {"eps": EPS, "source": "self", "results": tmp_path / "r.sqlite", "quiet": True, "sanity": False}
    found = evaluate(
        pair,
        data=[data],
        attack=["pgd", "square"],
        options={"square.steps": 7, "steps": 3, "pgd.restarts": 2},
        **settings,
    )
    stored = rows(tmp_path / "r.sqlite")
    for name in ("CLIP", "R-Adapt"):
        by = {result.setting.attack: result for result in found if result.setting.method == name}
        assert list(by) == ["none", "pgd", "square", "worst case"]
        steps = [
            (by[each].setting.options["steps"], by[each].setting.options["restarts"]) for each in ("pgd", "square")
        ]
        assert steps == [(3, 2), (7, 1)]
        scores = [[each.score for each in stored[name, attack, "self"]] for attack in ("pgd", "square")]
        assert by["worst case"].percent == 100 * np.mean(np.min(scores, axis=0))
    objects = [make("pgd", eps=EPS, steps=3, restarts=2), make("square", eps=EPS, steps=7)]
    assert evaluate(pair, data=[data], attack=objects, **{**settings, "eps": None}) == found  # nothing new is measured


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": ["pgd", "apgdd"]}, "unknown attack 'apgdd'"),
        ({"attack": ["pgd", "none"]}, "'none' stands for clean results only"),
        ({"attack": ["pgd", "fab"], "options": {"sqare.steps": 3}}, "for 'sqare', which is not among the attacks"),
        ({"attack": ["pgd", "square"], "options": {"growth": 0.3}}, "growth"),
        ({"attack": [make("pgd", eps=EPS), "fab"], "options": {"steps": 3}}, "given twice"),
    ],
)
def test_several_attacks_that_do_not_fit_are_refused(
    settings: dict[str, object], message: str, clip: VLM, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate(Candidate(method="A", model=clip), data="shapes", results=tmp_path / "r.sqlite", **settings)


def test_images_are_not_shared_between_models_of_one_name(clip: VLM, tmp_path: Path) -> None:
    other = tiny_clip(seed=1)
    assert other.name == clip.name
    adapters = [training_free(clip, alpha=0.3, cutoff=0.3), training_free(other, alpha=0.4, cutoff=0.3)]
    pair = [
        Candidate(method=m, model=model, adapter=a) for m, model, a in zip("AB", (clip, other), adapters, strict=True)
    ]
    data = load_dataset("shapes", n=8)
    run(tmp_path / "both.sqlite", pair, data, TRANSFER)
    for candidate in pair:
        run(tmp_path / f"{candidate.method}.sqlite", [candidate], data, TRANSFER)
        key = (candidate.method, "pgd", "undefended")
        assert rows(tmp_path / "both.sqlite")[key] == rows(tmp_path / f"{candidate.method}.sqlite")[key]


@pytest.mark.usefixtures("unchecked")
def test_a_candidate_of_names_is_refused_and_a_pair_of_names_is_one(
    clip: VLM, adapter: Adapter, tmp_path: Path
) -> None:
    data = load_dataset("shapes", n=4, size=48)
    found = run(tmp_path / "a.sqlite", {"by name": ("micro/clip", "micro/shallow")}, data)
    both = Candidate(method="by name", model=load("micro/clip"), adapter=Adapter.from_pretrained("micro/shallow"))
    again = run(tmp_path / "b.sqlite", [both], data)
    assert [each.setting.key for each in found] == [each.setting.key for each in again]
    given: Any = {"method": "R-Adapt", "model": clip, "adapter": adapter}
    for name, wrong in (("model", "micro/clip"), ("adapter", "my-adapter"), ("adapter", 3)):
        with pytest.raises(SettingsError, match=f"the {name} of the candidate 'R-Adapt' is .*not a loaded one"):
            Candidate(**{**given, name: wrong})
