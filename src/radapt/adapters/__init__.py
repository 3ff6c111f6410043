"""Adapters: make, attach and store them.

Every file here without a leading underscore is a method; its name is the method's name, and its ``METHOD`` an
:class:`AdapterMethod`.
"""

from ._adapter import Adapter, adapter_of, attached, detach
from ._anchor import capture_anchor
from ._attachment import Attachment
from ._build import adapter_for
from ._gaussian import cutoff_from_d0, gaussian_filter
from ._method import REGISTRY, AdapterMethod, adapt
from ._settings import AdapterSettings
from ._shares import with_shares
from ._shipped import micro_adapters
from .data_driven import data_driven
from .graft import graft
from .model_guided import model_guided
from .shallow import shallow
from .training_free import training_free

__all__ = [
    "REGISTRY",
    "Adapter",
    "AdapterMethod",
    "AdapterSettings",
    "Attachment",
    "adapt",
    "adapter_for",
    "adapter_of",
    "attached",
    "capture_anchor",
    "cutoff_from_d0",
    "data_driven",
    "detach",
    "gaussian_filter",
    "graft",
    "micro_adapters",
    "model_guided",
    "names",
    "shallow",
    "training_free",
    "with_shares",
]


def names() -> list[str]:
    """Names of all adapter methods."""
    return REGISTRY.names()
