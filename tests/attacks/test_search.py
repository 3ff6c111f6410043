"""Writing an attack: the example of the documentation, as it stands there, and what attacks show their users."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import radapt
from radapt.attacks import Attack, ClassificationObjective, Outcome, SearchAttack, make, names
from radapt.errors import SettingsError

PAGE = Path(__file__).parents[2] / "docs/attacks.md"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file that the page shows, imported."""
    section = PAGE.read_text(encoding="utf-8").split("## Writing an attack")[1]
    code = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert code
    (tmp_path / "heavy_ball.py").write_text(code[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_ball", raising=False)
    return importlib.import_module("heavy_ball")


def model() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(180, 4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.35)
    return net.requires_grad_(False)


def run(attack: Attack, pixels: Tensor, rows: list[int]) -> Outcome:
    net = model()
    objective = ClassificationObjective(net, net(pixels[rows]).argmax(1), 4)
    return attack(objective, pixels[rows], keys=[str(row) for row in rows], batch_size=5)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.12)])
def test_the_example_is_an_attack_like_any_other(example: ModuleType, norm: str, eps: float, pixels: Tensor) -> None:
    attack = example.HeavyBall(norm=norm, eps=eps)
    everything = list(range(len(pixels)))
    outcome = run(attack, pixels, everything)
    change = (outcome.pixels - pixels).flatten(1)
    distance = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert distance.max() <= eps + 1e-6
    assert outcome.loss_rose[outcome.iterations > 0].all()
    pgd = run(make("pgd", norm=norm, eps=eps, steps=30), pixels, everything)
    assert 0 < outcome.fooled.sum() >= pgd.fooled.sum() - 1
    rows = [7, 3, 20]
    assert torch.allclose(run(attack, pixels, rows).pixels, outcome.pixels[rows], atol=1e-5)
    assert torch.equal(run(attack, pixels, everything).pixels, outcome.pixels)
    longer = run(example.HeavyBall(norm=norm, eps=eps, restarts=3), pixels, everything)
    assert longer.iterations[~longer.fooled].tolist() == [90] * int((~longer.fooled).sum())


def test_the_example_is_found_by_its_entry_point(
    example: ModuleType, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = re.search(r'"radapt\.attacks"\]\n\s+(\S+) = "my_package\.(\S+)"', PAGE.read_text(encoding="utf-8"))
    assert declared
    point = EntryPoint(declared[1], declared[2], "radapt.attacks")
    monkeypatch.setattr("radapt.registry.entry_points", lambda group: [point] if group == point.group else [])
    assert "heavy-ball" in names()
    net = model()
    labels = net(pixels).argmax(1)
    outcome = radapt.attack(net, pixels, labels, attack="heavy-ball", eps=0.02, inertia=0.5, quiet=True)
    direct = example.HeavyBall(eps=0.02, inertia=0.5)(ClassificationObjective(net, labels, 4), pixels, batch_size=16)
    assert torch.equal(outcome.pixels, direct.pixels)
    with pytest.raises(SettingsError, match="no setting 'inerta'; did you mean 'inertia'"):
        make("heavy-ball", eps=0.02, inerta=0.5)


@pytest.mark.parametrize("name", names())
def test_an_attack_shows_its_settings_and_no_machinery(name: str) -> None:
    attack = make(name, eps=0.1)
    shown = {member for member in dir(attack) if not member.startswith("_")}
    expected = {field.name for field in fields(attack)} | {"name", "ball", "revision"}
    if isinstance(attack, SearchAttack):
        expected |= {"draw", "start", "step", "targeted", "needs_gradient", "perturb"}
    if name in ("autoattack", "apgd-ensemble"):
        expected |= {"stages"}
    assert shown == expected
    assert callable(attack)
