from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.tiny import changed_twin

from radapt.adapters import Adapter, attached, graft, training_free, tune
from radapt.attacks import ClassificationObjective, Outcome, SearchAttack, make
from radapt.data import card
from radapt.errors import SettingsError
from radapt.models import full, tower_of

PGD = make("pgd", eps=4 / 255, steps=2)


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies (clean, robust) that hang on alpha and cut-off only: 0.5 is the best compromise."""
    table = {0.1: (90.0, 10.0), 0.5: (80.0, 60.0), 0.9: (20.0, 70.0)}

    def accuracies(model: Any, data: Any, attack: Any, seed: int) -> tuple[float, float]:
        settings = tower_of(model).mounted().settings  # type: ignore[union-attr]
        clean, robust = table[settings.alpha]
        return clean, robust - (5.0 if settings.cutoff is None else 0.0) - (2.0 if data.name == "colours" else 0.0)

    monkeypatch.setattr(importlib.import_module("radapt.adapters._tune"), "_accuracies", accuracies)


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
    assert [(trial.alpha, trial.cutoff) for trial in tuned.front] == [(0.1, 0.2), (0.5, 0.2), (0.9, 0.2)]


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize(("weight", "best"), [(0.0, 0.1), (0.5, 0.5), (1.0, 0.9)])
def test_the_weight_says_what_counts(tiny_vlm: Any, tiny_shapes: Any, weight: float, best: float) -> None:
    options = {"data": [tiny_shapes(4, "validation")], "attack": PGD, "alphas": (0.1, 0.5, 0.9)}
    tuned = tune(tiny_vlm, training_free(tiny_vlm, cutoff=0.2), weight=weight, **options)
    assert tuned.adapter.settings.alpha == best
    assert tuned.adapter.settings.cutoff == 0.2  # the adapter's own


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


@pytest.mark.usefixtures("rigged")
def test_accuracies_are_means_over_the_data_sets(tiny_vlm: Any, tiny_shapes: Any) -> None:
    shapes = tiny_shapes(4, "validation")
    colours = replace(shapes, card=card("colours"))
    options = {"data": [shapes, colours], "attack": PGD, "alphas": (0.1, 0.5)}
    best, other = tune(tiny_vlm, training_free(tiny_vlm, cutoff=0.2), **options).trials
    assert (best.alpha, best.clean, best.robust) == (0.5, 80.0, 59.0)
    assert (other.alpha, other.clean, other.robust) == (0.1, 90.0, 9.0)


def test_the_attack_is_given_the_samples_names_and_the_seed(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, given = tiny_shapes(3, "validation"), list[dict[str, Any]]()
    attack = SearchAttack.__call__

    def watched(self: SearchAttack, *args: Any, **named: Any) -> Outcome:
        given.append(named)
        assert attached(tiny_vlm)
        outcome: Outcome = attack(self, *args, **named)
        return outcome

    monkeypatch.setattr(SearchAttack, "__call__", watched)
    tune(tiny_vlm, training_free(tiny_vlm), data=[data], attack=PGD, alphas=[0.3], seed=7)
    assert [(list(each["keys"]), each["seed"]) for each in given] == [(list(data.keys), 7)]


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
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_tried(
    tiny_vlm: Any, monkeypatch: pytest.MonkeyPatch, unchecked: None, wrong: dict[str, Any]
) -> None:
    monkeypatch.setattr(Adapter, "attach", Mock(side_effect=AssertionError("tried")))
    with pytest.raises(SettingsError, match=next(iter(wrong)).rstrip("s")):
        tune(tiny_vlm, training_free(tiny_vlm), **wrong)


def test_no_data_is_refused(tiny_vlm: Any) -> None:
    with pytest.raises(SettingsError, match="nothing to try"):
        tune(tiny_vlm, training_free(tiny_vlm), data=[], attack=PGD)


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
    whole = tune(tiny_vlm, grafted, data=data, attack=PGD, shares=[1])
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
