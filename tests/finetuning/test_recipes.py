from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tests.tiny import killed_after
from torch import Tensor

import radapt
from radapt import finetuning
from radapt.attacks import EmbeddingObjective, SearchAttack
from radapt.errors import SettingsError
from radapt.finetuning import Method, Recipe, Twin, _finetune, finetune
from radapt.finetuning._attack import TrainingPGD
from radapt.models import VLM
from radapt.training import Schedule

SHORT: dict[str, Any] = {"batch_size": 4, "attack_steps": 1, "steps": 2, "quiet": True}
WEIGHTS = Path(radapt.__file__).parent / "micro" / "weights"

ROBUSTVLM = {
    "eps": 4 / 255, "attack_steps": 10, "step_size": 1 / 255, "attack_momentum": 0.9, "last_iterate": True,
    "steps": 20_000, "epochs": None, "batch_size": 128, "optimizer": "adamw", "lr": 1e-5, "warmup_steps": 1400,
    "weight_decay": 1e-4, "decayed": "all", "max_grad_norm": 0.0,
}  # fmt: skip
SGD = {
    "eps": 1 / 255, "attack_steps": 2, "step_size": 1 / 255, "attack_momentum": 0.0, "last_iterate": True,
    "epochs": 10, "optimizer": "sgd", "warmup_steps": 1000, "weight_decay": 0.0, "max_grad_norm": 0.0,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "fare": ROBUSTVLM,
    "tecoa": ROBUSTVLM,
    "pmg": {**SGD, "batch_size": 256, "lr": 5e-5},
    "tga": {**SGD, "batch_size": 128, "lr": 1e-4},
    "agft": {**SGD, "batch_size": 256, "lr": 4e-4},
    "lore": {
        "eps": 2 / 255, "attack_steps": 10, "step_size": None, "last_iterate": True, "epochs": 2, "batch_size": 448,
        "optimizer": "adamw", "lr": 1e-5, "weight_decay": 1e-4, "decayed": "all", "max_grad_norm": 0.0,
    },
}  # fmt: skip


def test_every_method_has_a_published_recipe_and_one_for_the_micro_models() -> None:
    assert set(PUBLISHED) == set(finetuning.names())
    for name in finetuning.names():
        assert set(finetuning.make(name).recipes) == {"micro", "published"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_are_as_published(name: str) -> None:
    recipe = finetuning.make(name).recipes["published"]
    assert {key: getattr(recipe, key) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", ["fare", "tecoa", "tga"])
def test_the_micro_recipe_and_the_card_say_how_the_twin_that_ships_was_made(name: str) -> None:
    made = json.loads((WEIGHTS / name / "recipe.json").read_text())
    made["batch_size"] = made.pop("batch")
    recipe, known = finetuning.make(name).recipes["micro"], {field.name for field in fields(Recipe)}
    assert {key: getattr(recipe, key) for key in known & set(made)} == {key: made[key] for key in known & set(made)}
    assert recipe.max_grad_norm == made["max_grad_norm"] == 1.0
    (command,) = re.findall(r"^radapt finetune .*$", (WEIGHTS / name / "README.md").read_text(), re.MULTILINE)
    written = dict(re.findall(r"--([a-z-]+) ([\w.-]+)", command))
    assert {key: float(written[key]) for key in ("attack-steps", "steps", "lr", "max-grad-norm")} == {
        "attack-steps": 4, "steps": recipe.steps, "lr": 3e-4, "max-grad-norm": 1.0,
    }  # fmt: skip
    assert float(written.get("batch-size", 128)) == recipe.batch_size


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("recipe", ["published", "micro", None])
def test_a_recipe_supplies_what_no_option_says_and_all_is_recorded(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, name: str, recipe: str | None
) -> None:
    attacks, schedules = list[TrainingPGD](), list[Schedule]()
    attack, train = SearchAttack.perturb, _finetune.fit

    def watched(self: Any, *given: Any, **named: Any) -> Tensor:
        attacks.append(self)
        pixels: Tensor = attack(self, *given, **named)
        return pixels

    def fitted(parameters: Any, loss: Any, schedule: Schedule, **named: Any) -> list[float]:
        schedules.append(schedule)
        return train(parameters, loss, schedule, **named)

    monkeypatch.setattr(SearchAttack, "perturb", watched)
    monkeypatch.setattr(_finetune, "fit", fitted)
    base = Recipe() if recipe is None else finetuning.make(name).recipes[recipe]
    options = {"eps": "3/255", "lr": 7e-5, "attack_steps": 2, "steps": 2, "batch_size": 4}
    made = finetune(name, tiny_vlm, tiny_shapes(8), recipe=recipe, quiet=True, **options)  # type: ignore[arg-type]
    wanted = replace(base, eps=3 / 255, lr=7e-5, attack_steps=2, steps=2, epochs=None, batch_size=4)
    assert schedules == [wanted.schedule(1)]
    assert set(attacks) == {wanted.attack()}
    assert wanted.attack().step_size == base.step_size
    assert made.recipe["recipe"] == recipe
    recorded = {field.name: getattr(wanted, field.name) for field in fields(Recipe)}
    del recorded["epochs"]
    recorded["step_size"] = 2.5 * 3 / 255 / 2 if base.step_size is None else base.step_size
    assert {key: made.recipe[key] for key in recorded} == recorded
    json.dumps(made.recipe)


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [("fare", {}, 12), ("fare", {"accumulate": 2}, 6), ("fare", {"steps": 1}, 1), ("lore", {}, 60)],
)
def test_epochs_are_as_many_steps_as_the_images_take(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, int], steps: int
) -> None:
    method, schedules = finetuning.make(name), list[Schedule]()

    def fitted(parameters: Any, loss: Any, schedule: Schedule, **named: Any) -> list[float]:
        schedules.append(schedule)
        return [0.0]

    monkeypatch.setattr(_finetune, "fit", fitted)
    monkeypatch.setitem(method.recipes, "test", Recipe(epochs=3, batch_size=2))  # type: ignore[arg-type]
    finetune(name, tiny_vlm, tiny_shapes(9), recipe="test", quiet=True, **options)  # type: ignore[arg-type]
    # Four batches an epoch; LORE takes five steps on each.
    assert schedules[0].steps == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "publised"}, r"fare has no recipe 'publised'; did you mean 'published'.*micro, published"),
        ({"recipe": ""}, "fare has no recipe ''"),
        ({"minutes": 2}, "give steps, or minutes, .*not both"),
        ({"minutes": 0, "steps": None}, "minutes must be a number above 0"),
        ({"minutes": float("inf"), "steps": None}, "minutes must be a number above 0"),
        ({"warmup": 0.1, "warmup_steps": 5}, "give warmup, .* or warmup_steps, .*not both"),
        ({"decayed": "matrix"}, "unknown decayed 'matrix'; did you mean 'matrices'"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"step_size": 0}, "step_size"),
        ({"step_size": "a/b"}, "neither a number nor a fraction"),
        ({"attack_momentum": 1.5}, "attack_momentum"),
        ({"attack_momentum": -0.1}, "attack_momentum"),
        ({"attack_momentum": 1}, "attack_momentum must be below 1"),
        ({"last_iterate": 1}, "last_iterate must be True or False, got 1"),
    ],
    ids=str,
)
def test_wrong_recipes_and_options_are_refused_before_the_training(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, unchecked: None,
    options: dict[str, Any], message: str,
) -> None:  # fmt: skip
    fit = Mock()
    monkeypatch.setattr(_finetune, "fit", fit)
    with pytest.raises(SettingsError, match=message):
        finetune("fare", tiny_vlm, tiny_shapes(8), **{**SHORT, **options})
    fit.assert_not_called()


def test_a_method_without_recipes_says_so(tiny_vlm: Any, tiny_shapes: Any) -> None:
    class Bare(Method):
        name, needs_labels = "bare", False

        def objective(self, twin: Twin, rows: Tensor, clean: Tensor) -> Any: ...

        def loss(self, twin: Twin, rows: Tensor, clean: Tensor, adversarial: Tensor) -> Any: ...

    with pytest.raises(SettingsError, match="bare has no recipe 'published'; leave recipe out"):
        finetune(Bare(), tiny_vlm, tiny_shapes(8), recipe="published", **SHORT)


@pytest.mark.parametrize(
    ("name", "recipe", "asked"),
    [("fare", None, 20_000), ("tecoa", "published", 20_000), ("pmg", "published", 20), ("lore", "micro", 300)],
)
def test_minutes_take_the_place_of_a_recipe_s_steps_or_epochs(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, name: str, recipe: str | None, asked: int
) -> None:
    calls = list[tuple[Any, ...]]()

    def steps_within(minutes: float, parameters: Any, loss: Any, schedule: Schedule, *, dual: Any, cycle: int) -> int:
        calls.append((minutes, schedule.steps, dual is not None, cycle))
        return 3

    monkeypatch.setattr(_finetune, "steps_within", steps_within)
    options: dict[str, Any] = {"batch_size": 4, "attack_steps": 1, "quiet": True}
    made = finetune(name, tiny_vlm, tiny_shapes(8), recipe=recipe, minutes=2, **options)
    assert calls == [(2, asked, name == "lore", 5 if name == "lore" else 1)]
    assert (made.recipe["steps"], len(made.losses)) == (3, 3)
    base = Recipe() if recipe is None else finetuning.make(name).recipes[recipe]
    assert (made.recipe["lr"], made.recipe["optimizer"]) == (base.lr, base.optimizer)
    # The same number of steps by itself is the same training.
    again = finetune(name, tiny_vlm, tiny_shapes(8), recipe=recipe, steps=3, **options)
    assert (again.losses, again.recipe) == (made.losses, made.recipe)


def test_a_killed_training_of_minutes_keeps_its_steps(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, file = tiny_shapes(8), tmp_path / "checkpoint"
    options: dict[str, Any] = {"batch_size": 4, "attack_steps": 1, "quiet": True}
    whole = finetune("fare", tiny_vlm, data, steps=22, **options)
    counts = iter([22])
    monkeypatch.setattr(_finetune, "steps_within", lambda *given, **named: next(counts))  # once

    with killed_after(20):
        finetune("fare", tiny_vlm, data, minutes=1, checkpoint=file, **options)
    assert file.exists()
    for other, message in (({"batch_size": 2}, "batch 4 instead of 2"), ({"minutes": 2}, "minutes 1 instead of 2")):
        with pytest.raises(SettingsError, match=message):
            finetune("fare", tiny_vlm, data, checkpoint=file, **{**options, "minutes": 1, **other})
    resumed = finetune("fare", tiny_vlm, data, minutes=1, checkpoint=file, **options)
    assert (resumed.losses, resumed.recipe) == (whole.losses, whole.recipe)
    file.write_bytes(b"half")
    with pytest.raises(SettingsError, match="cannot be read"):
        finetune("fare", tiny_vlm, data, minutes=1, checkpoint=file, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), [("fare", "micro"), ("agft", "published"), ("lore", "published")])
def test_measuring_the_speed_leaves_no_trace_in_the_training(
    tiny_vlm: Any, tiny_shapes: Any, name: str, recipe: str
) -> None:
    options: dict[str, Any] = {"recipe": recipe, "batch_size": 4, "attack_steps": 1, "quiet": True}
    made = finetune(name, tiny_vlm, tiny_shapes(8), minutes=0.002, **options)
    again = finetune(name, tiny_vlm, tiny_shapes(8), steps=len(made.losses), **options)
    assert again.losses == made.losses
    weights = again.model.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in made.model.model.state_dict().items())


@pytest.mark.parametrize("option", [{"warmup": 0.25}, {"warmup_steps": 3}])
def test_an_option_replaces_what_a_recipe_says_in_another_way(option: dict[str, Any]) -> None:
    recipe = finetuning.make("pmg").recipes["published"].with_options(**option, steps=8)
    factor = recipe.schedule(1000).factor
    ramp = 2 if "warmup" in option else 3
    assert recipe.schedule(1000).steps == 8
    assert [factor(step) for step in range(ramp)] == pytest.approx([(step + 1) / ramp for step in range(ramp)])


def plain(model: VLM, data: Any, losses: Callable[[VLM, int], Tensor], optimizer: Any, rates: list[float]) -> Any:
    """The weights of a copy after plain steps of an optimiser of torch, with a rate for each."""
    import copy

    tuned = copy.copy(model)
    tuned.model = copy.deepcopy(model.model)
    trained = dict(tuned.image_parameters())
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = optimizer(list(trained.values()))
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses(tuned, step).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in trained.items()}


@pytest.mark.parametrize("name", ["fare", "tecoa"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_without_clipping_weights_move_as_the_plain_optimiser_moves_them(
    tiny_vlm: Any, tiny_shapes: Any, monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str
) -> None:
    data, method, seen = tiny_shapes(8), finetuning.make(name), list[tuple[Tensor, Tensor]]()
    loss = type(method).loss

    def watched(self: Any, twin: Any, rows: Tensor, clean: Tensor, adversarial: Tensor) -> Tensor:
        seen.append((rows, adversarial))
        result: Tensor = loss(self, twin, rows, clean, adversarial)
        return result

    monkeypatch.setattr(type(method), "loss", watched)
    lr = 1e-3 if optimizer == "adamw" else 1e-4
    options: dict[str, Any] = {"optimizer": optimizer, "lr": lr, "weight_decay": 0.01, "decayed": "all"}
    options |= {"warmup_steps": 2, "batch_size": 8, "attack_steps": 1, "quiet": True}
    tuned = finetune(method, tiny_vlm, data, steps=4, **options).model
    rates = [lr * share for share in (0.5, 1.0, 1.0, 0.5)]  # two steps up, then the cosine over two
    classifier, start = tiny_vlm.classifier(data.prompts), tiny_vlm.image_parameters()
    norms = list[float]()

    def written(model: VLM, step: int) -> Tensor:
        rows, adversarial = seen[step]
        if name == "fare":
            with torch.no_grad():
                wanted = tiny_vlm.encode_image(data.pixels(rows))
            value = (model.encode_image(adversarial) - wanted).square().sum(1).mean()
        else:
            logits = model.logits(adversarial, classifier)  # type: ignore[attr-defined]
            value = (logits.logsumexp(1) - logits[torch.arange(8), data.labels[rows]]).mean()
        gradients = torch.autograd.grad(value, list(model.image_parameters().values()), retain_graph=True)
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        return value

    kinds = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.01),
        "sgd": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.01),
    }
    expected = plain(tiny_vlm, data, written, kinds[optimizer], rates)
    assert min(norms) > 2  # clipping at 1 would show
    for key, parameter in tuned.image_parameters().items():
        if not key.endswith("k_proj.bias"):  # its gradient is zero but for rounding, and AdamW divides it by its size
            assert (parameter - expected[key]).norm() <= 0.01 * (expected[key] - start[key]).norm() + 1e-6, key
    clipped = finetune(method, tiny_vlm, data, steps=4, max_grad_norm=1.0, **options).model

    def moved(model: VLM) -> float:
        return float(sum((p - start[k]).norm() ** 2 for k, p in model.image_parameters().items())) ** 0.5

    if optimizer == "sgd":
        assert moved(clipped) < 0.5 * moved(tuned)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("last", [True, False])
def test_the_attack_is_the_written_out_loop(tiny_vlm: Any, tiny_shapes: Any, momentum: float, last: bool) -> None:
    data, eps, step_size = tiny_shapes(4), 4 / 255, 1 / 255
    clean = data.pixels(range(4))
    reference = tiny_vlm.encode_image(clean).detach() + 0.3
    objective = EmbeddingObjective(tiny_vlm.encode_image, reference)
    attack = TrainingPGD(eps=eps, steps=5, step_size=step_size, momentum=momentum, last=last)
    drawn = [attack.draw(clean.shape[1:], torch.Generator().manual_seed(9))["uniform"] for _ in range(4)]
    uniform = torch.stack(drawn)
    first = (clean + eps * (2 * uniform - 1)).clamp(0, 1)
    found = attack(objective, clean, start=first, batch_size=4)
    points, velocity, path = first, torch.zeros_like(clean), list[tuple[Tensor, Tensor]]()
    for _ in range(6):
        leaves = points.clone().requires_grad_()
        values = (tiny_vlm.encode_image(leaves) - reference).square().sum(1)
        path.append((points, values.detach()))
        (gradient,) = torch.autograd.grad(values.sum(), leaves)
        velocity = (momentum * velocity + gradient.sign()).sign()
        moved = (points + step_size * velocity).clamp(clean - eps, clean + eps)
        points = moved.clamp(0, 1)
    clean_values = (tiny_vlm.encode_image(clean) - reference).square().sum(1).detach()
    for row in range(4):
        best = max([(float(clean_values[row]), clean[row])] + [(float(v[row]), p[row]) for p, v in path],
                   key=lambda each: each[0])[1]  # fmt: skip
        wanted = path[-1][0][row] if last else best
        assert (found.pixels[row] - wanted).abs().mean() < 1e-3 * step_size


def test_the_last_point_is_returned_even_where_its_loss_is_smaller(tiny_shapes: Any) -> None:
    clean = tiny_shapes(3).pixels(range(3)).clamp(0.2, 0.8)

    class Away:
        """Every change lowers the loss."""

        size, losses, stop, classes, passes_per_call = 3, ("l",), False, None, 1

        def __call__(self, pixels: Tensor, index: Tensor, *, loss: str = "") -> Any:
            from radapt.attacks import Score

            change = (pixels - clean[index]).flatten(1)
            return Score(-(change + 0.5).abs().sum(1) * 0 - change.square().sum(1), torch.zeros(len(index)).bool())

    outcome = TrainingPGD(eps=4 / 255, steps=1, step_size=1 / 2550, last=True)(Away(), clean)
    assert ((outcome.pixels - clean).abs().amax((1, 2, 3)) > 1e-3).all()
    assert torch.equal(TrainingPGD(eps=4 / 255, steps=1, step_size=1 / 2550)(Away(), clean).pixels, clean)


def test_momentum_goes_on_where_the_gradient_is_zero() -> None:
    from radapt.attacks import Evaluation

    attack = TrainingPGD(eps=0.1, steps=3, step_size=0.01, momentum=0.9, last=True)
    clean = torch.full((1, 3, 2, 2), 0.5)
    points, state = attack.start(clean, {"uniform": torch.full_like(clean, 0.5)})
    signs = [np.array([1.0, -1.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])]
    for step, sign in enumerate(signs):
        gradient = torch.tensor(sign, dtype=torch.float32)[None, :, None, None].expand_as(clean)
        current = Evaluation(points, torch.zeros(1), torch.zeros(1).bool(), gradient)
        points, state = attack.step(clean, current, state, torch.tensor([step]))
    # Signs of 0.9 of the last direction and of the gradient: 1, 1, 1; -1, 1, 1; 0, 0, -1.
    assert (points - clean)[0, :, 0, 0].tolist() == pytest.approx([0.03, 0.01, -0.01], abs=1e-6)
