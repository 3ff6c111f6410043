"""Adapt: make, attach, tune and store adapters."""

from .adapter import Adapter, AdapterSettings, Attachment, attached, detach
from .anchor import capture_anchor
from .data_driven import data_driven
from .gaussian import cutoff_from_d0, gaussian_filter
from .model_guided import model_guided
from .training_free import training_free
from .tune import Trial, Tuned, tune

__all__ = [
    "Adapter",
    "AdapterSettings",
    "Attachment",
    "Trial",
    "Tuned",
    "attached",
    "capture_anchor",
    "cutoff_from_d0",
    "data_driven",
    "detach",
    "gaussian_filter",
    "model_guided",
    "training_free",
    "tune",
]
