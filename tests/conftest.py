"""What every test shares: checked signatures, no network, a private cache, one thread, fixed seeds."""

from __future__ import annotations

import atexit
import os
import random
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Terminal output is compared as text: the same width and no colours, whoever runs the tests.
os.environ["COLUMNS"] = "120"
os.environ["NO_COLOR"] = "1"
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)

# A new cache for each run, so that no picture of an older version is ever read. The workers of a parallel run and
# the commands that tests start inherit the variable: what one of them renders, all of them use.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="radapt-tests-")
    atexit.register(_cache.cleanup)
    os.environ["RADAPT_CACHE"] = _cache.name

# An int is a float, as for mypy; Self has no meaning to a checker that sees one method at a time.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result, shapes included, at every call that a test makes."""
    for hint in list(vars(sys.modules[function.__module__]).values()):
        if getattr(hint, "_is_protocol", False) and hint is not Protocol:
            runtime_checkable(hint)
    return _check(function)


install_import_hook("radapt", f"{__name__}.check")


def pytest_configure() -> None:
    import torch  # after the variables above are set

    # One thread: floating-point results do not depend on the machine, and parallel workers do not fight.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
