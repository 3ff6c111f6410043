from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from radapt.errors import CheckError, SettingsError
from radapt.train import Schedule, fit

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


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"warmup": 1.0}, {"warmup": -0.1}]
)
def test_a_schedule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="a schedule needs"):
        Schedule(**{"steps": 10, "lr": 0.1, **wrong})  # type: ignore[arg-type]


def test_equals_adamw_with_the_schedule() -> None:
    parameters, loss = problem()
    history = fit(parameters, loss, SCHEDULE, label="test", quiet=True)
    reference, reference_loss = problem()
    optimizer = torch.optim.AdamW(
        [
            {"params": [reference["weight"]], "weight_decay": 0.01},
            {"params": [reference["bias"]], "weight_decay": 0.0},
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
            parameter.grad = gradient * min(1.0, 1.0 / norm)
        optimizer.step()
    assert history == pytest.approx(expected, rel=1e-4)
    assert history[-1] < history[0]
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, reference[name], atol=1e-4), name


def test_only_matrices_decay() -> None:
    parameters = {"matrix": torch.ones(2, 2, requires_grad=True), "vector": torch.ones(2, requires_grad=True)}
    schedule = Schedule(steps=1, lr=0.1, weight_decay=0.5)
    fit(parameters, lambda step: 0 * sum(p.sum() for p in parameters.values()), schedule, label="test", quiet=True)
    assert torch.allclose(parameters["matrix"], torch.full((2, 2), 1 - 0.1 * 0.5))
    assert torch.equal(parameters["vector"], torch.ones(2))


@pytest.mark.parametrize("killed_at", [5, 7, 11])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, killed_at: int) -> None:
    whole, loss = problem()
    history = fit(whole, loss, SCHEDULE, label="test", quiet=True)
    file = tmp_path / "folder" / "run.safetensors"
    parameters, loss = problem()

    def dies(step: int) -> Tensor:
        if step == killed_at:
            raise KeyboardInterrupt
        return loss(step)

    with pytest.raises(KeyboardInterrupt):
        fit(parameters, dies, SCHEDULE, label="test", checkpoint=file, every=5, quiet=True)
    assert [path.name for path in file.parent.iterdir()] == ["run.safetensors"]
    fresh, loss = problem()
    steps: list[int] = []

    def counted(step: int) -> Tensor:
        steps.append(step)
        return loss(step)

    assert fit(fresh, counted, SCHEDULE, label="test", checkpoint=file, every=5, quiet=True) == history
    assert steps == list(range(killed_at // 5 * 5, 12))
    assert all(torch.equal(fresh[name], whole[name]) for name in whole)
    steps.clear()
    finished, loss = problem()  # a finished run is not run again
    assert fit(finished, counted, SCHEDULE, label="test", checkpoint=file, quiet=True) == history
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
    with pytest.raises(SettingsError, match="of other parameters"):
        fit({"weight": parameters["weight"]}, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    other = {"weight": torch.zeros(5, 3, requires_grad=True), "bias": torch.zeros(3, requires_grad=True)}
    with pytest.raises(SettingsError, match="of other parameters"):
        fit(other, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    parameters, loss = problem()
    fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SettingsError, match="cannot be read"):
        fit(parameters, loss, SCHEDULE, label="test", checkpoint=file, quiet=True)


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
