"""The call that analyses models by name, as ``radapt analyze`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from radapt.data import Dataset, load_dataset
from radapt.errors import SettingsError
from radapt.evaluation import Models, split_candidate
from radapt.models import VLM, common_image_size
from radapt.precision import own_precision
from radapt.results.plots import Plot
from radapt.schema import check_kinds
from radapt.types import Split

from ._analysis import REGISTRY, Analysis

__all__ = ["analyze", "make"]

_Model = str | Path | VLM | nn.Module


def make(name: str, /, **settings: object) -> Analysis:
    """An analysis by name.

    Raises:
        SettingsError: there is no such analysis or setting, or a value is out of range.
    """
    declared = {entry.name: str(entry.type) for entry in fields(REGISTRY.get(name))}
    check_kinds(f"analysis {name!r}", declared, settings)
    analysis: Analysis = REGISTRY.make(name, settings)
    return analysis


@own_precision()
def analyze(
    analysis: str | Analysis,
    models: Sequence[_Model] | Mapping[str, _Model],
    *,
    data: str | Path | Dataset = "objects",
    n: int = 1000,
    split: Split = "test",
    options: Mapping[str, object] | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    quiet: bool = False,
) -> list[Plot]:
    """Analyse models: layer by layer, in frequencies, or by their attention.

    Args:
        analysis: an analysis, or its name: ``replacement``, ``cka``, ``kernels``, ``response``, ``attention``,
            ``attention-sensitivity``, ``perturbations``, or one that another package adds.
        models: the original, then its twins: names (``[LABEL=]MODEL``) or objects, or a mapping by label.
        data: the dataset whose images are shown, or its name.
        n, split: images of a dataset by name, and its split.
        options: settings of an analysis by name.
        folder: where a long analysis keeps what it has, so that an interrupted one continues; None: nowhere.
        device, dtype: of models by name.
        quiet: no progress bar.

    Returns:
        Plots as plain data: :func:`radapt.reports.write_plots` draws them.

    Raises:
        SettingsError: an unknown analysis or option, two models of one label, or too few models.
        RadaptError: a model or dataset cannot be loaded.
    """
    chosen = make(analysis, **(options or {})) if isinstance(analysis, str) else analysis
    named = _named(models, Models({"device": device, "dtype": dtype}))
    size = common_image_size(list(named.values()))
    images = data if isinstance(data, Dataset) else load_dataset(data, split=split, n=n, size=size, quiet=quiet)
    return chosen(named, images, folder=None if folder is None else Path(folder), quiet=quiet)


def _named(given: Sequence[_Model] | Mapping[str, _Model], models: Models) -> dict[str, VLM]:
    """Models by label."""
    if isinstance(given, str | Path | VLM | nn.Module):
        given = [given]
    named: dict[str, VLM] = {}
    pairs: list[tuple[str | None, Any]] = [*given.items()] if isinstance(given, Mapping) else [(None, x) for x in given]
    for label, model in pairs:
        if isinstance(model, str) and label is None:
            label, model, adapter = split_candidate(model)
            if adapter is not None:
                raise SettingsError(f"an analysis looks at models without an adapter, got {model}+{adapter}")
        vlm = models.get(model)
        label = label or vlm.name
        if label in named:
            raise SettingsError(f"models must have different labels, got {label!r} twice; write LABEL=MODEL")
        named[label] = vlm
    return named
