"""Checks on settings that attacks share."""

from __future__ import annotations

from radapt.numbers import number, whole

__all__ = ["check_growth", "number", "whole"]


def check_growth(value: object) -> None:
    """Refuse a growth that is neither None nor a number above 0.

    Raises:
        SettingsError: it is not.
    """
    if value is not None:
        number("growth", value, 0, above=True)
