"""Results: one row per sample and setting in an SQLite file, from which every table and figure is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radapt.errors import ResultsError

from ._candidates import current, rename
from ._database import Database, checksum_of
from ._merging import merge
from ._notes import Notes
from ._tables import EXAMPLE, NAMES, SAMPLE, SCHEMA, SETTING, TABLES, values_of
from .metrics import results_of
from .records import CHECKS, PLACES, Example, Result, Sample, Setting, row_of, sample_of

__all__ = ["Results"]


class Results:
    """A results file.

    Rows are committed in batches as they are computed, and lie in the one file from then on, so a killed run loses at
    most the batch in flight and the same command continues where it was. Every row has a checksum: damaged ones are
    never shown, and the same command measures them again. One writer at a time: a second one gets an error.

    Args:
        path: the SQLite file, created with its folder when missing.
        read_only: open an existing file for reading.

    Raises:
        ResultsError: no such file, no permission, not a results file, another schema version, or in use.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        if not str(path):
            raise ResultsError("the path of the results file is empty; give one, such as results.sqlite")
        self.path = Path(path).expanduser()
        self._file = Database(self.path, TABLES, NAMES, SCHEMA, read_only=read_only)
        self.notes = Notes(self._file)

    def __repr__(self) -> str:
        try:
            counts = "SELECT (SELECT COUNT(*) FROM settings), (SELECT COUNT(*) FROM samples)"
            settings, samples = self._file.read(counts)[0]
        except ResultsError:  # it was closed
            return f"<Results {self.path}: closed>"
        return f"<Results {self.path}: {settings} settings, {samples} samples>"

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock.

        Raises:
            ResultsError: the file was deleted or replaced meanwhile; the message says where its content is.
        """
        self._file.close()

    def snapshot(self) -> AbstractContextManager[None]:
        """For all that is read in a ``with`` block: the file as it is now, while another process writes it."""
        return self._file.snapshot()

    def begin(self, setting: Setting, data: Sequence[str] = ()) -> set[int]:
        """Register a setting, as the last that was asked for, and return the positions already done.

        Args:
            setting: its label and ``n`` are updated.
            data: hash of each sample (``Sample.data``); what was measured on another one is removed, and not done, nor
                is a sample whose row is damaged.
        """
        key, text = setting.key, json.dumps(asdict(setting), sort_keys=True)
        done, stale = self._positions(setting, data)
        with self._file.transaction() as db:
            stored = db.execute(f"SELECT {SETTING}, checksum FROM settings WHERE key = ?", (key,)).fetchone()
            if stored is not None and checksum_of(key, stored[:-1]) != stored[-1]:  # its flags are lost
                done, stale = set(), [*done, *stale]
                db.execute("UPDATE settings SET seconds = 0, flags = '{}', checked = 0 WHERE key = ?", (key,))
            for table in ("samples", "examples") if stale else ():
                db.executemany(f"DELETE FROM {table} WHERE key = ? AND position = ?", [(key, at) for at in stale])
            db.execute(
                "INSERT INTO settings VALUES (:key, :question, (SELECT COUNT(*) FROM settings), 0, :n, :text, 0, '{}', "
                "0, 0, 0, 0) ON CONFLICT (key) DO UPDATE SET setting = :text, question = :question, n = :n",
                {"key": key, "question": setting.question, "n": setting.n, "text": text},
            )
            if stale:
                db.execute("UPDATE settings SET flags = '{}', checked = 0 WHERE key = ?", (key,))
            db.execute("UPDATE settings SET asked = 1 + (SELECT MAX(asked) FROM settings) WHERE key = ?", (key,))
            self._seal(db, key)
        return done

    def done(self, setting: Setting, data: Sequence[str] = ()) -> set[int]:
        """The positions of a setting that are measured, as :meth:`begin` returns them; nothing is written."""
        return self._positions(setting, data)[0]

    def _positions(self, setting: Setting, data: Sequence[str]) -> tuple[set[int], list[int]]:
        """The positions that are measured, and those that were measured on other data."""
        done, stale = set[int](), list[int]()
        for position, digest, intact in self._states(setting.key):
            if data and position < len(data) and data[position] != digest:
                stale.append(position)
            elif intact:
                done.add(position)
        return done, stale

    def rename(self, settings: Iterable[Setting]) -> None:
        """Give each candidate one label in all of its results: the last of these."""
        rename(self._file, settings)

    def whole(self, setting: Setting) -> bool:
        """Whether a setting and its samples are as they were written, and none of them is missing."""
        states = self._states(setting.key)
        counted = self._column("samples", setting) == [(len(states),)]
        return counted and self.intact(setting) and all(right for _, _, right in states)

    def intact(self, setting: Setting) -> bool:
        """Whether the flags, the time and the counts that are stored with a setting are as they were written."""
        rows = self._file.read(f"SELECT {SETTING}, checksum FROM settings WHERE key = ?", setting.key)
        return bool(rows) and checksum_of(setting.key, rows[0][:-1]) == rows[0][-1]

    def _states(self, key: str) -> list[tuple[int, str, bool]]:
        """Position and hash of each stored sample, and whether its row is intact."""
        rows = self._file.read(f"SELECT {SAMPLE}, checksum FROM samples WHERE key = ?", key)
        at, data = PLACES["position"], PLACES["data"]
        return [(row[at], row[data], checksum_of(key, row[:-1]) == row[-1]) for row in rows]

    @staticmethod
    def _seal(db: Any, key: str) -> None:
        """Count all rows, so that none is missed in silence, and renew the checksum of a setting."""
        count = "(SELECT COUNT(*) FROM {} WHERE key = :key)".format
        both = ", ".join(f"{table} = {count(table)}" for table in ("samples", "examples"))
        counts = f"UPDATE settings SET {both} WHERE key = :key"
        db.execute(counts, {"key": key})
        db.execute("INSERT OR REPLACE INTO meta VALUES ('settings', (SELECT COUNT(*) FROM settings))")
        row = db.execute(f"SELECT {SETTING} FROM settings WHERE key = ?", (key,)).fetchone()
        if row is not None:
            db.execute("UPDATE settings SET checksum = ? WHERE key = ?", (checksum_of(key, row), key))

    def add(
        self, setting: Setting, samples: Sequence[Sample], *, seconds: float = 0.0, examples: Iterable[Example] = ()
    ) -> None:
        """Store samples of a setting and the time they took, in one transaction; their earlier examples are dropped."""
        key = setting.key
        with self._file.transaction() as db:
            again = [(key, each.position) for each in samples]
            db.executemany("DELETE FROM examples WHERE key = ? AND position = ?", again)
            for table, names, rows in (
                ("samples", SAMPLE, map(row_of, samples)),
                ("examples", EXAMPLE, (values_of(each, EXAMPLE) for each in examples)),
            ):
                for row in rows:
                    places = ", ".join("?" * (len(row) + 2))
                    db.execute(
                        f"INSERT OR REPLACE INTO {table} (key, {names}, checksum) VALUES ({places})",
                        (key, *row, checksum_of(key, row)),
                    )
            db.execute("UPDATE settings SET seconds = seconds + ? WHERE key = ?", (seconds, key))
            self._seal(db, key)

    def merge(self, other: Results) -> None:
        """Add what another file holds: results measured in parts, by several processes or on several machines.

        Samples that both files hold are taken from the other one; where their images differ, only these are kept of
        that result. Its flags are those of the file whose checks were made on just the samples that are shown, else
        those of both. A result of which each holds a part that the other lacks counts as not checked: evaluate the
        merged file once more, which measures nothing again but runs the checks on the whole. As many samples are
        shown (``n``) as the other one was last asked for.

        Raises:
            ResultsError: the other file is this one, or a row of it is damaged.
        """
        merge(self, other)

    def flag(self, setting: Setting, flags: Mapping[str, object], *, checked: int = 0) -> None:
        """Store the flags of the sanity checks with a setting, replacing earlier ones.

        Args:
            setting: the setting.
            flags: what they found.
            checked: on how many samples the checks have run; 0: not all of them did.
        """
        key = setting.key
        with self._file.transaction() as db:
            db.execute(
                "UPDATE settings SET flags = ?, checked = ? WHERE key = ?", (json.dumps(dict(flags)), checked, key)
            )
            self._seal(db, key)

    def checked(self, setting: Setting) -> int:
        """On how many samples of a setting the sanity checks have run."""
        return int(rows[0][0]) if (rows := self._column("checked", setting)) else 0

    def flags(self, setting: Setting) -> dict[str, object]:
        """The flags that are stored with a setting."""
        return {} if not (rows := self._column("flags", setting)) else dict(json.loads(rows[0][0]))

    def seconds(self, setting: Setting) -> float:
        """The time that the stored samples of a setting took."""
        return float(rows[0][0]) if (rows := self._column("seconds", setting)) else 0.0

    def asked(self, setting: Setting) -> int:
        """When a setting was last asked for: a number that is larger than those of all settings asked for before."""
        return int(rows[0][0]) if (rows := self._column("asked", setting)) else 0

    def _column(self, name: str, setting: Setting) -> list[tuple[Any, ...]]:
        return self._file.read(f"SELECT {name} FROM settings WHERE key = ?", setting.key)

    def all(self, *, superseded: bool = False, checks: bool = False) -> list[Result]:
        """The results of every setting that has samples, in order of first registration; the own metric first.

        Each is over the ``n`` first samples, as it was last asked for.

        Args:
            superseded: also those whose question was asked again since with other weights, another content of the
                dataset's card, or another version of the library; and those of attacks that were not made again since
                the candidate was asked for with other weights or another content.
            checks: also what the sanity checks fooled: images that a longer attack or one without gradients found.
                No result by itself, it belongs to the worst case.

        Raises:
            ResultsError: a row is damaged.
        """
        with self.snapshot():
            rows = self._file.read(f"SELECT key, {SETTING}, checksum FROM settings ORDER BY position")
            counted = self._file.read("SELECT value FROM meta WHERE key = 'settings'")
            if rows and counted != [(str(len(rows)),)]:
                self._damaged("some settings")
            if any(checksum_of(key, values) != checksum for key, *values, checksum in rows):
                self._damaged("a setting")
            settings = [Setting(**json.loads(row[5])) for row in rows]
            counting = current(settings, [row[3] for row in rows])
            results = [
                result
                for at, (row, setting) in enumerate(zip(rows, settings, strict=True))
                if superseded or at in counting
                for result in self._results(setting, row[4], *row[6:10])
            ]
        return [result for result in results if checks or result.setting.attack != CHECKS]

    def _results(self, setting: Setting, n: int, seconds: float, flags: str, checked: int, count: int) -> list[Result]:
        stored = self._stored("samples", SAMPLE, setting)
        if len(stored) != count:
            self._damaged(f"{abs(count - len(stored))} samples of {setting.method} on {setting.dataset}")
        shown = [row for row in stored if row[PLACES["position"]] < n]
        if not shown:
            return []
        return results_of(setting, shown, seconds=seconds, flags=json.loads(flags), checked=checked)

    def samples(self, setting: Setting, *, intact: bool = False, shown: bool = False) -> list[Sample]:
        """The samples of a setting, in order of position.

        Args:
            setting: the setting.
            intact: without those whose rows are damaged.
            shown: only the first ``setting.n``, which its result is over; the file may hold more.

        Raises:
            ResultsError: a row is damaged.
        """
        found = [sample_of(row) for row in self._stored("samples", SAMPLE, setting, intact)]
        return [each for each in found if not shown or each.position < setting.n]

    def examples(self, setting: Setting, *, intact: bool = False, shown: bool = False) -> list[Example]:
        """The example images of a setting, in order of position; ``intact`` and ``shown`` as for :meth:`samples`.

        Raises:
            ResultsError: a row is damaged.
        """
        with self.snapshot():
            images = self._stored("examples", EXAMPLE, setting, intact)
            counted = self._column("examples", setting)
        if counted and counted[0][0] != len(images) and not intact:
            self._damaged(f"example images of {setting.method} on {setting.dataset}")
        found = [Example(**dict(zip(EXAMPLE.split(", "), row, strict=True))) for row in images]
        return [each for each in found if not shown or each.position < setting.n]

    def _stored(self, table: str, names: str, setting: Setting, intact: bool = False) -> list[tuple[Any, ...]]:
        """The columns of the rows of a setting, in order of position."""
        key = setting.key
        rows = self._file.read(f"SELECT {names}, checksum FROM {table} WHERE key = ? ORDER BY position", key)
        right = [values for *values, checksum in rows if checksum_of(key, values) == checksum]
        if len(right) < len(rows) and not intact:
            self._damaged(f"{len(rows) - len(right)} {table} of {setting.method} on {setting.dataset}")
        return [tuple(values) for values in right]

    def _damaged(self, what: str) -> None:
        again = "run the same command again, which measures what is damaged once more, or restore a copy of the file"
        raise ResultsError(f"{self.path} is damaged: {what} are not as they were written; {again}")
