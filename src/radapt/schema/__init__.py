"""Files from outside, read within bounds, and their plain values, checked against dataclasses."""

from ._parse import STRICT, check_keywords, parse
from ._read import parse_json, read_json, read_text, read_yaml

__all__ = ["STRICT", "check_keywords", "parse", "parse_json", "read_json", "read_text", "read_yaml"]
