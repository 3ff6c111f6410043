"""Artifacts: adapters and twins that are trained once and read from their folder afterwards, while the recipe holds."""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from radapt._version import __version__
from radapt.adapters import Adapter, AdapterMethod
from radapt.data import Dataset, training_images
from radapt.errors import SettingsError
from radapt.finetuning import finetune, make
from radapt.fingerprint import code_digest, digest, version_of
from radapt.io import check_writable, checkpoint_path, digest_of, replacing_folder, write_json
from radapt.models import VLM, load
from radapt.schema import read_json
from radapt.text import one_line

from .parts import DefenceSpec, TrainingSpec

__all__ = ["Report", "identity", "images_of", "seconds_of", "trained_adapter", "trained_twin"]

_Kind = TypeVar("_Kind")
_RECIPE = "recipe.json"
_DIGITS = 8
"""Of a recipe's hash, in the name of its checkpoint."""

Report = Callable[[str], None]
"""Called with a line of text on what happens."""


def identity(model: VLM, data: Dataset) -> list[str]:
    """What tells a model on some images from others: its name, weights and configuration; pixels, truth and words."""
    return [model.name, model.fingerprint, data.content, *data.digests]


def trained_adapter(
    method: AdapterMethod,
    model: VLM,
    images: Dataset,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    report: Report,
    quiet: bool,
) -> Adapter:
    """An adapter that is trained once; trained again where version, method, model, images or settings differ.

    Args:
        method: the method, one that is trained.
        model: the model to adapt.
        images: the training images; their labels and classes count where ``loss`` is ``text``.
        settings: those of the method.
        folder: where the adapter lies; the checkpoint of an interrupted training lies beside it.
        report: called when something else lies there.
        quiet: no progress bar.
    """
    code = "" if method.make.__module__.startswith("radapt.") else code_digest(method.make)  # the version tells ours
    facts = {"version": __version__, "method": f"{method.make.__qualname__} {code}", "model": model.fingerprint}
    facts["images"] = digest([images.pixels(range(len(images)))])
    if settings.get("loss") == "text":
        facts["labels"] = digest_of([images.labels.tolist(), images.prompts])
    plain = {name: value.fingerprint if isinstance(value, Adapter) else value for name, value in settings.items()}

    def make(checkpoint: Path) -> Adapter:
        return method.trained(model, images, settings, checkpoint=checkpoint, quiet=quiet)

    return _once(
        folder,
        lambda: Adapter.from_pretrained(folder),
        make,
        lambda adapter, place: adapter.save_pretrained(place),
        {**plain, **facts},
        report,
    )


def seconds_of(folder: Path) -> float | None:
    """How long the training took whose adapter or twin lies in a folder; None where it was interrupted."""
    seconds = read_json(folder / _RECIPE).get("seconds")
    return seconds if isinstance(seconds, float) else None


def images_of(spec: TrainingSpec | DefenceSpec, model: VLM, *, quiet: bool) -> Dataset:
    """The training images of a twin or an anchor: those of its datasets, one set after the other."""
    return training_images(spec.data, spec.n, size=model.image_size[0], quiet=quiet)


def trained_twin(model: VLM, spec: TrainingSpec, folder: Path, *, report: Report, quiet: bool) -> VLM:
    """A fine-tuned twin that is trained once; trained again where version, method, model, data or settings differ.

    Args:
        model: the model to start from.
        spec: the method, its images and settings.
        folder: where the twin lies; the checkpoint of an interrupted training lies beside it.
        report: called when something else lies there.
        quiet: no progress bar.
    """
    images = images_of(spec, model, quiet=quiet)

    def train(checkpoint: Path) -> VLM:
        twin = finetune(spec.method, model, images, checkpoint=checkpoint, quiet=quiet, **spec.settings).model
        twin.model.to(weights.dtype)  # as it is when it is read
        return twin

    facts = {"method": spec.method, "data": "+".join(spec.data), "n": spec.n, **spec.settings, "version": __version__}
    weights = next(model.model.parameters())
    code = version_of(type(make(spec.method)))
    start = digest_of(identity(model, images))
    recipe = {**facts, "code": code, "start": start, "dtype": str(weights.dtype)}

    def read() -> VLM:
        return load(folder, device=weights.device, dtype=weights.dtype)

    twin = _once(folder, read, train, lambda twin, place: twin.save_pretrained(place), recipe, report)
    # Results are kept by the model's name, which must not depend on where this folder is.
    twin.name = f"{model.name}, {spec.method} {digest_of(recipe, length=8, default=str)}"
    return twin


def _once(
    folder: Path,
    read: Callable[[], _Kind],
    make: Callable[[Path], _Kind],
    save: Callable[[_Kind, Path], object],
    recipe: Mapping[str, Any],
    report: Report,
) -> _Kind:
    """What lies in a folder if it was made by this recipe, is complete and can be read; else what is made there now.

    Args:
        folder: the folder; its ``recipe.json`` holds the recipe, a hash of each of the other files, and the seconds
            that the making took, unless it was interrupted.
        read: reads what lies there.
        make: makes it, with a checkpoint of this recipe, which is removed when all is saved.
        save: saves it to a folder.
        recipe: everything that it depends on.
        report: called with what is wrong with what lies there.
    """
    wanted = json.loads(json.dumps(dict(recipe), default=str))
    if folder.exists():
        problem = _problem(folder, wanted)
        if problem is None:
            try:
                return read()
            except Exception as error:  # whatever it is that cannot be read, it can be made again
                problem = f"what lies in {folder} cannot be read ({one_line(error)})"
        report(f"{problem}; it is trained again")
    check_writable(folder, folder=True)
    checkpoint = checkpoint_path(folder.with_name(f"{folder.name}.{digest_of(wanted, length=_DIGITS)}"))
    resumed, began = checkpoint.exists(), time.monotonic()
    thing = make(checkpoint)
    seconds = None if resumed else time.monotonic() - began
    # The recipe takes its place last: until then, what lies there counts as unfinished.
    with replacing_folder(folder, last=_RECIPE) as staged:
        save(thing, staged)
        write_json(staged / _RECIPE, {"recipe": wanted, "files": _hashes(staged), "seconds": seconds})
    every = checkpoint_path(folder.with_name(glob.escape(folder.name) + "." + "[0-9a-f]" * _DIGITS)).name
    for each in folder.parent.glob(every):  # those of other recipes, too
        each.unlink(missing_ok=True)
    return thing


def _problem(folder: Path, recipe: object) -> str | None:
    """What is wrong with what lies in a folder; None where it was made by a recipe and is as it was made."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    try:
        found = read_json(folder / _RECIPE)
    except SettingsError:
        found = None
    if not isinstance(found, dict) or found.get("recipe") != recipe or not isinstance(found.get("files"), dict):
        return f"what lies in {folder} has another recipe"
    changed = sorted(name for name, value in found["files"].items() if _hash(folder / name) != value)
    return f"{', '.join(changed)} in {folder} is missing or not as it was made" if changed else None


def _hashes(folder: Path) -> dict[str, str | None]:
    """Hash of each file below a folder, but of the model card, which may be edited."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    return {file.relative_to(folder).as_posix(): _hash(file) for file in files}


def _hash(file: Path) -> str | None:
    """Hash of a file; None where there is none."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
