"""What the pages share: templates, and figures as inline SVG in the page's own colours and font."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ._render import heading
from ._style import INK, LINE, MUTED, SURFACE, svg

__all__ = ["inline", "render"]

_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", SURFACE: "var(--surface)"}


def render(template: str, **values: object) -> str:
    """A page from its template; text is escaped."""
    return _templates().get_template(template).render(values)


def inline(figure: Figure, name: str, *, anchor: str) -> Markup:
    """A figure as inline SVG, in the colours and the font of the page around it.

    Args:
        figure: the figure.
        name: what it shows, for those who cannot see it.
        anchor: what its addresses begin with; several figures share a page.
    """
    text = svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^<>]+>", lambda match: _tag(match.group(), anchor), text)  # what users typed stays as it is
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"|height="[\d.]+pt"|width="[\d.]+pt"', "", text, count=2)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1))


@cache
def _templates() -> jinja2.Environment:
    folder = files("radapt.reports")
    templates = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
    )
    templates.globals["heading"] = heading
    templates.globals["as_is"] = lambda name: Markup((folder / name).read_text(encoding="utf-8"))
    return templates


def _tag(tag: str, anchor: str) -> str:
    tag = re.sub(r' id="[A-Za-z]\w*_\d+"', "", tag)  # matplotlib's own numbering, which nothing points to
    tag = re.sub(r' id="([^"]+)"', rf' id="{anchor}-\1"', tag)
    tag = re.sub(r'(href="|url\()#', rf"\1#{anchor}-", tag)
    return re.sub(r'style="[^"]*"', lambda match: _themed(match.group()), tag)


def _themed(style: str) -> str:
    for colour, variable in _THEME.items():
        style = style.replace(colour, variable)
    style = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", style)
    return re.sub(r"(font: (?:bold |\d+ )?[\d.]+px)[^;\"]*", r"\1 var(--font)", style)
