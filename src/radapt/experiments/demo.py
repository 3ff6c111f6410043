"""The demo: the main job on the embedded world, in a few minutes and without a download; or on photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radapt.adapters import REGISTRY as METHODS
from radapt.adapters import Adapter, graft, micro_adapters, model_guided, training_free
from radapt.data import load_dataset, training_images
from radapt.evaluation import Candidate, Threat, evaluate
from radapt.io import expanded
from radapt.models import VLM, load
from radapt.numbers import LARGEST_N, whole
from radapt.reports import write_report
from radapt.results import Result, Results

from .artifacts import trained_adapter

__all__ = ["Demo", "demo"]

# Set beforehand, the same for every dataset, and not tuned; `radapt tune` chooses them on a validation split.
_ALPHA = {"clip": 0.4, "twin": 0.4, "static": 0.8, "adaptive": 0.8}
# Short trainings, so that the demo takes minutes; `radapt adapt data-driven` takes the paper's 2,000 images.
_IMAGES, _STEPS = 1000, {"static": 40, "adaptive": 12}


@dataclass(frozen=True, kw_only=True)
class _World:
    """A model and its twins by label, test sets, the sets that an anchor is trained on, and the adapters that ship."""

    model: str
    twins: Mapping[str, str]
    sets: tuple[str, ...]
    training: tuple[str, ...]
    anchors: str
    shallow: str | None = None


_WORLD = _World(
    model="micro/clip",
    twins={"TeCoA": "micro/tecoa", "FARE": "micro/fare"},
    sets=("shapes", "textures", "compositions"),
    training=("objects",),
    anchors="r-adapt-plus",
    shallow="micro/shallow",
)
_PHOTOS = _World(
    model="micro/photos",
    twins={"TeCoA": "micro/photos-tecoa", "FARE": "micro/photos-fare"},
    sets=("cifar-10", "caltech-101"),
    training=("cifar-10", "caltech-101"),
    anchors="photos-r-adapt-plus",
)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo has made: its results, and the files of its report."""

    results: tuple[Result, ...]
    file: Path
    written: tuple[Path, ...]


def demo(
    out: str | Path = "radapt-demo",
    *,
    n: int = 100,
    photos: bool = False,
    train: bool = False,
    progress: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Demo:
    """Adapt a CLIP in several ways, attack it by transfer and through its defence, and write a report.

    The model, its robust twins and the images ship with the package; photographs are those of CIFAR-10 and Caltech-101,
    in the folder that ``RADAPT_DATA`` names or from the hub. An interrupted demo continues where it was.

    Args:
        out: folder of the results, the adapters and the report.
        n: images per dataset.
        photos: on photographs instead of the embedded world.
        train: train the anchors of R-Adapt+ here (minutes), instead of taking those that ship, where they do. They are
            made by the same call, but a training differs from machine to machine in its last bits, and its figures by
            an image.
        progress: called with lines of text on what happens.
        quiet: no progress bars.

    Raises:
        SettingsError: ``n`` is out of range, or there are no photographs.
    """
    whole("n", n, high=LARGEST_N)
    world = _PHOTOS if photos else _WORLD
    sets = [load_dataset(name, split="test", n=n, quiet=quiet) for name in world.sets]
    folder, report = expanded(out), progress or (lambda text: None)
    clip, twins = load(world.model), {label: load(name) for label, name in world.twins.items()}
    candidates = [
        Candidate(method="CLIP", model=clip),
        *(Candidate(method=label, model=twin) for label, twin in twins.items()),
        Candidate(method="R-Adapt_CLIP", model=clip, adapter=training_free(clip, alpha=_ALPHA["clip"])),
        *(
            Candidate(
                method=f"R-Adapt_{label}", model=clip, adapter=model_guided(clip, twins[label], alpha=_ALPHA["twin"])
            )
            for label in reversed(twins)
        ),
        *(
            Candidate(
                method=f"R-Adapt+ ({adversary})",
                model=clip,
                adapter=_anchored(clip, world, adversary, folder, train, report, quiet),
            )
            for adversary in ("static", "adaptive")
        ),
        Candidate(method="graft", model=clip, adapter=graft(clip, twins["FARE"])),
    ]
    if world.shallow is not None:
        candidates.append(Candidate(method="shallow", model=clip, adapter=Adapter.from_pretrained(world.shallow)))
    threats = [
        Threat(attack="pgd", eps=4 / 255, source="undefended", options={"steps": 20}),
        Threat(attack="apgd-ensemble", eps=4 / 255, source="self"),
    ]
    file = folder / "results.sqlite"
    with Results(file) as results:
        found = evaluate(candidates, data=sets, threats=threats, results=results, undefended=clip, quiet=quiet)
    return Demo(results=tuple(found), file=file, written=tuple(write_report(file, folder / "report")))


def _anchored(
    model: VLM,
    world: _World,
    adversary: str,
    folder: Path,
    train: bool,
    report: Callable[[str], None],
    quiet: bool,
) -> Adapter:
    """R-Adapt+ with the anchor that ships, or, where none does or training is asked for, trained in a folder."""
    name = f"{world.anchors}-{adversary}"
    if not train and f"micro/{name}" in micro_adapters():
        return Adapter.from_pretrained(f"micro/{name}")
    report(f"the anchor of R-Adapt+ ({adversary}) is trained here, which takes minutes, or read if it was before")
    return _trained(model, world, adversary, folder / name, report, quiet)


def _trained(
    model: VLM, world: _World, adversary: str, folder: Path, report: Callable[[str], None], quiet: bool
) -> Adapter:
    images = training_images(world.training, _IMAGES, size=model.image_size[0], quiet=quiet)
    settings: dict[str, Any] = {"adversary": adversary, "steps": _STEPS[adversary], "alpha": _ALPHA[adversary]}
    return trained_adapter(METHODS.get("data-driven"), model, images, settings, folder, report=report, quiet=quiet)
