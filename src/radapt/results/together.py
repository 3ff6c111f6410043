"""Several results files, read as one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from radapt.errors import ResultsError

from .store import Results

__all__ = ["together"]


@contextmanager
def together(paths: str | Path | Results | Sequence[str | Path | Results]) -> Iterator[Results]:
    """Open one results file, or several as one that holds the results of all; none of them is changed.

    Samples that several files hold are taken from the last of them. A file that is open already stays so.

    Raises:
        ResultsError: a file is missing, unusable or empty, or none is given.
    """
    files = [paths] if isinstance(paths, str | Path | Results) else list(paths)
    if not files:
        raise ResultsError("give at least one results file")
    if len(files) == 1:
        with _opened(files[0]) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="radapt-") as folder:
        whole = Path(folder) / "results.sqlite"
        with Results(whole) as store:
            for file in files:
                with _opened(file) as part:
                    store.merge(part)
        with Results(whole, read_only=True) as store:
            yield store


def _opened(file: str | Path | Results) -> AbstractContextManager[Results]:
    return nullcontext(file) if isinstance(file, Results) else Results(file, read_only=True)
