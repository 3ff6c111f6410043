"""Writes the table of supported models from the code."""

from __future__ import annotations

import inspect
from typing import Any

from radapt.models import REGISTRY, families


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table where a page asks for it."""
    if "<!-- families -->" not in markdown:
        return markdown
    rows = ["| family | what it is | types | load | carry an adapter |", "|---|---|---|---|---|"]
    for name, types, loads in families():
        first = (inspect.getdoc(REGISTRY.get(name)) or "").partition("\n")[0]
        about = first.partition(":")[2] or first
        kinds = ", ".join(f"`{kind}`" for kind in types)
        rows.append(f"| `{name}` | {about.strip()} | {kinds} | {'yes' if loads else ''} | yes |")
    return markdown.replace("<!-- families -->", "\n".join(rows))
