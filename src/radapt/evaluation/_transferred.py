"""Attacked images that are shown to several candidates: made once against their source, and kept in a folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radapt.attacks import Outcome
from radapt.fingerprint import digest
from radapt.io import digest_of, replacing
from radapt.results import Sign
from radapt.text import one_line

from ._task import Task
from ._units import Unit

__all__ = ["Attacked", "Transferred", "attacked"]

_COUNTS = ("iterations", "forwards", "backwards")
_MEASURES = ("loss", "distance")


@dataclass(frozen=True)
class Attacked:
    """The image of one sample after the attack, what the attack cost, and what is odd about it."""

    image: Tensor
    cost: Mapping[str, Any]
    signs: tuple[Sign, ...]


def attacked(outcome: Outcome, signs: Sequence[tuple[Sign, ...]]) -> list[Attacked]:
    """The samples of an outcome, one by one, with their signs."""
    images = outcome.pixels.cpu()
    found = list[Attacked]()
    for row in range(len(images)):
        cost: dict[str, Any] = {name: int(getattr(outcome, name)[row]) for name in _COUNTS}
        cost |= {name: float(getattr(outcome, name)[row]) for name in _MEASURES}
        found.append(Attacked(images[row], cost, signs[row]))
    return found


class Transferred:
    """Attacked images by what they depend on (:attr:`Unit.shared`), and by chunk.

    Within an evaluation they are held for one dataset at a time. In a folder they stay: a file of safetensors for every
    chunk, in a folder for everything else that they depend on, so that any process that measures the same may read and
    write there. A chunk is found whole or not at all: attacked among others, an image may differ in its last bits.

    Args:
        folder: where images are kept; None: nowhere.
        batch_size: that they are made with.
    """

    def __init__(self, folder: Path | None, batch_size: int) -> None:
        self._folder, self._batch_size = folder, batch_size
        self._held: dict[tuple[str, tuple[int, ...]], list[Attacked]] = {}
        self._task: Task | None = None

    def of(self, unit: Unit, task: Task, chunk: Sequence[int]) -> list[Attacked] | None:
        """The images of a chunk; None where they are to be made.

        Args:
            unit: by transfer.
            task: whose samples they are.
            chunk: positions of the samples.
        """
        if task is not self._task:
            self.forget()
            self._task = task
        key = unit.shared, tuple(chunk)
        if self._folder is not None and key not in self._held:
            found = _read(self._file(unit, task, chunk), len(chunk))
            if found is not None:
                self._held[key] = found
        return self._held.get(key)

    def lies(self, unit: Unit, task: Task, chunk: Sequence[int]) -> bool:
        """Whether there is a file with the images of a chunk."""
        return self._folder is not None and bool(unit.shared) and self._file(unit, task, chunk).exists()

    def keep(self, unit: Unit, task: Task, chunk: Sequence[int], made: list[Attacked]) -> None:
        """Hold the images of a chunk, and write them to the folder, if there is one; it is told where that fails."""
        self._held[unit.shared, tuple(chunk)] = made
        if self._folder is None:
            return
        tensors = {"images": torch.stack([each.image for each in made])}
        for name in _COUNTS:
            tensors[name] = torch.tensor([each.cost[name] for each in made], dtype=torch.int64, device="cpu")
        for name in _MEASURES:
            tensors[name] = torch.tensor([each.cost[name] for each in made], dtype=torch.float64, device="cpu")
        tensors["failed"] = torch.tensor(["failed" in each.signs for each in made], device="cpu")
        try:
            with replacing(self._file(unit, task, chunk)) as partial:
                save_file(tensors, partial, {"what": str(unit), "checksum": _checksum(tensors)})
        except (OSError, SafetensorError) as error:  # they cost time alone
            text = f"transferred images are not kept: {self._folder} cannot be written ({one_line(error)[:100]})"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def forget(self) -> None:
        """Let go of all that is held; what lies in the folder stays."""
        self._held.clear()

    def _file(self, unit: Unit, task: Task, chunk: Sequence[int]) -> Path:
        """Where the images of a chunk belong: known by its samples, which are an image, what is true of it, and a name
        for its random numbers each."""
        assert self._folder is not None
        samples = [[task.data.keys[position], unit.digests[position]] for position in chunk]
        return self._folder / unit.shared / f"{digest_of([self._batch_size, samples])}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest(tensors[name] for name in sorted(tensors))


def _read(file: Path, count: int) -> list[Attacked] | None:
    """The images in a file; None where there is none, and, with a warning, of one that is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            # Copies: what is read stays what was checked, whatever becomes of the file.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        if _checksum(tensors) != facts["checksum"] or any(len(tensor) != count for tensor in tensors.values()):
            raise ValueError("its checksum is another one")
        costs = [{name: tensors[name][row].item() for name in (*_COUNTS, *_MEASURES)} for row in range(count)]
        failed: list[tuple[Sign, ...]] = [("failed",) if failed else () for failed in tensors["failed"].tolist()]
        return [Attacked(*each) for each in zip(tensors["images"], costs, failed, strict=True)]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        text = f"{file} cannot be used ({one_line(error)[:100]}); its images are made again"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return None
