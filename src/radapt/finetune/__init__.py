"""Fine-tuning: robust twins of a model, one file per method (``METHOD`` is its class)."""

from __future__ import annotations

from radapt.find import find, members

from ._loop import Method, finetune

__all__ = ["Method", "finetune", "make", "names"]


def names() -> list[str]:
    """Names of all methods."""
    return members(__name__)


def make(name: str) -> Method:
    """A method by name; an unknown one raises ``SettingsError`` with a suggestion."""
    method: Method = find(__name__, name, "METHOD")()
    return method
