"""Hashes of code: what changes a function or a module changes its hash, and nothing else does."""

from __future__ import annotations

import importlib
import linecache
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import tiny_clip
from torch import Tensor, nn

from radapt.adapters import training_free
from radapt.attacks.pgd import PGD
from radapt.errors import SettingsError
from radapt.evaluation import InputDefence
from radapt.fingerprint import code_digest, digest, version_of


def scale(pixels: Tensor, *, by: float = 0.5) -> Tensor:
    return pixels * by


def shift(pixels: Tensor) -> Tensor:
    return pixels + 0.5


class Scale(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.zeros(2))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.by


def closure(by: float) -> Callable[[Tensor], Tensor]:
    def scaled(pixels: Tensor) -> Tensor:
        return pixels * by

    return scaled


def changed(name: str) -> Scale:
    module = Scale(0.5)
    with torch.no_grad():
        getattr(module, name)[0] = 7
    return module


def test_equal_things_have_one_hash() -> None:
    for make in (lambda: scale, lambda: partial(scale, by=0.3), lambda: closure(0.4), lambda: Scale(0.5)):
        assert code_digest(make()) == code_digest(make())


def test_whatever_changes_the_outcome_changes_the_hash() -> None:
    things = [scale, shift, partial(scale, by=0.3), partial(scale, by=0.4), closure(0.3), closure(0.4)]
    things += [Scale(0.5), Scale(0.6), changed("weight"), changed("table"), [scale, shift]]
    assert len({code_digest(each) for each in things}) == len(things)


def test_a_substitute_for_the_gradient_is_part_of_a_defence() -> None:
    defences = [InputDefence(scale), InputDefence(scale, substitute="identity"), InputDefence(scale, substitute=shift)]
    assert len({each.fingerprint for each in defences}) == 3
    assert InputDefence(scale, fingerprint="mine").fingerprint == "mine"


def test_tensors_are_told_apart_by_values_types_and_shapes() -> None:
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4).double(), torch.ones(4)]
    assert len({digest([each]) for each in tensors}) == 4


@pytest.mark.slow
def test_a_class_without_a_file_is_hashed_by_its_methods() -> None:
    """As in a notebook, where functions have a source and classes have none."""
    code = """
import linecache, torch
from radapt.fingerprint import code_digest

def cell(text, number):
    name = f"<cell {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space = {"__name__": "__main__", "torch": torch}
    exec(compile(text, name, "exec"), space)
    return space["Own"]

text = "class Own(torch.nn.Module):\\n    by = {by}\\n    def forward(self, x):\\n        return x * {times}\\n"
numbers = [(1, 2), (1, 2), (1, 3), (2, 2)]
found = [code_digest(cell(text.format(by=by, times=times), n)()) for n, (by, times) in enumerate(numbers)]
assert found[0] == found[1]
assert len(set(found)) == 3, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_has_no_source_is_refused() -> None:
    space: dict[str, Callable[[Tensor], Tensor]] = {}
    exec("def own(pixels): return pixels", space)
    with pytest.raises(SettingsError, match=r"is not to be found.*define it in a file, or give a fingerprint"):
        code_digest(space["own"])


@pytest.mark.slow
def test_an_adapter_on_a_part_of_a_module_changes_its_hash() -> None:
    vlm = tiny_clip()
    wrapped = nn.Sequential(vlm.tower.root, nn.Identity())
    bare = code_digest(wrapped)
    adapter = training_free(vlm, alpha=0.5)
    seen = {bare}
    for each in (adapter, adapter.change(cutoff=None)):
        with each.attach(vlm):
            seen.add(code_digest(wrapped))
            vlm.encode_image(torch.rand(1, 3, 48, 48))
            assert code_digest(wrapped) in seen  # what a pass leaves behind does not count
    assert len(seen) == 3


SIGMA, NET = 0.5, nn.Linear(2, 2)


def named(pixels: Tensor) -> Tensor:
    return NET(pixels) + helper(pixels)


def helper(pixels: Tensor) -> Tensor:
    return (lambda: pixels * SIGMA)()


class Hidden(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self._by = by
        self._lock = threading.Lock()  # says nothing, and has no source
        self.register_buffer("kernel", torch.full((2,), by), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self._by * SIGMA


def test_what_a_function_refers_to_is_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(named), code_digest(Hidden(0.5))
    assert before == (code_digest(named), code_digest(Hidden(0.5)))
    monkeypatch.setitem(globals(), "SIGMA", 0.6)
    after = code_digest(named), code_digest(Hidden(0.5))
    assert not set(before) & set(after)
    monkeypatch.setitem(globals(), "NET", nn.Linear(2, 2))
    assert code_digest(named) != after[0]
    digests = []
    for seed in (0, 1):
        monkeypatch.setitem(globals(), "NET", tiny_clip(seed=seed))
        digests += [code_digest(named), code_digest(named)]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    monkeypatch.setattr(scale, "__kwdefaults__", {"by": 0.7})
    third = code_digest(scale)
    monkeypatch.undo()
    assert code_digest(scale) != third
    assert code_digest(named) == before[0]


def test_private_values_unsaved_buffers_and_the_mode_of_a_module_count() -> None:
    first, other = Hidden(0.5), Hidden(0.5)
    assert code_digest(first) == code_digest(other)
    other._by = 0.6
    assert code_digest(first) != code_digest(other)
    other = Hidden(0.5)
    other.kernel[0] = 7
    assert code_digest(first) != code_digest(other)
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    assert code_digest(dropping.eval()) != code_digest(dropping.train())


def test_a_function_that_is_there_twice_is_not_one_that_is_there_once() -> None:
    assert code_digest([scale, scale]) != code_digest([scale])
    assert code_digest([scale, shift, scale]) != code_digest([scale, shift, shift])


def test_a_function_that_calls_itself_has_a_hash() -> None:
    assert code_digest(again) == code_digest(again)


def again(pixels: Tensor, times: int = 3) -> Tensor:
    return again(pixels / 2, times - 1) if times else pixels


@pytest.mark.slow
def test_sets_are_hashed_alike_in_every_process() -> None:
    code = "from radapt.fingerprint import code_digest; print(code_digest({'a', 'b', 'c', 'd'}))"
    seeds = ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2", "3"))
    run = [subprocess.run([sys.executable, "-c", code], env=each, capture_output=True, check=True) for each in seeds]
    assert len({each.stdout for each in run}) == 1


LIBRARY = """
import torch
from radapt.evaluation import BoundTask, Task

SIZE = {size}

def helper(pixels):
    return pixels * {times}

class Callable:
    by = 1
    def __call__(self, pixels):
        return pixels * {times}

class Net(torch.nn.Module):
    def forward(self, pixels):
        return pixels * {times}
"""
OWN = """
import functools
from typing import ClassVar
import numpy as np
import torch
import {library} as library
from {library} import SIZE, Callable, helper, Net
from radapt.attacks.pgd import PGD
from radapt.evaluation import BoundTask, Task

NETS = [torch.nn.Linear(2, 2)]
KERNELS = {{"blur": np.zeros((3, 3))}}
THING = Callable()
PARTIAL = functools.partial(helper)
METHOD = THING.__call__

def lists(x): return sum(net(x) for net in NETS)
def arrays(x): return x + KERNELS["blur"].sum()
def things(x): return THING(x)
def partials(x): return PARTIAL(x)
def methods(x): return METHOD(x)
def imported(x): return helper(x)
def constants(x): return x + SIZE
def modules(x): return library.helper(x)
def classes(x): return Net()(x)
@functools.cache
def cached(x): return helper(x)

class Attack(PGD):
    size: ClassVar[float] = 1.0
    def stages(self): return [helper, SIZE]
class Judged(Task):
    def bind(self, model): return Bound(model, self.data)
class Bound(BoundTask):
    def objective(self, positions, *, stop): return helper(SIZE)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """A module of one's own, which uses another one that is written with the given values."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    count = iter(range(100))

    def make(size: int = 1, times: int = 2) -> ModuleType:
        number = next(count)
        (tmp_path / f"library{number}.py").write_text(LIBRARY.format(size=size, times=times))
        # Of one name, or they would be different things.
        (tmp_path / "own.py").write_text(OWN.format(library=f"library{number}"))
        for name in ("own", f"library{number}"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        linecache.clearcache()
        torch.manual_seed(0)
        return importlib.import_module("own")

    return make


NAMES = ["things", "partials", "methods", "imported", "modules", "classes", "cached"]


@pytest.mark.parametrize("name", [*NAMES, "constants"])
def test_what_comes_from_another_module_of_ones_own_counts(own: Callable[..., ModuleType], name: str) -> None:
    change = {"size": 5} if name == "constants" else {"times": 5}

    def text(module: ModuleType) -> str:
        return code_digest(getattr(module, name))

    first, again = text(module := own()), text(module)
    assert first == again
    assert text(own(**change)) != first


def test_collections_of_modules_and_arrays_count(own: Callable[..., ModuleType]) -> None:
    module = own()
    nets, kernels = code_digest(module.lists), code_digest(module.arrays)
    assert (nets, kernels) == (code_digest(module.lists), code_digest(module.arrays))
    with torch.no_grad():
        module.NETS[0].weight[0, 0] = 7
    module.KERNELS["blur"][0, 0] = 7
    assert code_digest(module.lists) != nets
    assert code_digest(module.arrays) != kernels


@pytest.mark.parametrize("name", ["Attack", "Judged"])
@pytest.mark.parametrize("change", [{"times": 5}, {"size": 5}])
def test_the_version_of_a_class_is_also_that_of_what_it_uses(
    own: Callable[..., ModuleType], name: str, change: dict[str, int]
) -> None:
    module = own()
    before = version_of(getattr(module, name))
    assert before == version_of(getattr(module, name))
    assert version_of(getattr(own(**change), name)) != before
    assert version_of(PGD) == str(PGD.revision)


@pytest.mark.parametrize(
    "member", ["size = {}", "helper = staticmethod(lambda: {})", "prop = property(lambda self: {})"]
)
def test_the_version_of_a_class_without_a_source_counts_all_of_it(member: str) -> None:
    def made(value: int) -> type:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(f"class Own:\n    {member.format(value)}\n    def method(self): return 1", space)
        kind: type = space["Own"]
        return kind

    assert version_of(made(1)) == version_of(made(1))
    assert version_of(made(1)) != version_of(made(2))


def test_numbers_in_a_list_are_told_apart() -> None:
    lists = [
        [1, 23],
        [12, 3],
        [123],
        [1, 2, 3],
        [[1], [2, 3]],
        [[1, 2], 3],
        (1, 23),
        {"a": 1, "b": 2},
        {"a": [1, "b", 2]},
    ]
    assert len({code_digest(each) for each in lists}) == len(lists)


class Pooled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.head = by, nn.Linear(3, 2)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        head: Tensor = self.head(pixels.mean((2, 3)))
        return head * self.by


IMAGES = torch.ones(2, 3, 4, 4)
COMPILED: dict[str, Callable[[Pooled], Any]] = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, IMAGES),
    "fx": torch.fx.symbolic_trace,
    "export": lambda module: torch.export.export(module, (IMAGES,)).module(),
    "compile": torch.compile,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("how", COMPILED)
def test_what_a_module_was_compiled_from_counts(how: str) -> None:
    first, same, other = (code_digest(COMPILED[how](Pooled(by))) for by in (0.5, 0.5, 0.7))
    assert first == same != other


def test_a_pass_of_what_is_compiled_changes_no_hash() -> None:
    for compiled in (torch.compile(Pooled(0.5), backend="eager"), torch.compile(shift, backend="eager")):
        before = code_digest(compiled)
        compiled(IMAGES)
        assert code_digest(compiled) == before


@pytest.mark.parametrize("when", ["forward_pre", "forward", "full_backward", "full_backward_pre"])
def test_hooks_count(when: str) -> None:
    def hook(by: float) -> Callable[..., None]:
        return lambda *args: print(by) if by is None else None

    digests = []
    for by in (None, 0.5, 0.7):
        module = Pooled(0.5)
        if by is not None:
            getattr(module.head, f"register_{when}_hook")(hook(by))
        digests.append(code_digest(module))
    assert len(set(digests)) == 3


CONFIG = SimpleNamespace(by=1)


class Held:
    by = 1


def configured(pixels: Tensor) -> Tensor:
    return pixels * CONFIG.by * Held.by


def test_settings_that_a_function_names_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(configured)
    monkeypatch.setattr(CONFIG, "by", 2)
    after = code_digest(configured)
    monkeypatch.setattr(Held, "by", 2)
    assert len({before, after, code_digest(configured)}) == 3
    monkeypatch.undo()
    assert code_digest(configured) == before


def test_what_is_attached_to_a_model_that_a_function_holds_counts() -> None:
    model = tiny_clip()

    def logits(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels)

    digests = [code_digest(logits)]
    with training_free(model, alpha=0.5).attach(model):
        digests.append(code_digest(logits))
    with InputDefence(scale).attach(model):
        digests.append(code_digest(logits))
    assert len(set(digests)) == 3
    assert code_digest(logits) == digests[0]


def test_a_hook_may_name_its_own_model() -> None:
    model = tiny_clip()
    before = model.fingerprint
    model.tower.root.register_forward_hook(lambda *args: print(model.name) if model is None else None)
    assert model.fingerprint == model.fingerprint != before
