"""Progressive replacement: a model with some of its adversarially fine-tuned twin's weights, stage by stage."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, final, get_args

import torch
from torch import Tensor, nn

from radapt.data import Dataset
from radapt.errors import AdapterError, ModelError, SettingsError
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.io import fraction
from radapt.models import VLM, parts
from radapt.registry import nearest
from radapt.results import Results
from radapt.results.plots import Plot
from radapt.results.sweep import Position, curves
from radapt.types import ReplacementOrder

from ._analysis import Analysis, original_and_twins

__all__ = ["ANALYSIS", "Replacement", "replaced", "stage_candidates", "stages"]

_ENDS = ("Original", "Full")
# What models of one depth and width may still differ in.
_MATTERS = ("hidden_act", "image_size", "layer_norm_eps", "num_attention_heads", "num_heads", "patch_size")


def stages(model: VLM, order: ReplacementOrder = "progressive") -> tuple[str, ...]:
    """Names of the stages of a replacement, in order (figures 2b and 4 of the paper).

    Args:
        model: the model.
        order: ``progressive``: ``Original``, ``Emb.`` (patches, positions and the norm before the blocks), ``B1-Attn``
            (the first block's attention), ``B1``, ``B2``..., ``Full`` (with the head: final norm and projection), each
            with all before it; ``single``: each of these alone, and ``Head``; ``reverse``: from ``Head`` and the last
            block on, each with all before it, the embedding last, which makes it ``Full``. In any order, ``Original``
            has nothing of the twin and ``Full`` everything.

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
        order: ``progressive``, ``single`` or ``reverse``; see :func:`stages`.

    Raises:
        SettingsError: an unknown stage or order.
        ModelError: the models differ in more than their weights.
        AdapterError: the twin carries an adapter.
    """
    selections = _selections(model, order)
    if stage not in selections:
        raise SettingsError(f"unknown stage {stage!r}{nearest(stage, selections)}")
    _check_twins(model, twin)
    copied = copy.copy(model)
    # All stages of a large model would not fit beside each other: the weights themselves are not copied.
    shared: list[Tensor] = [*model.model.parameters(), *model.model.buffers()]
    copied.model = copy.deepcopy(model.model, {id(tensor): tensor for tensor in shared})
    copied.name = f"{model.name} ({order} {stage}, {twin.name})"
    if selections[stage]:
        source = twin.image_parameters()
        for name, parameter in parts(copied, selections[stage]).items():
            owner, _, own = name.rpartition(".")
            taken = nn.Parameter(source[name].detach().to(parameter), requires_grad=parameter.requires_grad)
            setattr(copied.model.get_submodule(owner), own, taken)
    return copied


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
    else:
        raise SettingsError(f"unknown order {order!r}{nearest(order, get_args(ReplacementOrder))}")
    return {_ENDS[0]: "", **middle, _ENDS[1]: "all"}


def _check_twins(model: VLM, twin: VLM) -> None:
    if twin.tower.mounted() is not None:
        raise AdapterError(
            f"{twin.name} carries an adapter, which is no weight that another model could take; detach it first: "
            "radapt.detach(model)"
        )
    ours, theirs = _facts(model), _facts(twin)
    different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if not different:
        mine, its = ({name: p.shape for name, p in each.image_parameters().items()} for each in (model, twin))
        different = ["parameters"] * (mine != its)
        ours, theirs = ({"parameters": _summary(each)} for each in (mine, its))
    if different:
        listed = "; ".join(f"{key} {ours.get(key)} against {theirs.get(key)}" for key in different)
        raise ModelError(
            f"{model.name} and {twin.name} are no twins: {listed}. Take a model that was fine-tuned from the other one"
        )
    if _elsewhere_differs(model, twin):
        warnings.warn(
            f"{model.name} and {twin.name} differ outside of their vision encoders too; there, the copy is "
            f"{model.name}: results with its text encoder are not those of {twin.name}",
            stacklevel=3,
        )


def _facts(model: VLM) -> dict[str, Any]:
    """What twins have in common, by name."""
    tower = model.tower
    config = getattr(tower.root, "config", None)
    facts = {"kind": type(model.model).__name__, "depth": len(tower.blocks), "width": tower.width}
    facts |= {"patch size": tower.patch_size, "image size": model.image_size}
    facts |= {"mean": tuple(tower.mean), "std": tuple(tower.std)}
    return facts | {key: getattr(config, key) for key in _MATTERS if hasattr(config, key)}


def _summary(shapes: dict[str, torch.Size]) -> str:
    return f"{len(shapes)} tensors of {sum(shape.numel() for shape in shapes.values())} numbers"


def _elsewhere_differs(model: VLM, twin: VLM) -> bool:
    mine, its = (_elsewhere(each) for each in (model, twin))
    if mine.keys() != its.keys():
        return True
    return any(
        mine[name].shape != its[name].shape or not bool((mine[name] == its[name].to(mine[name])).all()) for name in mine
    )


def _elsewhere(model: VLM) -> dict[str, Tensor]:
    seen = model.image_parameters()
    return {name: p for name, p in model.model.named_parameters() if name not in seen}


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
            method = f"{twin_label} {stage}"
            candidates.append(Candidate(method=method, model=replaced(model, twin, stage, order=order)))
            positions.append(Position(method=method, line=twin_label, x=float(number)))
    return candidates, positions, (original, *others)


@final
@dataclass(frozen=True, kw_only=True)
class Replacement(Analysis):
    """The original with more and more of its twins' weights, clean, by transfer and white-box (figures 2b and 4).

    Args:
        order: ``progressive``, ``single`` or ``reverse``; see :func:`stages`.
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
        title = f"{self.order.capitalize()} replacement"
        return list(curves(found, positions, title=title, x_label="stages of the twin", ticks=ticks))


ANALYSIS = Replacement
