"""Strength and speed of the attacks, beside other libraries on the same models and images.

    python benchmarks/attacks_vs_peers.py [--models micro/fare,...] [--sets shapes,...] [--attacks apgd-ce,...]
        [--norms linf,l2] [--radii large,small] [--n 16,100,200] [--peers pyautoattack,...] [--survivors]
        [--json FILE] [--quick | --table]

Every attack attacks all images by itself; `standard` is the whole ensemble, and `fast` ours beside the peers' standard
one, whose rows are measured once for both. The other attacks of ours give up hopeless searches, as `fast` does. Peers
get batches of 50 images, which is where they are fastest here, ours batches of 16. All run on one thread, and times are
of the processor: those of the clock on an idle core, and undisturbed by other work on a busy one.
`--survivors` shows a peer only the images that ours left: whatever it fools there is an image that ours should have
fooled, and the time says nothing. Rows with a peer are kept in `benchmarks/attacks_vs_peers.json`. `--quick` is
`standard` and `fast` on 16 images of micro/clip and micro/fare beside all peers, within ten minutes; where none is
installed, ours beside the kept rows. `--table` runs nothing, and prints the kept rows as Markdown, those of an earlier
engine with a star. The exit status is 1 where ours leaves more than 0.2 % of 1,000 images, or more than one of fewer,
beyond the best peer. A row:

    library, version             who attacked: radapt or a peer
    model, dataset, attack, norm, eps, n
    shown                        all, or survivors
    left, robust_accuracy        images that stand, by a fresh float32 pass on images checked to lie in the ball
    seconds, wall                time of the processor and of the clock, without loading
    forwards, backwards          images that went through the model forward, and back
    outside_percent              share of the time not spent in passes of the model, forward or backward
    ratio                        (rows of peers) seconds / seconds of radapt in the same run
    above                        (rows of radapt) images more than the best peer leaves, negative where fewer
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _peers import PEERS, PeerAttack, versions
from rich.console import Console
from torch import Tensor, nn

import radapt
from radapt.attacks import ClassificationObjective, make
from radapt.attacks.autoattack import AutoAttack
from radapt.attacks.square import SAFE_GROWTH
from radapt.models import VLM

KEPT = Path(__file__).with_suffix(".json")
RADII = {"linf": {"large": 4 / 255, "small": 1 / 255}, "l2": {"large": 0.5, "small": 0.125}}
SLOTS, BATCH = 16, 50
GROWTH = AutoAttack(eps=4 / 255, version="fast").growth
QUICK = {"models": "micro/clip,micro/fare", "sets": "shapes", "norms": "linf", "radii": "large"}
OURS: dict[str, dict[str, Any]] = {
    "pgd": {"name": "pgd", "steps": 20},
    "apgd-ce": {"name": "apgd", "loss": "ce", "growth": GROWTH},
    "apgd-t": {"name": "apgd", "loss": "dlr-targeted", "growth": GROWTH},
    "fab-t": {"name": "fab", "loss": "margin-targeted", "growth": GROWTH},
    "square": {"name": "square", "growth": SAFE_GROWTH},
    "standard": {"name": "autoattack"},
    "fast": {"name": "autoattack", "version": "fast"},
}
Rows = list[dict[str, Any]]
SAME = ("model", "dataset", "attack", "norm", "eps", "n")


class Counted(nn.Module):
    """A zero-shot classifier of pixels in [0, 1] that counts the images which pass it, and the time that they take."""

    def __init__(self, model: VLM, classifier: Tensor) -> None:
        super().__init__()
        self.vlm, self.classifier = model, classifier
        self.reset()

    def reset(self) -> None:
        """Start counting."""
        self.forwards = self.backwards = 0
        self.inside = self._began = 0.0

    def forward(self, pixels: Tensor) -> Tensor:
        start = time.process_time()
        logits = self.vlm.logits(pixels, self.classifier)
        self.forwards += len(pixels)
        self.inside += time.process_time() - start
        if pixels.requires_grad and logits.requires_grad:
            logits.register_hook(self._begin)
            pixels.register_hook(self._end)
        return logits

    def _begin(self, gradient: Tensor) -> None:
        self._began = time.process_time()

    def _end(self, gradient: Tensor) -> None:
        self.inside += time.process_time() - self._began
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Case:
    """What is attacked, and within what."""

    model: Counted
    images: Tensor
    labels: Tensor
    norm: str
    eps: float

    @property
    def classes(self) -> int:
        return len(self.model.classifier)


def measure(run: Callable[[Case], Tensor], case: Case) -> dict[str, Any]:
    """Run an attack and examine its images by our own means; an image outside the ball counts as the clean one."""
    model = case.model
    model.reset()
    start, began = time.process_time(), time.perf_counter()
    adversarial = run(case).detach().float()
    seconds, wall = time.process_time() - start, time.perf_counter() - began
    figures = {
        "seconds": round(seconds, 3),
        "wall": round(wall, 3),
        "forwards": model.forwards,
        "backwards": model.backwards,
        "outside_percent": round(100 * (1 - model.inside / seconds), 1),
    }
    standing = stands(case, adversarial)
    left = int(standing.sum())
    return {"left": left, "robust_accuracy": round(100 * left / len(standing), 2), **figures, "standing": standing}


def stands(case: Case, adversarial: Tensor) -> Tensor:
    """Which images the model still gets right."""
    change = adversarial - case.images
    size = change.abs().amax((1, 2, 3)) if case.norm == "linf" else change.flatten(1).norm(dim=1)
    inside = (size <= case.eps * (1 + 1e-3)) & (adversarial.amin((1, 2, 3)) >= 0) & (adversarial.amax((1, 2, 3)) <= 1)
    judged = torch.where(inside[:, None, None, None], adversarial, case.images)
    with torch.no_grad():
        return torch.cat([case.model(part).argmax(1) for part in judged.split(BATCH)]) == case.labels


def ours(attack: str, case: Case, batch_size: int = SLOTS) -> Tensor:
    """Our attack of that name, with the settings of AutoAttack's standard version."""
    settings = dict(OURS[attack])
    if settings.get("loss", "").endswith("-targeted"):
        settings["restarts"] = min(9, case.classes - 1)
    if settings.get("loss") == "dlr-targeted" and case.classes < 4:
        settings["loss"] = "ce-targeted"
    chosen = make(settings.pop("name"), norm=case.norm, eps=case.eps, **settings)
    objective = ClassificationObjective(case.model, case.labels, case.classes)
    return chosen(objective, case.images, batch_size=min(batch_size, len(case.images))).pixels


def theirs(run: PeerAttack, case: Case) -> Tensor:
    """A peer's attack."""
    return run(case.model, case.images, case.labels, case.norm, case.eps, case.classes, BATCH)


def compare(
    attack: str,
    case: Case,
    where: dict[str, Any],
    peers: dict[str, str],
    kept: Rows,
    survivors: bool,
    measured: dict[object, dict[str, Any]],
) -> Rows:
    """Our row, then those of the peers, which are run once for all of our attacks that they stand beside."""
    mine = {"library": "radapt", "version": radapt.__version__, **where, "shown": "all"}
    mine |= measure(partial(ours, attack), case)
    standing, others = mine.pop("standing"), list[dict[str, Any]]()
    for peer, run in PEERS[attack].items():
        if peer not in peers or (survivors and not standing.any()):
            continue
        shown = replace(case, images=case.images[standing], labels=case.labels[standing]) if survivors else case
        once = (peer, run, *(where[key] for key in SAME if key != "attack"))
        if survivors or once not in measured:
            measured[once] = measure(partial(theirs, run), shown)
        figures = {name: value for name, value in measured[once].items() if name != "standing"}
        if survivors:
            figures["robust_accuracy"] = round(100 * figures["left"] / len(case.images), 2)
        else:
            figures["ratio"] = round(figures["seconds"] / mine["seconds"], 2)
        row = {"library": peer, "version": peers[peer], **where, "shown": "survivors" if survivors else "all"}
        others.append(row | figures)
    known = [row["left"] for row in (*others, *_of(kept, where)) if row["library"] != "radapt"]
    if known or (survivors and not standing.any()):
        mine["above"] = mine["left"] - min(known, default=0)
    return [mine, *others]


def _of(rows: Rows, where: dict[str, Any]) -> Rows:
    return [row for row in rows if all(row[key] == where[key] for key in SAME)]


def cells(options: argparse.Namespace) -> Rows:
    """What is to be run."""
    names, sets, norms, attacks = (getattr(options, key).split(",") for key in ("models", "sets", "norms", "attacks"))
    sizes, radii = options.n.split(","), options.radii.split(",")
    return [
        {"model": name, "dataset": dataset, "attack": attack, "norm": norm, "eps": RADII[norm][size], "n": int(n)}
        for n, name, dataset, norm, size, attack in product(sizes, names, sets, norms, radii, attacks)
    ]


def run_all(options: argparse.Namespace, console: Console) -> Rows:
    """All rows, printed and kept as they come."""
    kept = _kept()
    wanted = options.peers.split(",")
    peers = {name: number for name, number in versions().items() if name in wanted}
    result, loaded, measured = Rows(), lru_cache(maxsize=1)(load), dict[object, dict[str, Any]]()
    for where in cells(options):
        model, images, labels = loaded(where["model"], where["dataset"], where["n"])
        case = Case(model, images, labels, where["norm"], where["eps"])
        rows = compare(where["attack"], case, where, peers, kept, options.survivors, measured)
        for row in rows:
            console.print(_line(row), highlight=False)
        result += rows
        compared = len(rows) > 1 or (options.survivors and not rows[0]["left"])
        if compared:
            fresh = {(row["library"], *(row[key] for key in SAME)) for row in rows}
            kept = [row for row in _kept() if (row["library"], *(row[key] for key in SAME)) not in fresh] + rows
            KEPT.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept) + "\n]\n")
    return result


def _kept() -> Rows:
    """The file as it is now: several runs may add to it."""
    rows: Rows = json.loads(KEPT.read_text()) if KEPT.exists() else []
    return rows


def table(rows: Rows) -> str:
    """The kept rows as Markdown, a line for each peer; ratios are those of one run."""
    head = "| attack | model | images | within | n | radapt | peer | its own | ratio |"
    lines = [head, re.sub("[^|]+", "---", head)]
    ours = {tuple(row[key] for key in SAME): row for row in rows if row["library"] == "radapt"}
    order = {name: at for at, name in enumerate(reversed(OURS))}

    def place(row: dict[str, Any]) -> tuple[object, ...]:
        return (order[row["attack"]], *(str(row[key]) for key in SAME if key != "n"), row["n"], row["library"])

    for row in sorted(rows, key=place):
        mine = ours[tuple(row[key] for key in SAME)]
        if row is mine and len(_of(rows, mine)) > 1:
            continue
        size = f"{255 * row['eps']:.0f}/255" if row["norm"] == "linf" else f"{row['eps']:g}"
        left = f"{row['robust_accuracy']:.1f}" + (" of ours" if row["shown"] == "survivors" else "")
        peer, left = ("", "") if row is mine else (f"{row['library']} {row['version']}", left)
        ratio = f"{row['ratio']:.1f}" + ("" if "wall" in row else "*") if "ratio" in row else ""
        cells = [row["attack"], row["model"], row["dataset"], f"{row['norm']} {size}", row["n"]]
        cells += [f"{mine['robust_accuracy']:.1f}", peer, left, ratio]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def load(name: str, dataset: str, n: int) -> tuple[Counted, Tensor, Tensor]:
    """A model with the classifier of a data set, and images with their labels."""
    vlm = radapt.load(name)
    vlm.model.requires_grad_(False)
    data = radapt.load_dataset(dataset, split="test", n=n)
    return Counted(vlm, vlm.classifier(data.prompts)).eval(), data.pixels(range(len(data))), data.labels


def _line(row: dict[str, Any]) -> str:
    tail = f"ratio {row['ratio']}" if "ratio" in row else f"above {row['above']}" if "above" in row else ""
    return (
        f"{row['library']:>12} {row['model']:11} {row['dataset']:12} {row['attack']:8} {row['norm']:4} {row['eps']:.4f}"
        f" robust {row['robust_accuracy']:5.1f} % {row['seconds']:7.1f} s, outside {row['outside_percent']:4.1f} %,"
        f" {row['forwards']} + {row['backwards']} passes, {tail}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--models", default="micro/clip,micro/fare,micro/tecoa")
    parser.add_argument("--sets", default="shapes,textures,compositions")
    parser.add_argument("--attacks", default="pgd,apgd-ce,apgd-t,fab-t,square,standard,fast")
    parser.add_argument("--norms", default="linf,l2")
    parser.add_argument("--radii", default="large,small")
    parser.add_argument("--peers", default=",".join(versions()))
    parser.add_argument("--n", default="16,100,200")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table(_kept()))
        return
    if options.quick:
        vars(options).update(QUICK, attacks="standard,fast", n="16")
    torch.set_num_threads(1)
    console = Console()
    result = run_all(options, console)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    gates = [row for row in result if "above" in row]
    weak = [row for row in gates if row["above"] > max(1, 0.002 * row["n"])]
    console.print(f"{len(gates)} compared, {len(weak)} weaker than a peer allows")
    for row in weak:
        console.print(_line(row), highlight=False)
    sys.exit(bool(weak))


if __name__ == "__main__":
    main()
