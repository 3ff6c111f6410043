"""Keywords that go to the loading of models: refused where they are misspelt, or nothing is loaded with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import own_labels, tiny_clip

import radapt
from radapt.adapters import training_free
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Models, estimate_cost, evaluate

PLACES: dict[Callable[..., Any], str] = {evaluate: "results", estimate_cost: "results", radapt.check: "out"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("call", PLACES, ids=lambda call: str(call.__name__))
def test_a_keyword_without_an_effect_is_refused(call: Callable[..., Any], tmp_path: Path) -> None:
    clip = tiny_clip()
    here: dict[str, Any] = {"data": own_labels(clip, 2), PLACES[call]: tmp_path / "here"}
    own, of_load = ({"epsilon": "16/255"}, "did you mean 'eps'"), ({"devices": "cpu"}, "did you mean 'device'")
    for model in (clip, "micro/clip"):
        for wrong, message in (
            own,
            of_load,
            ({"gradient_checkpointing": "yes"}, "gradient_checkpointing must be true or false"),
        ):
            with pytest.raises(SettingsError, match=message):
                call(model, **here, **wrong)
    pair = (clip, "micro/shallow")  # the adapter has a name, the model has none
    for given in (clip, [clip], {"A": clip}, pair, [pair], (Candidate(method="A", model=clip),)):
        with pytest.raises(SettingsError, match="device, dtype: for models by name"):
            call(given, **here, device="cpu", dtype="float32")
    with pytest.raises(SettingsError, match="device: models loads with settings of its own"):
        call("micro/clip", **here, models=Models({"device": "cpu"}), device="cpu")
    assert not (tmp_path / "here").exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: [m], lambda m: {"A": m}, lambda m: (m, None)])
def test_a_model_by_name_takes_them_wherever_it_stands(
    wrap: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = list[Any]()

    def get(self: Models, model: Any, label: str | None = None) -> Any:
        seen.append(self.settings)
        raise InterruptedError

    monkeypatch.setattr(Models, "get", get)
    for given, more in ((wrap("micro/clip"), {}), (wrap(tiny_clip()), {"undefended": "micro/clip"})):
        with pytest.raises(InterruptedError):
            evaluate(given, data="shapes", n=2, results=tmp_path / "r.sqlite", device="cpu", **more)
    assert seen == [{"device": "cpu"}] * 2


def test_tuning_refuses_them_too() -> None:
    clip = tiny_clip()
    adapter = training_free(clip)
    with pytest.raises(SettingsError, match="tune: unknown setting 'alpha'; did you mean 'alphas'"):
        radapt.tune(clip, adapter, alpha=[0.3])
    with pytest.raises(SettingsError, match="dtype: for models by name"):
        radapt.tune(clip, adapter, dtype="float32")
    with pytest.raises(SettingsError, match="'dtyp'; did you mean 'dtype'"):
        radapt.tune("micro/clip", adapter, dtyp="float32")
