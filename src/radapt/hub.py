"""The Hugging Face hub: what goes wrong on the way to it."""

from __future__ import annotations

from functools import cache

__all__ = ["network_errors"]


@cache
def network_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What the library of the hub raises where the hub refuses, cannot be reached, or breaks off in a download.

    Its own error is one of the HTTP library beneath; those of a connection that breaks come from there as they are.

    Args:
        others: more errors, which go before.
    """
    from huggingface_hub.errors import HfHubHTTPError

    beneath = (kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError" and issubclass(kind, Exception))
    return (*others, HfHubHTTPError, OSError, *beneath)
