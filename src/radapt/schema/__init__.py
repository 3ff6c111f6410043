"""Files from outside, read within bounds, and their plain values, checked against dataclasses."""

from ._parse import STRICT, check_keywords, parse
from ._read import parse_json, read_json, read_text, read_yaml
from ._values import MOST, check_batch_size, check_kinds, check_seed, number, whole

__all__ = [
    "MOST",
    "STRICT",
    "check_batch_size",
    "check_keywords",
    "check_kinds",
    "check_seed",
    "number",
    "parse",
    "parse_json",
    "read_json",
    "read_text",
    "read_yaml",
    "whole",
]
