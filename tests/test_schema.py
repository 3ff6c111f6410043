"""Files from outside: what is read, and what is refused in one clear error, in time and without filling the memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from radapt.errors import AdapterError, SettingsError, shown
from radapt.schema import STRICT, parse, parse_json, read_json, read_text, read_yaml

Read = Callable[..., Any]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_what_is_meant_is_read_with_or_without_a_byte_order_mark(tmp_path: Path, mark: bytes, end: bytes) -> None:
    content = {"a": [1, 2.5, None, True, "é"], "b": {"c": "x"}}
    lines = json.dumps(content, indent=1, ensure_ascii=False).encode().replace(b"\n", end)
    assert read_json(write(tmp_path, mark + lines)) == content
    assert read_yaml(write(tmp_path, mark + b"a: [1, 2.5, null, true, \xc3\xa9]" + end + b"b: {c: x}" + end)) == content
    assert read_text(write(tmp_path, mark + b"a" + end)) == "a" + end.decode()
    assert parse_json('{"a": "[[[\\"{"}', where="x") == {"a": '[[["{'}


def test_aliases_are_read(tmp_path: Path) -> None:
    text = "base: &b {k: 1, l: 2}\nx: {y: [*b, *b]}\nw: *b\n"
    base = {"k": 1, "l": 2}
    assert read_yaml(write(tmp_path, text)) == {"base": base, "x": {"y": [base, base]}, "w": base}


def test_keys_are_as_they_are_written(tmp_path: Path) -> None:
    text = "{744: a, 0: b, -3: c, 'no': d, \"010\": e, !!str 1.0: f, y: g, é x: h}"
    read = read_yaml(write(tmp_path, text))
    assert [str(key) for key in read] == ["744", "0", "-3", "no", "010", "1.0", "y", "é x"]


@pytest.mark.parametrize("read", [read_json, read_yaml, read_text])
def test_what_is_no_text_file_is_refused(tmp_path: Path, read: Read) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the card .*absent"):
        read(tmp_path / "absent", what="card")
    with pytest.raises(AdapterError, match=r"cannot read the file .*a folder or a device, not a file"):
        read(tmp_path, error=AdapterError)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="a folder or a device, not a file"):
        read(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="a folder or a device, not a file"):
        read("/dev/zero")
    for name in ("nul\0", "x" * 5000):
        with pytest.raises(SettingsError, match="cannot read the file"):
            read(tmp_path / name)
    with pytest.raises(SettingsError, match=r"a\.txt: 'utf-8' codec can't decode"):
        read(write(tmp_path, b"\xff\xfea"))
    with pytest.raises(SettingsError, match=r"a\.txt: it has more than 10 bytes, the most that are allowed"):
        read(write(tmp_path, "12345678901"), largest=10)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 10)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{at}: &a{at} {{<<: [{', '.join([f'*a{at - 1}'] * 9)}], k{at}: 1}}\n" for at in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}]\n" for at in range(1, 100))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"line \d+: it has more than 200000 values"),
        (MERGED, r"line 2: merged keys \(<<\) are not read; write the keys out"),
        (CHAIN, "lie deeper in each other than the 64 that are allowed"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "values lie deeper in each other than the 64"),
        ("- " * 10_000 + "a", "lie deeper in each other than the 64"),
        ("a: &a [*a]", "line 1: an alias stands within what it repeats"),
        ("a: &a {b: [*a]}", "an alias stands within what it repeats"),
        ("a: *b", "line 1: found undefined alias"),
        ("n: 5\nname: x\nn: 500", "line 3: 'n' stands twice in one mapping"),
        ("a: {b: 1, 'b': 2}", "'b' stands twice"),
        ("a: 1\nno: x", "line 2: the key 'no' is no text to YAML, but bool; quote it"),
        ("a: {010: x}", "the key '010' is no text to YAML, but int"),
        ("1:30: x", "the key '1:30' is no text to YAML, but int"),
        ("{1: a, 1.0: b}", "the key '1.0' is no text to YAML, but float"),
        ("{1: a, +1: b}", r"the key '\+1' is no text"),
        ("{1000: a, 1_000: b}", "the key '1_000' is no text"),
        ("{0x10: a}", "the key '0x10' is no text"),
        ("{-0: a}", "the key '-0' is no text"),
        ("{2024-01-01: a}", "the key '2024-01-01' is no text to YAML, but timestamp"),
        ("{~: a}", "the key '~' is no text to YAML, but null"),
        ("{? : a}", "the key '' is no text to YAML, but null"),
        ("{1: a, '1': b}", "'1' stands twice"),
        ("a: &k no\nb: {*k : 1}", "the key 'no' is no text"),
        ('a: "\\ud800"', r"'\\ud800' holds half of a character"),
        ('{"\\udfff": 1}', "holds half of a character"),
        ('a: "\\U00ffffff"', "not valid YAML"),
        ("a: 2024-13-45", "not valid YAML: month must be in"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool maybe", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("? [a]\n: b", "not valid YAML"),
        ("a: 1" + ":00" * 300_000, r"line 1: '1:00:00.*\.\.\. is longer than a number may be"),
        ("a: " + "9" * 5000, "is longer than a number may be"),
        ("a: 1\n---\na: 2", "not valid YAML"),
        ("a: [b", "not valid YAML: line 1"),
        ("a: \0", "not valid YAML"),
    ],
    ids=str.split,
)
def test_yaml_that_is_too_much_or_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_yaml(write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "a.txt"))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "lie deeper in each other than the 64"),
        ("[" * 1_000_000, "lie deeper in each other than the 64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "lie deeper in each other than the 64"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "not valid JSON: 'c' stands twice in one object"),
        ('{"a": "\\ud83d"}', "holds half of a character"),
        ('["' + "x" * 1000 + '\\udc00"]', r"'x+\.\.\. holds half of a character"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        ("", "not valid JSON: Expecting value"),
        ("{'a': 1}", "not valid JSON"),
        ('"' + '\\"' * 500_000, "not valid JSON: Unterminated string"),
        ('"\\', "not valid JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_too_much_or_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        read_json(write(tmp_path, text), error=AdapterError)
    assert str(caught.value).startswith(str(tmp_path / "a.txt"))
    assert len(str(caught.value)) < 500
    assert parse_json("[" * 64 + "]" * 64, where="x")
    with pytest.raises(SettingsError, match=f"^x: .*{message}"):
        parse_json(text, where="x")


def test_messages_show_no_more_than_a_piece_of_a_value() -> None:
    @dataclass
    class Kind:
        __pydantic_config__ = STRICT
        a: int

    for content in ({"a": "x" * 10**6}, {"a": [1] * 10**6}, {"x" * 10**6: 1, "a": 1}):
        with pytest.raises(SettingsError, match=r"\.\.\.") as caught:
            parse(Kind, content, where="here")
        assert len(str(caught.value)) < 300
    assert shown("x" * 100) == f"'{'x' * 76}..."
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown(10**5000).startswith("<int: Exceeds the limit")
