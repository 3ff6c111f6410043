"""Keywords of a function that are for loading its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from radapt.errors import SettingsError
from radapt.models import load
from radapt.schema import check_keywords

from ._candidates import Candidate, Models

__all__ = ["check_loading"]


def check_loading(
    function: Callable[..., Any], loading: Mapping[str, Any], given: Sequence[Any], models: Models | None = None
) -> None:
    """Refuse keywords of a function that go to :func:`radapt.load` and are none of that, or would have no effect.

    Args:
        function: the function.
        loading: its keywords that are none of its own.
        given: the candidates and models that it was given; None for one that was not.
        models: what loads the models, where it was given.

    Raises:
        SettingsError: an unknown keyword, a value of another kind, or no model that is loaded with them.
    """
    if not loading:
        return
    check_keywords(function.__name__, load, loading, beside=function)
    words = ", ".join(loading)
    if models is not None:
        raise SettingsError(f"{words}: models loads with settings of its own; give them to Models, or leave models out")
    if not any(map(_by_name, given)):
        raise SettingsError(
            f"{words}: for models by name, and none is given so; load the model with it, or leave it out"
        )


def _by_name(given: object) -> bool:
    """Whether some model of these candidates is given by name."""
    if isinstance(given, Mapping):
        return any(map(_by_name, given.values()))
    if isinstance(given, tuple) and not all(isinstance(each, Candidate) for each in given):
        return _by_name(given[0])  # a pair: what defends the model is not loaded with them
    if isinstance(given, Sequence) and not isinstance(given, str):
        return any(map(_by_name, given))
    return isinstance(given, str | Path)
