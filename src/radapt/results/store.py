"""Results: one row per sample and setting in an SQLite file, from which every table and figure is made."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from radapt.errors import ResultsError

from .metrics import summarise
from .records import Example, Result, Sample, Setting

__all__ = ["Results"]

_SCHEMA = 2
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE settings (
    key TEXT PRIMARY KEY, position INTEGER NOT NULL, setting TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0, flags TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE samples (
    key TEXT NOT NULL REFERENCES settings(key), position INTEGER NOT NULL, label INTEGER NOT NULL,
    prediction INTEGER NOT NULL, score REAL NOT NULL, also TEXT NOT NULL, answer TEXT NOT NULL, loss REAL,
    iterations INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, distance REAL NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE examples (
    key TEXT NOT NULL REFERENCES settings(key), position INTEGER NOT NULL,
    clean BLOB NOT NULL, adversarial BLOB NOT NULL, truth TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
"""


class Results:
    """A results file.

    Rows are committed in batches as they are computed (SQLite in WAL mode), so a killed run loses at most the batch
    in flight and the same command continues where it was. One writer at a time: a second one gets an error.

    Args:
        path: the SQLite file, created with its folder when missing.
        read_only: open an existing file for reading.

    Raises:
        ResultsError: no such file, no permission, not a results file, another schema version, or in use.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._read_only = read_only
        if read_only and not self.path.exists():
            raise ResultsError(f"no results file at {self.path}; make one with `radapt evaluate --results {self.path}`")
        with self._explained():
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            target = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(target, uri=True, timeout=5, isolation_level=None)
        try:
            with self._explained():
                self._open()
        except ResultsError:
            self._release()
            raise

    def _open(self) -> None:
        if not self._read_only:
            self._lock()
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables and not self._read_only:
            self._db.executescript(f"BEGIN; {_TABLES} INSERT INTO meta VALUES ('schema', '{_SCHEMA}'); COMMIT;")
        elif not {"meta", "settings", "samples", "examples"} <= tables:
            raise ResultsError(f"{self.path} is not a results file of this library; choose another path")
        row = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if row is None or row[0] != str(_SCHEMA):
            got = "none" if row is None else row[0]
            raise ResultsError(
                f"{self.path} has schema version {got}, this version reads {_SCHEMA}; "
                "write to another file, or read it with the version that made it"
            )
        if not self._read_only:  # only now is it known to be ours, so only now is anything changed
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")

    def _lock(self) -> None:
        """Hold an advisory writer lock beside the file for as long as this object lives."""
        self._guard = sqlite3.connect(self.path.with_name(self.path.name + ".lock"), timeout=0, isolation_level=None)
        self._guard.execute("BEGIN EXCLUSIVE")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ResultsError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        text = str(error)
        if "locked" in text:
            return f"{self.path} is in use by another run; wait for it, or write to another file"
        if "not a database" in text or "malformed" in text:
            return f"{self.path} is not a results file (or is damaged): {text}"
        if "FOREIGN KEY" in text:
            return f"{self.path} does not know this setting; call begin(setting) before add"
        if self._read_only and "readonly" in text:
            return f"{self.path} was opened for reading; open it without read_only to write"
        if isinstance(error, OSError) or "readonly" in text or "unable to open" in text:
            verb = "read" if self._read_only else "write"
            return f"cannot {verb} {self.path}: {text}; check that its folder exists and is yours to {verb}"
        return f"cannot use {self.path}: {text}"

    def __repr__(self) -> str:
        try:
            counts = "SELECT (SELECT COUNT(*) FROM settings), (SELECT COUNT(*) FROM samples)"
            settings, samples = self._db.execute(counts).fetchone()
        except (sqlite3.Error, AttributeError):  # it was closed, or never opened
            return f"<Results {self.path}: closed>"
        return f"<Results {self.path}: {settings} settings, {samples} samples>"

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        with suppress(sqlite3.Error):  # refused while another reads it, and then not needed
            if not self._read_only:  # a WAL file cannot be read from a read-only folder; a plain one can
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._release()

    def _release(self) -> None:
        self._db.close()
        if hasattr(self, "_guard"):
            self._guard.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), self._db:  # the connection commits, or rolls back on any exception
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def begin(self, setting: Setting) -> set[int]:
        """Register a setting (its label and ``n`` are updated) and return the positions already done."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO settings (key, position, setting) VALUES (?, (SELECT COUNT(*) FROM settings), ?) "
                "ON CONFLICT (key) DO UPDATE SET setting = excluded.setting",
                (setting.key, json.dumps(asdict(setting), sort_keys=True)),
            )
        return {row[0] for row in self._read("SELECT position FROM samples WHERE key = ?", setting.key)}

    def add(
        self, setting: Setting, samples: Sequence[Sample], *, seconds: float = 0.0, examples: Iterable[Example] = ()
    ) -> None:
        """Store samples of a setting and the time they took, in one transaction."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO samples VALUES (:key, :position, :label, :prediction, :score, :also, :answer, "
                ":loss, :iterations, :forwards, :backwards, :distance)",
                [{"key": setting.key, **asdict(each), "also": json.dumps(dict(each.also))} for each in samples],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO examples VALUES (:key, :position, :clean, :adversarial, :truth, :before, "
                ":after)",
                [{"key": setting.key, **asdict(example)} for example in examples],
            )
            self._db.execute("UPDATE settings SET seconds = seconds + ? WHERE key = ?", (seconds, setting.key))

    def flag(self, setting: Setting, flags: Mapping[str, object]) -> None:
        """Store the flags of the sanity checks with a setting, replacing earlier ones."""
        with self._transaction():
            self._db.execute("UPDATE settings SET flags = ? WHERE key = ?", (json.dumps(dict(flags)), setting.key))

    def all(self) -> list[Result]:
        """The results of every setting that has samples, in order of first registration; the own metric first."""
        settings = self._read(
            "SELECT key, setting, seconds, flags, COUNT(*), SUM(forwards), SUM(backwards) FROM settings "
            "JOIN samples USING (key) GROUP BY key ORDER BY settings.position"
        )
        results = []
        for key, text, seconds, flags, n, forwards, backwards in settings:
            query = "SELECT label, prediction, score, also FROM samples WHERE key = ? ORDER BY position"
            rows = self._read(query, key)
            setting = Setting(**json.loads(text))
            costs: dict[str, Any] = {"n": n, "seconds": seconds, "forwards": forwards, "backwards": backwards}
            also = [json.loads(row[3]) for row in rows]
            scores = {setting.metric: [row[2] for row in rows]}
            scores |= {name: [each[name] for each in also] for name in also[0]}
            answers = [(row[0], row[1]) for row in rows]
            for metric, values in scores.items():
                percent, low, high = summarise(metric, values, answers)
                where, main = replace(setting, metric=metric), metric == setting.metric
                costs |= {"percent": percent, "low": low, "high": high, "main": main}
                results.append(Result(setting=where, flags=json.loads(flags), **costs))
        return results

    def samples(self, setting: Setting) -> list[Sample]:
        """The samples of a setting, in order of position."""
        rows = self._stored("samples", Sample, setting)
        return [Sample(**{**row, "also": json.loads(row["also"])}) for row in rows]

    def examples(self, setting: Setting) -> list[Example]:
        """The example images of a setting, in order of position."""
        return [Example(**row) for row in self._stored("examples", Example, setting)]

    def _stored(self, table: str, kind: type, setting: Setting) -> list[dict[str, Any]]:
        names = [column.name for column in fields(kind)]
        query = f"SELECT {', '.join(names)} FROM {table} WHERE key = ? ORDER BY position"
        return [dict(zip(names, row, strict=True)) for row in self._read(query, setting.key)]
