"""What a run of experiments tells while it goes on, and what it has made in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from radapt.reports import Part
from radapt.results import Result

__all__ = ["Event", "Reproduction"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a run tells while it goes on.

    Args:
        experiment: name of the experiment.
        text: one line or more for the user.
        part: the finished experiment; None until then.
        written: files that were written for it.
        failed: whether the experiment ended with an error, while others go on.
    """

    experiment: str
    text: str
    part: Part | None = None
    written: tuple[Path, ...] = ()
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What a run has made.

    Args:
        folder: where everything lies.
        page: the page of all experiments.
        parts: the experiments.
        results: all their results.
        failed: of ``all``, the experiments that failed, with what went wrong; the next run tries them again.
        left_out: of ``all``, the experiments that have no such profile.
    """

    folder: Path
    page: Path
    parts: tuple[Part, ...]
    results: tuple[Result, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
