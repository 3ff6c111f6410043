"""R-Adapt: adapters that make vision-language models harder to fool with adversarial images, and the measure of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from radapt._version import __version__

if TYPE_CHECKING:
    from radapt.adapters import (
        Adapter,
        adapt,
        adapter_of,
        attached,
        data_driven,
        detach,
        graft,
        model_guided,
        shallow,
        training_free,
    )
    from radapt.analysis import analyze
    from radapt.attacks import attack
    from radapt.data import Dataset, load_dataset
    from radapt.errors import RadaptError
    from radapt.evaluation import Candidate, Defence, InputDefence, Threat, evaluate
    from radapt.experiments import check, tune
    from radapt.experiments import run as reproduce
    from radapt.finetuning import finetune
    from radapt.models import VLM, load
    from radapt.reports import write_report
    from radapt.results import Results

# Every public name: the module that it comes from, and its name there where that is another.
_PUBLIC = {
    "Adapter": "adapters",
    "Candidate": "evaluation",
    "Dataset": "data",
    "Defence": "evaluation",
    "InputDefence": "evaluation",
    "RadaptError": "errors",
    "Results": "results",
    "Threat": "evaluation",
    "VLM": "models",
    "adapt": "adapters",
    "adapter_of": "adapters",
    "analyze": "analysis",
    "attached": "adapters",
    "attack": "attacks",
    "check": "experiments",
    "data_driven": "adapters",
    "detach": "adapters",
    "evaluate": "evaluation",
    "finetune": "finetuning",
    "graft": "adapters",
    "load": "models",
    "load_dataset": "data",
    "model_guided": "adapters",
    "reproduce": "experiments:run",
    "shallow": "adapters",
    "training_free": "adapters",
    "tune": "experiments",
    "write_report": "reports",
}
_PACKAGES = {
    *("adapters", "analysis", "attacks", "caching", "classifier", "cli", "data", "errors", "evaluation"),
    *("experiments", "finetuning", "fingerprint", "harness", "hub", "images", "io", "micro", "models", "numbers"),
    *("origin", "precision", "registry", "reports", "results", "schema", "spectral", "text", "training", "types", "ui"),
}

__all__ = [
    "VLM",
    "Adapter",
    "Candidate",
    "Dataset",
    "Defence",
    "InputDefence",
    "RadaptError",
    "Results",
    "Threat",
    "__version__",
    "adapt",
    "adapter_of",
    "analyze",
    "attached",
    "attack",
    "check",
    "data_driven",
    "detach",
    "evaluate",
    "finetune",
    "graft",
    "load",
    "load_dataset",
    "model_guided",
    "reproduce",
    "shallow",
    "training_free",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name or a package on first use, so that ``import radapt`` takes no time."""
    if name in _PACKAGES:
        return importlib.import_module(f"radapt.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'radapt' has no attribute {name!r}")
    home, _, own = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(f"radapt.{home}"), own or name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
