"""R-Adapt: make vision-language models resist adversarial images without retraining them, and measure it honestly."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from radapt._version import __version__

if TYPE_CHECKING:
    from radapt.adapt import Adapter, attached, data_driven, detach, model_guided, training_free, tune
    from radapt.attacks import attack
    from radapt.data import Dataset, load_dataset
    from radapt.errors import RadaptError
    from radapt.evaluate import Candidate, Threat
    from radapt.models import VLM, load
    from radapt.report import write_report
    from radapt.results import Results

_HOMES = {
    "Adapter": "adapt",
    "Candidate": "evaluate",
    "Dataset": "data",
    "RadaptError": "errors",
    "Results": "results",
    "Threat": "evaluate",
    "VLM": "models",
    "attached": "adapt",
    "attack": "attacks",
    "data_driven": "adapt",
    "detach": "adapt",
    "load": "models",
    "load_dataset": "data",
    "model_guided": "adapt",
    "training_free": "adapt",
    "tune": "adapt",
    "write_report": "report",
}

__all__ = [
    "VLM",
    "Adapter",
    "Candidate",
    "Dataset",
    "RadaptError",
    "Results",
    "Threat",
    "__version__",
    "attached",
    "attack",
    "data_driven",
    "detach",
    "load",
    "load_dataset",
    "model_guided",
    "training_free",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import radapt`` takes no time."""
    if name not in _HOMES:
        raise AttributeError(f"module 'radapt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"radapt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
