from __future__ import annotations

import importlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tests.tiny import tiny_clip
from torch import Tensor

import radapt
from radapt.adapters import Adapter, adapt, attached, data_driven, shallow, training_free
from radapt.adapters._adversarial import TrainingImages
from radapt.attacks import ClassificationObjective, EmbeddingObjective, Objective, make
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.fingerprint import digest

EPS = 16 / 255
SHORT: dict[str, Any] = {"eps": EPS, "attack_steps": 2, "batch_size": 4, "quiet": True}


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(8, 3, 32, 32)


def embedding_loss(model: Any, adapter: Adapter, clean: Tensor, adversarial: Tensor) -> float:
    """Mean of ||f_A(x_adv) - f(x)||^2."""
    with torch.no_grad():
        reference = model.encode_image(clean)
        with adapter.attach(model):
            return float((model.encode_image(adversarial) - reference).square().sum(1).mean())


def transferred(model: Any, clean: Tensor) -> Tensor:
    with torch.no_grad():
        objective = EmbeddingObjective(model.encode_image, model.encode_image(clean))
    adversarial: Tensor = make("pgd", eps=EPS, steps=5)(objective, clean).pixels
    return adversarial


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["static", "adaptive"])
def test_the_trained_anchor_brings_embeddings_back(tiny_vlm: Any, pixels: Tensor, adversary: str) -> None:
    start = training_free(tiny_vlm, alpha=0.8)
    before = {name: value.clone() for name, value in tiny_vlm.model.state_dict().items()}
    adapter = data_driven(tiny_vlm, pixels, adversary=adversary, steps=30, lr=0.05, **SHORT)
    adversarial = transferred(tiny_vlm, pixels)
    trained = embedding_loss(tiny_vlm, adapter, pixels, adversarial)
    assert trained < 0.99 * embedding_loss(tiny_vlm, start, pixels, adversarial)
    origin = adapter.settings.origin
    assert origin["last_loss"] < origin["first_loss"]
    assert (origin["adversary"], origin["images"], origin["attack"]) == (adversary, 8, "PGD-2")
    assert adapter.settings.method == "data-driven"
    assert adapter.change(method="training-free", origin=start.settings.origin).settings == start.settings
    # Only the anchor has changed.
    assert not adapter.anchor.requires_grad
    assert not attached(tiny_vlm)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vlm.model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in tiny_vlm.model.parameters())


def test_a_static_adversary_attacks_the_images_that_the_steps_reach(
    tiny_vlm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of ten images leave two of them out, others in each."""
    pixels, attacked = torch.rand(10, 3, 32, 32), list[int]()
    attack = TrainingImages.adversarial

    def counted(self: TrainingImages, model: Any, rows: Tensor, stream: str) -> Tensor:
        attacked.extend(rows.tolist())
        return attack(self, model, rows, stream)

    monkeypatch.setattr(TrainingImages, "adversarial", counted)
    anchors = {steps: data_driven(tiny_vlm, pixels, steps=steps, **SHORT).anchor for steps in (1, 3)}
    epochs = [np.random.Generator(np.random.Philox(key=[0, epoch])).permutation(10)[:8] for epoch in (0, 1)]
    first, three = sorted(epochs[0][:4].tolist()), sorted({*epochs[0].tolist(), *epochs[1][:4].tolist()})
    assert attacked == first + three
    monkeypatch.setattr(TrainingImages, "used", lambda *_: torch.arange(10))
    for steps, anchor in anchors.items():
        torch.testing.assert_close(data_driven(tiny_vlm, pixels, steps=steps, **SHORT).anchor, anchor)


@pytest.mark.parametrize("loss", ["embedding", "text"])
@pytest.mark.parametrize("adversary", ["static", "adaptive"])
def test_the_first_loss_is_that_of_a_computation_by_hand(
    tiny_vlm: Any, pixels: Tensor, adversary: str, loss: str
) -> None:
    start, labels = training_free(tiny_vlm, alpha=0.6, cutoff=0.2), torch.tensor([0, 2, 1, 1, 0, 2, 2, 1])
    classifier = tiny_vlm.classifier([["a circle"], ["a square"], ["a star"]])
    text = {"labels": labels, "classifier": classifier, "loss": "text"} if loss == "text" else {}
    options = {"alpha": 0.6, "cutoff": 0.2, "adversary": adversary, "seed": 3, **text, **SHORT, "eps": 20 / 255}
    found = data_driven(tiny_vlm, pixels, steps=1, **options).settings.origin["first_loss"]

    rows = np.random.Generator(np.random.Philox(key=[3, 0])).permutation(8)[:4]  # the first batch of the first epoch
    clean, truth = pixels[rows], labels[rows]
    with torch.no_grad():
        reference = tiny_vlm.encode_image(clean)
    objective: Objective = EmbeddingObjective(tiny_vlm.encode_image, reference)
    if text:
        objective = ClassificationObjective(lambda x: tiny_vlm.logits(x, classifier), truth, 3, stop=False)
    share, stream = (1 / 4, "static") if adversary == "static" else (1 / 2, "adaptive/0")
    pgd = make("pgd", eps=20 / 255, steps=2, step_size=share * 20 / 255)
    keys = [f"{stream}/{row}" for row in rows]
    with nullcontext() if adversary == "static" else start.attach(tiny_vlm):
        adversarial = pgd(objective, clean, keys=keys, seed=3, batch_size=4).pixels
    with torch.no_grad(), start.attach(tiny_vlm):
        expected = (tiny_vlm.encode_image(adversarial) - reference).square().sum(1).mean()
        if text:
            logits = tiny_vlm.logits(adversarial, classifier).double()
            expected = (logits.logsumexp(1) - logits[torch.arange(4), truth]).mean()
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def test_every_epoch_passes_all_images_in_an_order_of_its_own(
    tiny_vlm: Any, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, loss = list[list[int]](), TrainingImages.loss

    def watched(self: Any, model: Any, adversarial: Tensor, rows: Tensor) -> Tensor:
        batches.append(rows.tolist())
        return loss(self, model, adversarial, rows)

    monkeypatch.setattr(TrainingImages, "loss", watched)
    data_driven(tiny_vlm, pixels, steps=6, **SHORT)
    epochs = [first + second for first, second in zip(batches[::2], batches[1::2], strict=True)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_adaptive_adversary_starts_from_another_point_at_every_step(tiny_vlm: Any, pixels: Tensor) -> None:
    options = {
        "adversary": "adaptive",
        "steps": 2,
        "lr": 1e-12,
        **SHORT,
        "batch_size": 8,
    }  # the same images, nearly no step
    origin = data_driven(tiny_vlm, pixels, **options).settings.origin
    assert origin["first_loss"] != origin["last_loss"]


@pytest.mark.parametrize(("adversary", "attack"), [("static", "PGD-10"), ("adaptive", "PGD-4")])
def test_the_default_attack_of_each_adversary(tiny_vlm: Any, pixels: Tensor, adversary: str, attack: str) -> None:
    adapter = data_driven(tiny_vlm, pixels[:2], adversary=adversary, steps=1, quiet=True)
    assert (adapter.settings.origin["attack"], adapter.settings.origin["eps"]) == (attack, 4 / 255)


def test_trainable_weights_get_no_gradient_either(tiny_vlm: Any, pixels: Tensor) -> None:
    tiny_vlm.model.requires_grad_(True)
    before = {name: value.clone() for name, value in tiny_vlm.model.state_dict().items()}
    data_driven(tiny_vlm, pixels, steps=2, **SHORT)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vlm.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in tiny_vlm.model.parameters())


@pytest.mark.filterwarnings("ignore:.*came without an image processor:UserWarning")
def test_a_model_object_gives_the_anchor_of_its_vlm(tiny_clip: Any, pixels: Tensor) -> None:
    import radapt

    expected = data_driven(radapt.load(tiny_clip), pixels, steps=3, **SHORT)
    assert torch.equal(data_driven(tiny_clip, pixels, steps=3, **SHORT).anchor, expected.anchor)


def test_the_text_loss_lowers_the_cross_entropy(tiny_vlm: Any, pixels: Tensor) -> None:
    classifier = tiny_vlm.classifier([["a circle"], ["a square"], ["a star"]])
    labels = torch.arange(8) % 3
    options = {"labels": labels, "classifier": classifier, "loss": "text", "steps": 30, "lr": 0.05, **SHORT}
    adapter = data_driven(tiny_vlm, pixels, **options)

    def cross_entropy(adapter: Adapter) -> float:
        with torch.no_grad(), adapter.attach(tiny_vlm):
            return float(torch.nn.functional.cross_entropy(tiny_vlm.logits(pixels, classifier), labels))

    assert cross_entropy(adapter) < 0.9 * cross_entropy(training_free(tiny_vlm, alpha=0.8))
    assert adapter.settings.origin["loss"] == "text"


def test_seeds_settle_the_anchor(tiny_vlm: Any, pixels: Tensor) -> None:
    first, again, other = (data_driven(tiny_vlm, pixels, steps=4, seed=seed, **SHORT).anchor for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["static", "adaptive"])
def test_a_killed_run_resumes_to_the_same_anchor(
    tiny_vlm: Any, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adversary: str
) -> None:
    options = {"adversary": adversary, "steps": 25, **SHORT}
    whole = data_driven(tiny_vlm, pixels, **options)
    file = tmp_path / "anchor.safetensors"
    module = importlib.import_module("radapt.adapters.data_driven")
    step, calls = module._Anchor.__call__, []

    def dies(self: Any, number: int) -> Tensor:
        calls.append(number)
        if number == 22:
            raise KeyboardInterrupt
        loss: Tensor = step(self, number)
        return loss

    monkeypatch.setattr(module._Anchor, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        data_driven(tiny_vlm, pixels, checkpoint=file, **options)
    assert file.exists()
    assert not attached(tiny_vlm)
    calls.clear()
    monkeypatch.setattr(module._Anchor, "__call__", lambda self, number: calls.append(number) or step(self, number))
    resumed = data_driven(tiny_vlm, pixels, checkpoint=file, **options)
    assert calls == [20, 21, 22, 23, 24]
    assert torch.equal(resumed.anchor, whole.anchor)
    assert resumed.settings == whole.settings
    assert file.exists()  # nothing else holds the anchor yet
    calls.clear()
    assert torch.equal(data_driven(tiny_vlm, pixels, checkpoint=file, **options).anchor, whole.anchor)
    assert calls == []


def swapped(tensor: Tensor) -> Tensor:
    """The same images, two of them in each other's place: equal in number and in every mean."""
    return tensor[[1, 0, *range(2, len(tensor))]]


@pytest.mark.slow
def test_a_checkpoint_of_other_images_weights_or_labels_is_refused(
    tiny_vlm: Any, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module = tmp_path / "anchor.safetensors", importlib.import_module("radapt.adapters.data_driven")
    classifier = tiny_vlm.classifier([["a circle"], ["a square"], ["a star"]])
    options = {"classifier": classifier, "loss": "text", "checkpoint": file, "steps": 21, "batch_size": 1, "eps": EPS}
    options |= {"attack_steps": 1, "quiet": True}
    labels, step = torch.arange(8) % 3, module._Anchor.__call__

    def dies(self: Any, number: int) -> Tensor:
        if number == 20:
            raise KeyboardInterrupt
        loss: Tensor = step(self, number)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(module._Anchor, "__call__", dies)
        with pytest.raises(KeyboardInterrupt):
            data_driven(tiny_vlm, pixels, labels, **options)
    kept, nudged = file.read_bytes(), pixels.clone()
    nudged[3, 1, 4, 5] += 1e-4
    for images, truth, name in (
        (swapped(pixels), labels, "images"), (nudged, labels, "images"), (pixels, swapped(labels), "labels"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=rf"belongs to a training with {name} '\w+' instead of '\w+';"):
            data_driven(tiny_vlm, images, truth, **options)
    with pytest.raises(SettingsError, match=r"belongs to a training with classifier '\w+' instead of"):
        data_driven(tiny_vlm, pixels, labels, **{**options, "classifier": swapped(classifier)})
    last = tiny_vlm.model.vision_model.encoder.layers[-1].mlp.fc2.weight  # no anchor depends on it
    with torch.no_grad():
        last[0, 0] += 1e-3
    with pytest.raises(SettingsError, match="belongs to a training with"):
        data_driven(tiny_vlm, pixels, labels, **options)
    with torch.no_grad():
        last[0, 0] -= 1e-3
    assert file.read_bytes() == kept


def test_a_digest_names_bytes_types_and_shapes() -> None:
    tensor = torch.arange(6.0)
    others = [tensor + 1e-6, tensor.view(2, 3), tensor.double(), tensor.flip(0)]
    assert len({digest([each]) for each in (tensor, *others)}) == 5
    assert digest([tensor[:3], tensor[3:]]) != digest([tensor]) != digest([])
    strided = torch.stack([tensor, tensor], 1)[:, 0]
    assert digest([strided]) == digest([tensor.clone()])
    assert digest([torch.tensor(1.0, dtype=torch.bfloat16), torch.empty(0)])  # of any type, and without values


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "embeding"}, SettingsError, "did you mean 'embedding'"),
        ({"adversary": "statik"}, SettingsError, "did you mean 'static'"),
        ({"alpha": 0.0}, SettingsError, "alpha = 0 leaves the anchor without effect"),
        ({"loss": "text"}, InputError, "needs labels and a classifier"),
        ({"labels": torch.zeros(8, dtype=torch.int64)}, InputError, "takes neither"),
        ({"classifier": torch.eye(16)[:2]}, InputError, "takes neither"),
        ({"steps": 0}, SettingsError, "steps >= 1"),
        ({"lr": 0.0}, SettingsError, "lr > 0"),
        ({"batch_size": 0}, SettingsError, "batch_size"),
        ({"attack_steps": 0}, SettingsError, "steps"),
        ({"attack_steps": -1}, SettingsError, "steps"),
        ({"eps": -0.1}, SettingsError, "eps"),
        ({"cutoff": -1.0}, SettingsError, "cutoff"),
        (
            {"loss": "text", "classifier": torch.eye(16)[:2], "labels": torch.full((8,), 2)},
            InputError,
            r"labels must lie in 0\.\.1",
        ),
    ],
)
def test_wrong_settings_are_refused(
    tiny_vlm: Any, pixels: Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        data_driven(tiny_vlm, pixels, **{"quiet": True, "steps": 2, **options})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"alpha": 1e30}, {"alpha": float("nan")}, {"alpha": "1"}, {"cutoff": float("inf")}, {"cutoff": 1e-30}),
        *({"eps": float("nan")}, {"eps": 2}, {"eps": "4/255"}, {"steps": 10**20}, {"steps": 2.5}, {"lr": float("inf")}),
        *({"lr": 1e30}, {"lr": None}, {"seed": 10**23}, {"seed": -1}, {"seed": 0.5}, {"batch_size": 1.5}),
        *({"batch_size": True}, {"attack_steps": 1.5}, {"attack_steps": 10**20}),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_made(
    tiny_vlm: Any, pixels: Tensor, monkeypatch: pytest.MonkeyPatch, unchecked: None, wrong: dict[str, Any]
) -> None:
    module = importlib.import_module("radapt.adapters.data_driven")
    monkeypatch.setattr(module, "training_free", Mock(side_effect=AssertionError("made")))
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        data_driven(tiny_vlm, pixels, **{**SHORT, **wrong})


@pytest.mark.parametrize("path", ["folder", "file/below", "x" * 300])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_made(
    tiny_vlm: Any, pixels: Tensor, tmp_path: Path, path: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        data_driven(tiny_vlm, pixels, checkpoint=tmp_path / path, **SHORT)


def test_adapt_removes_the_checkpoint_when_the_adapter_is_saved(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, checkpoint = tmp_path / "plus", tmp_path / "plus.checkpoint.safetensors"
    options = {"data": tiny_shapes(8), "out": out, "steps": 2, **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "save_pretrained", Mock(side_effect=AdapterError("No space left")))
        with pytest.raises(AdapterError, match="No space left"):
            adapt("data-driven", tiny_vlm, **options)
    assert checkpoint.exists()
    with monkeypatch.context() as patch:
        module = importlib.import_module("radapt.adapters.data_driven")
        patch.setattr(module._Anchor, "__call__", Mock(side_effect=AssertionError("trained again")))
        made = adapt("data-driven", tiny_vlm, **options)
    assert Adapter.from_pretrained(out).fingerprint == made.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["plus"]


def test_adapt_warns_of_test_images(tiny_vlm: Any, tiny_shapes: Any) -> None:
    with pytest.warns(UserWarning, match="shapes: training on a test split"):
        adapt("data-driven", tiny_vlm, data=tiny_shapes(8, "test"), steps=1, **SHORT)
    with pytest.warns(UserWarning, match="shapes: training on a test split"):
        adapt("training-free", tiny_vlm, data=tiny_shapes(8, "test"), image="mean")


@pytest.mark.parametrize("make", [radapt.data_driven, radapt.shallow])
def test_the_methods_themselves_warn_of_test_images_once(tiny_vlm: Any, tiny_shapes: Any, make: Any) -> None:
    settings: dict[str, Any] = {"steps": 1, "batch_size": 4, "attack_steps": 1, "quiet": True}
    settings |= {"layers": "block:0"} if make is radapt.shallow else {}
    with pytest.warns(UserWarning, match="shapes: training on a test split") as told:
        make(tiny_vlm, tiny_shapes(8, "test"), **settings)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="shapes: training on a test split") as told:
        adapt(make.__name__.replace("_", "-"), tiny_vlm, data=tiny_shapes(8, "test"), **settings)
    assert len(told) == 1


@pytest.mark.parametrize("path", ["file", "file/adapter", "/dev/null", "x" * 300])
@pytest.mark.parametrize("method", ["data-driven", "training-free"])
def test_adapt_checks_its_destination_first(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(importlib.import_module("radapt.training.fit"), "fit", Mock(side_effect=AssertionError))
    with pytest.raises(AdapterError, match="cannot write the adapter to"):
        adapt(method, tiny_vlm, data=tiny_shapes(8), out=tmp_path / path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_wrong_images_are_refused(tiny_vlm: Any, pixels: Tensor) -> None:
    with pytest.raises(InputError, match="no training images"):
        data_driven(tiny_vlm, pixels[:0], quiet=True)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        data_driven(tiny_vlm, pixels * 255, steps=1, quiet=True)


def test_a_model_that_cannot_be_loaded_whole_is_refused(tiny_clip: Any, pixels: Tensor) -> None:
    from transformers import CLIPVisionModel

    with pytest.raises(ModelError, match="clip_vision_model"):
        data_driven(CLIPVisionModel(tiny_clip.config.vision_config), pixels, quiet=True)


@pytest.mark.usefixtures("unchecked")
def test_labels_may_be_of_any_kind_and_are_checked_before_the_training(tiny_vlm: Any) -> None:
    images, classifier = torch.rand(4, 3, 32, 32), tiny_vlm.classifier([(f"class {k}",) for k in range(3)])
    settings: dict[str, Any] = {"loss": "text", "classifier": classifier, "steps": 1, "batch_size": 2, "quiet": True}
    kinds = ([0, 1, 2, 0], np.array([0, 1, 2, 0]), torch.tensor([0, 1, 2, 0], dtype=torch.int32))
    found = {data_driven(tiny_vlm, images, labels=labels, **settings).fingerprint for labels in kinds}
    assert len(found) == 1
    with pytest.raises(InputError, match="labels"):
        data_driven(tiny_vlm, images, labels=[0, 1, 2, 3], **settings)


@pytest.mark.parametrize("method", [data_driven, partial(shallow, layers="embedding+block:0")])
def test_an_adapter_says_on_which_images_it_was_trained(method: Any) -> None:
    model = tiny_clip()
    data = radapt.load_dataset("shapes", split="validation", n=2)
    settings: dict[str, Any] = {"steps": 1, "attack_steps": 1, "batch_size": 2, "quiet": True}
    origin = method(model, data, **settings).settings.origin
    assert (origin["data"], origin["split"], origin["images"]) == ("shapes", "validation", 2)
    assert "data" not in method(model, data.pixels(range(2)), **settings).settings.origin
