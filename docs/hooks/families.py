"""Writes the table of supported models from the code."""

from __future__ import annotations

import importlib
from typing import Any

from radapt.models import families


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table where a page asks for it."""
    if "<!-- families -->" not in markdown:
        return markdown
    rows = ["| family | what it is | types | load | carry an adapter |", "|---|---|---|---|---|"]
    for name, types, loads in families():
        module = importlib.import_module(f"radapt.models.{name.replace('-', '_')}")
        about = (module.__doc__ or "").splitlines()[0].partition(":")[2] or (module.__doc__ or "").splitlines()[0]
        kinds = ", ".join(f"`{kind}`" for kind in types)
        rows.append(f"| `{name}` | {about.strip()} | {kinds} | {'yes' if loads else ''} | yes |")
    return markdown.replace("<!-- families -->", "\n".join(rows))
