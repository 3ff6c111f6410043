from __future__ import annotations

import math
from typing import Any

import pytest

from radapt.errors import SettingsError
from radapt.numbers import LARGEST_SEED, check_seed, number, whole


@pytest.mark.parametrize(
    "value", [0, -1, True, 1.0, "3", None, math.nan, 10**20, pytest.param(10**5000, id="digits"), [1]]
)
def test_what_is_no_whole_number_in_range_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="steps must be a whole number of at least 1") as caught:
        whole("steps", value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [-1, 10**23, 2**63, 1.5, "0", False, None])
def test_what_is_no_seed_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="seed must be a whole number of at least 0"):
        check_seed(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -1, 3, True, "1", None, 10**400, pytest.param(-(10**5000), id="digits")]
)
def test_what_is_no_number_in_range_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="lr must be a number of at least 0, 2 at most"):
        number("lr", value, 0, 2)


def test_what_is_in_range_passes() -> None:
    whole("steps", 1)
    whole("steps", 0, 0)
    check_seed(0)
    check_seed(LARGEST_SEED)
    number("lr", 2, 0, 2)
    number("lr", 1e-300, 0, above=True)
    with pytest.raises(SettingsError, match="above 0"):
        number("lr", 0.0, 0, above=True)
