"""The top level: every public name has an example here that runs, and objects go wherever names go."""

from __future__ import annotations

import ast
import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.tiny import own_labels, tiny_clip
from torch import Tensor, nn

import radapt
from radapt.attacks.apgd import APGD
from radapt.attacks.pgd import PGD
from radapt.evaluation import InputDefence, Models, candidates_of, defence_of
from radapt.models import ClassifierModel

EXAMPLES: dict[str, Callable[[Any, Path], Any]] = {}
QUICK: dict[str, Any] = {"quiet": True, "sanity": False, "batch_size": 4}


def example(name: str) -> Callable[[Callable[[Any, Path], Any]], Callable[[Any, Path], Any]]:
    """Registers an example under the name that it shows."""

    def register(function: Callable[[Any, Path], Any]) -> Callable[[Any, Path], Any]:
        EXAMPLES[name] = function
        return function

    return register


class Blur(nn.Module):
    """A defence of one's own, from images to images."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)


def attack(steps: int = 2) -> APGD:
    return APGD(eps=8 / 255, steps=steps)


@example("load")
def use_load(model: Any, folder: Path) -> None:
    model.save_pretrained(folder / "model")
    loaded = radapt.load(folder / "model", name="mine")
    assert (loaded.name, loaded.image_size) == ("mine", (48, 48))
    wrapped = radapt.load(model.model, tokenizer=model.tokenizer, processor=model.processor, name="object")
    pixels = torch.rand(2, 3, 48, 48)
    assert torch.equal(wrapped.encode_image(pixels), model.encode_image(pixels))


@example("VLM")
def use_vlm_here(model: Any, folder: Path) -> None:
    assert isinstance(model, radapt.VLM)
    assert "'tiny', 48 x 48 px, 0.0" in repr(model)
    with radapt.training_free(model).attach(model):
        assert repr(model).endswith("parameters, defended)")


@example("load_dataset")
def use_load_dataset(model: Any, folder: Path) -> None:
    data = radapt.load_dataset("shapes", n=4)
    assert isinstance(data, radapt.Dataset)
    assert data.pixels([0, 3]).shape == (2, 3, 48, 48)


@example("Dataset")
def use_dataset_here(model: Any, folder: Path) -> None:
    data = own_labels(model, 4)
    assert len(data) == 4
    assert repr(data) == "Dataset('shapes', test, n=4, 48 x 48 px, zero-shot, 12 classes)"


@example("training_free")
def use_training_free(model: Any, folder: Path) -> None:
    adapter = radapt.training_free(model, alpha=0.4)
    assert adapter.settings.method == "training-free"


@example("graft")
def use_graft(model: Any, folder: Path) -> None:
    guide = copy.copy(model)
    guide.name, guide.model = "guide", copy.deepcopy(model.model)
    with torch.no_grad():
        guide.tower.blocks[0].mlp.fc1.weight += 1
    assert list(radapt.graft(model, guide, weights="block:0").deltas) == ["encoder.layers.0.mlp.fc1.weight"]


@example("model_guided")
def use_model_guided(model: Any, folder: Path) -> None:
    guide = copy.copy(model)
    guide.name = "guide"
    assert radapt.model_guided(model, guide).settings.origin["guide"] == "guide"


@example("data_driven")
def use_data_driven(model: Any, folder: Path) -> None:
    pixels = radapt.load_dataset("objects", split="train", n=4).pixels(range(4))
    adapter = radapt.data_driven(model, pixels, steps=1, attack_steps=1, batch_size=4, quiet=True)
    assert adapter.settings.method == "data-driven"


@example("shallow")
def use_shallow(model: Any, folder: Path) -> None:
    pixels = radapt.load_dataset("objects", split="train", n=4).pixels(range(4))
    adapter = radapt.shallow(model, pixels, layers="embedding", steps=1, attack_steps=1, batch_size=4, quiet=True)
    assert adapter.settings.cutoff == 0.25
    assert all(name.startswith(("embeddings.", "pre_layrnorm.")) for name in adapter.deltas)


@example("check")
def use_check(model: Any, folder: Path) -> None:
    adapter = radapt.training_free(model, alpha=0.4)
    found = radapt.check((model, adapter), data="shapes", n=2, attack=attack(), out=folder / "check", quiet=True)
    assert found.passed
    assert len(found.claims) == 5


@example("adapt")
def use_adapt(model: Any, folder: Path) -> None:
    by_name = radapt.adapt("training-free", model, alpha=0.4, d0=30)
    assert by_name.fingerprint == radapt.training_free(model, alpha=0.4, cutoff=30 / 224).fingerprint
    assert radapt.adapt("training-free", model, d0=0).settings.cutoff is None
    mean = radapt.adapt("model-guided", model, guide=model, image="mean", n=4)
    assert mean.settings.origin["image"] == "mean"
    with pytest.raises(radapt.RadaptError, match="model-guided needs a guide"):
        radapt.adapt("model-guided", model)


@example("Adapter")
def use_adapter_here(model: Any, folder: Path) -> None:
    adapter = radapt.training_free(model, alpha=0.4)
    adapter.save_pretrained(folder / "adapter")
    assert radapt.Adapter.from_pretrained(folder / "adapter").fingerprint == adapter.fingerprint


@example("attached")
def use_attached(model: Any, folder: Path) -> None:
    assert not radapt.attached(model)
    with radapt.training_free(model).attach(model):
        assert radapt.attached(model)


@example("adapter_of")
def use_adapter_of(model: Any, folder: Path) -> None:
    adapter = radapt.training_free(model, alpha=0.3)
    assert radapt.adapter_of(model) is None
    with adapter.attach(model):
        carried = radapt.adapter_of(model)
        assert carried is not None
        assert carried.fingerprint == adapter.fingerprint


@example("detach")
def use_detach(model: Any, folder: Path) -> None:
    radapt.training_free(model).attach(model)
    assert radapt.detach(model)
    assert not radapt.detach(model)


@example("tune")
def use_tune(model: Any, folder: Path) -> None:
    data = copy.copy(own_labels(model, 4))
    object.__setattr__(data, "split", "validation")
    adapter = radapt.training_free(model)
    settings: dict[str, Any] = {"alphas": [0.1, 0.5], "d0s": [0, 40], "results": folder / "tuning.sqlite"}
    tuned = radapt.tune(model, adapter, data=data, attack=PGD(eps=4 / 255, steps=1), **settings)
    assert len(tuned.trials) == 4
    assert {trial.cutoff for trial in tuned.trials} == {None, 40 / 224}


@example("attack")
def use_attack(model: Any, folder: Path) -> None:
    data = own_labels(model, 4)
    classifier = model.classifier(data.prompts)
    outcome = radapt.attack(
        lambda pixels: model.logits(pixels, classifier), data.pixels(range(4)), data.labels, attack=attack(), quiet=True
    )
    assert outcome.robust_accuracy == float((~outcome.fooled).float().mean())
    assert outcome.adversarial is outcome.pixels
    assert "4" in repr(outcome)
    assert len(repr(outcome)) < 150


@example("Threat")
def use_threat_here(model: Any, folder: Path) -> None:
    by_name = radapt.Threat(attack="apgd", eps=8 / 255, source="self", options={"steps": 2})
    by_object = radapt.Threat(attack=attack(), source="self")
    assert by_name.settings() == by_object.settings()
    assert (by_object.name, by_object.eps, by_object.norm) == ("apgd", 8 / 255, "linf")
    with pytest.raises(radapt.RadaptError, match="says its eps itself"):
        radapt.Threat(attack=attack(), source="self", eps=4 / 255)


@example("Candidate")
def use_candidate_here(model: Any, folder: Path) -> None:
    candidate = radapt.Candidate(method="R-Adapt", model=model, adapter=radapt.training_free(model))
    with candidate.defended():
        assert model.defended
    assert not model.defended


@example("Defence")
def use_defence_here(model: Any, folder: Path) -> None:
    assert isinstance(radapt.training_free(model), radapt.Defence)
    assert isinstance(radapt.InputDefence(Blur()), radapt.Defence)


@example("InputDefence")
def use_input_defence_here(model: Any, folder: Path) -> None:
    pixels = torch.rand(2, 3, 48, 48)
    with radapt.InputDefence(Blur()).attach(model):
        assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))
        blurred = model.encode_image(pixels)
    assert torch.equal(blurred, model.encode_image(Blur()(pixels)))


@example("Results")
def use_results_here(model: Any, folder: Path) -> None:
    with radapt.Results(folder / "r.sqlite") as results:
        radapt.evaluate({"CLIP": model}, data=own_labels(model, 4), attack=None, results=results, **QUICK)
        assert [result.percent for result in results.all()] == [100.0]
        assert "1 setting" in repr(results)


@example("evaluate")
def use_evaluate(model: Any, folder: Path) -> None:
    model.save_pretrained(folder / "tiny")
    radapt.training_free(model, alpha=0.4).save_pretrained(folder / "adapter")
    data = own_labels(model, 4)
    names = [f"CLIP={folder / 'tiny'}", f"R-Adapt={folder / 'tiny'}+{folder / 'adapter'}"]
    options = {"attack": "apgd", "eps": "8/255", "options": {"steps": 2}}
    by_name = radapt.evaluate(names, data=data, **options, results=folder / "names.sqlite", **QUICK)
    loaded = radapt.load(folder / "tiny")
    objects = {"CLIP": loaded, "R-Adapt": (loaded, radapt.training_free(loaded, alpha=0.4))}
    by_object = radapt.evaluate(objects, data=data, attack=attack(), results=folder / "objects.sqlite", **QUICK)
    assert [(r.setting.method, r.kind, r.percent) for r in by_name] == [
        (r.setting.method, r.kind, r.percent) for r in by_object
    ]
    assert [r.setting.key for r in by_name] == [r.setting.key for r in by_object]


@example("finetune")
def use_finetune(model: Any, folder: Path) -> None:
    tuned = radapt.finetune("fare", model, n=4, steps=2, batch_size=4, attack_steps=1, quiet=True)
    assert len(tuned.losses) == 2
    assert isinstance(tuned.model, radapt.VLM)


@example("analyze")
def use_analyze(model: Any, folder: Path) -> None:
    other = tiny_clip("other", seed=1)
    (plot,) = radapt.analyze("cka", {"CLIP": model, "other": other}, n=8, options={"tokens": "mean"}, quiet=True)
    assert plot.title == "CKA of other and CLIP (n = 8)"


@example("reproduce")
def use_reproduce(model: Any, folder: Path) -> None:
    (folder / "own.yaml").write_text(
        "title: T\ndescription: D\npublished: P\n"
        "profiles: {micro: {models: {CLIP: micro/clip}, analyses: [{analysis: response, n: 1}]}}\n"
    )
    told: list[str] = []
    made = radapt.reproduce(folder / "own.yaml", out=folder / "run", progress=lambda event: told.append(event.text))
    assert made.page.exists()
    assert [part.title for part in made.parts] == ["T"]
    assert told[0].startswith("T (")


@example("write_report")
def use_write_report(model: Any, folder: Path) -> None:
    radapt.evaluate({"CLIP": model}, data=own_labels(model, 4), attack=None, results=folder / "r.sqlite", **QUICK)
    written = radapt.write_report(folder / "r.sqlite", folder / "report", formats=["md", "csv"])
    assert {path.name for path in written} == {"table.md", "table.csv"}


@example("RadaptError")
def use_radapt_error_here(model: Any, folder: Path) -> None:
    with pytest.raises(radapt.RadaptError, match="did you mean 'shapes'"):
        radapt.load_dataset("shaps")


@example("__version__")
def use_version(model: Any, folder: Path) -> None:
    assert radapt.__version__.count(".") == 2


@pytest.mark.parametrize("name", sorted(radapt.__all__))
def test_every_public_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in EXAMPLES
    EXAMPLES[name](tiny_clip(), tmp_path)


def test_there_is_no_example_of_what_is_not_there() -> None:
    assert set(EXAMPLES) == set(radapt.__all__)


def test_a_classifier_of_ones_own_is_a_candidate(tmp_path: Path) -> None:
    model = tiny_clip()
    data = own_labels(model, 4)
    classifier = model.classifier(data.prompts)

    class Own(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return model.logits(pixels, classifier)

    def function(pixels: Tensor) -> Tensor:
        return model.logits(pixels, classifier)

    found = radapt.evaluate(
        {"CLIP": model, "module": Own(), "function": function},
        data=data,
        attack=attack(),
        source="self",
        results=tmp_path / "r.sqlite",
        **QUICK,
    )
    by_method: dict[str, list[float]] = {}
    for result in found:
        by_method.setdefault(result.setting.method, []).append(result.percent)
    assert by_method["CLIP"] == by_method["module"] == by_method["function"]
    assert len({result.setting.key for result in found}) == 6


def test_two_functions_are_two_candidates_and_a_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    def ones(pixels: Tensor) -> Tensor:
        return torch.ones(len(pixels), 12) + pixels.mean()

    def few(pixels: Tensor) -> Tensor:
        return torch.ones(len(pixels), 3)

    wrapped = [ClassifierModel("x", each, image_size=(48, 48)) for each in (ones, few)]
    assert wrapped[0].fingerprint != wrapped[1].fingerprint
    with pytest.raises(radapt.RadaptError, match="few gives 3 logits, but the dataset has 12 classes"):
        radapt.evaluate({"few": few}, data="shapes", n=2, attack=None, results=tmp_path / "r.sqlite", **QUICK)


def test_candidates_may_be_written_in_every_way(tmp_path: Path) -> None:
    model = tiny_clip()
    adapter = radapt.training_free(model)
    adapter.save_pretrained(tmp_path / "adapter")
    models = Models(image_size=(48, 48))
    single = [candidates_of(each, models) for each in (model, (model, adapter), (model, tmp_path / "adapter"))]
    assert [len(each) for each in single] == [1, 1, 1]
    assert [each[0].adapter is None for each in single] == [True, False, False]
    listed = candidates_of([model, radapt.Candidate(method="x", model=model, adapter=InputDefence(Blur()))], models)
    assert [each.method for each in listed] == ["tiny", "x"]
    named = candidates_of({"a": model, "b": (model, Blur()), "c": listed[1]}, models)
    assert [each.method for each in named] == ["a", "b", "c"]
    assert isinstance(named[1].adapter, InputDefence)
    with pytest.raises(radapt.RadaptError, match="a defence is an adapter"):
        defence_of(object())


def test_every_top_level_function_says_what_its_arguments_are() -> None:
    for name in radapt.__all__:
        value = getattr(radapt, name)
        if callable(value) and not isinstance(value, type):
            text = value.__doc__ or ""
            tree = ast.parse(f"def f({', '.join(value.__code__.co_varnames[: value.__code__.co_argcount])}): ...")
            assert isinstance(tree.body[0], ast.FunctionDef)
            missing = [argument.arg for argument in tree.body[0].args.args if argument.arg not in text]
            assert missing == [], f"{name} does not say what {missing} is"


def test_a_table_can_be_printed_anywhere(tmp_path: Path) -> None:
    from radapt.reports import print_table

    model = tiny_clip()
    with radapt.Results(tmp_path / "r.sqlite") as results:
        radapt.evaluate({"CLIP": model}, data=own_labels(model, 4), attack=None, results=results, **QUICK)
        output = io.StringIO()
        print_table(results, Console(file=output, width=100))
    assert "CLIP" in output.getvalue()
