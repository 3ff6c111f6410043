"""The browser of the browser tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def _runs(path: str) -> bool:
    """Whether it is a browser and no stand-in that only says how to install one."""
    return subprocess.run([path, "--version"], capture_output=True, check=False, timeout=60).returncode == 0


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a window: that of ``RADAPT_TEST_BROWSER``, or the first on the path that runs."""
    from playwright.sync_api import sync_playwright

    on_path = filter(_runs, filter(None, map(shutil.which, _NAMES)))
    path = os.environ.get("RADAPT_TEST_BROWSER") or next(on_path, None)
    if path is None:
        pytest.fail("these tests need Chromium: install it (scripts/chromium.sh), or name it in RADAPT_TEST_BROWSER")
    with sync_playwright() as playwright:
        # In a container, shared memory may be smaller than a page.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()
