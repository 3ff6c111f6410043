"""The table as Markdown, CSV, LaTeX and terminal text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from radapt.text import literal, markdown

from .table import Cell, Section, Table

__all__ = ["Terminal", "csv_text", "heading", "latex_text", "markdown_text"]

_BETWEEN, _NARROWEST = 3, 12
"""Columns of a terminal between two of a table, and those that the names of methods have at least."""


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # a line may not begin with a bare bracket: \\ would take it for its argument
    "∞": r"$_\infty$",
    "·": r"\textperiodcentered{}",
}


def heading(section: Section) -> str:
    """Title of a section with the number of samples, where it is one number."""
    return f"{section.title} (n = {section.n})" if section.n and not section.mean else section.title


def _remarks(cell: Cell, section: Section) -> list[str]:
    """What is written beside a result: its own n where sizes differ, what is missing, the white-box warning."""
    size = [f"n = {cell.n}"] if section.n is None and not section.mean else []
    return [*size, *filter(None, (cell.partial, cell.unpaired))]


def _notes(table: Table) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(table.notes, 1)]


@dataclass(frozen=True)
class Terminal:
    """The table for a rich console.

    Where it is too wide, intervals come below their figures; columns that still do not fit side by side come one group
    below the other, transfer never without a white-box column beside it, as far as there is room for two.

    Args:
        table: the table.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable | Text]:
        stacked = len(self._groups(options.max_width, stacked=False)) > 1
        for columns in self._groups(options.max_width, stacked=stacked):
            yield self._grid(columns, stacked=stacked)
        for text in self.table.remarks:
            yield Text(text, style="dim")
        for note in _notes(self.table):
            yield Text(note)

    def _grid(self, columns: Sequence[int], *, stacked: bool) -> RichTable:
        grid = RichTable(show_lines=False, pad_edge=False, header_style="bold")
        grid.add_column("method", overflow="fold")
        for at in columns:
            grid.add_column(Text(self.table.columns[at].title), justify="right", overflow="fold")
        for section in self.table.sections:
            grid.add_section()
            grid.add_row(Text(heading(section), style="bold italic"))
            for line in section.lines:
                cells = (_terminal_cell(line.cells[at], section, stacked=stacked) for at in columns)
                grid.add_row(Text("  " + line.method), *cells)
        return grid

    def _groups(self, width: int, *, stacked: bool) -> list[list[int]]:
        """Numbers of the columns that stand side by side."""
        columns = self.table.columns
        methods = [cell_len(line.method) for section in self.table.sections for line in section.lines]
        room = width - _BETWEEN - min(max(methods, default=0) + 2, max(width // 3, _NARROWEST))
        needed = [self._needed(at, stacked=stacked) + _BETWEEN for at in range(len(columns))]
        if sum(needed) <= room:
            return [list(range(len(columns)))]
        known = [at for at, each in enumerate(columns) if each.kind == "white-box"]
        beside = next((at for at in known if columns[at].robust), known[0] if known else None)
        if beside is None or all(each.kind != "transfer" for each in columns) or needed[beside] + max(needed) > room:
            return _packed(range(len(columns)), needed, room)
        others = [at for at in range(len(columns)) if at != beside]
        return [sorted([*group, beside]) for group in _packed(others, needed, room - needed[beside])]

    def _needed(self, at: int, *, stacked: bool) -> int:
        """Width at which no figure and no interval of a column is broken."""
        cells = [(line.cells[at], section) for section in self.table.sections for line in section.lines]
        texts = [_terminal_cell(*each, stacked=stacked).plain.split("\n")[: 1 + stacked] for each in cells]
        return max((cell_len(line) for text in texts for line in text), default=1)


def _packed(columns: Iterable[int], needed: Sequence[int], room: int) -> list[list[int]]:
    """Columns in groups, as many in each as there is room for, and one at least."""
    groups, left = list[list[int]](), 0
    for at in columns:
        if not groups or needed[at] > left:
            groups, left = [*groups, []], room
        groups[-1].append(at)
        left -= needed[at]
    return groups


def _terminal_cell(cell: Cell | None, section: Section, *, stacked: bool) -> Text:
    if cell is None:
        return Text("—", style="dim")
    text = Text(f"{cell.percent:.1f}", style="bold")
    text.append(("\n" if stacked else " ") + f"[{cell.low:.1f}, {cell.high:.1f}]", style="not bold dim")
    for mark in cell.marks:
        text.append(f" [{mark}]", style="bold yellow")
    for remark in _remarks(cell, section):
        text.append(
            f"\n{remark}", style="not bold yellow" if remark in (cell.partial, cell.unpaired) else "not bold dim"
        )
    return text


def markdown_text(table: Table) -> str:
    """The table in GitHub's Markdown, one per section."""
    lines = []
    for section in table.sections:
        lines += [f"### {markdown(heading(section))}", ""]
        lines.append("| method | " + " | ".join(markdown(column.title) for column in table.columns) + " |")
        lines.append("|---" + "|---:" * len(table.columns) + "|")
        for line in section.lines:
            cells = " | ".join(_markdown_cell(cell, section) for cell in line.cells)
            lines.append(f"| {markdown(line.method)} | {cells} |")
        lines.append("")
    lines += [f"{markdown(text)}\n" for text in table.remarks]
    lines += [f"{number}. {markdown(note)}" for number, note in enumerate(table.notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: Cell | None, section: Section) -> str:
    if cell is None:
        return "—"
    marks = "".join(f"<sup>{mark}</sup>" for mark in cell.marks)
    remarks = "".join(f"<br>*{markdown(remark)}*" for remark in _remarks(cell, section))
    return f"{cell.percent:.1f} \\[{cell.low:.1f}, {cell.high:.1f}\\]{marks}{remarks}"


def csv_text(table: Table) -> str:
    """The table with unrounded numbers, one line per result; no text of it is a formula to a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("section", "task", "mean", "method", "column", "kind", "norm", "eps")
    writer.writerow((*names, "percent", "low", "high", "n", "missing", "white_box", "flags", "checked"))
    for section in table.sections:
        for line in section.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell:
                    place = (section.title, section.task, int(section.mean), line.method, column.title, column.kind)
                    numbers = (column.norm, column.eps, cell.percent, cell.low, cell.high, cell.n)
                    flags = "; ".join(table.notes[mark - 1] for mark in cell.marks)
                    cells = (*place, *numbers, cell.partial, cell.unpaired, flags, "true" if cell.checked else "false")
                    writer.writerow([literal(each) if isinstance(each, str) else each for each in cells])
    return stream.getvalue()


def latex_text(table: Table) -> str:
    """The table for LaTeX with booktabs."""
    width = len(table.columns)
    groups = [(name, len(list(columns))) for name, columns in groupby(table.columns, key=lambda column: column.group)]
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * width}}}", "\\toprule"]
    if any(name for name, _ in groups):
        rules, at = [], 2
        for name, count in groups:
            rules += [f"\\cmidrule(lr){{{at}-{at + count - 1}}}"] if name else []
            at += count
        lines.append("".join(f" & \\multicolumn{{{count}}}{{c}}{{{_latex(name)}}}" for name, count in groups) + r" \\")
        lines.append(" ".join(rules))
    lines.append("method" + "".join(f" & {_latex(column.name)}" for column in table.columns) + r" \\")
    for section in table.sections:
        lines += ["\\midrule", f"\\multicolumn{{{width + 1}}}{{l}}{{\\emph{{{_latex(heading(section))}}}}} \\\\"]
        for line in section.lines:
            cells = "".join(f" & {_latex_cell(cell, section)}" for cell in line.cells)
            lines.append(f"{_latex(line.method)}{cells} \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    lines += [f"\\par\\noindent {_latex(text)}" for text in table.remarks]
    lines += [f"\\par\\noindent $^{{{number}}}$ {_latex(note)}" for number, note in enumerate(table.notes, 1)]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell | None, section: Section) -> str:
    if cell is None:
        return "--"
    marks = "".join(f"$^{{{mark}}}$" for mark in cell.marks)
    remarks = "".join(f" {{\\scriptsize {_latex(remark)}}}" for remark in _remarks(cell, section))
    return f"{cell.percent:.1f} {{\\scriptsize [{cell.low:.1f}, {cell.high:.1f}]}}{marks}{remarks}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
