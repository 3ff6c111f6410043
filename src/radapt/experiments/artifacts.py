"""Artifacts: adapters and twins that are trained once and read from their folder afterwards, while the recipe holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from radapt._version import __version__
from radapt.adapters import Adapter, AdapterMethod
from radapt.data import load_dataset
from radapt.finetuning import finetune
from radapt.fingerprint import digest
from radapt.io import checkpoint_path, digest_of, write_text
from radapt.models import VLM, load
from radapt.types import Pixels

from .parts import TrainingSpec

__all__ = ["Report", "identity", "trained_adapter", "trained_twin"]

_Kind = TypeVar("_Kind")

Report = Callable[[str], None]
"""Called with a line of text on what happens."""


def identity(model: VLM) -> list[str]:
    """What a model's results depend on: its name and its weights."""
    return [model.name, digest(model.model.parameters())]


def trained_adapter(
    method: AdapterMethod,
    model: VLM,
    pixels: Pixels,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    report: Report,
    quiet: bool,
) -> Adapter:
    """An adapter that is trained once; trained again where version, weights, images or settings differ.

    Args:
        method: the method, one that is trained.
        model: the model to adapt.
        pixels: the training images.
        settings: those of the method.
        folder: where the adapter lies; the checkpoint of an interrupted training lies beside it.
        report: called when something else lies there.
        quiet: no progress bar.
    """
    facts = {"version": __version__, "weights": digest(model.model.parameters()), "images": digest([pixels])}

    def make() -> Adapter:
        adapter = method.make(model, pixels, **settings, checkpoint=checkpoint_path(folder), quiet=quiet)
        adapter.save_pretrained(folder)
        return adapter

    return _once(
        folder,
        "adapter_model.safetensors",
        lambda: Adapter.from_pretrained(folder),
        make,
        lambda adapter: {**settings, **facts, "adapter": adapter.fingerprint},
        report,
    )


def trained_twin(model: VLM, spec: TrainingSpec, folder: Path, *, report: Report, quiet: bool) -> VLM:
    """A fine-tuned twin that is trained once; trained again where version, weights, data or settings differ.

    Args:
        model: the model to start from.
        spec: the method, its images and settings.
        folder: where the twin lies; the checkpoint of an interrupted training lies beside it.
        report: called when something else lies there.
        quiet: no progress bar.
    """
    images = load_dataset(spec.data, split="train", n=spec.n, size=model.image_size[0])

    def train() -> VLM:
        checkpoint = checkpoint_path(folder)
        twin = finetune(spec.method, model, images, checkpoint=checkpoint, quiet=quiet, **spec.settings).model
        twin.save_pretrained(folder)
        return twin

    facts = {"method": spec.method, "data": spec.data, "n": spec.n, **spec.settings, "version": __version__}
    weights = next(model.model.parameters())
    pixels = digest([images.pixels(range(len(images)))])
    recipe = {**facts, "start": digest(model.model.parameters()), "images": pixels, "dtype": str(weights.dtype)}

    def read() -> VLM:
        return load(folder, device=weights.device, dtype=weights.dtype)

    twin = _once(folder, "model.safetensors", read, train, lambda _: recipe, report)
    # Results are kept by the model's name, which must not depend on where this folder is.
    twin.name = f"{model.name}, {spec.method} {digest_of(recipe, length=8, default=str)}"
    return twin


def _once(
    folder: Path,
    weights: str,
    read: Callable[[], _Kind],
    make: Callable[[], _Kind],
    recipe_of: Callable[[_Kind], Mapping[str, Any]],
    report: Report,
) -> _Kind:
    """What lies in a folder if it has this recipe, else what is made there now."""
    recipe = folder / "recipe.json"

    def text_of(thing: _Kind) -> str:
        return json.dumps(dict(recipe_of(thing)), indent=2, default=str) + "\n"

    if (folder / weights).exists():
        found = read()
        if recipe.exists() and recipe.read_text(encoding="utf-8") == text_of(found):
            return found
        report(f"what lies in {folder} has another recipe; it is trained again")
    thing = make()
    write_text(recipe, text_of(thing))
    return thing
