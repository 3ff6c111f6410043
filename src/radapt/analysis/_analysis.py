"""What an analysis is: settings in the constructor, models and images at the call, plots as the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from rich.markup import escape
from rich.progress import track

from radapt.data import Dataset
from radapt.errors import InputError, SettingsError, shown
from radapt.models import VLM
from radapt.registry import Registry
from radapt.results.plots import Plot
from radapt.text import one_line
from radapt.types import Pixels

__all__ = ["REGISTRY", "Analysis", "by_name", "image_batches", "original_and_twins"]

REGISTRY = Registry("radapt.analysis", "analysis", "ANALYSIS")

_BATCH = 100


class Analysis(ABC):
    """What some models have in common and what not, as plots; a frozen dataclass whose fields are its settings.

    Attributes:
        name: its name on the command line.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(
        self, models: Mapping[str, VLM], data: Dataset, *, folder: Path | None = None, quiet: bool = False
    ) -> list[Plot]:
        """Analyse models.

        Args:
            models: the models by label; where models are compared, the first is the original of the others.
            data: the images.
            folder: where what takes long is kept, so that an interrupted run continues; None: nowhere.
            quiet: no progress bar.

        Raises:
            SettingsError: too few models.
        """


def image_batches(data: Dataset, label: str, quiet: bool) -> Iterator[Pixels]:
    """The images of a dataset, a hundred at a time, with a progress bar."""
    starts = range(0, len(data), _BATCH)
    for first in track(starts, description=escape(one_line(label)), disable=quiet, transient=True):
        yield data.pixels(range(first, min(first + _BATCH, len(data))))


def by_name(models: VLM | Sequence[VLM] | Mapping[str, VLM]) -> dict[str, VLM]:
    """Models by their label; those without one by their name.

    Raises:
        InputError: something else than loaded models, or two of one name.
    """
    listed = [models] if isinstance(models, VLM) else models
    named = dict(listed) if isinstance(listed, Mapping) else {getattr(each, "name", ""): each for each in listed}
    for each in named.values():
        if not isinstance(each, VLM):
            raise InputError(f"an analysis needs loaded models, radapt.load(...), got {shown(each)}")
    if len(named) < len(listed):
        raise InputError("two of the models have one name; give them as {label: model}")
    return named


def original_and_twins(models: Mapping[str, VLM], analysis: str) -> tuple[tuple[str, VLM], list[tuple[str, VLM]]]:
    """The first model, and those that are compared with it.

    Raises:
        SettingsError: there is nothing to compare.
    """
    first, *others = models.items()
    if not others:
        raise SettingsError(f"{analysis} compares models: name the original, then its twins (micro/clip micro/fare)")
    return first, others
