"""AutoAttack and APGD on zero-shot classifiers of CLIP's sizes with random weights, beside other libraries.

See `gpu.py` for what a row holds.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from _gpu_measure import DTYPES, Bench
from _gpu_models import CLASSES, Passes, Subject, build
from _gpu_passes import passes
from _peers import PeerAttack, by_pyautoattack, by_torchattacks, versions
from torch import Tensor

from radapt.attacks import ClassificationObjective, make


@dataclass(frozen=True)
class Cell:
    """One attack on one model: whether its images stand whatever happens, and about how many seconds all take."""

    model: str
    dtype: str
    attack: str
    stands: bool
    steps: int
    n: int
    seconds: float
    precision: str = ""


FAST = (
    Cell("ViT-L/14", "bfloat16", "apgd-ce", True, 100, 64, 35),
    Cell("ViT-L/14", "bfloat16", "custom", False, 100, 64, 20),
    Cell("ViT-B/32", "bfloat16", "apgd-ce", True, 100, 256, 20),
    Cell("ViT-B/32", "bfloat16", "standard", False, 100, 256, 15),
    Cell("ViT-B/32", "bfloat16", "custom", True, 20, 128, 25),
)
EXACT = (
    Cell("ViT-B/32", "float32", "apgd-ce", True, 20, 256, 20),
    Cell("ViT-L/14", "float32", "apgd-ce", True, 20, 32, 25),
    Cell("ViT-L/14", "float32", "apgd-ce", False, 20, 32, 12, "bfloat16"),
)
LONG = (Cell("ViT-L/14", "bfloat16", "custom", True, 20, 32, 40),)
WAYS = {"eager": 2, "CUDA graph": 3, "compiled blocks": 40}
"""How a pass may be run, and about how many seconds it takes to measure that."""
STAGES = {
    "apgd-ce": (("apgd-ce",), ("APGD",)),
    "custom": (("apgd-ce", "apgd-t"), ("APGD", "APGDT")),
    "standard": (("apgd-ce", "apgd-t", "fab-t", "square"), ("APGD", "APGDT", "FAB", "Square")),
}


def peers(cell: Cell) -> dict[str, PeerAttack]:
    """The same attack by each of the other libraries that are installed."""
    theirs, others = STAGES[cell.attack]
    every = {
        "pyautoattack": by_pyautoattack(*theirs, steps=cell.steps),
        "torchattacks": by_torchattacks(*others, steps=cell.steps),
    }
    return {name: run for name, run in every.items() if name in versions()}


def run(bench: Bench) -> None:
    """All rows, the most telling ones first."""
    bench.emit({"kind": "rate"} | {f"{dtype}_tflops": round(bench.rate(dtype), 1) for dtype in DTYPES})
    _attacks(bench, FAST)
    _passes(bench, "ViT-L/14", WAYS)
    _attacks(bench, EXACT)
    _passes(bench, "ViT-B/32", WAYS)
    _attacks(bench, LONG)
    _passes(bench, "ViT-L/14", {"autotuned blocks": 75})


def _attacks(bench: Bench, cells: Sequence[Cell]) -> None:
    """The rows of some cells; neighbours that need the same model share it, and its first ones look at it."""
    seen = set[tuple[str, str]]()
    for (name, dtype, n), group in groupby(cells, key=lambda cell: (cell.model, cell.dtype, cell.n)):
        where = {"kind": "model", "model": name, "dtype": dtype, "n": n}
        made: list[Subject] = []
        bench.attempt(where, partial(_prepare, bench, name, dtype, n, made), needs=0 if bench.tiny else 8)
        if not made:
            continue
        for kind, look in (("equal", _equal), ("host", _host)) if (name, dtype) not in seen else ():
            bench.attempt({**where, "kind": kind}, partial(look, bench, made[0]), needs=0 if bench.tiny else 8)
        seen.add((name, dtype))
        for cell in group:
            compare(bench, made[0], replace(cell, steps=3, seconds=0) if bench.tiny else cell)


def _passes(bench: Bench, name: str, ways: Mapping[str, float]) -> None:
    """The rows of passes of a model."""
    where, made = {"kind": "passes", "model": name, "dtype": "bfloat16"}, list[Subject]()
    for way, needs in ways.items():

        def one(way: str = way) -> dict[str, Any]:
            made[:] = made or [build(bench, name, "bfloat16", 64)]
            return passes(bench, made[0], way)

        bench.attempt({**where, "way": way}, one, 0 if bench.tiny else needs)


def _prepare(bench: Bench, name: str, dtype: str, n: int, made: list[Subject]) -> dict[str, Any]:
    """Build a model, and see what a pass of it is."""
    made.append(build(bench, name, dtype, n))
    return {
        "parameters": sum(each.numel() for each in made[0].vlm.tower.root.parameters()),
        "forward_gflop": round(made[0].forward / 1e9, 2),
        "gradient_gflop": round((made[0].forward + made[0].backward) / 1e9, 2),
    }


def _searching(bench: Bench, subject: Subject) -> Callable[[], Tensor]:
    """A whole search of APGD on all images at once."""
    model, images = subject.passes(bench, True), subject.images
    attack = make("apgd", eps=1e-6, steps=2 if bench.tiny else 20 if subject.dtype == "bfloat16" else 5)
    labels = torch.zeros(len(images), dtype=torch.long)

    def search() -> Tensor:
        found: Tensor = attack(ClassificationObjective(model, labels, CLASSES), images, batch_size=len(images)).pixels
        return found

    return search


def _equal(bench: Bench, subject: Subject) -> dict[str, Any]:
    """Whether two runs are equal bit for bit, and if not, under which of torch's switches they are, and their cost."""
    search = _searching(bench, subject)
    first = search()  # warms up
    second, wall = bench.timed(search)
    found: dict[str, Any] = {"runs_are_bit_equal": torch.equal(first, second), "seconds": round(wall, 4)}
    if not found["runs_are_bit_equal"] or bench.tiny:
        found["where_runs_differ"] = _exactly(bench, search)
    return found


def _host(bench: Bench, subject: Subject) -> dict[str, Any]:
    """The share of a search's wall clock in which the device has nothing to do, and what it does in the rest."""
    search = _searching(bench, subject)
    search()
    _, wall = bench.timed(search)
    seen = bench.busy(search)
    if seen:
        seen["host_share_percent"] = round(100 * max(0.0, 1 - seen["busy_seconds"] / wall), 1)
    return {"seconds": round(wall, 4), **seen}


def _exactly(bench: Bench, search: Callable[[], Tensor]) -> dict[str, Any]:
    """Whether two runs are equal under torch's switches for that, and what they cost."""
    found = dict[str, Any]()
    for name in ("cudnn.deterministic", "use_deterministic_algorithms"):
        with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
            warnings.simplefilter("ignore")
            torch.use_deterministic_algorithms(name.startswith("use"), warn_only=True)
            try:
                one = search()
                other, wall = bench.timed(search)
            finally:
                torch.use_deterministic_algorithms(False)
        found[name] = {"runs_are_bit_equal": torch.equal(one, other), "wall_seconds": round(wall, 4)}
    return found


def compare(bench: Bench, subject: Subject, cell: Cell) -> None:
    """Our rows, then those of the peers."""
    where = {"kind": "attack", "model": cell.model, "dtype": cell.dtype, "attack": cell.attack, "stands": cell.stands}
    where |= {"steps": cell.steps, "n": len(subject.images), "batch": len(subject.images)}
    model = subject.passes(bench, cell.stands)
    with torch.no_grad():
        labels = model(subject.images).argmax(1)
    eps = 1e-6 if cell.stands else 4 / 255
    where["eps"] = eps
    measured = partial(_measured, bench, subject, model, labels, eps)
    times: dict[str, float] = {}

    def one(name: str, attack: Callable[[], Tensor]) -> dict[str, Any]:
        found = measured(attack)
        times[name] = found["seconds"]
        ours = times.get("radapt")
        return found if name.startswith("radapt") or ours is None else {**found, "ratio": round(times[name] / ours, 2)}

    rivals = peers(cell) if not cell.precision else {}
    share = cell.seconds / (1 + len(rivals))
    whole = partial(ours, cell, model, labels, subject.images, eps, growth=None)
    entry = {**where, "precision": cell.precision or cell.dtype, "growth": None}
    bench.attempt({"library": "radapt", **entry}, partial(one, "radapt", whole), share)
    if cell.stands and (cell.steps > 10 or bench.tiny):
        early = partial(ours, cell, model, labels, subject.images, eps, growth=0.35)
        bench.attempt({"library": "radapt", **entry, "growth": 0.35}, partial(one, "radapt, early", early), share / 2)
    for name, attack in rivals.items():
        theirs = partial(attack, model, subject.images, labels, "linf", eps, CLASSES, len(subject.images))
        row = {"library": name, "version": versions()[name], **where}
        bench.attempt(row, partial(one, name, theirs), share)


def ours(cell: Cell, model: Passes, labels: Tensor, images: Tensor, eps: float, *, growth: float | None) -> Tensor:
    """Our attack with the peers' settings."""
    settings: dict[str, Any] = {"eps": eps, "steps": cell.steps, "growth": growth}
    if cell.attack == "apgd-ce":
        attack = make("apgd", loss="ce", **settings)
    else:
        attack = make("autoattack", version="standard" if cell.attack == "standard" else "robustvlm", **settings)
    objective = ClassificationObjective(model, labels, CLASSES)
    precision = DTYPES[cell.precision] if cell.precision else None
    return attack(objective, images, batch_size=len(images), precision=precision).pixels


def _measured(
    bench: Bench, subject: Subject, model: Passes, labels: Tensor, eps: float, attack: Callable[[], Tensor]
) -> dict[str, Any]:
    """Wall clock (of three runs where one is short), passes, share of the card's rate, memory, robust accuracy."""
    walls = list[float]()
    while not walls or (len(walls) < 3 and walls[0] < 2 and not bench.tiny):
        model.reset()
        with bench.memory() as memory:
            adversarial, wall = bench.timed(attack)
        walls.append(wall)
    forwards, backwards, inside, wall = model.forwards, model.backwards, model.inside, statistics.median(walls)
    done, rate = forwards * subject.forward + backwards * subject.backward, bench.rate(subject.dtype)
    with torch.no_grad():
        right = model(adversarial.to(subject.images)).argmax(1) == labels
    outside = (adversarial - subject.images).abs().amax((1, 2, 3)) > eps * (1 + 1e-3) + 1e-7
    return {
        "seconds": round(wall, 4),
        "runs": len(walls),
        "forwards": forwards,
        "backwards": backwards,
        "images_per_second": round((forwards + backwards) / wall, 1),
        "inside_percent": round(100 * inside / walls[-1], 1),
        "rate_in_passes_percent": round(100 * done / max(inside, 1e-9) / 1e12 / rate, 1),
        "rate_over_all_percent": round(100 * done / walls[-1] / 1e12 / rate, 1),
        "robust_accuracy": round(100 * float(right.float().mean()), 2),
        "outside_the_ball": int(outside.sum()),
        **memory,
    }
