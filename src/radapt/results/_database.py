"""The SQLite file beneath a results file: opened by one writer, guarded while it is open, explained when it fails."""

from __future__ import annotations

import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from radapt.errors import ResultsError
from radapt.io import digest_of

__all__ = ["Database", "checksum_of"]

_PATIENCE = 60.0
"""Seconds that a writer waits for a reader."""


def checksum_of(key: str, values: Iterable[object]) -> int:
    """Tells a row from the same row with any bits flipped."""
    return zlib.crc32(repr((key, *values)).encode("utf-8", "surrogatepass"))


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file that lies at a path from another one; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Database:
    """An SQLite file of given tables. Rolled-back journal: what is committed lies in the one file.

    Args:
        path: the file, created with its folder when missing.
        tables: statements that create its tables, and their names.
        schema: version of the tables.
        read_only: open an existing file for reading.

    Raises:
        ResultsError: no such file, no permission, not a file of these tables, another schema version, or in use.
    """

    def __init__(
        self,
        path: Path,
        tables: str,
        names: set[str],
        schema: int,
        *,
        read_only: bool,
    ) -> None:
        self.path, self._read_only = path, read_only
        self._guards: list[FileLock] = []
        self._connection: sqlite3.Connection | None = None
        self._kept: Path | None = None
        try:
            with self._explained():
                self._real = path.resolve()  # one file has one name, whatever links lead to it
                if self._real.exists() and not self._real.is_file():
                    kind = "a folder" if self._real.is_dir() else "no ordinary file"
                    verb = "read" if read_only else "write"
                    raise ResultsError(f"cannot {verb} {path}: it is {kind}; give the path of a file")
                if read_only and not self._real.exists():
                    raise ResultsError(f"no results file at {path}; make one with `radapt evaluate --results {path}`")
                self._open(tables, names, schema)
        except ResultsError:
            self._release()
            raise

    def _open(self, tables: str, names: set[str], schema: int) -> None:
        if not self._read_only:
            self._real.parent.mkdir(parents=True, exist_ok=True)
            self._guard(self._real.with_name(self._real.name + ".lock"))
        # A reader too must be able to undo what a killed writer left half done.
        half_done = self._real.with_name(self._real.name + "-journal").exists()
        mode = "rwc" if not self._read_only else "rw" if half_done else "ro"
        connection = sqlite3.connect(
            f"{self._real.as_uri()}?mode={mode}", uri=True, timeout=_PATIENCE, isolation_level=None
        )
        self._connection = connection
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not self._read_only and not found:
            connection.executescript(f"BEGIN; {tables} INSERT INTO meta VALUES ('schema', '{schema}'); COMMIT;")
        if not names <= found and (found or self._read_only):
            raise ResultsError(f"{self.path} is not a results file of this library; choose another path")
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is None or row[0] != str(schema):
            got = "none" if row is None else row[0]
            raise ResultsError(
                f"{self.path} has schema version {got}, this version reads {schema}; "
                "write to another file, or read it with the version that made it"
            )
        if not self._read_only:
            connection.execute("PRAGMA foreign_keys = ON")
            self._identity = _identity(self._real)
            # A second name of the same file (a hard link) has another file beside it.
            number = digest_of([*(self._identity or ()), str(Path.home())])
            self._guard(Path(tempfile.gettempdir()) / f"radapt-{number}.lock")
        if self._read_only:
            connection.execute("PRAGMA query_only = ON")

    def _guard(self, file: Path) -> None:
        """Hold an advisory writer lock for as long as this object lives, then remove its file."""
        while True:
            file.touch()
            found, guard = _identity(file), FileLock(file, thread_local=False)
            guard.acquire(timeout=0)
            self._guards.append(guard)
            if found is not None and _identity(file) == found:
                return
            # Who held it before removed the file in between: this lock is on a file that nobody else will find.
            self._guards.pop().release()

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection.

        Raises:
            ResultsError: it was closed.
        """
        if self._connection is None:
            raise ResultsError(f"{self.path} is closed; open it again")
        return self._connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise ResultsError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        text = str(error)
        if isinstance(error, Timeout) or "locked" in text:
            return f"{self.path} is in use by another run; wait for it, or write to another file"
        if "not a database" in text or "malformed" in text:
            return f"{self.path} is not a results file (or is damaged): {text}; restore a copy, or take another file"
        if not self._read_only and ("is full" in text or "disk I/O" in text):
            return (
                f"cannot write {self.path}: {text} (no space left, a quota, or a failing disk); what was stored before "
                "is kept: make room, and the same command continues"
            )
        if "FOREIGN KEY" in text:
            return f"{self.path} does not know this setting; call begin(setting) before add"
        if self._read_only and "readonly" in text:
            return f"{self.path} was opened for reading; open it without read_only to write"
        if isinstance(error, OSError) or "readonly" in text or "unable to open" in text:
            verb = "read" if self._read_only else "write"
            return f"cannot {verb} {self.path}: {text}; check that its folder exists and is yours to {verb}"
        return f"cannot use {self.path}: {text}"

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._explained():
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The file as it is now, for all reads of a ``with`` block, while another process writes."""
        if self.connection.in_transaction:
            yield
            return
        with self._explained():
            self.connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is written in a ``with`` block, or nothing.

        Raises:
            ResultsError: it cannot be written, or the file is no longer at its place; what it holds is then kept.
        """
        self.check_place()
        with self._explained(), self.connection as connection:  # commits, or rolls back on any exception
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def check_place(self) -> None:
        """Refuse to go on when the file was deleted, moved or replaced: whatever is written then is lost.

        Raises:
            ResultsError: it was; the message says where everything is that it held.
        """
        if self._read_only or _identity(self._real) == self._identity:
            return
        if self._kept is None:
            self._kept = self._rescue(self._real.parent) or self._rescue(Path(tempfile.gettempdir()))
        where = f"everything that it held is in {self._kept}" if self._kept else "what it held cannot be kept"
        raise ResultsError(
            f"{self.path} was deleted, moved or replaced while it was being written; {where}. "
            "Put that file in its place, and the same command continues"
        )

    def _rescue(self, folder: Path) -> Path | None:
        names: Sequence[Path] = [folder / f"{self._real.stem}.rescued-{number}.sqlite" for number in range(100)]
        free = next((name for name in names if not name.exists()), None)
        if free is None:
            return None
        try:
            copy = sqlite3.connect(free)
            try:
                self.connection.backup(copy)
            finally:
                copy.close()
        except (sqlite3.Error, OSError):
            return None
        return free

    def close(self) -> None:
        """Close the file and release its locks.

        Raises:
            ResultsError: it is no longer at its place.
        """
        try:
            if self._connection is not None:
                self.check_place()
        finally:
            self._release()

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        while self._guards:
            guard = self._guards.pop()
            with suppress(OSError):  # while it is held: nobody else can hold it then
                Path(guard.lock_file).unlink()
            guard.release()
