"""Twins on disk: saved whole, after a rehearsal before the training, and before its checkpoint is removed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from radapt.errors import ModelError, SettingsError
from radapt.io import expanded, replacing_folder, write_json
from radapt.models import VLM

__all__ = ["rehearse", "save"]


def rehearse(model: VLM, folder: Path, dtype: torch.dtype) -> None:
    """Save a model where its twin is to be saved, and remove it again: what would fail in the end fails now.

    Raises:
        SettingsError: the folder is that of the model itself.
        ModelError: the model, of this kind or in this precision, cannot be saved there.
    """
    if (own := expanded(model.name)).is_dir() and folder.is_dir() and own.samefile(folder):
        raise SettingsError(f"out is the folder of the model itself, {folder}; give another one, to keep the original")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else folder.parent) as place:
            model.save_pretrained(Path(place) / "twin", dtype=dtype)
    except (OSError, NotImplementedError) as error:
        raise ModelError(f"{model.name} cannot be saved to {folder}: {error!r}; give another out, or none") from error


def save(model: VLM, recipe: Mapping[str, object], folder: Path, dtype: torch.dtype, *, kept: Path | None) -> None:
    """Save a twin with its recipe, whole; only then is the checkpoint of its training removed.

    Args:
        model: the twin.
        recipe: how it was made.
        folder: where it is saved.
        dtype: of the saved weights.
        kept: the checkpoint.

    Raises:
        ModelError: something cannot be written; the checkpoint is kept.
    """
    try:
        with replacing_folder(folder, last="config.json") as staged:
            model.save_pretrained(staged, dtype=dtype)
            write_json(staged / "recipe.json", recipe)
    except (OSError, ModelError) as error:
        raise ModelError(
            f"the twin cannot be written to {folder} ({error}); its training is kept in {kept}: make room and run the "
            "same again, or give that checkpoint with another out"
        ) from error
    if kept is not None:
        kept.unlink(missing_ok=True)
