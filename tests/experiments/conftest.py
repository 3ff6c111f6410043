"""The command line, as the tests of commands use it."""

from __future__ import annotations

from tests.cli.conftest import model, run

__all__ = ["model", "run"]
