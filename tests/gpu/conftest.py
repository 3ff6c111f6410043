"""What the tests on an accelerator share. ``RADAPT_TEST_DEVICE=cpu`` tries the tests themselves without one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The accelerator; where there is none, the tests fail."""
    found = torch.device(os.environ.get("RADAPT_TEST_DEVICE", "cuda:0"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("there is no CUDA device; RADAPT_TEST_DEVICE=cpu tries the tests without one")
    return found


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    """Convolutions in float32, as on the CPU; torch's default is TF32, which has three digits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
