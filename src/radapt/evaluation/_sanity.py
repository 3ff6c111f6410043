"""Checks that run by themselves and whose flags are stored with the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from radapt.attacks import Attack, Outcome, SearchAttack
from radapt.attacks.apgd import APGD
from radapt.attacks.apgd_ensemble import APGDEnsemble
from radapt.attacks.square import SAFE_GROWTH, Square
from radapt.models import VLM
from radapt.results import Results, Setting
from radapt.results.labels import eps_text
from radapt.types import Pixels

from ._task import Answer, BoundTask, Task
from ._threat import Threat

__all__ = [
    "QUERIES",
    "Tally",
    "check_clean",
    "check_model",
    "check_undefended",
    "check_white_box",
    "earlier_signs",
    "longer",
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
QUERIES = 500
"""Steps of the attack without gradients that checks the others."""
_SIGNS = (
    "loss not rising",
    "zero gradient",
    "failed",
    "unconfirmed",
    "square beats gradients",
    "given up",
    "8 bits",
    "not finite",
)


@dataclass
class Tally:
    """Per-sample signs of a failing attack, summed over the batches of one run of a setting."""

    attacked: int = 0
    flat: int = 0
    vanished: int = 0
    failed: int = 0
    unconfirmed: int = 0
    gradient_free: int = 0
    audited: int = 0
    misjudged: int = 0
    rounded: int = 0
    answers: int = 0
    unfinite: int = 0

    def add_answers(self, answers: Sequence[Answer]) -> None:
        """Count what a model put out on one batch, clean or attacked."""
        self.answers += len(answers)
        self.unfinite += sum(not answer.finite for answer in answers)

    def add(self, outcome: Outcome, *, raises_loss: bool = True) -> None:
        """Count the samples of one batch; ``raises_loss``: whether the attack keeps what raises the loss."""
        tried = outcome.iterations > 0
        self.attacked += int(tried.sum())
        self.flat += int((tried & ~outcome.loss_rose).sum()) if raises_loss else 0
        self.vanished += int((tried & (outcome.zero_gradient > 0.05)).sum())
        self.failed += int(outcome.failed.sum())
        self.unconfirmed += int(outcome.unconfirmed.sum())
        self.gradient_free += int((outcome.fooled & outcome.gradient_free & (outcome.backwards > 0)).sum())
        self.audited += int(outcome.audited.sum())
        self.misjudged += int(outcome.misjudged.sum())
        self.rounded += int((tried & outcome.fooled & ~outcome.fooled_8bit).sum())

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def flags(self) -> dict[str, object]:
        """Flags of the run, which say how many samples it attacked; empty when nothing is wrong."""
        signs: dict[str, str] = {}
        if self.flat > 0.05 * self.attacked:
            signs["loss not rising"] = f"the loss did not rise on {self.flat}"
        if self.vanished > 0.05 * self.attacked:
            signs["zero gradient"] = f"gradients were zero on {self.vanished}"
        if self.failed:
            signs["failed"] = f"the search ended early on {self.failed}: loss or gradient not finite"
        if self.unconfirmed:
            signs["unconfirmed"] = f"{self.unconfirmed} successes were not confirmed by a fresh pass"
        if self.gradient_free > max(1, 0.01 * self.attacked):
            signs["square beats gradients"] = (
                f"{self.gradient_free} were fooled without gradients only: masked gradients?"
            )
        if self.misjudged:
            signs["given up"] = (
                f"{self.misjudged} of {self.audited} checked searches succeeded after others like them would have been "
                "given up; attack with growth=None"
            )
        if self.rounded > 0.05 * self.attacked:
            signs["8 bits"] = f"{self.rounded} adversarial images do not fool once they are rounded to 8 bits"
        flags: dict[str, object] = {
            name: f"in a run of {self.attacked} attacked samples, {text}" for name, text in signs.items()
        }
        if self.unfinite:
            flags["not finite"] = f"NaN on {self.unfinite} of {self.answers} samples, counted as wrong"
        return flags


def earlier_signs(results: Results, setting: Setting) -> dict[str, object]:
    """Signs that earlier runs left in the flags of a setting: what they counted is not stored with the samples."""
    flags = results.flags(setting)
    return {name: flags[name] for name in _SIGNS if name in flags}


def check_model(model: VLM, pixels: Pixels, *, batch_size: int) -> dict[str, object]:
    """Whether a model gives numbers, and the same ones again and without the other images of a batch.

    A random model needs expectation over transformations. What one that looks at its batch answers to an image depends
    on the images that happen to be beside it.

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
        return {"random": f"two passes differ by {spread:.1e} of the embedding; average the attack over several (EOT)"}
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
    return {"undefended stands": f"the undefended model keeps {left:.0f} of {len(scores)}: weak attack, or an easy cue"}
