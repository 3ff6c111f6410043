"""Adapters that a command makes once and reads from its folder afterwards, as long as their recipe is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radapt._version import __version__

from ._shared import checkpoint_of, console, write_file

if TYPE_CHECKING:
    from radapt.adapt import Adapter
    from radapt.models import VLM
    from radapt.types import Pixels

__all__ = ["trained"]


def trained(model: VLM, pixels: Pixels, settings: Mapping[str, Any], folder: Path, *, quiet: bool) -> Adapter:
    """A data-driven adapter, trained once; made anew where version, weights, images or settings differ.

    Args:
        model: the model to adapt.
        pixels: the training images.
        settings: those of :func:`radapt.data_driven`.
        folder: where the adapter lies; the checkpoint of an interrupted training lies beside it.
        quiet: no progress bar.
    """
    from radapt.adapt import Adapter, data_driven
    from radapt.adapt.data_driven import digest

    facts = {"version": __version__, "weights": digest(model.model.parameters()), "images": digest([pixels])}
    recipe = folder / "recipe.json"

    def recipe_of(adapter: Adapter) -> str:
        return json.dumps({**settings, **facts, "adapter": adapter.fingerprint}, indent=2) + "\n"

    if (folder / "adapter_model.safetensors").exists():
        found = Adapter.from_pretrained(folder)
        if recipe.exists() and recipe.read_text() == recipe_of(found):
            return found
        console.print(f"the adapter in {folder} was made in another way; it is made anew", highlight=False)
    adapter = data_driven(model, pixels, **settings, checkpoint=checkpoint_of(folder), quiet=quiet)
    adapter.save_pretrained(folder)
    write_file(recipe, recipe_of(adapter))
    return adapter
