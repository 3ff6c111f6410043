from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import finetuned
from torch import Tensor

from radapt import finetuning
from radapt.adapters import training_free
from radapt.attacks import ClassificationObjective, EmbeddingObjective, SearchAttack, make
from radapt.data import joined, load_dataset
from radapt.errors import InputError, ModelError, SettingsError
from radapt.finetuning import _finetune, finetune
from radapt.finetuning._method import Twin
from radapt.finetuning.fare import FARE
from radapt.finetuning.tecoa import TeCoA
from radapt.models import load
from radapt.training import Schedule

EPS = 8 / 255
SHORT: dict[str, Any] = {"eps": EPS, "attack_steps": 2, "batch_size": 8, "quiet": True}
PGD = make("pgd", eps=EPS, steps=5)


def bits(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def changed(before: dict[str, Tensor], model: Any) -> set[str]:
    return {name for name, value in model.model.state_dict().items() if not torch.equal(value, before[name])}


def embedding_loss(original: Any, tuned: Any, clean: Tensor) -> float:
    """max over the ball of ||f(x + d) - f_original(x)||^2, by a fresh attack."""
    with torch.no_grad():
        reference = original.encode_image(clean)
    return float(PGD(EmbeddingObjective(tuned.encode_image, reference), clean).loss.mean())


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [False, True])
def test_fare_resists_its_attack_and_keeps_the_original(tiny_vlm: Any, tiny_shapes: Any, trainable: bool) -> None:
    data, before = tiny_shapes(8), bits(tiny_vlm)
    tiny_vlm.model.requires_grad_(trainable)
    clean = data.pixels(range(8))
    tuned, history = finetuned(FARE(), tiny_vlm, data, steps=30, lr=3e-3, **SHORT)
    assert len(history) == 30
    assert embedding_loss(tiny_vlm, tuned, clean) < 0.8 * embedding_loss(tiny_vlm, tiny_vlm, clean)
    assert changed(before, tiny_vlm) == set()
    assert all(p.grad is None and p.requires_grad == trainable for p in tiny_vlm.model.parameters())
    moved = changed(before, tuned)
    assert moved
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in moved)
    assert "visual_projection.weight" in moved
    assert not any(p.requires_grad for p in tuned.model.parameters())


def test_fare_starts_at_the_distance_of_the_attack(tiny_vlm: Any, tiny_shapes: Any) -> None:
    # At step 0 the twin is the original, so its loss is the attack's.
    data = tiny_shapes(8)
    _, history = finetuned(FARE(), tiny_vlm, data, steps=1, lr=1e-9, **SHORT)
    assert 0 < history[0] <= 1.05 * embedding_loss(tiny_vlm, tiny_vlm, data.pixels(range(8)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["agft", "tecoa", "pmg", "tga"])
def test_training_lowers_the_loss_under_attack(tiny_vlm: Any, tiny_shapes: Any, name: str) -> None:
    data, before = tiny_shapes(8), bits(tiny_vlm)
    clean, classifier = data.pixels(range(8)), tiny_vlm.classifier(data.prompts)

    def loss(model: Any) -> tuple[float, float]:
        """Cross-entropy and the method's own loss, on images from a fresh attack."""
        objective = ClassificationObjective(
            lambda x: model.logits(x, classifier), data.labels, len(classifier), stop=False
        )
        adversarial = PGD(objective, clean).pixels
        twin = Twin(original=tiny_vlm, tuned=model, data=data, classifier=classifier)
        with torch.no_grad():
            entropy = F.cross_entropy(model.logits(adversarial, classifier), data.labels)
            own = finetuning.make(name).loss(twin, torch.arange(8), clean, adversarial)
        return float(entropy), float(own)

    tuned, _ = finetuned(finetuning.make(name), tiny_vlm, data, steps=30, lr=3e-3, **SHORT)
    for after, earlier in zip(loss(tuned), loss(tiny_vlm), strict=True):
        assert after < 0.8 * earlier
    assert changed(before, tiny_vlm) == set()
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in changed(before, tuned))


ROWS = torch.tensor([6, 1, 4])


def test_fare_is_the_distance_of_the_twin_from_the_original(twin: Twin) -> None:
    clean = twin.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    with torch.no_grad():
        away = twin.tuned.encode_image(adversarial).double() - twin.original.encode_image(clean).double()
        expected = away.square().sum(1)
        assert FARE().loss(twin, ROWS, clean, adversarial).item() == pytest.approx(expected.mean().item(), rel=1e-4)
        score = FARE().objective(twin, ROWS, clean)(adversarial[[2, 0]], torch.tensor([2, 0]))
    assert torch.allclose(score.loss.double(), expected[[2, 0]], rtol=1e-4)
    assert not score.fooled.any()


def test_tecoa_is_the_cross_entropy_of_the_twin(twin: Twin) -> None:
    clean = twin.data.pixels(ROWS)
    adversarial = (clean + 0.05).clamp(0, 1)
    with torch.no_grad():
        logits = twin.tuned.logits(adversarial, twin.classifier).double()
        expected = logits.logsumexp(1) - logits[torch.arange(3), twin.data.labels[ROWS]]
        assert TeCoA().loss(twin, ROWS, clean, adversarial).item() == pytest.approx(expected.mean().item(), rel=1e-4)
        score = TeCoA().objective(twin, ROWS, clean)(adversarial[[2, 0]], torch.tensor([2, 0]))
    assert torch.allclose(score.loss.double(), expected[[2, 0]], rtol=1e-4)
    assert not score.fooled.any()  # the attack spends its whole budget on every image


def test_settings_reach_the_attack_and_the_schedule(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks, schedules = list[tuple[Any, ...]](), list[Schedule]()
    attack, train = SearchAttack.perturb, _finetune.fit

    def watched(self: Any, *given: Any, **named: Any) -> Tensor:
        attacks.append((self.eps, self.steps, tuple(named["keys"]), named["seed"]))
        pixels: Tensor = attack(self, *given, **named)
        return pixels

    def fitted(parameters: Any, loss: Any, schedule: Schedule, **named: Any) -> list[float]:
        schedules.append(schedule)
        return train(parameters, loss, schedule, **named)

    monkeypatch.setattr(SearchAttack, "perturb", watched)
    monkeypatch.setattr(_finetune, "fit", fitted)
    settings = {"steps": 2, "lr": 1e-4, "warmup": 0.3, "weight_decay": 0.02, "optimizer": "sgd", "ema": 0.5}
    training = {"eps": 3 / 255, "attack_steps": 3, "batch_size": 4, "seed": 5, "quiet": True}
    finetuned(FARE(), tiny_vlm, tiny_shapes(4), **settings, **training)
    assert schedules == [Schedule(**settings)]
    assert [each[:2] + each[3:] for each in attacks] == [(3 / 255, 3, 5)] * 2
    names = [name for each in attacks for name in each[2]]
    assert len(set(names)) == 8  # a random start of its own for every image at every step


@pytest.mark.parametrize("name", finetuning.names())
def test_the_attack_leaves_no_gradient_in_the_weights(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method = finetuning.make(name)
    loss, steps = type(method).loss, []

    def watched(self: Any, twin: Any, rows: Tensor, clean: Tensor, adversarial: Tensor) -> Tensor:
        assert all(p.grad is None for model in (twin.original, twin.tuned) for p in model.model.parameters())
        assert not adversarial.requires_grad
        assert 0 < (adversarial - clean).abs().max() <= EPS + 1e-6
        steps.append(rows.tolist())
        result: Tensor = loss(self, twin, rows, clean, adversarial)
        return result

    monkeypatch.setattr(type(method), "loss", watched)
    options = {**SHORT, "batch_size": 4}
    finetuned(method, tiny_vlm, tiny_shapes(9), steps=4 * method.updates, lr=1e-3, **options)
    assert len(steps) == 4 * method.updates
    batches = steps[:: method.updates]  # each is used for as many steps
    assert steps == [batch for batch in batches for _ in range(method.updates)]
    steps = batches
    for epoch in (steps[:2], steps[2:]):  # no picture twice within an epoch
        rows = [row for step in epoch for row in step]
        assert len(set(rows)) == 8
        assert set(rows) <= set(range(9))
    assert steps[:2] != steps[2:]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(
    tiny_vlm: Any, tiny_shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = tiny_shapes(6), {"steps": 22, "lr": 1e-3, **SHORT, "batch_size": 3, "attack_steps": 1}
    whole, history = finetuned(FARE(), tiny_vlm, data, **options)
    file, loss, calls = tmp_path / "fare.safetensors", FARE.loss, []

    def dies(self: Any, *args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 22:
            raise KeyboardInterrupt
        result: Tensor = loss(self, *args)
        return result

    monkeypatch.setattr(FARE, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        finetuned(FARE(), tiny_vlm, data, checkpoint=file, **options)
    assert file.exists()
    monkeypatch.setattr(FARE, "loss", loss)
    for changed_setting in ({"eps": EPS / 2}, {"attack_steps": 2}, {"seed": 1}, {"batch_size": 2}):
        with pytest.raises(SettingsError, match="belongs to a training with"):
            finetuned(FARE(), tiny_vlm, data, checkpoint=file, **{**options, **changed_setting})
    resumed, again = finetuned(FARE(), tiny_vlm, data, checkpoint=file, **options)
    assert again == history
    assert changed(bits(whole), resumed) == set()
    assert file.exists()  # nothing else holds the twin yet
    finished, _ = finetuned(FARE(), tiny_vlm, data, checkpoint=file, out=tmp_path / "twin", **options)
    assert changed(bits(whole), finished) == set()
    assert not file.exists()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_flag_no_layer_and_no_device_is_refused(tiny_vlm: Any) -> None:
    for settings, message in (
        ({"half": "yes"}, "half must be True or False, got 'yes'"),
        ({"layers": 3}, "layers must be a text such as 'all'"),
    ):
        with pytest.raises(SettingsError, match=message):
            finetune("fare", tiny_vlm, "objects", n=4, batch_size=2, steps=1, attack_steps=1, quiet=True, **settings)
    with pytest.raises(ModelError, match="tpu"):  # a model object goes where it is told
        finetune("fare", tiny_vlm, "objects", n=4, batch_size=2, steps=1, attack_steps=1, quiet=True, device="tpu")
    with pytest.raises(SettingsError, match="balanced must be True or False, got 'no'"):
        load_dataset("digits", n=12, balanced="no")  # type: ignore[arg-type]


def test_tecoa_needs_classes(tiny_vlm: Any, tiny_shapes: Any) -> None:
    from radapt.data import card

    data = tiny_shapes(4)
    captions = tuple(("a circle",) for _ in range(4))
    plain = replace(data, card=card("shapeworld-captions"), labels=data.labels[:0], classes=(), captions=captions)
    with pytest.raises(InputError, match="tecoa needs a dataset with classes; shapeworld-captions has none"):
        finetuned(TeCoA(), tiny_vlm, plain, steps=1, **{**SHORT, "batch_size": 2})
    tuned, _ = finetuned(FARE(), tiny_vlm, plain, steps=1, **{**SHORT, "batch_size": 2})
    assert tuned.model is not tiny_vlm.model


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fare", "tecoa"])
@pytest.mark.parametrize("names", [0, 1, 2])
def test_several_datasets_are_joined_by_name_or_as_objects(method: str, names: int) -> None:
    model = load("micro/clip")
    sets = [load_dataset(name, split="train", n=n) for name, n in (("objects", 5), ("shapes", 3))]
    options: dict[str, Any] = {"steps": 2, "batch_size": 4, "attack_steps": 1, "quiet": True}
    whole = finetune(method, model, joined(sets), **options)
    data = ["objects", "shapes"][:names] + sets[names:]
    for given in (data, tuple(data)):
        made = finetune(method, model, given, n=[5, 3][:names] or 20_000, **options)
        assert made.recipe == whole.recipe
        assert (made.recipe["data"], made.recipe["n"]) == ("objects-shapes", 8)
        assert made.losses == whole.losses


def test_a_twin_of_test_images_warns_and_its_recipe_says_so(tiny_vlm: Any, tiny_shapes: Any) -> None:
    for split in ("train", "validation"):
        assert finetune("fare", tiny_vlm, tiny_shapes(8, split), steps=1, **SHORT).recipe["split"] == split
    sets = [tiny_shapes(8, "test"), tiny_shapes(4, "test")]
    for data in (sets[0], sets[:1], sets):
        with pytest.warns(UserWarning, match="shapes: training on a test split"):
            made = finetune("fare", tiny_vlm, data, steps=1, **SHORT)
        assert made.recipe["split"] == "test"
    for mixed in ([tiny_shapes(8), sets[0]], [sets[0], tiny_shapes(8)]):
        with pytest.raises(InputError, match="need one split"):
            finetune("fare", tiny_vlm, mixed, steps=1, **SHORT)


def test_one_number_of_images_is_for_each_dataset_by_name(tiny_shapes: Any) -> None:
    options: dict[str, Any] = {"steps": 1, "batch_size": 4, "attack_steps": 1, "quiet": True}
    model, data = load("micro/clip"), load_dataset("colours", split="train", n=2)
    assert finetune("fare", model, ["objects", data, "shapes"], n=3, **options).recipe["n"] == 8
    assert finetune("fare", model, ["objects", data, "shapes"], n=[2, 4], **options).recipe["n"] == 8
    assert finetune("fare", model, [data, data], **options).recipe["n"] == 4
    with pytest.raises(InputError, match="images of one size"):
        finetune("fare", model, ["objects", tiny_shapes(4)], n=4, **options)


@pytest.mark.parametrize(
    ("data", "n", "message"),
    [
        ([], 8, "data must be a dataset, .* got none"),
        (None, 8, "data must be a dataset, .* got None"),
        (["shapes", 3], 8, "data must be a dataset, .* got 3"),
        (["shapes", "shapez"], 8, "unknown dataset 'shapez'; did you mean 'shapes'"),
        (["shapes", "objects"], [8, 8, 8], "give n once, .* got 2 datasets by name and 3 n"),
        ("shapes", [], "give n once, .* got 1 datasets by name and 0 n"),
        ("shapes", "12", "n must be a whole number of at least 1, got '12'"),
        (["shapes", "objects"], [8, 0], "n must be a whole number of at least 1, got 0"),
    ],
    ids=str,
)
def test_what_is_no_dataset_or_number_of_images_is_refused(
    tiny_vlm: Any, unchecked: None, data: Any, n: Any, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        finetune("fare", tiny_vlm, data, n=n, steps=1, **{**SHORT, "batch_size": 4})


def test_a_number_for_each_dataset_does_not_go_with_objects(tiny_vlm: Any, tiny_shapes: Any) -> None:
    with pytest.raises(SettingsError, match="got 0 datasets by name and 2 n"):
        finetune("fare", tiny_vlm, [tiny_shapes(4), tiny_shapes(4)], n=[4, 4], steps=1, **SHORT)


@pytest.mark.parametrize("batch", [0, -1, 9])
def test_a_batch_must_fit_the_data(tiny_vlm: Any, tiny_shapes: Any, batch: int) -> None:
    with pytest.raises(SettingsError, match=r"batch_size must lie in 1\.\.8 .*got"):
        finetuned(FARE(), tiny_vlm, tiny_shapes(8), **{**SHORT, "batch_size": batch})


def test_methods_by_name() -> None:
    assert {"agft", "fare", "lore", "pmg", "tecoa", "tga"} <= set(finetuning.names())
    assert isinstance(finetuning.make("FARE"), FARE)
    with pytest.raises(SettingsError, match="did you mean 'tecoa'"):
        finetuning.make("teco")


@pytest.mark.parametrize("name", finetuning.names())
def test_bfloat16_is_near_float32_and_the_weights_stay_in_float32(tiny_vlm: Any, tiny_shapes: Any, name: str) -> None:
    data, weight, seen = tiny_shapes(8), tiny_vlm.model.visual_projection, list[torch.dtype]()

    def note(module: Any, args: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():  # the attack checks what it found in float32, without gradients
            seen.append(output.dtype)

    def first(precision: str) -> float:
        options = {**SHORT, "attack_steps": 1, "precision": precision}
        handle = weight.register_forward_hook(note)
        tuned, history = finetuned(finetuning.make(name), tiny_vlm, data, steps=2, lr=1e-5, **options)
        handle.remove()
        assert {p.dtype for p in tuned.model.parameters()} == {torch.float32}
        return history[0]

    exact = first("float32")
    assert set(seen) == {torch.float32}
    seen.clear()
    assert first("bfloat16") == pytest.approx(exact, rel=0.3)
    assert set(seen) == {torch.bfloat16}


def test_an_unknown_precision_or_optimizer_is_refused(tiny_vlm: Any, tiny_shapes: Any) -> None:
    with pytest.raises(SettingsError, match="unknown precision 'bfloat61'; did you mean 'bfloat16'"):
        finetuned(FARE(), tiny_vlm, tiny_shapes(8), precision="bfloat61", **SHORT)
    with pytest.raises(SettingsError, match="unknown optimizer 'adam'; did you mean 'adamw'"):
        finetuned(FARE(), tiny_vlm, tiny_shapes(8), optimizer="adam", **SHORT)


@pytest.mark.parametrize("method", ["fare", "tecoa", "tga"])
def test_a_model_that_carries_an_adapter_is_refused(tiny_vlm: Any, tiny_shapes: Any, method: str) -> None:
    with training_free(tiny_vlm).attach(tiny_vlm):
        with pytest.raises(SettingsError, match=r"tiny/clip carries an adapter.*radapt\.detach\(model\)"):
            finetuned(method, tiny_vlm, tiny_shapes(8), steps=1, **SHORT)
        assert tiny_vlm.defended
    tiny_vlm.input_transform = torch.round
    with pytest.raises(SettingsError, match="an input defence"):
        finetuned(method, tiny_vlm, tiny_shapes(8), steps=1, **SHORT)


def test_a_model_in_half_precision_is_trained_in_float32(tiny_vlm: Any, tiny_shapes: Any) -> None:
    half = copy.copy(tiny_vlm)
    half.model = copy.deepcopy(tiny_vlm.model).to(torch.bfloat16)
    tuned, _ = finetuned("fare", half, tiny_shapes(8), steps=2, lr=1e-6, **{**SHORT, "attack_steps": 1})
    before, after = half.image_parameters(), tuned.image_parameters()
    assert {each.dtype for each in after.values()} == {torch.float32}
    assert {each.dtype for each in before.values()} == {torch.bfloat16}
    moved = [(after[name] != before[name].float()).float().mean() for name in after if after[name].ndim > 1]
    assert min(moved) > 0.5  # in bfloat16, steps of 1e-6 are lost in nearly all weights


@pytest.mark.parametrize("method", ["fare", "lore", "agft"])
def test_the_original_sees_every_batch_once(tiny_vlm: Any, tiny_shapes: Any, method: str) -> None:
    seen, original = list[int](), tiny_vlm.model.vision_model
    original.register_forward_hook(lambda module, args, output: seen.append(id(module)))  # the copy has it, too
    finetune(method, tiny_vlm, tiny_shapes(8), steps=2 * finetuning.make(method).updates, **SHORT)
    assert seen.count(id(original)) == 2 + (method == "lore")  # whose multipliers ask for the width of embeddings


def test_references_are_those_of_the_images_given(twin: Twin) -> None:
    first, second = twin.data.pixels(range(4)), twin.data.pixels(range(4, 8))
    for clean in (first, second, first, first):
        assert torch.equal(twin.reference(clean), twin.original.encode_image(clean))
    assert not twin.reference(first).requires_grad
