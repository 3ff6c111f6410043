from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from radapt.errors import CheckError, SettingsError
from radapt.training import Dual, Schedule, fit
from radapt.training.distributed import Workers, workers

SCHEDULE = Schedule(steps=12, lr=0.1, weight_decay=0.01)


def problem() -> tuple[dict[str, Tensor], Callable[[int], Tensor]]:
    """A small noisy regression whose noise hangs on the step."""
    generator = torch.Generator().manual_seed(4)
    parameters = {"weight": torch.randn(4, 3, generator=generator), "bias": torch.zeros(3)}
    for parameter in parameters.values():
        parameter.requires_grad_()
    x, y = torch.randn(20, 4, generator=generator), torch.randn(20, 3, generator=generator)

    def loss(step: int) -> Tensor:
        noise = 0.1 * torch.randn(20, 4, generator=torch.Generator().manual_seed(step))
        return ((x + noise) @ parameters["weight"] + parameters["bias"] - y).square().mean()

    return parameters, loss


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    factor = Schedule(steps=110, lr=1.0, warmup=10 / 110).factor
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert [factor(step) for step in range(10, 110)] == pytest.approx(
        [(1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    )
    assert Schedule(steps=1, lr=1.0).factor(0) == 1.0


def test_the_warm_up_may_be_a_number_of_steps() -> None:
    steps = Schedule(steps=110, lr=1.0, warmup=0.5, warmup_steps=10)
    share = Schedule(steps=110, lr=1.0, warmup=10 / 110)
    assert [steps.factor(step) for step in range(110)] == [share.factor(step) for step in range(110)]
    # A training that is shorter ends on its way up.
    assert [Schedule(steps=3, lr=1.0, warmup_steps=10).factor(step) for step in range(3)] == [0.1, 0.2, 0.3]
    assert Schedule(steps=3, lr=1.0, warmup_steps=0).factor(0) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"warmup": 1.0}, {"warmup": -0.1}),
        *({"accumulate": 0}, {"ema": 1.0}, {"ema": -0.1}, {"ema": math.nan}),
        *({"lr": math.inf}, {"lr": 1e30}, {"lr": "0.1"}, {"lr": True}, {"steps": 10**20}, {"steps": 2.0}),
        *(
            {"weight_decay": -1.0},
            {"weight_decay": math.inf},
            {"max_grad_norm": -1.0},
            {"max_grad_norm": math.nan},
            {"accumulate": 1.5},
        ),
        *({"warmup": None}, {"ema": "0.9"}, {"warmup_steps": -1}, {"warmup_steps": 0.5}, {"warmup_steps": True}),
    ],
)
def test_a_schedule_out_of_range_is_refused(wrong: dict[str, Any], unchecked: None) -> None:
    with pytest.raises(SettingsError, match="a schedule needs"):
        Schedule(**{"steps": 10, "lr": 0.1, **wrong})


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown optimizer 'sdg'; did you mean 'sgd'"):
        Schedule(steps=10, lr=0.1, optimizer="sdg")
    with pytest.raises(SettingsError, match="unknown decayed 'al'; did you mean 'all'"):
        Schedule(steps=10, lr=0.1, decayed="al")


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("decayed", ["matrices", "all"])
def test_equals_adamw_with_the_schedule(max_grad_norm: float, decayed: Any) -> None:
    parameters, loss = problem()
    schedule = replace(SCHEDULE, max_grad_norm=max_grad_norm, decayed=decayed, weight_decay=0.5)
    history = fit(parameters, loss, schedule, label="test", quiet=True)
    reference, reference_loss = problem()
    optimizer = torch.optim.AdamW(
        [
            {"params": [reference["weight"]], "weight_decay": 0.5},
            {"params": [reference["bias"]], "weight_decay": 0.5 if decayed == "all" else 0.0},
        ]
    )
    expected = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * SCHEDULE.factor(step)
        value = reference_loss(step)
        expected.append(value.item())
        gradients = torch.autograd.grad(value, list(reference.values()))
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        for parameter, gradient in zip(reference.values(), gradients, strict=True):
            parameter.grad = gradient * (min(1.0, 1.0 / norm) if max_grad_norm else 1.0)
        optimizer.step()
    assert history == pytest.approx(expected, rel=1e-4)
    assert history[-1] < history[0]
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, reference[name], atol=1e-4), name


def test_sgd_has_momentum_and_the_decay_of_matrices_in_the_gradient() -> None:
    parameters, loss = problem()
    schedule = Schedule(steps=6, lr=0.1, warmup=0.5, weight_decay=0.2, max_grad_norm=0.0, optimizer="sgd")
    reference, _ = problem()
    weight, bias = (reference[name].detach().double().numpy().copy() for name in ("weight", "bias"))
    speed = np.zeros_like(weight), np.zeros_like(bias)
    points = list[tuple[Any, Any]]()

    def watched(step: int) -> Tensor:
        points.append((parameters["weight"].detach().clone(), parameters["bias"].detach().clone()))
        return loss(step)

    fit(parameters, watched, schedule, label="test", quiet=True)
    generator = torch.Generator().manual_seed(4)
    torch.randn(4, 3, generator=generator)
    x, y = (torch.randn(20, n, generator=generator).double().numpy() for n in (4, 3))
    for step in range(6):
        assert np.allclose(points[step][0], weight, atol=1e-5)
        assert np.allclose(points[step][1], bias, atol=1e-5)
        noise = 0.1 * torch.randn(20, 4, generator=torch.Generator().manual_seed(step)).double().numpy()
        slope = 2 * ((x + noise) @ weight + bias - y) / y.size
        speed = 0.9 * speed[0] + (x + noise).T @ slope + 0.2 * weight, 0.9 * speed[1] + slope.sum(0)
        rate = 0.1 * schedule.factor(step)
        weight, bias = weight - rate * speed[0], bias - rate * speed[1]
    assert np.allclose(parameters["weight"].detach(), weight, atol=1e-5)


def test_the_moving_average_is_the_weighted_sum_of_all_weights() -> None:
    plain, loss = problem()
    points = list[Tensor]()

    def watched(step: int) -> Tensor:
        points.append(plain["weight"].detach().double().clone())
        return loss(step)

    history = fit(plain, watched, SCHEDULE, label="test", quiet=True)
    points.append(plain["weight"].detach().double())
    averaged, loss = problem()
    schedule = Schedule(steps=12, lr=0.1, weight_decay=0.01, ema=0.8)
    assert fit(averaged, loss, schedule, label="test", quiet=True) == history  # the training itself is the same
    expected = 0.8**12 * points[0] + sum(0.2 * 0.8 ** (12 - t) * points[t] for t in range(1, 13))
    assert torch.allclose(averaged["weight"].detach().double(), expected, atol=1e-5)
    assert not torch.allclose(points[-1], expected, atol=1e-2)


def test_two_batches_for_one_step_are_one_batch_of_both() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 4, generator=generator), torch.randn(24, 3, generator=generator)

    def train(batch: int, accumulate: int) -> tuple[list[float], Tensor, list[int]]:
        parameters, _ = problem()
        numbers = list[int]()

        def loss(number: int) -> Tensor:
            numbers.append(number)
            rows = torch.arange(number * batch, (number + 1) * batch) % 24
            return (x[rows] @ parameters["weight"] + parameters["bias"] - y[rows]).square().mean()

        schedule = Schedule(steps=6, lr=0.1, accumulate=accumulate)
        return fit(parameters, loss, schedule, label="test", quiet=True), parameters["weight"].detach(), numbers

    (losses, weight, _), (twice, other, numbers) = train(8, 1), train(4, 2)
    assert numbers == list(range(12))
    assert twice == pytest.approx(losses, rel=1e-4)
    assert torch.allclose(weight, other, atol=1e-4)


def test_gradients_that_share_memory_are_added_once() -> None:
    parameters = {name: torch.zeros(3, requires_grad=True) for name in "ab"}
    schedule = Schedule(steps=1, lr=1.0, max_grad_norm=0.0, optimizer="sgd", accumulate=3)
    fit(parameters, lambda number: (parameters["a"] + parameters["b"]).sum(), schedule, label="test", quiet=True)
    assert all(torch.allclose(parameter, -torch.ones(3)) for parameter in parameters.values())


@pytest.mark.parametrize("max_grad_norm", [0.5, 100.0])
def test_gradients_that_share_memory_are_clipped_once(max_grad_norm: float) -> None:
    parameters = {name: torch.full((3,), 1.0, requires_grad=True) for name in "ab"}
    schedule = Schedule(steps=1, lr=1.0, max_grad_norm=max_grad_norm, optimizer="sgd")
    fit(parameters, lambda number: (parameters["a"] + parameters["b"]).square().sum(), schedule, label="t", quiet=True)
    norm = math.sqrt(6 * 4.0**2)  # every entry of both gradients is 2 (1 + 1)
    expected = 1 - 4 * min(1.0, max_grad_norm / norm)
    assert all(torch.allclose(each, torch.tensor(expected)) for each in parameters.values())


def test_parameters_without_an_effect_are_named() -> None:
    parameters, loss = problem()
    idle = {"idle": torch.zeros(2, requires_grad=True), "vain": torch.zeros(2, 2, requires_grad=True)}
    with pytest.raises(SettingsError, match="the loss does not depend on idle, vain; leave them out"):
        fit({**parameters, **idle}, loss, SCHEDULE, label="test", quiet=True)


def test_only_matrices_decay() -> None:
    parameters = {"matrix": torch.ones(2, 2, requires_grad=True), "vector": torch.ones(2, requires_grad=True)}
    schedule = Schedule(steps=1, lr=0.1, weight_decay=0.5)
    fit(parameters, lambda step: 0 * sum(p.sum() for p in parameters.values()), schedule, label="test", quiet=True)
    assert torch.allclose(parameters["matrix"], torch.full((2, 2), 1 - 0.1 * 0.5))
    assert torch.equal(parameters["vector"], torch.ones(2))


FULL = Schedule(steps=12, lr=0.1, weight_decay=0.01, optimizer="sgd", ema=0.7)


@pytest.mark.parametrize(
    ("schedule", "killed_at"), [(SCHEDULE, 5), (SCHEDULE, 7), (SCHEDULE, 11), (FULL, 5), (FULL, 7), (FULL, 11)]
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, schedule: Schedule, killed_at: int) -> None:
    whole, loss = problem()
    history = fit(whole, loss, schedule, label="test", quiet=True)
    file = tmp_path / "folder" / "run.safetensors"
    parameters, loss = problem()

    def dies(step: int) -> Tensor:
        if step == killed_at:
            raise KeyboardInterrupt
        return loss(step)

    with pytest.raises(KeyboardInterrupt):
        fit(parameters, dies, schedule, label="test", checkpoint=file, every=5, quiet=True)
    assert [path.name for path in file.parent.iterdir()] == ["run.safetensors"]
    fresh, loss = problem()
    steps: list[int] = []

    def counted(step: int) -> Tensor:
        steps.append(step)
        return loss(step)

    assert fit(fresh, counted, schedule, label="test", checkpoint=file, every=5, quiet=True) == history
    assert steps == list(range(killed_at // 5 * 5, 12))
    assert all(torch.equal(fresh[name], whole[name]) for name in whole)
    steps.clear()
    finished, loss = problem()  # a finished run is not run again
    assert fit(finished, counted, schedule, label="test", checkpoint=file, quiet=True) == history
    assert steps == []
    assert all(torch.equal(finished[name], whole[name]) for name in whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    with pytest.raises(SettingsError, match="belongs to a training with"):
        fit(parameters, loss, Schedule(steps=13, lr=0.1), label="test", checkpoint=file, quiet=True)
    with pytest.raises(SettingsError, match="belongs to a training with"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, settings={"seed": 1}, quiet=True)
    for key, value in {"optimizer": "sgd", "accumulate": 2, "ema": 0.5}.items():
        other = Schedule(**{"steps": 12, "lr": 0.1, "weight_decay": 0.01, key: value})  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="belongs to a training with"):
            fit(parameters, loss, other, label="test", checkpoint=file, quiet=True)
    with pytest.raises(SettingsError, match="of other parameters"):
        fit({"weight": parameters["weight"]}, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    wider = {"weight": torch.zeros(5, 3, requires_grad=True), "bias": torch.zeros(3, requires_grad=True)}
    with pytest.raises(SettingsError, match="of other parameters"):
        fit(wider, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_multipliers_move_at_every_third_step_at_their_own_rate(tmp_path: Path, optimizer: Any) -> None:
    """Minimising a x^2 over x and maximising it over a, with plain optimisers of torch beside it."""

    def game() -> tuple[Tensor, Tensor, Callable[[int], Tensor]]:
        x, a = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([0.5], requires_grad=True)
        return x, a, lambda step: (2 * a.detach() - a) * (x.square().sum() - 0.1 * step) + x.sum()

    schedule = Schedule(steps=8, lr=0.05, weight_decay=0.1, decayed="all", max_grad_norm=0.5, optimizer=optimizer)
    x, a, loss = game()
    history = fit({"x": x}, loss, schedule, dual=Dual(parameters={"a": a}, lr=0.02, every=3), label="test", quiet=True)
    y, b, other = game()
    kind = {"adamw": torch.optim.AdamW, "sgd": lambda *given, **named: torch.optim.SGD(*given, **named, momentum=0.9)}
    down, up = (kind[optimizer]([tensor], lr=0.02, weight_decay=0.1) for tensor in (y, b))  # type: ignore[operator]
    for step in range(8):
        value = other(step)
        assert value.item() == pytest.approx(history[step], rel=1e-5)
        y.grad, b.grad = torch.autograd.grad(value, [y, b])
        torch.nn.utils.clip_grad_norm_([y], 0.5)
        down.param_groups[0]["lr"] = 0.05 * schedule.factor(step)
        down.step()
        if step in (2, 5):
            up.step()
    assert torch.allclose(x, y, rtol=1e-5)
    assert torch.allclose(a, b, rtol=1e-5)
    z, c, loss = game()
    seldom = Dual(parameters={"a": c}, lr=0.02, every=3)
    assert fit({"x": z}, loss, schedule, dual=seldom, label="test", look=5, quiet=True) == history
    assert torch.equal(z, x)
    assert torch.equal(c, a)
    file = tmp_path / "run.safetensors"
    for steps in (2, 8):  # before the first step of the multipliers, and after
        brief = replace(schedule, steps=steps)
        for _ in range(2):
            x, a, loss = game()
            dual = Dual(parameters={"a": a}, lr=0.02, every=3)
            found = fit({"x": x}, loss, brief, dual=dual, label="test", checkpoint=file, quiet=True)
        assert len(found) == steps
        assert (a.item() == 0.5) == (steps == 2)
        file.unlink()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SettingsError, match="cannot be read"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)


def test_a_checkpoint_from_before_a_setting_was_there_still_resumes(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    history = fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    with safe_open(file, "pt") as opened:  # type: ignore[no-untyped-call]
        metadata = opened.metadata()
    recipe = json.loads(metadata["recipe"])
    later = {key: recipe.pop(key) for key in ("optimizer", "accumulate", "ema", "workers", "warmup_steps", "decayed")}
    assert later == {
        "optimizer": "adamw", "accumulate": 1, "ema": 0.0, "workers": 1, "warmup_steps": None, "decayed": "matrices"
    }  # fmt: skip
    save_file(load_file(file), file, {**metadata, "recipe": json.dumps(recipe)})
    again, loss = problem()
    assert fit(again, loss, SCHEDULE, label="test", checkpoint=file, quiet=True) == history
    with pytest.raises(SettingsError, match="belongs to a training with"):
        fit(again, loss, Schedule(steps=12, lr=0.1, weight_decay=0.01, ema=0.1), label="test", checkpoint=file)


def test_what_differs_from_a_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    facts = {"images": "abc", "weights": "def"}
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, settings=facts, quiet=True)
    kept = file.read_bytes()
    for settings, message in (
        ({**facts, "images": "xyz"}, r"with images 'abc' instead of 'xyz'; remove it"),
        ({**facts, "prompts": "p"}, r"with no record of its prompts; remove it"),
        ({"images": "xyz"}, r"with images 'abc' instead of 'xyz', weights 'def', which this one does not have"),
    ):
        with pytest.raises(SettingsError, match=message):
            fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, settings=settings, quiet=True)
    schedule = Schedule(steps=13, lr=0.2, weight_decay=0.01)
    with pytest.raises(SettingsError, match=r"with lr 0.1 instead of 0.2, steps 12 instead of 13"):
        fit(parameters, loss, schedule, label="test", checkpoint=file, settings=facts, quiet=True)
    assert file.read_bytes() == kept


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    monkeypatch.setattr(importlib.import_module("radapt.training.fit"), "__version__", "0.0.1")
    with pytest.raises(SettingsError, match=r"version '.*' instead of '0.0.1'"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)


def edited(file: Path, metadata: dict[str, str] | None = None, **tensors: Tensor | None) -> None:
    """Change metadata and tensors of a checkpoint; None removes one."""
    with safe_open(file, "pt") as opened:  # type: ignore[no-untyped-call]
        kept = {**opened.metadata(), **(metadata or {})}
    found = {**load_file(file), **{name.replace("__", "/"): each for name, each in tensors.items()}}
    save_file({name: each for name, each in found.items() if each is not None}, file, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"recipe": "{"}}, "is not a checkpoint of a training"),
        ({"metadata": {"recipe": "[" * 10_000}}, "is not a checkpoint of a training"),
        ({"metadata": {"recipe": "[1]"}}, "holds no recipe"),
        ({"metadata": {"history": '["much"]'}}, "losses that are no numbers"),
        ({"metadata": {"history": "[NaN]"}}, "losses that are no numbers"),
        ({"parameter__weight": torch.full((4, 3), torch.nan)}, "not finite, in parameter/weight"),
        ({"parameter__weight": torch.zeros(4, 3, dtype=torch.float64)}, "in torch.float64, this one is in"),
        ({"parameter__weight": torch.zeros(3, 4)}, "of other parameters"),
        ({"optimizer__0__exp_avg": torch.full((4, 3), torch.inf)}, "not finite, in optimizer/0/exp_avg"),
        ({"optimizer__0__exp_avg": torch.zeros(5)}, "which this optimiser does not have"),
        ({"optimizer__9__exp_avg": torch.zeros(3)}, "which this optimiser does not have"),
        ({"optimizer__x": torch.zeros(3)}, "which this optimiser does not have"),
        ({"optimizer__1__exp_avg": None}, "lacks a part of the optimiser's state"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    edited(file, **changes)
    fresh, loss = problem()
    before = {name: each.detach().clone() for name, each in fresh.items()}
    with pytest.raises(SettingsError, match=message):
        fit(fresh, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    assert all(torch.equal(fresh[name], before[name]) for name in fresh)


@pytest.mark.parametrize("kind", ["folder", "/dev/null", "text"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    path = Path(kind) if kind.startswith("/") else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not safetensors")
    parameters, loss = problem()
    with pytest.raises(SettingsError, match="cannot be read"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=path, quiet=True)


def test_a_checkpoint_that_cannot_be_written_is_an_error_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module = tmp_path / "run.safetensors", importlib.import_module("radapt.training.checkpoint")
    parameters, loss = problem()
    saved = list[bytes]()

    def full(*given: Any) -> None:
        if saved:
            raise SafetensorError("No space left on device")
        save_file(*given)
        saved.append(given[1].read_bytes())

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(SettingsError, match=r"cannot be written after 10 steps \(No space left"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, every=5, quiet=True)
    assert file.read_bytes() == saved[0]
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of everything in a log, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-3])
def test_the_log_holds_loss_rate_and_gradient_of_every_step(tmp_path: Path, max_grad_norm: float) -> None:
    parameters, loss = problem()
    norms = list[float]()

    def watched(step: int) -> Tensor:
        value = loss(step)
        gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
        norms.append(math.sqrt(sum(g.square().sum().item() for g in gradients)))
        return value

    schedule = Schedule(steps=12, lr=0.1, max_grad_norm=max_grad_norm)
    history = fit(parameters, watched, schedule, label="test", log=tmp_path / "log", quiet=True)
    found = scalars(tmp_path / "log")
    assert set(found) == {"loss", "learning_rate", "gradient_norm"}
    assert all([step for step, _ in values] == list(range(12)) for values in found.values())
    assert [value for _, value in found["loss"]] == pytest.approx(history)
    assert [value for _, value in found["learning_rate"]] == pytest.approx(
        [0.1 * schedule.factor(s) for s in range(12)]
    )
    assert [value for _, value in found["gradient_norm"]] == pytest.approx(norms, rel=1e-5)


def test_the_log_of_a_resumed_run_holds_every_step_once(tmp_path: Path) -> None:
    file, log = tmp_path / "run.safetensors", tmp_path / "log"
    parameters, loss = problem()

    def dies(step: int) -> Tensor:
        if step == 8:
            raise KeyboardInterrupt
        return loss(step)

    with pytest.raises(KeyboardInterrupt):
        fit(parameters, dies, SCHEDULE, label="test", checkpoint=file, every=5, log=log, quiet=True)
    fresh, loss = problem()
    history = fit(fresh, loss, SCHEDULE, label="test", checkpoint=file, every=5, log=log, quiet=True)
    found = scalars(log)["loss"]
    assert [step for step, _ in found] == list(range(12))
    assert [value for _, value in found] == pytest.approx(history)


def test_one_process_needs_no_accelerate_and_several_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert workers() == Workers(1, 0, None)
    assert workers().main
    assert not Workers(2, 1, torch.device("cpu")).main
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r'pip install "radapt\[large\]"'):
        workers()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, value: float) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    with pytest.raises(CheckError, match=rf"test: the loss is {value} at step 6; try a smaller lr than 0.1"):
        fit(
            parameters, lambda step: loss(step) * (value if step == 6 else 1), SCHEDULE,
            label="test", checkpoint=file, every=5, quiet=True,
        )  # fmt: skip
    assert file.exists()
    assert all(p.isfinite().all() for p in parameters.values())


@pytest.mark.parametrize("at", [0, 6, 11])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path, at: int, max_grad_norm: float) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()

    def broken(step: int) -> Tensor:
        value = loss(step)
        return value + (parameters["bias"] - parameters["bias"].detach()).square().sum().sqrt() if step == at else value

    schedule = Schedule(steps=12, lr=0.1, max_grad_norm=max_grad_norm)
    with pytest.raises(CheckError, match=f"test: the gradient is nan at step {at}; try a smaller lr"):
        fit(parameters, broken, schedule, label="test", checkpoint=file, every=5, quiet=True)
    assert file.exists() == (at >= 5)
    assert all(p.isfinite().all() for p in parameters.values())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("steps", [1, 12])
def test_weights_that_are_not_finite_are_neither_kept_nor_returned(tmp_path: Path, steps: int, ema: float) -> None:
    file = tmp_path / "run.safetensors"
    parameters = {"weight": torch.full((2, 2), 3e38, requires_grad=True)}
    schedule = Schedule(steps=steps, lr=1000.0, warmup=0.0, weight_decay=1000.0, optimizer="adamw", ema=ema)
    with pytest.raises(CheckError, match=r"weight holds values that are not finite|the loss is"):
        fit(
            parameters,
            lambda step: (parameters["weight"] * 1e-38).sum(),
            schedule,
            label="t",
            checkpoint=file,
            quiet=True,
        )
    assert not file.exists()
