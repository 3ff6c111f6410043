"""The scripts that make and CI run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def program(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path without a browser, on which this user may install nothing."""
    program(tmp_path, "id", "echo 1000")
    program(tmp_path, "apt-get", "exit 9")
    return tmp_path


def chromium(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(ROOT / "scripts/chromium.sh")]
    return subprocess.run(
        command, env={"PATH": str(folder), **more}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_browser_that_runs_is_found_behind_one_that_does_not(folder: Path) -> None:
    program(folder, "chromium-browser", "echo install the snap >&2; exit 1")
    assert chromium(folder).returncode == 1
    program(folder, "google-chrome", "exit 0")
    assert chromium(folder).returncode == 0


def test_a_missing_browser_is_said_in_one_line(folder: Path) -> None:
    done = chromium(folder)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "the browser tests need Chromium: install it, or name one in RADAPT_TEST_BROWSER"
    ]


def test_the_browser_that_is_named_is_the_one(folder: Path) -> None:
    program(folder, "chromium", "exit 0")
    program(folder, "mine", "exit 0")
    assert chromium(folder, RADAPT_TEST_BROWSER=str(folder / "mine")).returncode == 0
    done = chromium(folder, RADAPT_TEST_BROWSER=str(folder / "other"))
    assert done.returncode == 1
    assert "which does not run" in done.stderr


@pytest.mark.parametrize(("installs", "status"), [("chromium", 0), ("nothing", 1)])
def test_root_installs_it_and_what_was_installed_must_run(folder: Path, installs: str, status: int) -> None:
    program(folder, "id", "echo 0")
    program(folder, installs, "exit 1")
    program(folder, "apt-get", f'[ "$1" = update ] || echo > "{folder}/{installs}"')
    assert chromium(folder).returncode == status


def ci(folder: Path, make: str) -> subprocess.CompletedProcess[str]:
    """``.ci/run`` with a make of this body, beside what is on the path."""
    for name in (".ci/run", "scripts/chromium.sh"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes((ROOT / name).read_bytes())
    program(folder, "make", make)
    program(folder, "dirname", f'echo "{folder}/.ci"')
    program(folder, "sh", 'exec /bin/sh "$@"')
    command = ["/bin/bash", str(folder / ".ci/run")]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("browser", [True, False])
def test_ci_runs_the_browser_tests_or_says_loudly_that_it_does_not(folder: Path, browser: bool) -> None:
    if browser:
        program(folder, "chromium", "exit 0")
    done = ci(folder, 'echo "make $1"')
    assert done.returncode == 0
    assert "make test-all" in done.stdout
    assert ("make browser" in done.stdout) is browser
    assert ("NOT TESTED: the pages in a browser" in done.stderr) is not browser


def test_ci_fails_where_the_browser_tests_fail(folder: Path) -> None:
    program(folder, "chromium", "exit 0")
    assert ci(folder, '[ "$1" != browser ]').returncode == 1
