"""The analyses by name: what each shows of some models, the first of them being the reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress import track

from radapt.errors import SettingsError
from radapt.find import nearest

from ._shared import console, fraction

if TYPE_CHECKING:
    from radapt.data import Dataset
    from radapt.models import VLM
    from radapt.plots import Plot
    from radapt.types import Pixels

__all__ = ["ANALYSES", "analyses", "check_analysis"]

_BATCH = 100
_Models = Mapping[str, "VLM"]


def _batches(data: Dataset, label: str, quiet: bool) -> Iterator[Pixels]:
    """The pictures of a data set, a hundred at a time."""
    starts = range(0, len(data), _BATCH)
    for first in track(starts, description=label, console=console, disable=quiet, transient=True):
        yield data.pixels(range(first, min(first + _BATCH, len(data))))


def _pairs(models: _Models, analysis: str) -> tuple[tuple[str, VLM], list[tuple[str, VLM]]]:
    """The reference, and those that are compared with it."""
    first, *others = models.items()
    if not others:
        raise SettingsError(f"{analysis} compares models: name the original, then its twins (micro/clip micro/fare)")
    return first, others


def _cka(models: _Models, data: Dataset, quiet: bool, *, tokens: str = "all") -> list[Plot]:
    from radapt.analyze import cka

    (name, model), others = _pairs(models, "cka")
    made = []
    for label, other in others:
        map_ = cka(model, other, _batches(data, f"CKA of {label}", quiet), tokens=tokens)
        title = f"CKA of {label} and {name} (n = {len(data)})"
        made.append(replace(map_, title=title, row_label=f"blocks of {label}", column_label=f"blocks of {name}"))
    return list(made)


def _kernels(models: _Models, data: Dataset, quiet: bool, *, scale: str = "relative") -> list[Plot]:
    from radapt.analyze import kernel_spectrum

    (name, model), others = _pairs(models, "kernels")
    made = [(label, kernel_spectrum(model, other, scale=scale)) for label, other in others]
    return [replace(each, title=f"Patch embedding: spectrum of {label} minus that of {name}") for label, each in made]


def _response(models: _Models, data: Dataset, quiet: bool) -> list[Plot]:
    from radapt.analyze import frequency_response

    return [frequency_response(models)]


def _insensitivity(models: _Models, data: Dataset, quiet: bool) -> list[Plot]:
    from radapt.analyze import insensitivity

    (name, model), others = _pairs(models, "insensitivity")
    made = []
    for label, other in others:
        map_ = insensitivity(other, model, _batches(data, f"attention of {label}", quiet))
        made.append(replace(map_, title=f"How much the attention of {label} hangs on the image, against {name}"))
    return list(made)


def _attention(
    models: _Models, data: Dataset, quiet: bool, *, block: int = 0, query: str = "mean", pictures: int = 5
) -> list[Plot]:
    from radapt.analyze import attention_maps

    shown = data.pixels(range(min(pictures, len(data))))
    return [attention_maps(models, shown, block=block, query=query)]


def _perturbations(
    models: _Models,
    data: Dataset,
    quiet: bool,
    *,
    attack: str = "apgd",
    eps: float | str = 4 / 255,
    steps: int = 20,
    bands: int = 16,
) -> list[Plot]:
    """Perturbations that are made on each model itself, with the whole budget of the attack."""
    from radapt.analyze import perturbation_spectrum
    from radapt.attacks import ClassificationObjective, make

    chosen, lines = make(attack, eps=fraction(str(eps)), steps=steps), []
    for label, model in models.items():
        classifier = model.classifier(data.prompts)
        logits = partial(model.logits, classifier=classifier)
        clean = [part.to(model.device) for part in _batches(data, f"{attack} on {label}", True)]
        moved, first = [], 0
        for part in track(clean, description=f"{attack} on {label}", console=console, disable=quiet, transient=True):
            last = first + len(part)
            objective = ClassificationObjective(logits, data.labels[first:last], len(classifier), stop=False)
            moved.append(chosen(objective, part, keys=data.keys[first:last], slots=len(part)).pixels)
            first = last
        drawn = perturbation_spectrum(clean, moved, label, bands=bands)
        lines.append((drawn, drawn.lines[0]))
    title = f"Spectrum of adversarial perturbations (at most n = {len(data)})"
    return [replace(lines[0][0], title=title, lines=tuple(line for _, line in lines))]


ANALYSES: dict[str, Callable[..., list[Plot]]] = {
    "cka": _cka,
    "kernels": _kernels,
    "response": _response,
    "attention": _attention,
    "insensitivity": _insensitivity,
    "perturbations": _perturbations,
}


def check_analysis(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an analysis that there is not, and options that it does not take.

    Raises:
        SettingsError: an unknown name or option.
    """
    if name not in ANALYSES:
        raise SettingsError(f"unknown analysis {name!r}{nearest(name, ANALYSES)}")
    allowed = [key for key, each in inspect.signature(ANALYSES[name]).parameters.items() if each.kind.name[0] == "K"]
    for option in options:
        if option not in allowed:
            raise SettingsError(f"{name} has no option {option!r}{nearest(option, allowed)}")


def analyses(name: str, models: _Models, data: Dataset, options: Mapping[str, Any], *, quiet: bool) -> list[Plot]:
    """What an analysis shows.

    Args:
        name: one of ``ANALYSES``.
        models: the models by label; the first is the reference.
        data: the pictures.
        options: what else the analysis takes.
        quiet: no progress bar.

    Raises:
        SettingsError: an unknown name or option, or too few models.
    """
    check_analysis(name, options)
    return ANALYSES[name](models, data, quiet, **options)
