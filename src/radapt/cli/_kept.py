"""What a command makes once and reads from its folder afterwards, as long as its recipe is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from radapt._version import __version__

from ._shared import checkpoint_of, console, write_file

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.models import VLM
    from radapt.types import Pixels

    from ._ingredients import Training

_Kind = TypeVar("_Kind")

__all__ = ["digest_of", "identity", "trained", "tuned"]


def digest_of(facts: object) -> str:
    """Eight signs that stand for plain values: part of a file's name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def identity(model: VLM) -> list[str]:
    """What a model's figures hang on: its name and its weights."""
    from radapt._digest import digest

    return [model.name, digest(model.model.parameters())]


def trained(model: VLM, pixels: Pixels, settings: Mapping[str, Any], folder: Path, *, quiet: bool) -> Adapter:
    """A data-driven adapter, trained once; made anew where version, weights, images or settings differ.

    Args:
        model: the model to adapt.
        pixels: the training images.
        settings: those of :func:`radapt.data_driven`.
        folder: where the adapter lies; the checkpoint of an interrupted training lies beside it.
        quiet: no progress bar.
    """
    from radapt._digest import digest
    from radapt.adapt import Adapter, data_driven

    facts = {"version": __version__, "weights": digest(model.model.parameters()), "images": digest([pixels])}

    def make() -> Adapter:
        adapter = data_driven(model, pixels, **settings, checkpoint=checkpoint_of(folder), quiet=quiet)
        adapter.save_pretrained(folder)
        return adapter

    return _kept(
        folder,
        "adapter_model.safetensors",
        lambda: Adapter.from_pretrained(folder),
        make,
        lambda adapter: {**settings, **facts, "adapter": adapter.fingerprint},
    )


def tuned(model: VLM, how: Training, folder: Path, *, quiet: bool) -> VLM:
    """A fine-tuned twin, trained once; made anew where version, weights, data or settings differ.

    Args:
        model: the model to start from.
        how: the method, its images and settings.
        folder: where the twin lies; the checkpoint of an interrupted training lies beside it.
        quiet: no progress bar.
    """
    from radapt._digest import digest
    from radapt.data import load_dataset
    from radapt.finetune import finetune, make
    from radapt.models import load

    images = load_dataset(how.data, split="train", n=how.n, size=model.image_size[0])

    def train() -> VLM:
        checkpoint = checkpoint_of(folder)
        twin, _ = finetune(
            make(how.method), model, images, label=how.method, checkpoint=checkpoint, quiet=quiet, **how.settings
        )
        twin.save_pretrained(folder)
        return twin

    facts = {"method": how.method, "data": how.data, "n": how.n, **how.settings, "version": __version__}
    weights = next(model.model.parameters())
    pictures = digest([images.pixels(range(len(images)))])
    recipe = {**facts, "start": digest(model.model.parameters()), "images": pictures, "dtype": str(weights.dtype)}

    def read() -> VLM:
        return load(folder, device=weights.device, dtype=weights.dtype)

    twin = _kept(folder, "model.safetensors", read, train, lambda _: recipe)
    # Results are kept by the model's name, which must not hang on where this folder is.
    twin.name = f"{model.name}, {how.method} {digest_of(recipe)}"
    return twin


def _kept(
    folder: Path,
    weights: str,
    read: Callable[[], _Kind],
    make: Callable[[], _Kind],
    recipe_of: Callable[[_Kind], Mapping[str, Any]],
) -> _Kind:
    """What lies in a folder if it has this recipe, else what is made there now."""
    recipe = folder / "recipe.json"

    def text_of(thing: _Kind) -> str:
        return json.dumps(dict(recipe_of(thing)), indent=2, default=str) + "\n"

    if (folder / weights).exists():
        found = read()
        if recipe.exists() and recipe.read_text() == text_of(found):
            return found
        console.print(f"what lies in {folder} was made in another way; it is made anew", highlight=False)
    thing = make()
    write_file(recipe, text_of(thing))
    return thing
