"""The Hugging Face hub: what goes wrong on the way to it."""

from __future__ import annotations

from functools import cache

__all__ = ["lost_connection", "network_errors"]


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


def lost_connection(error: BaseException) -> BaseException | None:
    """The error of a connection that broke, among those that led to an error; libraries speak of missing files then."""
    answered, *_, beneath = network_errors()
    each: BaseException | None = error
    seen = set[int]()
    while each is not None and id(each) not in seen:
        if isinstance(each, (ConnectionError, beneath)) and not isinstance(each, answered):
            return each
        seen.add(id(each))
        each = each.__cause__ or each.__context__
    return None
