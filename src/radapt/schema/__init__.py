"""Files from outside, read within bounds, and their plain values, checked against dataclasses."""

from ._parse import STRICT, check_keywords, parse
from ._read import parse_json, read_json, read_text, read_yaml
from ._values import check_kinds

__all__ = ["STRICT", "check_keywords", "check_kinds", "parse", "parse_json", "read_json", "read_text", "read_yaml"]
