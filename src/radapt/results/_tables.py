"""The tables of a results file, and the names of their columns."""

from __future__ import annotations

from .records import PLACES

__all__ = ["EXAMPLE", "NAMES", "SAMPLE", "SCHEMA", "SETTING", "TABLES", "values_of"]

SCHEMA = 5
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE settings (
    key TEXT PRIMARY KEY, question TEXT NOT NULL, position INTEGER NOT NULL, asked INTEGER NOT NULL,
    n INTEGER NOT NULL, setting TEXT NOT NULL, seconds REAL NOT NULL, flags TEXT NOT NULL, checked INTEGER NOT NULL,
    samples INTEGER NOT NULL, examples INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE samples (
    key TEXT NOT NULL REFERENCES settings(key), position INTEGER NOT NULL, label INTEGER NOT NULL,
    prediction INTEGER NOT NULL, score REAL NOT NULL, also TEXT NOT NULL, answer TEXT NOT NULL, loss REAL,
    iterations INTEGER NOT NULL, forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, distance REAL NOT NULL,
    signs TEXT NOT NULL, data TEXT NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE examples (
    key TEXT NOT NULL REFERENCES settings(key), position INTEGER NOT NULL,
    clean BLOB NOT NULL, adversarial BLOB NOT NULL, truth TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    attention_before BLOB NOT NULL, attention_after BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
"""
NAMES = {"meta", "settings", "samples", "examples"}
"""Tables that every results file has."""

SETTING = "question, position, asked, n, setting, seconds, flags, checked, samples, examples"
SAMPLE = ", ".join(PLACES)
EXAMPLE = "position, clean, adversarial, truth, before, after, attention_before, attention_after"


def values_of(record: object, names: str) -> tuple[object, ...]:
    """What goes into the columns of these names."""
    return tuple(getattr(record, name) for name in names.split(", "))
