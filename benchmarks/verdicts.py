"""Do verdicts hang on what only saves time? Searches that are given up, and the batch size.

    python benchmarks/verdicts.py [--n 100] [--attacks apgd-ce,...] [--cells 0,...] [--growths 0.35,...]
        [--batch-size 1,7,64] [--threads 1] [--json FILE]

Each attack is run to its end in batches of 16 on micro models, then with hopeless searches given up, then (APGD alone)
at other batch sizes. Hopeless is as in AutoAttack, and for Square at a growth of 1, unless there are `--growths`.
`--cells` picks some of the models, data sets and radii by number, from 0 on. A row:

    model, dataset, attack, norm, eps, n
    variant                 growth=0.35, or batch_size=N
    left, left_reference    images that stand, and those that stand in the whole attack
    changed                 images whose verdict differs
    audited, misjudged      hopeless searches that went on as a check, and those of them that succeeded
    passes                  share of the passes of the model, in those of the whole attack: a backward pass counts 1.5
                            forward ones
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import radapt
from radapt.attacks import Attack, ClassificationObjective, Outcome, make
from radapt.attacks.autoattack import AutoAttack
from radapt.attacks.square import SAFE_GROWTH

CELLS = (
    ("micro/tecoa", "shapes", "linf", 4 / 255),
    ("micro/fare", "compositions", "linf", 4 / 255),
    ("micro/tecoa", "textures", "l2", 0.5),
    ("micro/clip", "textures", "linf", 1 / 255),
    ("micro/clip", "shapes", "linf", 4 / 255),
)
GROWTHS = {**dict.fromkeys(("apgd-ce", "apgd-t", "fab-t"), AutoAttack.growth), "square": SAFE_GROWTH}


def attacks(norm: str, eps: float, classes: int) -> dict[str, Attack]:
    """The attacks of AutoAttack's standard version, run to their ends."""
    ball: dict[str, Any] = {"norm": norm, "eps": eps}
    targets = min(9, classes - 1)
    return {
        "apgd-ce": make("apgd", **ball, loss="ce"),
        "apgd-t": make("apgd", **ball, loss="dlr-targeted" if classes > 3 else "ce-targeted", restarts=targets),
        "fab-t": make("fab", **ball, loss="margin-targeted", restarts=targets),
        "square": make("square", **ball),
    }


def cost(outcome: Outcome) -> float:
    return float(outcome.forwards.sum() + 1.5 * outcome.backwards.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--attacks", default=",".join(GROWTHS))
    parser.add_argument("--cells", default=",".join(map(str, range(len(CELLS)))))
    parser.add_argument("--growths", default="")
    parser.add_argument("--batch-size", default="1,7,64")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    console, rows = Console(), list[dict[str, Any]]()
    for name, dataset, norm, eps in (CELLS[int(cell)] for cell in options.cells.split(",")):
        vlm = radapt.load(name)
        vlm.model.requires_grad_(False)
        data = radapt.load_dataset(dataset, split="test", n=options.n)
        images, classifier = data.pixels(range(len(data))), vlm.classifier(data.prompts)
        logits = partial(vlm.logits, classifier=classifier)
        objective = ClassificationObjective(logits, data.labels, len(classifier))
        known = attacks(norm, eps, len(classifier))
        for attack in options.attacks.split(","):
            whole = known[attack]
            reference = whole(objective, images, keys=data.keys, batch_size=16)
            growths = [float(each) for each in options.growths.split(",") if each] or [GROWTHS[attack]]
            variants = {f"growth={each}": (_eager(whole, each), 16) for each in growths}
            if attack == "apgd-ce":
                variants |= {f"batch_size={number}": (whole, int(number)) for number in options.batch_size.split(",")}
            for variant, (chosen, batch_size) in variants.items():
                outcome = chosen(objective, images, keys=data.keys, batch_size=batch_size)
                row = {
                    "model": name,
                    "dataset": dataset,
                    "attack": attack,
                    "norm": norm,
                    "eps": eps,
                    "n": len(data),
                    "variant": variant,
                    "left": int((~outcome.fooled).sum()),
                    "left_reference": int((~reference.fooled).sum()),
                    "changed": int((outcome.fooled != reference.fooled).sum()),
                    "audited": int(outcome.audited.sum()),
                    "misjudged": int(outcome.misjudged.sum()),
                    "passes": round(cost(outcome) / cost(reference), 3),
                }
                rows.append(row)
                console.print("  ".join(str(value) for value in row.values()), highlight=False)
    judged = {kind: [row for row in rows if row["variant"].startswith(kind)] for kind in ("growth", "batch_size")}
    for kind, some in judged.items():
        changed, of = (sum(row[key] for row in some) for key in ("changed", "n"))
        console.print(f"{kind}: {changed} of {of} verdicts changed")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def _eager(attack: Attack, growth: float | None) -> Attack:
    settings = {key: value for key, value in vars(attack).items() if key != "growth"}
    return make(attack.name, **settings, growth=growth)


if __name__ == "__main__":
    main()
