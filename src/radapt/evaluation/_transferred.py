"""Attacked images that are shown to several candidates: made once against their source, and kept in a folder."""

from __future__ import annotations

import json
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
from radapt.text import one_line

from ._task import Task
from ._units import Unit

__all__ = ["Attacked", "Transferred", "attacked"]

_COUNTS = ("iterations", "forwards", "backwards")
_MEASURES = ("loss", "distance")


@dataclass(frozen=True)
class Attacked:
    """The image of one sample after the attack, what the attack cost, and whether it could not be carried out."""

    image: Tensor
    cost: Mapping[str, Any]
    failed: bool


def attacked(outcome: Outcome) -> list[Attacked]:
    """The samples of an outcome, one by one."""
    images = outcome.pixels.cpu()
    found = list[Attacked]()
    for row in range(len(images)):
        cost: dict[str, Any] = {name: int(getattr(outcome, name)[row]) for name in _COUNTS}
        cost |= {name: float(getattr(outcome, name)[row]) for name in _MEASURES}
        found.append(Attacked(images[row], cost, failed=bool(outcome.failed[row])))
    return found


class Transferred:
    """Attacked images by what they depend on (:attr:`Unit.shared`), and by sample.

    Within an evaluation they are held for one dataset at a time. In a folder they stay: a file of safetensors for every
    chunk, in a folder for everything else that they depend on, so that any process that measures the same may read and
    write there.

    Args:
        folder: where images are kept; None: nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, dict[int, Attacked]] = {}
        self._task: Task | None = None

    def of(self, unit: Unit, task: Task, positions: Sequence[int]) -> dict[int, Attacked]:
        """The images of a unit that are known, among them those of some positions that lie in the folder.

        What is added to it is known from then on.

        Args:
            unit: by transfer.
            task: whose samples they are.
            positions: those that are needed.
        """
        if task is not self._task:
            self.forget()
            self._task = task
        known = self._held.setdefault(unit.shared, {})
        if self._folder is not None and (missing := {_name(unit, task, at): at for at in positions if at not in known}):
            for file in sorted((self._folder / unit.shared).glob("*.safetensors")):
                for name, found in _read(file, missing).items():
                    known[missing.pop(name)] = found
        return known

    def keep(self, unit: Unit, task: Task, made: Mapping[int, Attacked]) -> None:
        """Write images to the folder, if there is one; it is warned of where that fails."""
        if self._folder is None or not made:
            return
        names = [_name(unit, task, at) for at in made]
        tensors = {"images": torch.stack([each.image for each in made.values()])}
        for name in _COUNTS:
            tensors[name] = torch.tensor([each.cost[name] for each in made.values()], dtype=torch.int64, device="cpu")
        for name in _MEASURES:
            tensors[name] = torch.tensor([each.cost[name] for each in made.values()], dtype=torch.float64, device="cpu")
        tensors["failed"] = torch.tensor([each.failed for each in made.values()], device="cpu")
        facts = {"what": str(unit), "samples": json.dumps(names), "checksum": _checksum(tensors)}
        try:
            with replacing(self._folder / unit.shared / f"{digest_of(names)}.safetensors") as partial:
                save_file(tensors, partial, facts)
        except (OSError, SafetensorError) as error:  # they cost time alone
            text = f"transferred images are not kept: {self._folder} cannot be written ({one_line(error)[:100]})"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def forget(self) -> None:
        """Let go of all that is held; what lies in the folder stays."""
        self._held.clear()


def _name(unit: Unit, task: Task, position: int) -> str:
    """What tells a sample from others: where its random numbers come from, its image and what is true of it."""
    return f"{task.data.keys[position]} {unit.digests[position]}"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest(tensors[name] for name in sorted(tensors))


def _read(file: Path, wanted: Mapping[str, int]) -> dict[str, Attacked]:
    """What a file holds of some samples, by name; nothing, with a warning, of one that is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            names = json.loads(facts["samples"])
            rows = [row for row, name in enumerate(names) if name in wanted]
            if not rows:
                return {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if _checksum(tensors) != facts["checksum"]:
            raise ValueError("its checksum is another one")
        found = {}
        for row in rows:
            cost = {name: tensors[name][row].item() for name in (*_COUNTS, *_MEASURES)}
            found[names[row]] = Attacked(tensors["images"][row], cost, failed=bool(tensors["failed"][row]))
    except FileNotFoundError:  # another process has just removed it
        return {}
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError) as error:
        text = f"{file} is damaged ({one_line(error)[:100]}); its images are made again"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return {}
    return found
