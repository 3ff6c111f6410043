"""Progressive replacement: a model with some of its adversarially fine-tuned twin's weights, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, final, get_args

from radapt.data import Dataset
from radapt.errors import SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.io import fraction
from radapt.models import VLM, interpolated
from radapt.registry import nearest
from radapt.results import Results
from radapt.results.plots import Plot
from radapt.results.sweep import Position, curves
from radapt.types import ReplacementOrder

from ._analysis import Analysis, original_and_twins

__all__ = ["ANALYSIS", "DIAGRAMS", "Replacement", "replaced", "stage_candidates", "stages"]

_ENDS = ("Original", "Full")
DIAGRAMS: dict[ReplacementOrder, tuple[str, str]] = {
    "progressive": ("Progressive replacement", "stages of the twin"),
    "single": ("Single replacement", "stages of the twin"),
    "reverse": ("Reverse replacement", "stages of the twin"),
    "interpolation": ("Interpolation of weights", "share of the way to the twin"),
}
"""Title of a diagram and name of its axis, by order."""
_FRACTIONS = ("0.25", "0.5", "0.75")
_PLAIN_NAMES = ("progressive", "interpolation")
"""Orders whose stages are called by their names alone; those of the others have some names in common."""


def stages(model: VLM, order: ReplacementOrder = "progressive") -> tuple[str, ...]:
    """Names of the stages of a replacement, in order (figures 2b and 4 of the paper).

    Args:
        model: the model.
        order: ``progressive``: ``Original``, ``Emb.`` (patches, positions and the norm before the blocks), ``B1-Attn``
            (the first block's attention), ``B1``, ``B2``..., ``Full`` (with the head: final norm and projection), each
            with all before it; ``single``: each of these alone, and ``Head``; ``reverse``: from ``Head`` and the last
            block on, each with all before it, the embedding last, which makes it ``Full``; ``interpolation``: all
            weights a quarter, half and three quarters of the way (:func:`interpolated`), the control without any
            stages. In any order, ``Original`` has nothing of the twin and ``Full`` everything.

    Raises:
        SettingsError: an unknown order.
    """
    return tuple(_selections(model, order))


def replaced(model: VLM, twin: VLM, stage: str, *, order: ReplacementOrder = "progressive") -> VLM:
    """A model that has its twin's weights up to a stage of a replacement, or in that stage alone.

    The vision encoder and its projection only: the text encoder or the language model stays the model's, with a warning
    where the twin's differs. ``Full`` gives the twin's image embeddings to the bit.

    Args:
        model: the model; it is not changed. What is mounted on it is on the result, too, which shares the weights of
            both, so that it takes no memory of its own: train neither.
        twin: a model of the same architecture.
        stage: one of :func:`stages`.
        order: ``progressive``, ``single``, ``reverse`` or ``interpolation``; see :func:`stages`.

    Raises:
        SettingsError: an unknown stage or order.
        ModelError: the models differ in more than their weights.
        AdapterError: the twin carries an adapter.
    """
    selections = _selections(model, order)
    if stage not in selections:
        raise SettingsError(f"unknown stage {stage!r}{nearest(stage, selections)}")
    selected = {selections[stage]: _weight(stage, order)} if selections[stage] else {}
    return interpolated(model, twin, selected, name=f"{model.name} ({order} {stage}, {twin.name})")


def _weight(stage: str, order: ReplacementOrder) -> float:
    return float(stage) if order == "interpolation" and stage not in _ENDS else 1.0


def _selections(model: VLM, order: ReplacementOrder) -> dict[str, str]:
    """What each stage takes from the twin, in the words of ``radapt.models.parts``."""
    last = len(model.tower.blocks) - 1
    if order == "progressive":
        middle = {
            "Emb.": "embedding",
            "B1-Attn": "embedding+attention:0",
            **{f"B{block + 1}": f"embedding+block:0-{block}" for block in range(last + 1)},
        }
    elif order == "single":
        middle = {
            "Emb.": "embedding",
            "B1-Attn": "attention:0",
            **{f"B{block + 1}": f"block:{block}" for block in range(last + 1)},
            "Head": "head",
        }
    elif order == "reverse":
        middle = {
            "Head": "head",
            **{f"B{block + 1}": f"block:{block}-{last}+head" for block in range(last, -1, -1)},
        }
    elif order == "interpolation":
        middle = dict.fromkeys(_FRACTIONS, "all")
    else:
        raise SettingsError(f"unknown order {order!r}{nearest(order, get_args(ReplacementOrder))}")
    return {_ENDS[0]: "", **middle, _ENDS[1]: "all"}


def stage_candidates(
    label: str, model: VLM, twins: Mapping[str, VLM], order: ReplacementOrder
) -> tuple[list[Candidate], list[Position], tuple[str, ...]]:
    """A model with the stages of its twins, to be evaluated and drawn as curves.

    Args:
        label: method of the model itself, where every line begins.
        model: the original.
        twins: its twins by label.
        order: of the replacement.

    Returns:
        The candidates, without the model itself; their positions in the diagram; and the names of the stages.
    """
    original, *others = stages(model, order)
    candidates: list[Candidate] = []
    positions = [Position(method=label, line=None, x=0.0)]
    for twin_label, twin in twins.items():
        for number, stage in enumerate(others, 1):
            shared = order in _PLAIN_NAMES or stage == _ENDS[1]  # every order ends with the whole twin
            method = f"{twin_label} {stage}" if shared else f"{twin_label} {order} {stage}"
            candidates.append(Candidate(method=method, model=replaced(model, twin, stage, order=order)))
            positions.append(Position(method=method, line=twin_label, x=float(number)))
    return candidates, positions, (original, *others)


@final
@dataclass(frozen=True, kw_only=True)
class Replacement(Analysis):
    """The original with more and more of its twins' weights, clean, by transfer and white-box (figures 2b and 4).

    Args:
        order: ``progressive``, ``single``, ``reverse`` or ``interpolation``; see :func:`stages`.
        attack: name of the attack.
        eps: its radius in pixel units, a number or a text such as ``4/255``.
        steps: its steps.
    """

    name: ClassVar[str] = "replacement"
    order: ReplacementOrder = "progressive"
    attack: str = "apgd"
    eps: float | str = 4 / 255
    steps: int = 20

    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        (label, model), twins = original_and_twins(models, self.name)
        candidates, positions, ticks = stage_candidates(label, model, dict(twins), self.order)
        threats = [
            Threat(attack=self.attack, eps=fraction(self.eps), source=source, options={"steps": self.steps})
            for source in ("undefended", "self")
        ]
        with TemporaryDirectory() as temporary, Results((folder or Path(temporary)) / "results.sqlite") as results:
            found = evaluate(
                [Candidate(method=label, model=model), *candidates],
                data=[data],
                threats=threats,
                results=results,
                undefended=model,
                sanity=False,  # every stage is one of many points; a model that counts is evaluated by itself
                quiet=quiet,
            )
        title, x_label = DIAGRAMS[self.order]
        return list(curves(found, positions, title=title, x_label=x_label, ticks=ticks))


ANALYSIS = Replacement
