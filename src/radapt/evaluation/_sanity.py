"""Checks that run by themselves, whose flags are stored with the results; and signs of a failing attack, per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from radapt.attacks import Attack, Outcome, SearchAttack
from radapt.attacks.apgd import APGD
from radapt.attacks.apgd_ensemble import APGDEnsemble
from radapt.attacks.square import SAFE_GROWTH, Square
from radapt.models import VLM
from radapt.results import Sign
from radapt.results.labels import eps_text
from radapt.types import Pixels

from ._task import BoundTask, Task
from ._threat import Threat

__all__ = [
    "QUERIES",
    "UNDEFENDED",
    "check_clean",
    "check_model",
    "check_undefended",
    "check_white_box",
    "longer",
    "signs_of",
]

_LARGE_EPS = 64 / 255
_ALONE = 4
"""Images that are also shown without the others."""
_RANDOM = 1e-4
_BATCH = {torch.float32: 1e-3, torch.float64: 1e-3}
_BATCH_HALF = 0.1
"""How far an embedding may move with the images beside it, as a share of the largest entry: sums in another order."""
_LEAST = 1e-12
_FEWEST = 10
"""Samples below which it says little that a constant answer is right as often."""
_EXCLUDED = 1e30
_MOST_STEPS = 10**6
_SHARE_OF_ZEROS = 0.05
"""Share of an attack's backward passes on a sample above which gradients of zero are a sign."""
UNDEFENDED = "undefended survives"
"""Name of the flag of an attack that leaves the undefended model standing."""
QUERIES = 500
"""Steps of the attack without gradients that checks the others."""


def signs_of(outcome: Outcome, *, white_box: bool, raises_loss: bool = True) -> list[tuple[Sign, ...]]:
    """Signs of a failing attack, for each sample.

    Args:
        outcome: of the attack.
        white_box: whether the evaluated model itself was attacked; else only a search that failed is a sign.
        raises_loss: whether the attack keeps what raises the loss.
    """
    signs: dict[Sign, Tensor] = {"failed": outcome.failed}
    if white_box:
        tried = outcome.iterations > 0
        if raises_loss:
            signs["flat"] = tried & ~outcome.loss_rose
        signs["zero gradient"] = tried & (outcome.zero_gradient > _SHARE_OF_ZEROS)
        signs["unconfirmed"] = outcome.unconfirmed
        signs["without gradients"] = outcome.fooled & outcome.gradient_free & (outcome.backwards > 0)
        signs["audited"], signs["misjudged"] = outcome.audited, outcome.misjudged
        signs["8 bits"] = tried & outcome.fooled & ~outcome.fooled_8bit
    rows = zip(*(there.tolist() for there in signs.values()), strict=True)
    return [tuple(sign for sign, there in zip(signs, row, strict=True) if there) for row in rows]


def check_model(model: VLM, pixels: Pixels, *, batch_size: int) -> dict[str, object]:
    """Whether a model gives numbers, and the same ones again and without the other images of a batch.

    A stochastic model needs expectation over transformations. What one that looks at its batch answers to an image
    depends on the images that happen to be beside it.

    Args:
        model: the model.
        pixels: the images that are shown to it.
        batch_size: images per pass.
    """
    pixels = pixels.to(model.device)
    with torch.no_grad():
        first, second = (
            torch.cat([model.encode_image(each).float() for each in pixels.split(batch_size)]) for _ in range(2)
        )
        alone = torch.cat([model.encode_image(each).float() for each in pixels[:_ALONE].split(1)])
    # The logits of a classifier may be -inf, for classes that it excludes.
    broken = int(((first.isnan() | first.isposinf()).any(1) | ~first.isfinite().any(1)).sum())
    if broken:
        return {"not finite": f"the embeddings of {broken} of {len(first)} images are not finite numbers: no answers"}
    first, second, alone = (each.where(each.abs() < _EXCLUDED, 0.0) for each in (first, second, alone))
    largest = first.abs().max().clamp(min=_LEAST)
    spread = float((first - second).abs().max() / largest)
    if spread > _RANDOM:
        return {
            "stochastic": f"two passes differ by {spread:.1e} of the embedding; average the attack over several (EOT)"
        }
    moved = float((first[: len(alone)] - alone).abs().max() / largest)
    if moved > _BATCH.get(model.dtype, _BATCH_HALF):
        return {"batch": f"embeddings move by {moved:.1e} with the other images of a batch, and all figures with them"}
    return {}


def check_clean(task: Task, scores: Mapping[int, float]) -> dict[str, object]:
    """Whether a model is better than one that always gives the same answer, which nothing can fool.

    Where it is not, its class names, labels or normalisation are wrong, or a defence has left nothing of the image; and
    it may seem robust.

    Args:
        task: the task.
        scores: of the clean samples, by position.
    """
    best = task.constant(list(scores)) if len(scores) >= _FEWEST else None
    total = sum(scores.values())
    if best is None or total > best[1] or best[1] >= len(scores):  # where one answer is always right, nothing is better
        return {}
    found = f"{total:g} of {len(scores)} are right, and always answering {best[0]!r} is right on {best[1]:g}"
    return {"chance": f"{found}: are classes, labels, normalisation right?"}


def check_white_box(
    bound: BoundTask,
    threat: Threat,
    pixels: Pixels,
    keys: Sequence[str],
    positions: Sequence[int],
    *,
    survivors: Sequence[int],
    seed: int,
    batch_size: int,
) -> tuple[dict[str, object], dict[int, Tensor]]:
    """Signs of masked gradients, on a few samples: a large ball must leave nothing, and neither more steps nor an
    attack without gradients must help.

    Args:
        bound: the task on the defended model, its adapter attached.
        threat: the white-box threat.
        pixels, keys, positions: the samples that the check uses.
        survivors: rows of those that the attack did not fool.
        seed, batch_size: as in the evaluation.

    Returns:
        The flags; and images within the threat's ball that fooled the model where the attack did not, by position.
    """
    flags: dict[str, object] = {}
    found: dict[int, Tensor] = {}

    def attacked(attack: Attack, rows: Sequence[int]) -> Outcome:
        return bound.attack(
            attack,
            pixels[list(rows)],
            [positions[row] for row in rows],
            keys=[keys[row] for row in rows],
            seed=seed,
            batch_size=min(batch_size, len(rows)),
            stop=True,
        )

    def gained(attack: Attack) -> int:
        outcome = attacked(attack, survivors)
        for row in outcome.fooled.nonzero().flatten().tolist():
            found[positions[survivors[row]]] = outcome.pixels[row].cpu()
        return int(outcome.fooled.sum())

    # In l2 the ball around that of l-inf: what fools somewhere in this one fools somewhere in that one.
    radius = _LARGE_EPS * (1 if threat.norm == "linf" else math.sqrt(pixels[0].numel()))
    if threat.eps < radius:
        large = attacked(threat.make(eps=radius), range(len(positions)))
        left = len(positions) - int(large.fooled.sum())
        if left > 0.05 * len(positions):
            at = eps_text(radius) + (f" in {threat.norm}" if threat.norm != "linf" else "")
            flags["large ball"] = f"at {at} still {left} of {len(positions)} samples are right: masked gradients?"
    if survivors:
        more = gained(longer(threat))
        if more > 0.05 * len(positions):
            flags["more steps help"] = (
                f"three times the steps fool {more} more of {len(positions)} samples: use more steps"
            )
        loss = "margin" if "margin" in bound.objective(positions, stop=False).losses else ""
        square = Square(norm=threat.norm, eps=threat.eps, steps=QUERIES, growth=SAFE_GROWTH, loss=loss)
        more = gained(square)
        if more > 0.05 * len(positions):
            flags["square beats gradients"] = (
                f"Square, which sees no gradients, fools {more} more of {len(positions)} samples in {QUERIES} "
                "queries: masked gradients?"
            )
    return flags, found


def longer(threat: Threat) -> Attack:
    """The attack of a threat with three times the steps."""
    attack = threat.make()
    steps = min(3 * attack.steps, _MOST_STEPS)
    if isinstance(attack, APGDEnsemble):
        return threat.make(steps=steps, targeted_steps=min(3 * attack.targeted_steps, _MOST_STEPS))
    if isinstance(attack, SearchAttack):
        return threat.make(steps=steps)
    return APGD(norm=threat.norm, eps=threat.eps, steps=steps)  # AutoAttack is long already: its first attack


def check_undefended(scores: Sequence[float]) -> dict[str, object]:
    """Whether the undefended model falls under the white-box attack; if not, the attack is weak or the cue is easy."""
    left = sum(scores)
    if left <= 0.1 * len(scores):
        return {}
    kept = f"the undefended model keeps {left:.0f} of {len(scores)}"
    return {UNDEFENDED: f"{kept}: a weak attack, a small radius, or an easy cue"}
