from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.tiny import changed_twin

from radapt.adapters import Adapter, attached, graft, training_free
from radapt.attacks import ClassificationObjective, Outcome, SearchAttack, make
from radapt.data import Dataset, card
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, evaluate
from radapt.experiments import tune
from radapt.models import full
from radapt.results import WORST_CASE, Result, Results, Setting
from radapt.results.intervals import wilson

PGD = make("pgd", eps=4 / 255, steps=2)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the results of the trials go


def result(
    percent: float, dataset: str = "shapes", *, attack: str = "none", source: str = "", main: bool = True
) -> Result:
    own = source or ("" if attack == "none" else "self")
    setting = Setting(method="m", model="m", dataset=dataset, n=4, version="1", attack=attack, source=own)
    numbers = {"n": 4, "percent": percent, "low": 0.0, "high": 100.0, "seconds": 1.0, "forwards": 1, "backwards": 1}
    return Result(setting=setting, flags={}, main=main, **numbers)  # type: ignore[arg-type]


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies (clean, robust) that hang on alpha and cut-off only: 0.5 is the best compromise."""
    table = {0.1: (90.0, 10.0), 0.5: (80.0, 60.0), 0.9: (20.0, 70.0), 0.8: (19.0, 70.0), 0.6: (80.0, 58.0)}

    def measured(candidate: Candidate, *, data: Sequence[Dataset], **given: Any) -> list[Result]:
        settings = candidate.adapter.settings  # type: ignore[union-attr]
        clean, robust = table[settings.alpha]
        robust -= 5.0 if settings.cutoff is None else 0.0
        rows = [result(clean, each.name) for each in data]
        rows += [result(robust - (2.0 if each.name == "colours" else 0.0), each.name, attack="pgd") for each in data]
        # What does not count: the worst case of other attacks in the file, another metric, and no transfer at all.
        others = (result(0.0, attack=WORST_CASE), result(0.0, attack="pgd", main=False), result(99.0, source="other"))
        return [*rows, *others]

    monkeypatch.setattr(importlib.import_module("radapt.experiments.tune"), "evaluate", measured)


@pytest.mark.usefixtures("rigged")
def test_keeps_the_best_of_all_pairs(tiny_vlm: Any, tiny_shapes: Any) -> None:
    adapter, data = training_free(tiny_vlm, alpha=1.0), tiny_shapes(4, "validation")
    alphas, cutoffs = (0.1, 0.5, 0.9), (None, 0.2)
    tuned = tune(tiny_vlm, adapter, data=[data], attack=PGD, alphas=alphas, cutoffs=cutoffs)
    assert [(trial.alpha, trial.cutoff, trial.score) for trial in tuned.trials] == [
        (0.5, 0.2, 70.0),
        (0.5, None, 67.5),
        (0.1, 0.2, 50.0),
        (0.1, None, 47.5),
        (0.9, 0.2, 45.0),
        (0.9, None, 42.5),
    ]
    assert (tuned.adapter.settings.alpha, tuned.adapter.settings.cutoff) == (0.5, 0.2)
    assert torch.equal(tuned.adapter.anchor, adapter.anchor)
    assert not attached(tiny_vlm)
    # The front has what no other one beats clean and white-box, not one point.
    assert [(trial.alpha, trial.cutoff) for trial in tuned.pareto_front] == [(0.1, 0.2), (0.5, 0.2), (0.9, 0.2)]


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize(("weight", "best"), [(0.0, 0.1), (0.5, 0.5), (1.0, 0.9)])
def test_the_weight_says_what_counts(tiny_vlm: Any, tiny_shapes: Any, weight: float, best: float) -> None:
    options = {"data": [tiny_shapes(4, "validation")], "attack": PGD, "alphas": (0.1, 0.5, 0.9)}
    tuned = tune(tiny_vlm, training_free(tiny_vlm, cutoff=0.2), weight=weight, **options)
    assert tuned.adapter.settings.alpha == best
    assert tuned.adapter.settings.cutoff == 0.2  # the adapter's own


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_best_is_on_the_front_whatever_the_order(tiny_vlm: Any, tiny_shapes: Any, weight: float) -> None:
    options = {"data": [tiny_shapes(4, "validation")], "attack": PGD, "weight": weight}
    for alphas in ([0.8, 0.9, 0.6, 0.5], [0.5, 0.6, 0.9, 0.8]):  # one of each pair is beaten in one accuracy alone
        tuned = tune(tiny_vlm, training_free(tiny_vlm, cutoff=0.2), alphas=alphas, **options)
        assert tuned.trials[0] in tuned.pareto_front
        assert tuned.adapter.settings.alpha == (0.9 if weight == 1 else 0.5)


@pytest.mark.usefixtures("rigged")
def test_what_can_be_read_once_is_tried_with_everything(tiny_vlm: Any, tiny_shapes: Any) -> None:
    options = {"data": [tiny_shapes(4, "validation")], "attack": PGD}
    filters = ({"cutoffs": iter([None, 0.2])}, {"d0s": iter([0, 0.2 * 224])})
    for given in filters:
        tuned = tune(tiny_vlm, training_free(tiny_vlm), alphas=map(float, ("0.1", "0.5")), **given, **options)
        tried = {(trial.alpha, trial.cutoff) for trial in tuned.trials}
        assert tried == {(0.1, None), (0.5, None), (0.1, 0.2), (0.5, 0.2)}


def test_accuracies_are_those_of_the_adapted_model(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data, adapter = tiny_shapes(12, "validation"), training_free(tiny_vlm, alpha=0.3)
    strong = make("pgd", eps=32 / 255, steps=5)
    (trial,) = tune(tiny_vlm, adapter, data=[data], attack=strong, alphas=[0.3], seed=7).trials
    classifier, pixels = tiny_vlm.classifier(data.prompts), data.pixels(range(12))
    with adapter.attach(tiny_vlm):
        objective = ClassificationObjective(lambda x: tiny_vlm.logits(x, classifier), data.labels, len(classifier))
        adversarial = strong(objective, pixels, keys=data.keys, seed=7).pixels
        right = [tiny_vlm.logits(x, classifier).argmax(1) == data.labels for x in (pixels, adversarial)]
    assert trial.clean == pytest.approx(100 * right[0].float().mean().item())
    assert trial.robust == pytest.approx(100 * right[1].float().mean().item())
    assert trial.score == pytest.approx((trial.clean + trial.robust) / 2)
    assert trial.clean_interval == pytest.approx(wilson(float(right[0].sum()), 12))
    assert trial.robust_interval == pytest.approx(wilson(float(right[1].sum()), 12))


@pytest.mark.usefixtures("rigged")
def test_accuracies_are_means_over_the_data_sets(tiny_vlm: Any, tiny_shapes: Any) -> None:
    shapes = tiny_shapes(4, "validation")
    colours = replace(shapes, card=card("colours"))
    options = {"data": [shapes, colours], "attack": PGD, "alphas": (0.1, 0.5)}
    best, other = tune(tiny_vlm, training_free(tiny_vlm, cutoff=0.2), **options).trials
    assert (best.alpha, best.clean, best.robust) == (0.5, 80.0, 59.0)
    assert (other.alpha, other.clean, other.robust) == (0.1, 90.0, 9.0)


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every attack is called with."""
    given, call = list[dict[str, Any]](), SearchAttack.__call__

    def watched(self: SearchAttack, *args: Any, **named: Any) -> Outcome:
        given.append(named)
        outcome: Outcome = call(self, *args, **named)
        return outcome

    monkeypatch.setattr(SearchAttack, "__call__", watched)
    return given


def test_what_was_measured_is_not_measured_again(
    tiny_vlm: Any, tiny_shapes: Any, attacks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = training_free(tiny_vlm, cutoff=0.2)
    options: dict[str, Any] = {"data": [tiny_shapes(4, "validation")], "attack": PGD}
    attach, seen = Adapter.attach, list[float]()

    def stopped(self: Adapter, model: Any) -> Any:
        seen.append(self.settings.alpha)
        if self.settings.alpha == 0.9:
            raise KeyboardInterrupt
        return attach(self, model)

    monkeypatch.setattr(Adapter, "attach", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_vlm, adapter, alphas=(0.1, 0.5, 0.9), **options)
    monkeypatch.setattr(Adapter, "attach", attach)
    measured = len(attacks)
    assert measured
    resumed = tune(tiny_vlm, adapter, alphas=(0.1, 0.5, 0.9), **options)
    both = len(attacks)
    again = tune(tiny_vlm, adapter, alphas=(0.1, 0.5, 0.9), weight=1.0, **options)
    assert len(attacks) == both
    whole = tune(tiny_vlm, adapter, alphas=(0.1, 0.5, 0.9), results="another.sqlite", **options)
    assert len(attacks) == 2 * both
    assert resumed.trials == whole.trials
    assert resumed.adapter.fingerprint == whole.adapter.fingerprint
    assert {t.alpha: (t.clean, t.robust) for t in again.trials} == {t.alpha: (t.clean, t.robust) for t in whole.trials}
    with Results("tuning.sqlite", read_only=True) as file:
        assert {result.kind for result in file.all()} == {"clean", "white-box"}


def test_the_same_attack_as_that_of_evaluate_by_default(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data = tiny_shapes(4, "validation")
    tune(tiny_vlm, training_free(tiny_vlm), data=[data], alphas=[0.3])
    (trial,) = tune(tiny_vlm, training_free(tiny_vlm), data=[data], alphas=[0.3], eps="16/255").trials
    defended = (tiny_vlm, training_free(tiny_vlm, alpha=0.3))
    found = evaluate({"R-Adapt": defended}, data=[data], eps="16/255", source="self", results="other.sqlite")
    with Results("tuning.sqlite", read_only=True) as file:
        threats = {(r.setting.attack, r.setting.eps) for r in file.all() if r.kind == "white-box"}
    assert threats == {(r.setting.attack, eps) for r in found if r.kind != "clean" for eps in (4 / 255, 16 / 255)}
    assert (trial.clean, trial.robust) == tuple(r.percent for r in found)


def test_many_samples_are_counted_by_their_own_labels(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data, adapter = tiny_shapes(150, "validation"), training_free(tiny_vlm, alpha=0.3)
    with adapter.attach(tiny_vlm), torch.no_grad():
        says = tiny_vlm.logits(data.pixels(range(150)), tiny_vlm.classifier(data.prompts)).argmax(1)
    assert not torch.equal(says[128:], says[:22])
    weak = make("pgd", eps=1e-6, steps=1)
    options = {"data": [replace(data, labels=says)], "attack": weak, "alphas": [0.3]}
    (trial,) = tune(tiny_vlm, adapter, **options).trials
    assert (trial.clean, trial.robust) == (100, 100)


def test_a_test_split_is_refused(tiny_vlm: Any, tiny_shapes: Any) -> None:
    splits = [tiny_shapes(4, "validation"), tiny_shapes(4, "test")]
    with pytest.raises(SettingsError, match=r"never tuned on a test split \(shapes\)"):
        tune(tiny_vlm, training_free(tiny_vlm), data=splits, attack=PGD)


@pytest.mark.parametrize("options", [{"weight": 1.5}, {"weight": -0.1}, {"weight": float("nan")}, {"alphas": ()}])
def test_wrong_settings_are_refused(tiny_vlm: Any, tiny_shapes: Any, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"weight must lie|nothing to try"):
        tune(tiny_vlm, training_free(tiny_vlm), data=[tiny_shapes(4, "validation")], attack=PGD, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"alphas": [1e30]},
            {"alphas": [0.2, float("nan")]},
            {"alphas": ["1"]},
            {"d0s": [-1]},
            {"d0s": [float("inf")]},
        ),
        *({"cutoffs": [0.0]}, {"cutoffs": [1e30]}, {"seed": 10**23}, {"seed": -1}, {"n": 0}, {"n": 1.5}),
        *({"weight": "0.5"}, {"weight": True}),
        *({"alphas": "0.4"}, {"alphas": {"a": 1}}, {"d0s": b"40"}, {"cutoffs": "0.2"}),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_tried(
    tiny_vlm: Any, monkeypatch: pytest.MonkeyPatch, unchecked: None, wrong: dict[str, Any]
) -> None:
    monkeypatch.setattr(Adapter, "attach", Mock(side_effect=AssertionError("tried")))
    with pytest.raises(SettingsError, match=next(iter(wrong)).rstrip("s")):
        tune(tiny_vlm, training_free(tiny_vlm), **wrong)


def test_one_number_may_stand_alone(tiny_vlm: Any, tiny_shapes: Any) -> None:
    data = [tiny_shapes(4, "validation")]
    alone = tune(tiny_vlm, training_free(tiny_vlm), data=data, attack=PGD, alphas=0.4, cutoffs=0.2)
    listed = tune(tiny_vlm, training_free(tiny_vlm), data=data, attack=PGD, alphas=[0.4], cutoffs=[0.2])
    assert alone.trials == listed.trials
    assert [(trial.alpha, trial.cutoff) for trial in alone.trials] == [(0.4, 0.2)]


def test_no_data_is_refused(tiny_vlm: Any, unchecked: None) -> None:
    for wrong in ([], 3, [3]):
        with pytest.raises(SettingsError, match="data must be a dataset"):
            tune(tiny_vlm, training_free(tiny_vlm), data=wrong, attack=PGD)  # type: ignore[arg-type]


@pytest.fixture
def grafted(tiny_vlm: Any) -> Adapter:
    """Deltas of the embedding and the first block, from a twin whose weights are all others."""
    return graft(tiny_vlm, changed_twin(tiny_vlm), weights="embedding+block:0")


def test_shares_of_deltas_are_tried_by_part(tiny_vlm: Any, tiny_shapes: Any, grafted: Adapter) -> None:
    data = [tiny_shapes(4, "validation")]
    shares = {"embedding": [0, 1], "block:0": [0.5, 1]}
    tuned = tune(tiny_vlm, grafted, data=data, attack=PGD, shares=shares)
    assert sorted(tuple(trial.shares.items()) for trial in tuned.trials) == [
        (("embedding", embedding), ("block:0", block)) for embedding in (0, 1) for block in (0.5, 1)
    ]
    assert {trial.alpha for trial in tuned.trials} == {0.0}  # there is no anchor
    best = tuned.trials[0].shares
    for name, delta in grafted.deltas.items():
        share = best["block:0" if "layers.0" in name else "embedding"]
        if share:
            torch.testing.assert_close(full(tuned.adapter.deltas[name]), share * full(delta))
        else:
            assert name not in tuned.adapter.deltas
    once = tune(tiny_vlm, grafted, data=data, attack=PGD, shares={part: iter(all_) for part, all_ in shares.items()})
    assert once.trials == tuned.trials
    whole = tune(tiny_vlm, grafted, data=data, attack=PGD, shares=iter([1]))
    assert whole.adapter.fingerprint == grafted.fingerprint
    drawn = tune(tiny_vlm, grafted, data=data, attack=PGD, shares=shares, trials=2, seed=3)
    again = tune(tiny_vlm, grafted, data=data, attack=PGD, shares=shares, trials=2, seed=3)
    assert len(drawn.trials) == 2
    assert drawn.trials == again.trials
    assert set(drawn.trials[0].shares) == set(shares)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([2], "the share of all must"),
        ({"blok:0": [1]}, "did you mean 'block:0'"),
        ({"embedding": [1], "embedding+block:0": [1]}, "another part both name"),
        ([], "nothing to try"),
    ],
)
def test_shares_that_make_no_sense_are_refused(
    tiny_vlm: Any, tiny_shapes: Any, grafted: Adapter, shares: Any, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        tune(tiny_vlm, grafted, data=[tiny_shapes(4, "validation")], attack=PGD, shares=shares)


def test_shares_need_deltas(tiny_vlm: Any, tiny_shapes: Any) -> None:
    with pytest.raises(SettingsError, match="this one has none"):
        tune(tiny_vlm, training_free(tiny_vlm), data=[tiny_shapes(4, "validation")], attack=PGD, shares=[1])


def test_a_model_that_carries_an_adapter_is_refused_and_leaves_no_file(tiny_vlm: Any, tiny_shapes: Any) -> None:
    adapter = training_free(tiny_vlm)
    with adapter.attach(tiny_vlm), pytest.raises(SettingsError, match=r"carries an adapter.*radapt\.detach\(model\)"):
        tune(tiny_vlm, adapter, data=[tiny_shapes(4, "validation")], attack=PGD)
    assert not Path("tuning.sqlite").exists()
