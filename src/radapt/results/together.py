"""Several results files, read as one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from radapt.errors import ResultsError

from .store import Results

__all__ = ["together"]


@contextmanager
def together(paths: str | Path | Sequence[str | Path]) -> Iterator[Results]:
    """Open one results file, or several as one that holds the results of all; none of them is changed.

    Samples that several files hold are taken from the last of them.

    Raises:
        ResultsError: a file is missing, unusable or empty, or none is given.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise ResultsError("give at least one results file")
    if len(files) == 1:
        with Results(files[0], read_only=True) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="radapt-") as folder:
        whole = Path(folder) / "results.sqlite"
        with Results(whole) as store:
            for file in files:
                with Results(file, read_only=True) as part:
                    store.merge(part)
        with Results(whole, read_only=True) as store:
            yield store
