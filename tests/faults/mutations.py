"""Ways to spoil a file or the plain values in it, drawn from a generator of random numbers."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["hostile", "spoiled_bytes", "spoiled_tensors", "spoiled_tree"]


def hostile(numbers: random.Random) -> Any:
    """A value that is hardly expected anywhere."""
    deep: Any = []
    for _ in range(numbers.choice([3, 70, 150])):
        deep = [deep]
    return numbers.choice(
        [
            None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", " ",
            "x", "x" * 3000, "\0", "\x1b[31m", "../../etc/passwd", "/dev/zero", "{{7*7}}", "{c}", "%s%n", "NaN", "1/0",
            "4/255", "shapes", "pgd", "\u202e", "١٢", [], {}, [None], [[]], [1, "a", None], {"a": {"b": []}},
            {"": 0}, list(range(300)), deep, "torch.nn.Linear", "__class__", "os.system", "micro/clip", -(2**63),
        ]
    )  # fmt: skip


def spoiled_tree(value: Any, numbers: random.Random) -> Any:
    """Plain values with one to three places changed: replaced, removed, doubled, renamed, or exchanged."""
    root = [copy.deepcopy(value)]
    for _ in range(numbers.randint(1, 3)):
        places = list(_places(root))
        holder, key = numbers.choice(places)
        match numbers.randrange(6):
            case 0 if isinstance(holder, dict) and holder is not root:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[numbers.choice([f"{key}x", str(key)[:-1], str(key).upper(), "", "__class__"])] = holder[key]
            case 2:
                holder[key] = [holder[key]] * numbers.choice([1, 2, 50])
            case 3:
                other, place = numbers.choice(places)
                holder[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
            case 4 if isinstance(holder[key], int | float):
                holder[key] = holder[key] * numbers.choice([-1, 0, 2, 1000, 10**9, 0.5])
            case _:
                holder[key] = hostile(numbers)
    return root[0]


def _places(value: Any) -> Any:
    """Every place in plain values: what holds it, and the key or position there."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, each in items:
        yield value, key
        if isinstance(each, dict | list):
            yield from _places(each)


def spoiled_bytes(content: bytes, numbers: random.Random) -> bytes:
    """Bytes that are cut, overwritten, filled in, doubled or others altogether."""
    at = numbers.randrange(max(1, len(content)))
    few = numbers.randrange(1, 40)
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[: min(at, 60)],
        lambda: content[:at] + numbers.randbytes(few) + content[at + few :],
        lambda: content[: at % 64] + numbers.randbytes(4) + content[at % 64 + 4 :],
        lambda: content[: at % 64] + b"\xff\xff\xff\x7f" + content[at % 64 + 4 :],
        lambda: content[:at] + bytes(few) + content[at:],
        lambda: content[:at] + content[at + few :],
        lambda: content + content,
        lambda: numbers.randbytes(few * 10),
        lambda: b"",
        lambda: content[:at] + bytes([content[at] ^ 1 << numbers.randrange(8)]) + content[at + 1 :] if content else b"",
    ]
    return numbers.choice(ways)()


def spoiled_tensors(content: bytes, numbers: random.Random) -> bytes:
    """A safetensors file whose header lies, or whose bytes are spoiled."""
    if numbers.random() < 0.3:
        return spoiled_bytes(content, numbers)
    (size,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name = numbers.choice(names)
    length = None
    match numbers.randrange(8):
        case 0:
            length = numbers.choice([0, 1, size - 1, size + 8, 2**31, 2**63 - 1, 2**64 - 1])
        case 1:
            header[name]["shape"] = numbers.choice([[], [0], [-1], [2**62, 2], [*header[name]["shape"][::-1], 1], "x"])
        case 2:
            header[name]["dtype"] = numbers.choice(["F64", "I8", "BOOL", "F8_E4M3", "PICKLE", 3])
        case 3:
            header[name]["data_offsets"] = numbers.choice([[0, 0], [0, 2**60], [-4, 0], [10, 2], "x", []])
        case 4:
            header[numbers.choice([f"{name}.x", "", "__class__", "x" * 500])] = header.pop(name)
        case 5:
            del header[name]
        case 6:
            header = spoiled_tree(header, numbers)
        case _:
            first, last = header[name]["data_offsets"]
            values = struct.pack("<f", numbers.choice([float("nan"), float("inf"), 3e38])) * ((last - first) // 4)
            body = body[:first] + values + body[first + len(values) :]
    try:
        text = json.dumps(header).encode()
    except ValueError:
        text = b"{"
    return struct.pack("<Q", len(text) if length is None else length) + text + body
