"""The actions behind the page on the micro models; and the page itself, in a process of its own."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from radapt.ui._actions import Actions, Choice
from radapt.ui._answers import Words
from radapt.ui._pictures import built_in
from radapt.ui._shelf import SLIDERS, Shelf

TEMPLATES = "a photo of {a c}\n{a c}"
SHAPES = "circle, square, triangle, star, cross, ring, heart, diamond, crescent, arrow, hexagon, bar"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small PNG that says that it is a large one."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def actions() -> Actions:
    """Actions on micro/clip and micro/llava."""
    return Actions(Shelf(["micro/clip", "micro/llava"]))


@pytest.fixture
def choose(actions: Actions) -> Callable[..., Choice]:
    """Makes a choice: picture 4 of the shapes, a star, with the sliders in the middle, unless it is said otherwise."""

    def make(**other: Any) -> Choice:
        words = Words(
            other.pop("classes", SHAPES),
            other.pop("templates", TEMPLATES),
            other.pop("question", "what shape is it?"),
            other.pop("right", "star"),
        )
        picture = built_in(actions.shelf.models, other.pop("set", "shapes"), other.pop("position", 3))
        start = Choice(picture, "micro/clip", SLIDERS, 40.0, 0.4, words)
        return start._replace(**other)

    return make


@contextmanager
def served(*words: str) -> Iterator[str]:
    """``radapt ui`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "radapt", "ui", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2] / "src"), *sys.path])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"open (http://\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where the playground is, with all of its models."""
    with served() as address:
        yield address
