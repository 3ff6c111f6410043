"""Errors of the library.

::

    RadaptError
    ├── SettingsError      an option, a name or a setting is wrong (also a ValueError)
    ├── InputError         images, labels or texts are wrong (also a ValueError)
    ├── AdapterError       an adapter cannot be attached, read or written
    ├── ModelError         a model cannot be loaded or is of an unsupported kind
    │   └── UnknownModelError  there is no model of that name (also a SettingsError)
    ├── ResultsError       a results file cannot be used
    ├── ExecutorError      workers cannot be had
    └── CheckError         a result broke a rule that must always hold (a bug, or a faulty attack)
"""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "CheckError",
    "ExecutorError",
    "InputError",
    "ModelError",
    "RadaptError",
    "ResultsError",
    "SettingsError",
    "UnknownModelError",
    "shown",
]


class RadaptError(Exception):
    """Base of every error that this library raises on purpose."""


class SettingsError(RadaptError, ValueError):
    """An option, a name or a setting is wrong."""


class InputError(RadaptError, ValueError):
    """Images, labels or texts are wrong."""


class AdapterError(RadaptError):
    """An adapter cannot be attached, read or written."""


class ModelError(RadaptError):
    """A model cannot be loaded or is of an unsupported kind."""


class UnknownModelError(ModelError, SettingsError):
    """There is no model of that name."""


class ResultsError(RadaptError):
    """A results file cannot be used."""


class ExecutorError(RadaptError):
    """Workers cannot be had."""


class CheckError(RadaptError):
    """A result broke a rule that must always hold."""


def shown(value: object, most: int = 80) -> str:
    """A value as messages show it: its ``repr``, cut to ``most`` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # a whole number of thousands of digits
        return f"<{type(value).__name__}: {error}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."
